//! How fast sectors are encrypted and decrypted on one core, by cipher and mode.
#![allow(missing_docs, clippy::expect_used)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use diskimg::crypto::{CipherAlg, CipherMode, CipherSpec, Hash, IvGen, SectorCipher};

const CIPHERS: &[(CipherAlg, CipherMode, IvGen)] = &[
    (CipherAlg::Aes256, CipherMode::Xts, IvGen::Plain64),
    (CipherAlg::Aes128, CipherMode::Xts, IvGen::Plain64),
    (CipherAlg::Aes256, CipherMode::Cbc, IvGen::Essiv),
    (CipherAlg::Aes128, CipherMode::Cbc, IvGen::Plain64),
    (CipherAlg::Aes256, CipherMode::Ctr, IvGen::Plain64),
    (CipherAlg::Serpent256, CipherMode::Xts, IvGen::Plain64),
    (CipherAlg::Twofish256, CipherMode::Xts, IvGen::Plain64),
];

fn ciphers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sectors");
    let mut buf = vec![0x5a; 64 << 10];
    group.throughput(Throughput::Bytes(buf.len() as u64));
    for &(alg, mode, ivgen) in CIPHERS {
        let spec = CipherSpec { alg, mode, ivgen, ivgen_hash: Some(Hash::Sha256) };
        let cipher = SectorCipher::new(&spec, &vec![7; spec.key_len()]).expect("a cipher");
        let name = format!("{}-{}-{}", alg.name(), mode.name(), ivgen.name());
        group.bench_function(format!("{name}/encrypt"), |bench| bench.iter(|| cipher.encrypt(0, &mut buf)));
        group.bench_function(format!("{name}/decrypt"), |bench| bench.iter(|| cipher.decrypt(0, &mut buf)));
    }
    group.finish();
}

criterion_group!(benches, ciphers);
criterion_main!(benches);
