//! Random operations on a raw image in a window of a file, against a flat `Vec<u8>`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::cast_possible_truncation)]

use std::sync::Arc;

use diskimg_core::driver::{Notices, OpenContext, OpenMode};
use diskimg_core::opener::NoReferences;
use diskimg_core::options::{RuntimeOptions, RuntimeValue};
use diskimg_core::{BlockDevice, ByteRange, Device, ExtentFlags, MemDevice, Prealloc, ZeroMode};
use diskimg_raw::DRIVER;
use proptest::prelude::*;

const SPAN: u64 = 20_000;

#[derive(Clone, Debug)]
enum Op {
    Write { at: u64, len: u64, byte: u8 },
    Zero { at: u64, len: u64 },
    Discard { at: u64, len: u64 },
    Resize { len: u64 },
}

fn operation() -> impl Strategy<Value = Op> {
    let (at, len) = (0..SPAN, 0..SPAN / 2);
    prop_oneof![
        4 => (at.clone(), len.clone(), 1..=255u8).prop_map(|(at, len, byte)| Op::Write { at, len, byte }),
        1 => (at.clone(), len.clone()).prop_map(|(at, len)| Op::Zero { at, len }),
        1 => (at.clone(), len).prop_map(|(at, len)| Op::Discard { at, len }),
        1 => at.prop_map(|len| Op::Resize { len }),
    ]
}

fn open(storage: &Arc<MemDevice>, offset: u64, size: Option<u64>) -> Device {
    let mut options = RuntimeOptions::new();
    options.set("offset", RuntimeValue::Uint(offset));
    if let Some(size) = size {
        options.set("size", RuntimeValue::Uint(size));
    }
    let storage: Arc<dyn BlockDevice> = Arc::clone(storage) as Arc<dyn BlockDevice>;
    let mode = OpenMode { write: true, ..OpenMode::default() };
    let (options, opener, notices) = (&mut options, &NoReferences, Notices::default());
    let context = OpenContext { storage, filename: "image", mode, options, opener, notices };
    let image = (DRIVER.open)(context).unwrap();
    Device::new(image)
}

/// Applies `op` to both; what does not fit in the disk has to be refused.
fn apply(disk: &Device, model: &mut Vec<u8>, fixed: bool, op: &Op) {
    let len_of_disk = model.len() as u64;
    let fits = |at: u64, len: u64| at + len <= len_of_disk;
    let (done, expected, fill) = match *op {
        Op::Write { at, len, byte } => {
            (disk.write_at(at, &vec![byte; len as usize]), fits(at, len), (at, len, byte))
        }
        Op::Zero { at, len } => {
            (disk.write_zeroes(ByteRange::new(at, len), ZeroMode::MayUnmap), fits(at, len), (at, len, 0))
        }
        Op::Discard { at, len } => (disk.discard(ByteRange::new(at, len)), fits(at, len), (at, len, 0)),
        Op::Resize { len } => {
            assert_eq!(disk.set_len(len, Prealloc::Off).is_ok(), !fixed);
            if !fixed {
                model.resize(len as usize, 0);
                model.resize(len.next_multiple_of(512) as usize, 0);
            }
            return;
        }
    };
    assert_eq!(done.is_ok(), expected, "{op:?}: {done:?}");
    if expected {
        let (at, len, byte) = fill;
        model[at as usize..(at + len) as usize].fill(byte);
    }
}

fn check(disk: &Device, model: &[u8], offset: u64) {
    assert_eq!(disk.len(), model.len() as u64);
    let mut bytes = vec![0xaa; model.len()];
    disk.read_at(0, &mut bytes).unwrap();
    assert!(bytes == model, "contents differ");
    let mut at = 0;
    while at < disk.len() {
        let extent = disk.extent_at(ByteRange::from_bounds(at, disk.len())).unwrap();
        assert!(extent.is_present() && extent.len > 0);
        assert_eq!(extent.host.map(|host| host.offset), Some(at + offset));
        let part = &model[at as usize..(at + extent.len) as usize];
        assert!(extent.flags.contains(ExtentFlags::DATA) || part.iter().all(|byte| *byte == 0));
        at += extent.len;
    }
}

proptest! {
    #[test]
    fn a_raw_image_behaves_like_a_vector(
        file_len in 0..SPAN,
        offset in prop_oneof![Just(0), 0..SPAN],
        sectors in proptest::option::of(0..40u64),
        ops in proptest::collection::vec(operation(), 1..20),
    ) {
        let offset = offset.min(file_len);
        let size = sectors.map(|sectors| (sectors * 512).min((file_len - offset) / 512 * 512));
        let bytes: Vec<u8> = (0..file_len).map(|i| (i % 251) as u8).collect();
        let storage = Arc::new(MemDevice::from(bytes.clone()));
        let disk = open(&storage, offset, size);
        let mut model = bytes[offset as usize..].to_vec();
        match size {
            Some(size) => model.truncate(size as usize),
            None => model.resize(model.len().next_multiple_of(512), 0),
        }
        check(&disk, &model, offset);
        for op in &ops {
            apply(&disk, &mut model, size.is_some(), op);
            check(&disk, &model, offset);
        }
        // What lies outside of the window is not touched.
        let after = storage.to_vec();
        assert!(after[..offset as usize] == bytes[..offset as usize]);
        if let Some(size) = size {
            assert!(after[(offset + size) as usize..] == bytes[(offset + size) as usize..]);
        }
    }
}
