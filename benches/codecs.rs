//! Compressing clusters of 64 KiB with both methods of qcow2, and reading them back.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use diskimg::BlockDevice;
use diskimg::engine::{ConvertOptions, convert};
use support::{contents, image};

const CLUSTER: usize = 64 << 10;
const CLUSTERS: usize = 64;

fn encode(criterion: &mut Criterion) {
    let bytes = contents(CLUSTER * CLUSTERS);
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Bytes(bytes.len() as u64)).sample_size(20);
    for (name, options) in [("zlib", ""), ("zstd", "compression_type=zstd")] {
        let target = image("qcow2", bytes.len() as u64, options);
        let mut encoder = target.image().as_compressed().unwrap().encoder().unwrap();
        let mut payload = Vec::new();
        group.bench_function(name, |bench| {
            bench.iter(|| {
                bytes.chunks(CLUSTER).filter(|cluster| encoder.encode(cluster, &mut payload).unwrap()).count()
            });
        });
    }
    group.finish();
}

fn decode(criterion: &mut Criterion) {
    let bytes = contents(CLUSTER * CLUSTERS);
    let source = image("raw", bytes.len() as u64, "");
    source.write_at(0, &bytes).unwrap();
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Bytes(bytes.len() as u64)).sample_size(20);
    for (name, options) in [("zlib", ""), ("zstd", "compression_type=zstd")] {
        let target = image("qcow2", bytes.len() as u64, options);
        let how = ConvertOptions { compress: true, target_is_zero: true, ..ConvertOptions::default() };
        convert(&[&source], &target, &how, &diskimg::Task::quiet()).unwrap();
        let mut buf = vec![0; CLUSTER];
        group.bench_function(name, |bench| {
            bench.iter(|| {
                for cluster in 0..CLUSTERS {
                    target.read_at((cluster * CLUSTER) as u64, &mut buf).unwrap();
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, encode, decode);
criterion_main!(benches);
