//! The check on images that were damaged by hand: counts, messages and their order.
#![allow(clippy::cast_possible_truncation)]

use std::time::{Duration, Instant};

use diskimg_core::driver::{CreateContext, OpenMode};
use diskimg_core::opener::NoReferences;
use diskimg_core::options::ParsedOptions;
use diskimg_core::{CancelToken, ErrorKind, MemDevice};
use std::sync::Arc;

use super::*;
use crate::DRIVER;
use crate::extensions::CryptoPointer;
use crate::features;

/// A fresh image in memory, its tables, and what a check of it says.
struct Image {
    storage: Arc<MemDevice>,
    header: Header,
    l1: Vec<u64>,
    reftable: Vec<u64>,
    bitmaps: Vec<Bitmap>,
}

impl Image {
    fn new(options: &str, size: u64) -> Self {
        let mut parsed = ParsedOptions::new(&[DRIVER.options]);
        parsed.parse(options).unwrap();
        parsed.set_number("size", size);
        let storage = Arc::new(MemDevice::new(0));
        let ctx = CreateContext {
            storage: storage.clone(),
            filename: "image",
            options: &parsed,
            opener: &NoReferences,
        };
        (DRIVER.creator.unwrap().create)(&ctx).unwrap();
        let header = Header::read(&*storage, OpenMode::default()).unwrap();
        let table = |offset, entries: u64| {
            let mut bytes = vec![0; entries as usize * 8];
            diskimg_core::read_zero_padded(&*storage, offset, &mut bytes).unwrap();
            tables::words(&bytes).collect::<Vec<_>>()
        };
        let l1 = table(header.l1_offset, header.l1_size.into());
        let reftable =
            table(header.reftable_offset, u64::from(header.reftable_clusters) << header.cluster_bits >> 3);
        Self { storage, header, l1, reftable, bitmaps: Vec::new() }
    }

    fn check_with(&self, task: &Task<'_>) -> (Result<CheckReport>, Vec<String>) {
        let input = CheckInput {
            storage: &*self.storage,
            header: &self.header,
            geo: self.header.geometry(),
            l1: &self.l1,
            reftable: &self.reftable,
            bitmaps: &self.bitmaps,
            data_file: false,
        };
        let mut said = Vec::new();
        let report = check(input, &mut |text| said.push(text.to_owned()), task);
        (report, said)
    }

    fn check(&self) -> (CheckReport, Vec<String>) {
        let (report, said) = self.check_with(&Task::quiet());
        (report.unwrap(), said)
    }
}

#[test]
fn fresh_images_are_sound() {
    for options in ["", "cluster_size=512", "cluster_size=2M", "refcount_bits=1", "preallocation=metadata"] {
        let (report, said) = Image::new(options, 8 << 20).check();
        assert_eq!((report.corruptions, report.leaks, said.len()), (0, 0, 0), "{options}: {said:?}");
    }
}

#[test]
fn the_luks_header_is_counted() {
    let mut image = Image::new("", 1 << 20);
    image.header.extensions.crypto = Some(CryptoPointer { offset: 0, len: 0x1_8000 });
    let (report, said) = image.check();
    let lines = ["ERROR cluster 0 refcount=1 reference=2", "ERROR cluster 1 refcount=1 reference=2"];
    assert_eq!((report.corruptions, &said[..]), (2, &lines.map(String::from)[..]));
}

#[test]
fn a_check_can_be_cancelled() {
    let image = Image::new("preallocation=metadata", 1 << 20);
    let cancel = CancelToken::default();
    cancel.cancel();
    let task = Task { cancel, ..Task::quiet() };
    assert_eq!(image.check_with(&task).0.unwrap_err().kind(), ErrorKind::Cancelled);
}

/// A million entries that name one damaged table: the damage is told, but not a million times.
#[test]
fn a_table_that_is_named_again_and_again_is_looked_at_once() {
    let mut image = Image::new("cluster_size=512", 1 << 20);
    let table = image.storage.len().next_multiple_of(512);
    diskimg_core::BlockDevice::write_at(&*image.storage, table, &[0xa5; 512]).unwrap();
    image.l1 = vec![table | crate::entry::COPIED; 1 << 20];
    let start = Instant::now();
    let (report, said) = image.check();
    assert!(said.iter().any(|line| line.starts_with("ERROR tables are referenced over and over")));
    assert!(report.corruptions > 1000 && report.allocated_clusters == 64 << 20);
    assert!(start.elapsed() < Duration::from_secs(120), "{:?}", start.elapsed());
}

/// A bitmap's table of a gigabyte that is named sixty thousand times costs no more than one.
#[test]
fn regions_that_overlap_are_counted_at_once() {
    let mut image = Image::new("cluster_size=512", 1 << 20);
    image.header.autoclear |= features::BITMAPS;
    image.header.extensions.bitmaps =
        Some(crate::extensions::BitmapsPointer { count: 1, directory_size: 64, directory_offset: 0 });
    image.storage.set_len(64 << 20, diskimg_core::Prealloc::Off).unwrap();
    let bitmap = Bitmap {
        name: "b".into(),
        raw_name: Vec::new(),
        flags: 0,
        granularity_bits: 16,
        table_offset: 1 << 20,
        table_size: 7 << 20,
    };
    image.bitmaps = vec![bitmap; 60_000];
    let (report, said) = image.check();
    assert_eq!(report.corruptions as usize, said.len());
    assert!(
        said.iter().any(|line| line == "ERROR cluster 2048 refcount=0 reference=60000"),
        "{:?}",
        said.first()
    );
}
