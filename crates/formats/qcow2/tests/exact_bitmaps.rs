//! A bitmap marks what the guest wrote, and no more, also where a layer below fills up what is written in whole clusters:
//! against a model, and against the installed `qemu-io`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::process::ExitCode;
use std::sync::Arc;

use diskimg_core::driver::OpenMode;
use diskimg_core::opener::NoReferences;
use diskimg_core::{BlockDevice, ByteRange, DirtyBitmap, MemDevice, NewBitmap, ZeroMode};
use diskimg_qcow2::DRIVER;
use diskimg_testkit::{FormatSubject, Oracle, OverlaySubject, Rng, Subject, open_image, suite};

const DISK: u64 = 1 << 20;
const GRANULARITY: u64 = 512;

/// Create options of the image on top.
const SORTS: [&[&str]; 4] =
    [&[], &["cluster_size=4k"], &["cluster_size=16k", "extended_l2=on"], &["compat=1.1", "refcount_bits=8"]];

#[derive(Clone, Copy, Debug)]
enum Act {
    Write(ByteRange),
    Zero(ByteRange, ZeroMode),
    Discard(ByteRange),
}

fn main() -> ExitCode {
    suite::run(vec![
        suite::plain("as a model has it", || {
            for seed in 0..8 {
                for options in SORTS {
                    let script = script(seed, 40);
                    let model = DirtyBitmap::new(DISK, GRANULARITY).unwrap();
                    script.iter().for_each(|act| model.set(range_of(*act)));
                    assert_eq!(ranges(&ours(options, &script)), ranges(&model), "{options:?} {script:x?}");
                }
            }
        }),
        suite::with_oracle("as qemu-io has it", |oracle| {
            for (seed, options) in (100..).zip(SORTS) {
                let script = script(seed, 12);
                let theirs = theirs(oracle, options, &script);
                assert_eq!(ranges(&ours(options, &script)), ranges(&theirs), "{options:?} {script:x?}");
            }
        }),
    ])
}

fn range_of(act: Act) -> ByteRange {
    match act {
        Act::Write(range) | Act::Zero(range, _) | Act::Discard(range) => range,
    }
}

fn ranges(bits: &DirtyBitmap) -> Vec<ByteRange> {
    bits.ranges().collect()
}

fn script(seed: u64, len: usize) -> Vec<Act> {
    let mut rng = Rng::new(seed + 1);
    let act = |_| {
        let at = rng.below(DISK - 1);
        let most = *rng.pick(&[100, 5000, 70_000]);
        let len = (1 + rng.below(most)).min(DISK - at);
        let range = ByteRange::new(at, len);
        match rng.below(10) {
            0..6 => Act::Write(range),
            6 | 7 => Act::Zero(range, ZeroMode::MayUnmap),
            8 => Act::Zero(range, ZeroMode::KeepAllocated),
            _ => {
                let start = at / 65536 * 65536;
                Act::Discard(ByteRange::new(start, 65536))
            }
        }
    };
    (0..len).map(act).collect()
}

fn ours(options: &'static [&'static str], script: &[Act]) -> DirtyBitmap {
    let top = FormatSubject::new(&DRIVER, DISK, options);
    let subject = OverlaySubject { top, base: &DRIVER, base_len: DISK, seed: 3 };
    let disks: Vec<Arc<dyn BlockDevice>> = (0..2).map(|_| Arc::new(MemDevice::new(0)) as _).collect();
    subject.create(&disks).unwrap();
    let opened = subject.open(&disks, true).unwrap();
    let bitmaps = opened.layers[0].as_bitmaps().unwrap();
    let new = NewBitmap { name: "b".into(), granularity: Some(GRANULARITY), enabled: true };
    bitmaps.add_bitmap(&new).unwrap();
    for act in script {
        match *act {
            Act::Write(range) => {
                opened.device.write_at(range.start, &vec![9; usize::try_from(range.len).unwrap()]).unwrap();
            }
            Act::Zero(range, how) => opened.device.write_zeroes(range, how).unwrap(),
            Act::Discard(range) => opened.device.discard(range).unwrap(),
        }
    }
    bitmaps.read_bitmap("b").unwrap()
}

fn theirs(oracle: &Oracle, options: &[&str], script: &[Act]) -> DirtyBitmap {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    oracle.must(path, &["create", "-q", "-f", "raw", "base", "1M"]);
    oracle.qemu_io(path, "raw", "base", &["write -P 5 0 1M"]);
    let options = [&["backing_file=base,backing_fmt=raw"], options].concat().join(",");
    oracle.must(path, &["create", "-q", "-f", "qcow2", "-o", &options, "image"]);
    oracle.must(path, &["bitmap", "--add", "-g", "512", "image", "b"]);
    let words = |act: &Act| {
        let ByteRange { start, len } = range_of(*act);
        match act {
            Act::Write(_) => format!("write -P 9 {start} {len}"),
            Act::Zero(_, ZeroMode::MayUnmap) => format!("write -z -u {start} {len}"),
            Act::Zero(..) => format!("write -z {start} {len}"),
            Act::Discard(_) => format!("discard {start} {len}"),
        }
    };
    let commands: Vec<String> = script.iter().map(words).collect();
    oracle.qemu_io(path, "qcow2", "image", &commands.iter().map(String::as_str).collect::<Vec<_>>());
    let bytes = std::fs::read(path.join("image")).unwrap();
    let storage = Arc::new(MemDevice::read_only(bytes));
    let image = open_image(&DRIVER, storage, OpenMode::default(), &NoReferences).unwrap();
    image.as_bitmaps().unwrap().read_bitmap("b").unwrap()
}
