//! Volumes beside a flat model: any cipher, any length, requests at any byte, reopened in between.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;

use diskimg_core::{BlockDevice, Device, Prealloc, ZeroMode};
use diskimg_core::{ByteRange, to_usize};
use diskimg_luks::DRIVER;
use diskimg_testkit::{FormatSubject, Subject};
use proptest::prelude::*;

const CIPHERS: [[&str; 3]; 6] = [
    ["cipher-alg=aes-256", "cipher-mode=xts", "ivgen-alg=plain64"],
    ["cipher-alg=aes-192", "cipher-mode=cbc", "ivgen-alg=plain"],
    ["cipher-alg=aes-128", "cipher-mode=ecb", "ivgen-alg=plain64"],
    ["cipher-alg=serpent-256", "cipher-mode=cbc", "ivgen-alg=essiv"],
    ["cipher-alg=twofish-128", "cipher-mode=xts", "ivgen-alg=plain"],
    ["cipher-alg=cast5-128", "cipher-mode=ctr", "ivgen-alg=plain64"],
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_is_read(
        cipher in prop::sample::select(&CIPHERS[..]),
        size in 1_u64..700_000,
        writes in prop::collection::vec((any::<u64>(), 1_u64..300_000, any::<u8>()), 1..12),
        new_size in 0_u64..700_000,
    ) {
        let options: Vec<&'static str> =
            ["key-secret=s", "iter-time=0"].into_iter().chain(cipher).collect();
        let subject = FormatSubject::new(&DRIVER, size, &options);
        let memory: Vec<Arc<dyn BlockDevice>> =
            subject.fresh().into_iter().map(|disk| disk as Arc<dyn BlockDevice>).collect();
        let device = subject.open(&memory, true).unwrap().device;
        prop_assert_eq!(device.len(), size.next_multiple_of(512));
        // What a new volume reads as is noise.
        device.write_zeroes(ByteRange::new(0, device.len()), ZeroMode::MayUnmap).unwrap();
        let mut model = vec![0; to_usize(device.len())];
        for (at, len, fill) in writes {
            let at = at % device.len();
            let len = len.min(device.len() - at);
            device.write_at(at, &vec![fill; to_usize(len)]).unwrap();
            model[to_usize(at)..to_usize(at + len)].fill(fill);
        }
        device.flush().unwrap();
        drop(device);
        let device: Device = subject.open(&memory, true).unwrap().device;
        let mut got = vec![0; model.len()];
        device.read_at(0, &mut got).unwrap();
        prop_assert!(got == model);
        device.set_len(new_size, Prealloc::Off).unwrap();
        drop(device);
        let device = subject.open(&memory, false).unwrap().device;
        prop_assert_eq!(device.len(), new_size.next_multiple_of(512));
        // The sector in which a volume ends is whole only if it was cut at its border.
        let kept = to_usize(new_size / 512 * 512).min(model.len());
        let mut got = vec![0; kept];
        device.read_at(0, &mut got).unwrap();
        prop_assert!(got == model[..kept]);
    }
}
