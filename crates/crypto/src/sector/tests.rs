//! Sector ciphers against published vectors, the `xts-mode` crate and themselves in other batches.

use super::*;
use crate::names::Hash;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<char> = hex.chars().filter(|c| !c.is_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap()).collect()
}

fn spec(alg: CipherAlg, mode: CipherMode, ivgen: IvGen, ivgen_hash: Option<Hash>) -> CipherSpec {
    CipherSpec { alg, mode, ivgen, ivgen_hash }
}

/// All combinations that exist.
fn all_specs() -> Vec<CipherSpec> {
    let mut all = Vec::new();
    for alg in CipherAlg::ALL {
        for mode in CipherMode::ALL {
            for ivgen in IvGen::ALL {
                let hashes: &[_] = if *ivgen == IvGen::Essiv { Hash::ALL } else { &[Hash::Md5] };
                let of_hash = |hash: &Hash| spec(*alg, *mode, *ivgen, Some(*hash));
                all.extend(hashes.iter().map(of_hash).filter(|spec| spec.check().is_ok()));
            }
        }
    }
    all
}

/// Bytes that repeat nowhere.
fn pattern(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(len).collect()
}

#[test]
fn fips_197_and_the_ciphers_own_vectors() {
    for (alg, key, plain, sealed) in [
        (
            CipherAlg::Aes128,
            "000102030405060708090a0b0c0d0e0f",
            "00112233445566778899aabbccddeeff",
            "69c4e0d86a7b0430d8cdb78070b4c55a",
        ),
        (
            CipherAlg::Aes192,
            "000102030405060708090a0b0c0d0e0f1011121314151617",
            "00112233445566778899aabbccddeeff",
            "dda97ca4864cdfe06eaf70a0ec0d7191",
        ),
        (
            CipherAlg::Aes256,
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
            "00112233445566778899aabbccddeeff",
            "8ea2b7ca516745bfeafc49904b496089",
        ),
        // RFC 2144.
        (CipherAlg::Cast5, "0123456712345678234567893456789a", "0123456789abcdef", "238b4fe5847e44b2"),
        // The Twofish paper.
        (
            CipherAlg::Twofish128,
            "00000000000000000000000000000000",
            "00000000000000000000000000000000",
            "9f589f5cf6122c32b6bfec2f2ae8c35a",
        ),
        (
            CipherAlg::Twofish256,
            "0123456789abcdeffedcba987654321000112233445566778899aabbccddeeff",
            "00000000000000000000000000000000",
            "37527be0052334b89f0cfccae87cfa20",
        ),
    ] {
        let cipher =
            SectorCipher::new(&spec(alg, CipherMode::Ecb, IvGen::Plain64, None), &bytes(key)).unwrap();
        let (plain, sealed) = (bytes(plain), bytes(sealed));
        let mut sector = plain.repeat(SECTOR_LEN / plain.len());
        cipher.encrypt(0, &mut sector);
        assert_eq!(sector, sealed.repeat(SECTOR_LEN / sealed.len()), "{alg:?}");
        cipher.decrypt(0, &mut sector);
        assert_eq!(sector, plain.repeat(SECTOR_LEN / plain.len()), "{alg:?}");
    }
}

/// IEEE 1619-2007, vector 4: data unit 0, 512 bytes counting up.
#[test]
fn ieee_1619_vector_4() {
    let key = bytes("27182818284590452353602874713526 31415926535897932384626433832795");
    let cipher =
        SectorCipher::new(&spec(CipherAlg::Aes128, CipherMode::Xts, IvGen::Plain64, None), &key).unwrap();
    let mut sector: Vec<u8> = (0..=255_u8).cycle().take(SECTOR_LEN).collect();
    cipher.encrypt(0, &mut sector);
    assert_eq!(sector[..32], bytes("27a7479befa1d476489f308cd4cfa6e2a96e4bbe3208ff25287dd3819616e89c"));
    cipher.decrypt(0, &mut sector);
    assert!(sector.iter().enumerate().all(|(at, byte)| *byte as usize == at % 256));
}

/// IEEE 1619-2007, vector 10: the same under 256-bit keys, data unit 255.
#[test]
fn ieee_1619_vector_10() {
    let key = bytes(
        "2718281828459045235360287471352662497757247093699959574966967627
         3141592653589793238462643383279502884197169399375105820974944592",
    );
    let cipher = SectorCipher::new(&CipherSpec::DEFAULT, &key).unwrap();
    let mut sector: Vec<u8> = (0..=255_u8).cycle().take(SECTOR_LEN).collect();
    cipher.encrypt(255, &mut sector);
    assert_eq!(sector[..32], bytes("1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b"));
    cipher.decrypt(255, &mut sector);
    assert!(sector.iter().enumerate().all(|(at, byte)| *byte as usize == at % 256));
}

#[test]
fn xts_agrees_with_another_implementation() {
    use aes::cipher::KeyInit as _;
    let key = pattern(64);
    let (data, tweak) = key.split_at(32);
    let reference = xts_mode::Xts128::new(
        aes::Aes256::new_from_slice(data).unwrap(),
        aes::Aes256::new_from_slice(tweak).unwrap(),
    );
    let cipher = SectorCipher::new(&CipherSpec::DEFAULT, &key).unwrap();
    for (first, sectors) in [(0, 1), (7, 8), (u64::from(u32::MAX) - 3, 9), (1 << 40, 37)] {
        let (mut ours, mut theirs) = (pattern(sectors * SECTOR_LEN), pattern(sectors * SECTOR_LEN));
        cipher.encrypt(first, &mut ours);
        reference.encrypt_area(&mut theirs, SECTOR_LEN, first.into(), xts_mode::get_tweak_default);
        assert!(ours == theirs, "{sectors} sectors at {first}");
    }
}

#[test]
fn each_combination_leads_back_and_does_not_depend_on_batches() {
    let specs = all_specs();
    assert!(specs.len() > 80, "{}", specs.len());
    let plain = pattern(19 * SECTOR_LEN);
    for spec in specs {
        let cipher = SectorCipher::new(&spec, &pattern(spec.key_len())).unwrap();
        let first = u64::from(u32::MAX) - 5;
        let mut whole = plain.clone();
        cipher.encrypt(first, &mut whole);
        assert!(whole != plain, "{spec:?}");
        let mut single = plain.clone();
        for (sector, number) in single.chunks_mut(SECTOR_LEN).zip(first..) {
            cipher.encrypt(number, sector);
        }
        assert!(whole == single, "{spec:?}");
        for (piece, number) in single.chunks_mut(3 * SECTOR_LEN).zip((first..).step_by(3)) {
            cipher.decrypt(number, piece);
        }
        cipher.decrypt(first, &mut whole);
        assert!(whole == plain && single == plain, "{spec:?}");
    }
}

#[test]
fn keys_of_another_size_are_refused() {
    let error = |spec: &CipherSpec, len| SectorCipher::new(spec, &vec![0; len]).unwrap_err().to_string();
    assert_eq!(error(&CipherSpec::DEFAULT, 33), "XTS cipher key length should be a multiple of 2");
    assert_eq!(error(&CipherSpec::DEFAULT, 32), "Cipher key length 32 should be 64");
    let xts = spec(CipherAlg::Cast5, CipherMode::Xts, IvGen::Plain, None);
    assert_eq!(error(&xts, 32), "Unsupported cipher mode xts");
}

#[test]
fn the_legacy_key_is_the_password_cut_or_padded() {
    let seal = |password: &[u8]| {
        let mut sector = vec![0; SECTOR_LEN];
        legacy_aes(password).unwrap().encrypt(3, &mut sector);
        sector
    };
    assert_eq!(seal(b"abc"), seal(b"abc\0"));
    assert_eq!(seal(b"0123456789abcdef"), seal(b"0123456789abcdefgh"));
    assert_ne!(seal(b"0123456789abcdef"), seal(b"0123456789abcdeg"));
}

#[test]
fn ciphers_are_shared_between_threads_and_not_printed() {
    fn shared<T: Send + Sync>() {}
    shared::<SectorCipher>();
    let cipher = SectorCipher::new(&CipherSpec::DEFAULT, &[77; 64]).unwrap();
    assert!(!format!("{cipher:?}").contains("77"));
}
