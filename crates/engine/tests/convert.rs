//! What a conversion promises beyond the contents: what it leaves out, passes on, refuses, and how it ends early.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]
#![allow(clippy::cast_possible_truncation)]

mod common;

use std::num::NonZero;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{contents, fill, fresh, node_on, qcow2, raw, speckled, stored};
use diskimg_chain::Node;
use diskimg_core::{
    BlockDevice, ByteRange, CancelToken, ErrorKind, MemDevice, NullDevice, Progress, Task, ZeroMode,
};
use diskimg_engine::{ConvertOptions, convert};
use diskimg_testkit::{FaultDevice, FaultKinds, FaultPlan, FaultSpec, Rng};

fn fresh_target() -> ConvertOptions {
    ConvertOptions { target_is_zero: true, ..ConvertOptions::default() }
}

#[test]
fn a_sparse_terabyte_takes_no_space() {
    let (_, source) = qcow2(1 << 40, &[]);
    source.write_at(5 << 30, &[7; 70_000]).unwrap();
    source.write_zeroes(ByteRange::new(7 << 30, 1 << 30), ZeroMode::MayUnmap).unwrap();
    let (storage, target) = qcow2(1 << 40, &[]);
    let report = convert(&[&source], &target, &fresh_target(), &Task::quiet()).unwrap();
    assert_eq!(report.written, 2 << 16);
    assert_eq!(stored(&target), 2 << 16);
    assert!(storage.len() < 1 << 20, "{}", storage.len());
}

#[test]
fn large_clusters_keep_the_holes_within() {
    let len = 16 << 20;
    let mut bytes = vec![0; len];
    bytes.chunks_mut(1 << 20).for_each(|part| part[9000..13_000].fill(7));
    let file = tempfile::NamedTempFile::new().unwrap();
    let (memory, _) = qcow2(len as u64, &["cluster_size=2M"]);
    std::fs::write(file.path(), memory.to_vec()).unwrap();
    let name = file.path().to_str().unwrap();
    let device = diskimg_file::FileOptions::default().write(true).open(name).unwrap();
    let target = node_on(&diskimg_qcow2::DRIVER, Arc::new(device), true, None);
    convert(&[&raw(bytes.clone())], &target, &fresh_target(), &Task::quiet()).unwrap();
    target.flush().unwrap();
    assert_eq!(stored(&target), len as u64);
    assert!(contents(&target) == bytes);
    let allocated = file.as_file().metadata().unwrap().blocks() * 512;
    assert!(allocated < 9 << 20, "{allocated} bytes");
}

#[test]
fn payloads_are_passed_on_as_they_are() {
    let bytes = speckled(&mut Rng::new(3), 3 << 20);
    let compress = ConvertOptions { compress: true, ..fresh_target() };
    for codec in [&["compression_type=zlib"][..], &["compression_type=zstd"]] {
        let (_, first) = qcow2(bytes.len() as u64, codec);
        convert(&[&raw(bytes.clone())], &first, &compress, &Task::quiet()).unwrap();
        let (_, second) = qcow2(bytes.len() as u64, codec);
        convert(&[&first], &second, &compress, &Task::quiet()).unwrap();
        assert!(contents(&second) == bytes);
        let (mut from, mut to) = (Vec::new(), Vec::new());
        let mut seen = 0;
        for cluster in 0..(bytes.len() as u64 >> 16) {
            let read = |node: &Node, payload: &mut Vec<u8>| {
                node.image().as_compressed().unwrap().read_encoded(cluster << 16, payload).unwrap()
            };
            let compressed = read(&first, &mut from);
            assert_eq!(compressed, read(&second, &mut to), "cluster {cluster}");
            if compressed {
                seen += 1;
                let same = from.len().min(to.len()).saturating_sub(512);
                assert_eq!(from[..same], to[..same]);
            }
        }
        assert!(seen > 0);
    }
}

#[test]
fn only_what_lies_above_the_backing_file_is_copied() {
    let base_bytes = vec![1; 1 << 20];
    let (base_storage, base) = qcow2(1 << 20, &[]);
    fill(&base, &base_bytes, 1 << 16);
    let reopen = || node_on(&diskimg_qcow2::DRIVER, Arc::clone(&base_storage) as _, false, None);
    let overlay = |below: Node| {
        let storage = fresh(&diskimg_qcow2::DRIVER, 4 << 20, &[]).0;
        (Arc::clone(&storage), node_on(&diskimg_qcow2::DRIVER, storage, true, Some(below)))
    };
    let (_, top) = overlay(reopen());
    top.write_at(0, &[2; 4096]).unwrap();
    top.write_zeroes(ByteRange::new(1 << 18, 1 << 18), ZeroMode::MayUnmap).unwrap();
    top.write_zeroes(ByteRange::new(2 << 20, 1 << 18), ZeroMode::MayUnmap).unwrap();
    let (_, target) = overlay(reopen());
    let how = ConvertOptions { over_backing: true, ..fresh_target() };
    let report = convert(&[&top], &target, &how, &Task::quiet()).unwrap();
    assert_eq!(report.written, 1 << 16);
    assert!(contents(&target) == contents(&top));
    let behind = target.status(ByteRange::new(2 << 20, 1 << 18)).unwrap();
    assert!(behind.flags.bits() & 1 == 0, "zeros behind the backing file need no cluster: {behind:?}");
}

#[test]
fn zeros_are_found_by_runs_and_left_alone_if_asked() {
    let mut bytes = vec![5; 1 << 20];
    bytes[4096..8192].fill(0);
    bytes[65536..131_072].fill(0);
    let (_, source) = qcow2(1 << 20, &[]);
    source.write_at(0, &bytes).unwrap();
    for (sparse_size, expected) in
        [(4096, (1 << 20) - 4096 - 65536), (65536, (1 << 20) - 65536), (0, 1 << 20)]
    {
        let target = raw(vec![0; 1 << 20]);
        let how = ConvertOptions { sparse_size, ..fresh_target() };
        let report = convert(&[&source], &target, &how, &Task::quiet()).unwrap();
        assert_eq!(report.written, expected, "{sparse_size}");
        assert!(contents(&target) == bytes);
    }
}

#[test]
fn what_can_not_work_is_refused_in_words() {
    let (source, small) = (raw(vec![1; 4096]), raw(vec![0; 2048]));
    let plain = ConvertOptions::default;
    let refused = |sources: &[&Node], target: &Node, options: ConvertOptions| {
        convert(sources, target, &options, &Task::quiet()).unwrap_err().joined()
    };
    assert_eq!(refused(&[&source], &small, plain()), "output file is smaller than input file");
    assert_eq!(
        refused(&[&source], &raw(vec![0; 4096]), ConvertOptions { compress: true, ..plain() }),
        "Compression not supported for this file format"
    );
    assert_eq!(
        refused(&[&source], &source, ConvertOptions { copy_range: true, salvage: true, ..plain() }),
        "Cannot use copy offloading in salvaging mode"
    );
    assert_eq!(
        refused(&[&small, &small], &source, ConvertOptions { over_backing: true, ..plain() }),
        "Having a backing file for the target makes no sense when concatenating multiple input images"
    );
    let (_, used) = qcow2(1 << 20, &[]);
    used.write_at(0, &[9; 65536]).unwrap();
    assert_eq!(
        refused(&[&raw(vec![1; 1 << 20])], &used, ConvertOptions { compress: true, ..plain() }),
        "error while writing at byte 0: Input/output error"
    );
}

/// A target on a device that fails as planned.
fn failing_target(spec: FaultSpec) -> (Arc<FaultPlan>, Node) {
    let storage = fresh(&diskimg_qcow2::DRIVER, 4 << 20, &["cluster_size=64k"]).0;
    let plan = FaultPlan::new(spec);
    let device = FaultDevice::new(storage, Arc::clone(&plan));
    (plan, node_on(&diskimg_qcow2::DRIVER, Arc::new(device), true, None))
}

#[test]
fn a_failing_request_is_an_error_and_never_a_hang() {
    let bytes = speckled(&mut Rng::new(11), 4 << 20);
    for compress in [false, true] {
        let how = ConvertOptions { compress, workers: NonZero::new(3), ..fresh_target() };
        let (plan, target) = failing_target(FaultSpec::count_only(FaultKinds::all()));
        convert(&[&raw(bytes.clone())], &target, &how, &Task::quiet()).unwrap();
        let requests = plan.seen();
        assert!(requests > 10);
        for nth in 0..requests {
            let (plan, target) = failing_target(FaultSpec::once(FaultKinds::CHANGES, nth));
            let result = convert(&[&raw(bytes.clone())], &target, &how, &Task::quiet());
            if plan.injected() > 0 {
                assert_eq!(result.unwrap_err().errno(), diskimg_core::errno::EIO, "request {nth}");
            }
        }
    }
}

#[test]
fn what_can_not_be_read_is_an_error_or_salvaged_as_zeros() {
    let bytes = vec![3; 2 << 20];
    let how = ConvertOptions { workers: NonZero::new(2), ..fresh_target() };
    let failing = |spec| {
        let device = FaultDevice::new(Arc::new(MemDevice::from(bytes.clone())), FaultPlan::new(spec));
        node_on(&diskimg_raw::DRIVER, Arc::new(device), false, None)
    };
    let always = FaultSpec { times: u64::MAX, ..FaultSpec::once(FaultKinds::READ, 0) };
    let error = convert(&[&failing(always)], &raw(vec![0; 2 << 20]), &how, &Task::quiet()).unwrap_err();
    assert_eq!(error.joined(), "error while reading at byte 0: Input/output error");
    let salvage = ConvertOptions { salvage: true, ..how };
    let target = raw(vec![0; 2 << 20]);
    let report = convert(&[&failing(always)], &target, &salvage, &Task::quiet()).unwrap();
    assert_eq!(report.unreadable, [ByteRange::new(0, 2 << 20)]);
    let target = raw(vec![0; 2 << 20]);
    let once = FaultSpec::once(FaultKinds::READ, 1);
    let report = convert(&[&failing(once)], &target, &salvage, &Task::quiet()).unwrap();
    assert_eq!(report.unreadable, []);
    assert!(contents(&target) == bytes);
}

struct CancelAt(CancelToken, u64);

impl Progress for CancelAt {
    fn update(&self, done: u64, _total: u64) {
        if done >= self.1 {
            self.0.cancel();
        }
    }
}

#[test]
fn a_cancelled_conversion_ends_soon_with_its_own_kind() {
    let cancel = CancelToken::default();
    let progress = CancelAt(cancel.clone(), 3 << 20);
    let task = Task { progress: &progress, cancel };
    let (source, target) = (raw(vec![1; 64 << 20]), raw(vec![0; 64 << 20]));
    let error = convert(&[&source], &target, &fresh_target(), &task).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let mut last = [0];
    target.read_at((64 << 20) - 1, &mut last).unwrap();
    assert_eq!(last, [0]);
}

#[test]
fn a_rate_limit_holds() {
    let source = raw(vec![1; 6 << 20]);
    let how = ConvertOptions { rate_limit: NonZero::new(20 << 20), ..fresh_target() };
    let started = Instant::now();
    convert(&[&source], &raw(vec![0; 6 << 20]), &how, &Task::quiet()).unwrap();
    let took = started.elapsed();
    assert!(took > Duration::from_millis(200), "{took:?}");
}

#[test]
fn a_device_of_zeros_of_any_length_costs_nothing() {
    let source = node_on(&diskimg_raw::DRIVER, Arc::new(NullDevice::new(1 << 50)), false, None);
    let (_, target) = qcow2(1 << 50, &[]);
    let report = convert(&[&source], &target, &fresh_target(), &Task::quiet()).unwrap();
    assert_eq!(report.written, 0);
}
