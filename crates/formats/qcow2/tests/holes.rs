//! Holes on the host: which freed clusters leave them, by option, and that none is ever made under what somebody else
//! has got since.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::process::ExitCode;
use std::sync::Arc;

use diskimg_core::driver::OpenMode;
use diskimg_core::options::{RuntimeOptions, RuntimeValue};
use diskimg_core::{BlockDevice, ByteRange, Image, MemDevice, NewSnapshot, Prealloc, SnapshotKey, ZeroMode};
use diskimg_core::{Repair, Task, to_usize};
use diskimg_qcow2::DRIVER;
use diskimg_testkit::{Change, FormatSubject, MemOpener, Recorder, Rng, open_image_with, suite};

const CLUSTER: u64 = 65536;
const DISK: u64 = 4 << 20;

fn main() -> ExitCode {
    suite::run(vec![
        suite::plain("each kind of freed cluster", || ROWS.iter().for_each(leaves)),
        suite::plain("what a repair frees", repair),
        suite::plain("a data file", data_file),
        suite::plain("many threads", many_threads),
    ])
}

/// What is done to an image whose first 16 clusters are written.
type Act = fn(&dyn Image);

/// What it is, runtime options, and bytes of holes.
const ROWS: &[(&str, &str, Act, u64)] = &[
    ("discard", "", |image| image.discard(ByteRange::new(0, 8 * CLUSTER)).unwrap(), 8 * CLUSTER),
    (
        "discard",
        "pass-discard-request=off",
        |image| image.discard(ByteRange::new(0, 8 * CLUSTER)).unwrap(),
        0,
    ),
    ("zeros", "", |image| zero(image, ZeroMode::MayUnmap), 8 * CLUSTER),
    ("zeros in place", "", |image| zero(image, ZeroMode::KeepAllocated), 0),
    // Clusters, L2 table, L1 table, and the snapshot table.
    ("a snapshot", "", snapshot, 19 * CLUSTER),
    ("a snapshot", "pass-discard-snapshot=off", snapshot, 0),
    ("going back", "", go_back, 18 * CLUSTER),
    ("copy on write", "pass-discard-other=on", shared_then_discarded, 0),
    ("compressed", "", compressed, 0),
    ("compressed", "pass-discard-other=on", compressed, CLUSTER),
    (
        "a smaller disk",
        "pass-discard-request=off",
        |image| image.set_len(CLUSTER, Prealloc::Off).unwrap(),
        15 * CLUSTER,
    ),
];

fn zero(image: &dyn Image, how: ZeroMode) {
    image.write_zeroes(ByteRange::new(0, 8 * CLUSTER), how).unwrap();
}

fn snapshot(image: &dyn Image) {
    go_on(image);
    image.as_snapshots().unwrap().delete_snapshot(&SnapshotKey::name("s")).unwrap();
}

fn go_back(image: &dyn Image) {
    go_on(image);
    image.as_snapshots().unwrap().apply_snapshot(&SnapshotKey::name("s")).unwrap();
}

/// A snapshot, and everything written anew after it: an L2 table and 16 clusters are the snapshot's alone.
fn go_on(image: &dyn Image) {
    let new = NewSnapshot { name: "s".into(), ..NewSnapshot::default() };
    image.as_snapshots().unwrap().create_snapshot(&new).unwrap();
    image.write_at(0, &vec![8; to_usize(16 * CLUSTER)]).unwrap();
}

/// What a snapshot still has leaves no holes.
fn shared_then_discarded(image: &dyn Image) {
    let new = NewSnapshot { name: "s".into(), ..NewSnapshot::default() };
    image.as_snapshots().unwrap().create_snapshot(&new).unwrap();
    image.discard(ByteRange::new(0, 16 * CLUSTER)).unwrap();
}

/// Two payloads in one cluster, written over.
fn compressed(image: &dyn Image) {
    let clusters = image.as_compressed().unwrap();
    for cluster in 20..22 {
        let mut payload = Vec::new();
        assert!(clusters.encoder().unwrap().encode(&vec![3; to_usize(CLUSTER)], &mut payload).unwrap());
        let place = clusters.reserve_encoded(cluster * CLUSTER, payload.len() as u64).unwrap();
        place.write_at(0, &payload).unwrap();
        place.commit().unwrap();
    }
    image.flush().unwrap();
    image.write_at(20 * CLUSTER, &vec![4; to_usize(2 * CLUSTER)]).unwrap();
}

fn open(storage: Arc<dyn BlockDevice>, options: &str, files: &MemOpener) -> Arc<dyn Image> {
    let mut given = RuntimeOptions::new();
    for (name, value) in options.split(',').filter_map(|item| item.split_once('=')) {
        given.set(name, RuntimeValue::Str(value.to_owned()));
    }
    let mode = OpenMode { write: true, ..OpenMode::default() };
    open_image_with(&DRIVER, storage, mode, files, given).unwrap()
}

fn written(image: &dyn Image) {
    image.write_at(0, &vec![7; to_usize(16 * CLUSTER)]).unwrap();
    image.flush().unwrap();
}

fn holes(recorder: &Recorder, disk: usize) -> Vec<ByteRange> {
    let events = recorder.trace().events;
    let found =
        events.into_iter().filter(|event| event.disk == disk).filter_map(|event| match event.change {
            Change::Discard(range) => Some(range),
            _ => None,
        });
    found.collect()
}

fn check(image: &dyn Image) {
    let report = image.as_check().unwrap().check(Repair::Nothing, &mut |_| {}, &Task::quiet()).unwrap();
    assert_eq!((report.corruptions, report.leaks, report.check_errors), (0, 0, 0));
}

fn leaves((name, options, act, bytes): &(&str, &str, Act, u64)) {
    let recorder = Recorder::new();
    let fresh = FormatSubject::new(&DRIVER, DISK, &[]).fresh()[0].to_vec();
    let image = open(recorder.device(fresh), options, &MemOpener::default());
    written(&*image);
    act(&*image);
    image.flush().unwrap();
    let made = holes(&recorder, 0);
    let total: u64 = made.iter().map(|hole| hole.len).sum();
    assert_eq!(total, *bytes, "{name} {options}: {made:x?}");
    // Clusters in a row are one hole.
    assert!(made.len() <= 3, "{name} {options}: {made:x?}");
    check(&*image);
}

/// Leaked clusters leave holes, whatever the options say of others; what is too low by one leaves none.
fn repair() {
    let off = "pass-discard-request=off,pass-discard-snapshot=off";
    for (repair, options) in [(Repair::Leaks, ""), (Repair::All, ""), (Repair::Leaks, off)] {
        let storage = Arc::clone(&FormatSubject::new(&DRIVER, DISK, &[]).fresh()[0]);
        written(&*open(storage.clone(), "", &MemOpener::default()));
        let mut bytes = storage.to_vec();
        let word = |bytes: &[u8], at: u64| {
            u64::from_be_bytes(bytes[to_usize(at)..to_usize(at) + 8].try_into().unwrap()) << 8 >> 8
        };
        let l2 = word(&bytes, word(&bytes, 40));
        // Clusters 2 to 5 and 8 are referenced no more.
        let lost: Vec<u64> = [2, 3, 4, 5, 8].map(|index| word(&bytes, l2 + 8 * index)).to_vec();
        for index in [2, 3, 4, 5, 8] {
            bytes[to_usize(l2 + 8 * index)..][..8].fill(0);
        }
        let recorder = Recorder::new();
        let image = open(recorder.device(bytes), options, &MemOpener::default());
        let report = image.as_check().unwrap().check(repair, &mut |_| {}, &Task::quiet()).unwrap();
        assert_eq!((report.leaks_fixed, report.leaks), (5, 0));
        let wanted = [ByteRange::new(lost[0], 4 * CLUSTER), ByteRange::new(lost[4], CLUSTER)];
        assert_eq!(holes(&recorder, 0), wanted, "{repair:?} {options}");
        check(&*image);
        let mut found = vec![0; to_usize(2 * CLUSTER)];
        image.read_at(6 * CLUSTER, &mut found).unwrap();
        assert!(found.iter().all(|byte| *byte == 7));
    }
}

fn data_file() {
    for (options, bytes) in [("", 8 * CLUSTER), ("pass-discard-request=off", 0)] {
        let recorder = Recorder::new();
        let disks = FormatSubject::new(&DRIVER, DISK, &["data_file=data"]).fresh();
        let [image, data] = [&disks[0], &disks[1]].map(|disk| recorder.device(disk.to_vec()));
        let files = MemOpener::new([("data".to_owned(), data as Arc<dyn BlockDevice>)]);
        let image = open(image, options, &files);
        written(&*image);
        image.discard(ByteRange::new(0, 8 * CLUSTER)).unwrap();
        assert_eq!(holes(&recorder, 1).iter().map(|hole| hole.len).sum::<u64>(), bytes);
        let mut found = vec![1; to_usize(9 * CLUSTER)];
        image.read_at(0, &mut found).unwrap();
        assert!(
            found[..to_usize(8 * CLUSTER)].iter().all(|byte| *byte == 0) && found[to_usize(8 * CLUSTER)] == 7
        );
    }
}

/// Each thread has a part of the disk to itself, and never finds zeros where it wrote.
fn many_threads() {
    let storage: Arc<MemDevice> =
        Arc::clone(&FormatSubject::new(&DRIVER, DISK, &["cluster_size=4k"]).fresh()[0]);
    let image = open(storage, "pass-discard-other=on", &MemOpener::default());
    let part = DISK / 4;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let image = &image;
            scope.spawn(move || {
                let mut rng = Rng::new(thread + 1);
                let mut model = vec![0u8; to_usize(part)];
                for _ in 0..diskimg_testkit::rounds(400) {
                    let at = rng.below(part / 4096) * 4096;
                    let len = (4096 * (1 + rng.below(8))).min(part - at);
                    let range = ByteRange::new(thread * part + at, len);
                    let place = &mut model[to_usize(at)..to_usize(at + len)];
                    match rng.below(8) {
                        0..4 => {
                            place.fill(u8::try_from(1 + rng.below(255)).unwrap());
                            image.write_at(range.start, place).unwrap();
                        }
                        4..6 => {
                            place.fill(0);
                            image.discard(range).unwrap();
                        }
                        6 => image.flush().unwrap(),
                        _ => {
                            let mut found = vec![0; to_usize(part)];
                            image.read_at(thread * part, &mut found).unwrap();
                            assert!(found == model);
                        }
                    }
                }
            });
        }
    });
    image.flush().unwrap();
    image.flush().unwrap();
    check(&*image);
}
