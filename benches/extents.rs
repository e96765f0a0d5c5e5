//! Looking up extents: what holes, maps and comparisons are made of.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use diskimg::engine::map;
use diskimg::{BlockDevice, ByteRange, Task};
use support::image;

fn extents(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("extents");
    let len = 256u64 << 20;
    let full = image("qcow2", len, "preallocation=metadata,cluster_size=4k");
    group.bench_function("one cluster of many", |bench| {
        let mut at = 0;
        bench.iter(|| {
            at = (at + (10_007 << 12)) % len;
            full.extent_at(ByteRange::new(at, 1 << 12)).unwrap().len
        });
    });
    let scattered = image("qcow2", len, "cluster_size=4k");
    for pair in (0..len >> 13).rev() {
        scattered.write_at(pair << 13, &[1; 512]).unwrap();
    }
    group.bench_function("map of 65536 runs", |bench| {
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
