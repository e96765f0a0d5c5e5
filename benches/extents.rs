//! Looking up extents: what holes, maps and comparisons are made of.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use diskimg::engine::map;
use diskimg::{BlockDevice, ByteRange, Task};
use support::image;

fn extents(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("extents");
    let len = 8u64 << 30;
    let full = image("qcow2", len, "preallocation=metadata");
    group.bench_function("one cluster of many", |bench| {
        let mut at = 0;
        bench.iter(|| {
            at = (at + (1_000_003 << 16)) % len;
            full.extent_at(ByteRange::new(at, 1 << 16)).unwrap().len
        });
    });
    let scattered = image("qcow2", len, "");
    for cluster in (0..len >> 16).step_by(2).rev() {
        scattered.write_at(cluster << 16, &[1; 512]).unwrap();
    }
    group.bench_function("map of 131072 runs", |bench| {
        bench.iter(|| {
            let mut entries = 0;
            let mut count = |_: &diskimg::engine::MapEntry<'_>| {
                entries += 1;
                Ok(())
            };
            map(&scattered, ByteRange::new(0, len), &Task::quiet(), &mut count).unwrap();
            entries
        });
    });
    group.finish();
}

criterion_group!(benches, extents);
criterion_main!(benches);
