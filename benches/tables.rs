//! What a request to a qcow2 image costs besides its bytes: finding a cluster, and finding a free one.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use diskimg::engine::{CreatePlan, CreateRequest};
use diskimg::{BlockDevice, ByteRange, Node};
use support::image;

const CLUSTER: u64 = 64 << 10;
/// Odd, so that all clusters have their turn, and none is near the one before.
const LEAP: u32 = 1_000_003;

/// An image in a file with metadata for all of `len` bytes.
fn mapped(folder: &tempfile::TempDir, len: u64, cluster: u64) -> Node {
    let path = folder.path().join(format!("{cluster}.qcow2"));
    let path = path.to_str().unwrap();
    let options = format!("preallocation=metadata,cluster_size={cluster}");
    let request = CreateRequest {
        filename: path,
        format: "qcow2",
        size: Some(len),
        options: &options,
        ..CreateRequest::default()
    };
    CreatePlan::new(&diskimg::context(), &request).unwrap().run().unwrap();
    diskimg::open(path).unwrap()
}

fn lookup(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let mut group = criterion.benchmark_group("l2");
    group.throughput(Throughput::Elements(1));
    // 512 KiB of entries, which are kept; 32 MiB, of which a quarter is.
    for (name, len, cluster) in
        [("kept in memory", 4u64 << 30, CLUSTER), ("mostly read again", 16 << 30, 4 << 10)]
    {
        let disk = mapped(&folder, len, cluster);
        let mut at = 0;
        group.bench_function(name, |bench| {
            bench.iter(|| {
                at = (at + u64::from(LEAP) * cluster) % len;
                disk.image().extent_at(ByteRange::new(at, cluster)).unwrap().len
            });
        });
    }
    let table: Vec<u64> = (0..4 << 20).collect();
    let mut index = 0;
    group.bench_function("limit: an entry of 32 MiB in memory", |bench| {
        bench.iter(|| {
            index = (index + usize::try_from(LEAP).unwrap()) % table.len();
            black_box(table[index])
        });
    });
    group.finish();
}

/// Maps clusters `first`, `first + step`, … of `disk`, so many in a request, without writing to them.
fn allocate(disk: &Node, step: u64, run: u64) {
    for at in (0..disk.device().len()).step_by(usize::try_from(step * CLUSTER).unwrap()) {
        disk.device().reserve(ByteRange::new(at, run * CLUSTER)).unwrap().unwrap().commit().unwrap();
    }
}

fn allocation(criterion: &mut Criterion) {
    const CLUSTERS: u64 = 2048;
    // The clusters are there, and all or every second one of them is free: the storage does not have to grow.
    let freed = |step: usize| {
        let disk = image("qcow2", CLUSTERS * CLUSTER, "");
        allocate(&disk, 16, 16);
        disk.device().flush().unwrap();
        for cluster in (0..CLUSTERS).step_by(step) {
            disk.device().discard(ByteRange::new(cluster * CLUSTER, CLUSTER)).unwrap();
        }
        disk.device().flush().unwrap();
        disk
    };
    let (fresh, holed) = (|| freed(1), || freed(2));
    let mut group = criterion.benchmark_group("allocate");
    group.throughput(Throughput::Elements(CLUSTERS)).sample_size(20);
    for (name, run) in [("one by one", 1), ("16 in a request", 16)] {
        group.bench_function(name, |bench| {
            bench.iter_batched_ref(fresh, |disk| allocate(disk, run, run), BatchSize::PerIteration);
        });
    }
    group.bench_function("16 in a request, and written back", |bench| {
        let run = |disk: &mut Node| {
            allocate(disk, 16, 16);
            disk.device().flush().unwrap();
        };
        bench.iter_batched_ref(fresh, run, BatchSize::PerIteration);
    });
    group.throughput(Throughput::Elements(CLUSTERS / 2));
    group.bench_function("between used ones", |bench| {
        bench.iter_batched_ref(holed, |disk| allocate(disk, 2, 1), BatchSize::PerIteration);
    });
    group.throughput(Throughput::Elements(CLUSTERS));
    group.bench_function("payloads of 20000 bytes", |bench| {
        let run = |disk: &mut Node| {
            let clusters = disk.image().as_compressed().unwrap();
            for cluster in 0..CLUSTERS {
                clusters.reserve_encoded(cluster * CLUSTER, 20_000).unwrap().commit().unwrap();
            }
        };
        bench.iter_batched_ref(fresh, run, BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, lookup, allocation);
criterion_main!(benches);
