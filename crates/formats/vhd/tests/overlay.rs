//! Differencing images: random operations over a parent beside a flat model, crashes, and what new ones say of their parent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;

use diskimg_core::driver::OpenMode;
use diskimg_core::opener::NoReferences;
use diskimg_core::{BlockDevice, ByteRange, MemDevice, Result};
use diskimg_testkit::crash::{self, Scenario};
use diskimg_testkit::{FormatSubject, MemOpener, Op, OpMix, OverlaySubject, Sampling, open_image, rounds};
use diskimg_vhd::DRIVER;

const MIB: u64 = 1 << 20;

fn overlay(size: u64, base_len: u64) -> OverlaySubject {
    OverlaySubject { top: FormatSubject::new(&DRIVER, size, &[]), base: &DRIVER, base_len, seed: 3 }
}

#[test]
fn operations_over_a_parent_are_those_of_a_flat_disk() {
    for seed in 0..rounds(6) {
        for (size, base_len) in [(5 * MIB, 5 * MIB), (4 * MIB + 512, 2 * MIB + 1024), (2 * MIB, 5 * MIB)] {
            overlay(size, base_len).is_as_flat(seed, if seed % 2 == 0 { MIB } else { 4096 });
        }
    }
}

#[test]
fn what_was_flushed_survives_a_crash() {
    let size = 3 * MIB;
    let subject = overlay(size, size);
    let mix = OpMix { set_len: 0, compress: 0, ..OpMix::changes(size) };
    for (seed, prepare) in [(1, vec![]), (2, vec![Op::Write(ByteRange::new(4096, 100_000), 2)])] {
        let record = mix.script(seed, 20, size, 64 << 10);
        let sampling = Sampling { samples: 60, seed };
        let scenario =
            Scenario { name: "everything", prepare: &prepare, record: &record, sampling, oracle_checks: 0 };
        crash::explore(&subject, &scenario, None);
    }
}

/// A new image with these options over `base`.
fn create(options: &[(&str, &str)], base: Vec<u8>) -> Result<Arc<MemDevice>> {
    let base: Arc<dyn BlockDevice> = Arc::new(MemDevice::read_only(base));
    let files = MemOpener::new([("d/base".to_owned(), base)]);
    FormatSubject::new(&DRIVER, 2 * MIB, &[]).made_with(options, &files)
}

#[test]
fn a_new_image_names_its_parent() {
    let base = || FormatSubject::new(&DRIVER, 2 * MIB, &["force_size=on"]).fresh()[0].to_vec();
    let bytes = base();
    let made = create(&[("backing_file", "d/base"), ("subformat", "differencing")], bytes.clone()).unwrap();
    let image = open_image(&DRIVER, made, OpenMode::default(), &NoReferences).unwrap();
    assert_eq!(image.len(), 2 * MIB);
    let backing = image.backing().unwrap();
    assert_eq!((backing.name.as_str(), backing.format.as_deref()), ("./d/base", Some("vpc")));
    let parent = |bytes| {
        open_image(&DRIVER, Arc::new(MemDevice::read_only(bytes)), OpenMode::default(), &NoReferences)
            .unwrap()
    };
    image.accepts_backing(&*parent(bytes)).unwrap();
    assert!(image.accepts_backing(&*parent(base())).is_err());
    for options in [
        &[("subformat", "differencing")][..],
        &[("backing_file", "d/base"), ("subformat", "fixed")],
        &[("backing_file", "d/base"), ("backing_fmt", "raw")],
        &[("backing_file", "other")],
    ] {
        assert!(create(options, base()).is_err(), "{options:?}");
    }
    assert!(create(&[("backing_file", "d/base")], vec![0; 4096]).is_err());
}
