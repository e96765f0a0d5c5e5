//! What the host itself takes for bytes in its page cache: the limit of every copy, and what a disk adds to it.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use diskimg::BlockDevice;

const LEN: usize = 64 << 20;
const PIECE: usize = 512 << 10;

fn pieces(mut each: impl FnMut(u64)) {
    (0..LEN as u64).step_by(PIECE).for_each(&mut each);
}

fn host(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("full.raw");
    std::fs::write(&path, vec![7; LEN]).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut buf = vec![7; PIECE];
    let mut group = criterion.benchmark_group("host");
    group.throughput(Throughput::Bytes(LEN as u64)).sample_size(10);
    group.bench_function("limit: read what is cached", |bench| {
        bench.iter(|| pieces(|at| file.read_exact_at(&mut buf, at).unwrap()));
    });
    group.bench_function("limit: write over what is cached", |bench| {
        bench.iter(|| pieces(|at| file.write_all_at(&buf, at).unwrap()));
    });
    group.bench_function("limit: write a new file", |bench| {
        bench.iter_batched(
            || tempfile::tempfile_in(folder.path()).unwrap(),
            |file| pieces(|at| file.write_all_at(&buf, at).unwrap()),
            BatchSize::PerIteration,
        );
    });
    let disk = diskimg::open_writable(path.to_str().unwrap()).unwrap();
    group.bench_function("read through a disk", |bench| {
        bench.iter(|| pieces(|at| disk.read_at(at, &mut buf).unwrap()));
    });
    group.bench_function("write through a disk", |bench| {
        bench.iter(|| pieces(|at| disk.write_at(at, &buf).unwrap()));
    });
    group.finish();
}

criterion_group!(benches, host);
criterion_main!(benches);
