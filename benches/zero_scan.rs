//! How fast zeros are recognised, beside a copy of as many bytes: memory speed is the aim.
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use diskimg::is_zero;

fn zero_scan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("is_zero");
    for len in [4 << 10, 64 << 10, 1 << 20] {
        let buf = vec![0; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("{}k", len >> 10), |bench| bench.iter(|| is_zero(black_box(&buf))));
        let mut copy = vec![1; len];
        group.bench_function(format!("limit: copy of {}k", len >> 10), |bench| {
            bench.iter(|| black_box(&mut copy).copy_from_slice(black_box(&buf)));
        });
    }
    group.finish();
}

criterion_group!(benches, zero_scan);
criterion_main!(benches);
