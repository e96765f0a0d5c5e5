//! Whole conversions in memory: the pipeline without the host.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use diskimg::BlockDevice;
use diskimg::engine::{ConvertOptions, convert};
use support::{contents, image};

fn conversions(criterion: &mut Criterion) {
    let bytes = contents(64 << 20);
    let len = bytes.len() as u64;
    let raw = image("raw", len, "");
    raw.write_at(0, &bytes).unwrap();
    let qcow2 = image("qcow2", len, "");
    let fresh = ConvertOptions { target_is_zero: true, ..ConvertOptions::default() };
    convert(&[&raw], &qcow2, &fresh, &diskimg::Task::quiet()).unwrap();
    let mut group = criterion.benchmark_group("convert");
    group.throughput(Throughput::Bytes(len)).sample_size(10);
    for (name, source, target, options) in [
        ("raw to qcow2", &raw, "qcow2", ""),
        ("raw to qcow2, 4k clusters", &raw, "qcow2", "cluster_size=4k"),
        ("qcow2 to raw", &qcow2, "raw", ""),
        ("qcow2 to qcow2", &qcow2, "qcow2", ""),
    ] {
        group.bench_function(name, |bench| {
            bench.iter_batched(
                || image(target, len, options),
                |target| convert(&[source], &target, &fresh, &diskimg::Task::quiet()).unwrap(),
                BatchSize::PerIteration,
            );
        });
    }
    for (name, options) in [("zlib", ""), ("zstd", "compression_type=zstd")] {
        let compress = ConvertOptions { compress: true, ..fresh.clone() };
        group.bench_function(format!("compressed with {name}"), |bench| {
            bench.iter_batched(
                || image("qcow2", len, options),
                |target| convert(&[&raw], &target, &compress, &diskimg::Task::quiet()).unwrap(),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, conversions);
criterion_main!(benches);
