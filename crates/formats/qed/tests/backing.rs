//! Another backing file: what the header says then, in this process and in the next.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;

use diskimg_core::driver::OpenMode;
use diskimg_core::opener::NoReferences;
use diskimg_core::{BackingRef, BlockDevice, ErrorKind, Image, MemDevice, Result};
use diskimg_qed::DRIVER;
use diskimg_testkit::{FormatSubject, open_image};

fn open(memory: &Arc<MemDevice>) -> Result<Arc<dyn Image>> {
    let mode = OpenMode { write: true, ..OpenMode::default() };
    open_image(&DRIVER, Arc::clone(memory) as _, mode, &NoReferences)
}

fn named(name: &str, format: Option<&str>) -> BackingRef {
    BackingRef { name: name.to_owned(), format: format.map(str::to_owned) }
}

#[test]
fn the_name_changes_and_the_disk_stays() {
    let memory =
        FormatSubject::new(&DRIVER, 1 << 20, &["cluster_size=4k", "table_size=2"]).fresh().swap_remove(0);
    open(&memory).unwrap().write_at(5000, b"kept").unwrap();
    let long = "x".repeat(1500);
    let other = "y".repeat(1600);
    let steps = [
        Some(named("base.raw", Some("raw"))),
        Some(named(&long, None)),
        Some(named(&other, Some("raw"))),
        Some(named(&long, None)),
        None,
        Some(named("b", Some("raw"))),
    ];
    for step in steps {
        let image = open(&memory).unwrap();
        image.as_backing_change().unwrap().set_backing(step.as_ref()).unwrap();
        assert_eq!(image.backing(), step);
        drop(image);
        let image = open(&memory).unwrap();
        assert_eq!(image.backing(), step);
        let mut bytes = [0; 4];
        image.read_at(5000, &mut bytes).unwrap();
        assert_eq!(&bytes, b"kept");
    }
}

#[test]
fn what_does_not_fit_or_may_be_told_elsewhere_is_refused() {
    let memory =
        FormatSubject::new(&DRIVER, 1 << 20, &["cluster_size=4k", "table_size=2"]).fresh().swap_remove(0);
    let image = open(&memory).unwrap();
    let change = image.as_backing_change().unwrap();
    let error = change.set_backing(Some(&named(&"x".repeat(4033), None))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert_eq!(image.backing(), None);
    drop(image);
    memory.write_at(24, &[1]).unwrap();
    let image = open(&memory).unwrap();
    assert!(image.as_backing_change().unwrap().set_backing(Some(&named("x", None))).is_err());
}
