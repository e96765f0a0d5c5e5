//! Differencing disks: random operations over a parent beside a flat model, the sector bitmaps, and parents that do not fit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;

use diskimg_core::driver::OpenMode;
use diskimg_core::opener::NoReferences;
use diskimg_core::{BlockDevice, ByteRange, ExtentFlags, MemDevice, Repair, Result, Task};
use diskimg_testkit::{
    FormatSubject, MemOpener, Op, Opened, OverlaySubject, Session, Subject, open_image, rounds,
};
use diskimg_vhdx::DRIVER;

const MIB: u64 = 1 << 20;

fn overlay(size: u64, base_len: u64) -> OverlaySubject {
    let top = FormatSubject::new(&DRIVER, size, &["block_size=1M"]);
    OverlaySubject { top, base: &DRIVER, base_len, seed: 3 }
}

#[test]
fn operations_over_a_parent_are_those_of_a_flat_disk() {
    for seed in 0..rounds(6) {
        for (size, base_len) in [(3 * MIB, 3 * MIB), (4 * MIB + 512, 2 * MIB + 1024), (2 * MIB, 5 * MIB)] {
            overlay(size, base_len).is_as_flat(seed, if seed % 2 == 0 { MIB } else { 4096 });
        }
    }
}

#[test]
fn a_block_whose_sectors_are_all_written_needs_its_bitmap_no_more() {
    let subject = overlay(2 * MIB, 2 * MIB);
    let mut session = Session::in_memory(&subject);
    let entry = |session: &Session<'_>, index: u64| {
        let mut bytes = [0; 8];
        session.disks()[0].read_at(2 * MIB + index * 8, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    };
    session.must(&Op::Write(ByteRange::new(512, 512), 1));
    session.must(&Op::Flush);
    assert_eq!((entry(&session, 0) & 7, entry(&session, 1), entry(&session, 4096) & 7), (7, 0, 6));
    let extents = |session: &Session<'_>| {
        let image = &session.opened().layers[0];
        let mut all = Vec::new();
        let mut at = 0;
        while at < 2 * MIB {
            let extent = image.extent_at(ByteRange::from_bounds(at, 2 * MIB)).unwrap();
            all.push((extent.len, extent.flags.contains(ExtentFlags::PRESENT)));
            at += extent.len;
        }
        all
    };
    assert_eq!(extents(&session)[..2], [(512, false), (512, true)]);
    session.must(&Op::Write(ByteRange::new(0, MIB), 2));
    session.must(&Op::Flush);
    assert_eq!(entry(&session, 0) & 7, 6);
    session.must(&Op::Zero(ByteRange::new(MIB, MIB), diskimg_core::ZeroMode::MayUnmap));
    session.must(&Op::Flush);
    assert_eq!(entry(&session, 1), 2);
    // A sector of a block of zeros: the rest does not become the parent's.
    session.must(&Op::Write(ByteRange::new(MIB + 4096, 512), 3));
    session.must(&Op::Flush);
    assert_eq!(entry(&session, 1) & 7, 6);
    session.verify_reopened();
}

#[test]
fn a_parent_that_was_changed_is_refused() {
    let subject = overlay(2 * MIB, 2 * MIB);
    let disks: Vec<Arc<dyn BlockDevice>> = vec![Arc::new(MemDevice::new(0)), Arc::new(MemDevice::new(0))];
    subject.create(&disks).unwrap();
    let read = || {
        let mut bytes = [0; 512];
        subject.open(&disks, false).unwrap().device.read_at(0, &mut bytes).map_err(|error| error.joined())
    };
    assert_eq!(read(), Ok(()));
    let mode = OpenMode { write: true, ..OpenMode::default() };
    let base = open_image(&DRIVER, Arc::clone(&disks[1]), mode, &NoReferences).unwrap();
    drop(base);
    assert_eq!(read(), Ok(()), "opened for writing, not changed");
    let base = open_image(&DRIVER, Arc::clone(&disks[1]), mode, &NoReferences).unwrap();
    base.write_at(0, &[1; 512]).unwrap();
    drop(base);
    assert!(read().unwrap_err().contains("was changed"));
}

/// A new image with these options, over `base`.
fn create(options: &[(&str, &str)], base: Vec<u8>) -> Result<Arc<MemDevice>> {
    let base: Arc<dyn BlockDevice> = Arc::new(MemDevice::read_only(base));
    let files = MemOpener::new([("base".to_owned(), base)]);
    FormatSubject::new(&DRIVER, 2 * MIB, &[]).made_with(options, &files)
}

#[test]
fn sectors_of_4096_bytes() {
    let mut base = FormatSubject::new(&DRIVER, 2 * MIB, &["block_size=1M"]).fresh()[0].to_vec();
    let sector_size = 3 * (1 << 20) + (64 << 10) + 32;
    assert_eq!(base[sector_size..sector_size + 4], [0, 2, 0, 0]);
    base[sector_size..sector_size + 4].copy_from_slice(&4096_u32.to_le_bytes());
    let base = Arc::new(MemDevice::from(base));
    let mode = OpenMode { write: true, ..OpenMode::default() };
    let open = |disk: &Arc<MemDevice>, mode| {
        open_image(&DRIVER, Arc::clone(disk) as _, mode, &NoReferences).unwrap()
    };
    let image = open(&base, mode);
    image.write_at(0, &vec![5; 2 << 20]).unwrap();
    drop(image);
    let top = create(&[("backing_file", "base")], base.to_vec()).unwrap();
    let chain = |mode: OpenMode| {
        let below = Opened::chain(open(&base, OpenMode::default()), None, false).node;
        Opened::chain(open(&top, mode), below.as_ref(), mode.write)
    };
    let opened = chain(mode);
    assert_eq!(opened.device.limits().write_unit, 4096);
    opened.device.write_at(MIB - 700, &[9; 1000]).unwrap();
    opened.device.flush().unwrap();
    let extent = opened.layers[0].extent_at(ByteRange::new(MIB - 4096, 8192)).unwrap();
    assert_eq!((extent.len, extent.flags.contains(ExtentFlags::PRESENT)), (4096, true));
    drop(opened);
    let mut expected = vec![5; 2 << 20];
    expected[(1 << 20) - 700..][..1000].fill(9);
    let mut bytes = vec![0; 2 << 20];
    chain(OpenMode::default()).device.read_at(0, &mut bytes).unwrap();
    assert!(bytes == expected);
    // A parent with sectors of another size.
    let other = create(&[("backing_file", "base")], {
        let mut image = base.to_vec();
        image[sector_size..sector_size + 4].copy_from_slice(&512_u32.to_le_bytes());
        image
    });
    let below = Opened::chain(open(&base, OpenMode::default()), None, false).node;
    let opened = Opened::chain(open(&other.unwrap(), OpenMode::default()), below.as_ref(), false);
    assert!(opened.device.read_at(0, &mut bytes).unwrap_err().joined().contains("another size"));
}

#[test]
fn create_looks_at_the_parent() {
    let base = || FormatSubject::new(&DRIVER, MIB, &["block_size=2M"]).fresh()[0].to_vec();
    let made = create(&[("backing_file", "base"), ("subformat", "differencing")], base()).unwrap();
    let image = open_image(&DRIVER, made, OpenMode::default(), &NoReferences).unwrap();
    let backing = image.backing().unwrap();
    assert_eq!((backing.name.as_str(), backing.format.as_deref()), ("./base", Some("vhdx")));
    assert_eq!(image.info().unwrap().cluster_size, Some(2 * MIB), "as the parent");
    let report = image.as_check().unwrap().check(Repair::Nothing, &mut |_| {}, &Task::quiet()).unwrap();
    assert_eq!(report.corruptions, 0);
    for (options, bytes) in [
        (&[("subformat", "differencing")][..], base()),
        (&[("backing_file", "base"), ("subformat", "fixed")], base()),
        (&[("backing_file", "base"), ("backing_fmt", "raw")], base()),
        (&[("backing_file", "other")], base()),
        (&[("backing_file", "base")], vec![0; 4096]),
    ] {
        assert!(create(options, bytes).is_err(), "{options:?}");
    }
}
