//! Postponed refcounts: what stands on the host between flushes, what is left at the end, and what the installed `qemu-img`
//! makes of an image whose writer was killed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::process::ExitCode;
use std::sync::Arc;

use diskimg_core::driver::OpenMode;
use diskimg_core::options::{RuntimeOptions, RuntimeValue};
use diskimg_core::{Image, MemDevice, NewSnapshot};
use diskimg_qcow2::DRIVER;
use diskimg_testkit::{CheckVerdict, FormatSubject, MemOpener, Oracle, open_image_with, suite};

const CLUSTER: u64 = 65536;
/// Data, L2 and the five clusters before: the refcounts of the first eight, two bytes each.
const COUNTS: std::ops::Range<usize> = 0x2_0000..0x2_0010;

fn main() -> ExitCode {
    suite::run(vec![
        suite::plain("counts are written at the end", counts_at_the_end),
        suite::plain("who opens the image decides", the_option_decides),
        suite::plain("a single flush leaves no mark", a_single_flush),
        suite::plain("a snapshot has its counts", a_snapshot_has_its_counts),
        suite::with_oracle("a killed writer", killed),
    ])
}

fn fresh(options: &[&'static str]) -> Arc<MemDevice> {
    Arc::clone(&FormatSubject::new(&DRIVER, 1 << 20, options).fresh()[0])
}

fn open(storage: &Arc<MemDevice>, lazy: Option<&str>) -> Arc<dyn Image> {
    let mut options = RuntimeOptions::new();
    if let Some(lazy) = lazy {
        options.set("lazy-refcounts", RuntimeValue::Str(lazy.to_owned()));
    }
    let mode = OpenMode { write: true, ..OpenMode::default() };
    open_image_with(&DRIVER, Arc::clone(storage) as _, mode, &MemOpener::default(), options).unwrap()
}

/// Writes two clusters, each with a flush.
fn write_twice(image: &dyn Image) {
    for cluster in 0..2 {
        image.write_at(cluster * CLUSTER, &[7; 65536]).unwrap();
        image.flush().unwrap();
    }
}

fn is_dirty(storage: &MemDevice) -> bool {
    storage.to_vec()[79] & 1 != 0
}

fn counted(storage: &MemDevice) -> usize {
    storage.to_vec()[COUNTS].chunks(2).filter(|count| *count == [0, 1]).count()
}

fn counts_at_the_end() {
    let storage = fresh(&["lazy_refcounts=on"]);
    let image = open(&storage, None);
    write_twice(&*image);
    // The second cluster of data is not counted yet.
    assert!(is_dirty(&storage) && counted(&storage) == 6);
    assert_eq!(image.info().unwrap().dirty, Some(true));
    drop(image);
    assert!(!is_dirty(&storage) && counted(&storage) == 7);
}

fn the_option_decides() {
    for (created, opened, lazy) in
        [("on", Some("off"), false), ("off", Some("on"), true), ("off", None, false)]
    {
        let options: &[&str] = if created == "on" { &["lazy_refcounts=on"] } else { &["lazy_refcounts=off"] };
        let storage = fresh(options);
        let image = open(&storage, opened);
        write_twice(&*image);
        assert_eq!(is_dirty(&storage), lazy, "{created} {opened:?}");
        drop(image);
        assert!(!is_dirty(&storage) && counted(&storage) == 7);
    }
}

fn a_single_flush() {
    let storage = fresh(&["lazy_refcounts=on"]);
    let image = open(&storage, None);
    image.write_at(0, &[7; 65536]).unwrap();
    image.flush().unwrap();
    assert!(!is_dirty(&storage) && counted(&storage) == 6);
    drop(image);
    assert!(!is_dirty(&storage));
}

fn a_snapshot_has_its_counts() {
    let storage = fresh(&["lazy_refcounts=on"]);
    let image = open(&storage, None);
    write_twice(&*image);
    let new = NewSnapshot { name: "s".into(), ..NewSnapshot::default() };
    image.as_snapshots().unwrap().create_snapshot(&new).unwrap();
    let shared = storage.to_vec()[COUNTS].chunks(2).filter(|count| *count == [0, 2]).count();
    assert_eq!(shared, 3, "the L2 table and two clusters");
    drop(image);
    assert!(!is_dirty(&storage));
}

fn killed(oracle: &Oracle) {
    let storage = fresh(&["lazy_refcounts=on"]);
    let image = open(&storage, None);
    write_twice(&*image);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("image"), storage.to_vec()).unwrap();
    drop(image);
    let info = oracle.must(folder.path(), &["info", "--output=json", "image"]);
    assert!(info.contains("\"dirty-flag\": true"), "{info}");
    assert!(matches!(oracle.check(folder.path(), "qcow2", "image"), CheckVerdict::Bad(_)));
    // A writer counts anew.
    oracle.qemu_io(folder.path(), "qcow2", "image", &["read -P 7 0 128k", "write -P 8 128k 64k"]);
    assert_eq!(oracle.check(folder.path(), "qcow2", "image"), CheckVerdict::Clean);
    oracle.qemu_io(folder.path(), "qcow2", "image", &["read -P 7 0 128k", "read -P 8 128k 64k"]);
}
