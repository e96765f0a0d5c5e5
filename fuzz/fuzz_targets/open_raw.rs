//! Any bytes as a raw image, seen through any `offset` and `size`.
#![no_main]

use std::sync::Arc;

use diskimg_core::driver::{Notices, OpenContext, OpenMode};
use diskimg_core::opener::NoReferences;
use diskimg_core::options::{RuntimeOptions, RuntimeValue};
use diskimg_core::{BlockDevice, ByteRange, Device, Prealloc, ZeroMode};
use diskimg_testkit::CappedDevice;
use libfuzzer_sys::fuzz_target;

type Input<'a> = (Option<u64>, Option<u64>, OpenMode2, [u64; 3], &'a [u8]);

#[derive(Clone, Copy, Debug, arbitrary::Arbitrary)]
struct OpenMode2 {
    write: bool,
    guessed: bool,
    small: bool,
}

fuzz_target!(|input: Input<'_>| {
    let (offset, size, flags, at, bytes) = input;
    let mut options = RuntimeOptions::new();
    for (name, value) in [("offset", offset), ("size", size)] {
        if let Some(value) = value {
            let value = if flags.small { value % 5000 } else { value };
            options.set(name, RuntimeValue::Str(value.to_string()));
        }
    }
    let storage = Arc::new(CappedDevice::new(bytes.to_vec(), 1 << 20));
    let mode = OpenMode { write: flags.write, guessed: flags.guessed, ..OpenMode::default() };
    let opened = (diskimg_raw::DRIVER.open)(OpenContext {
        storage,
        filename: "image",
        mode,
        options: &mut options,
        opener: &NoReferences,
        notices: Notices::default(),
    });
    let Ok(image) = opened else { return };
    let _ = (image.info(), image.children().len());
    let device = Device::new(Arc::clone(&image) as Arc<dyn BlockDevice>);
    let len = device.len();
    let mut buf = vec![0; 3000];
    for at in at {
        let at = if flags.small { at % 5000 } else { at };
        let _ = device.read_at(at, &mut buf);
        let range = ByteRange::new(at, 700).intersect(ByteRange::new(0, len));
        if range.is_empty() {
            continue;
        }
        let extent = device.extent_at(range).expect("an extent of memory");
        assert!(extent.len > 0 && extent.len <= range.len);
        let _ = device.write_at(range.start, &buf[..usize::try_from(range.len).unwrap_or(0)]);
        let _ = device.write_zeroes(range, ZeroMode::MayUnmap);
        let _ = device.discard(range);
    }
    let _ = device.set_len(at[0] % 100_000, Prealloc::Off);
    let _ = device.flush();
});
