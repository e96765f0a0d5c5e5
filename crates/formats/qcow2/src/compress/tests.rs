//! Encoding and decoding: round trips, the 4 KiB window, broken payloads.
#![allow(clippy::cast_possible_truncation)]

use super::*;

const CODECS: [Codec; 2] = [Codec::Deflate, Codec::Zstd];

/// A small generator, so that inputs are the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
}

/// A cluster of one of many natures: constant, text-like, long and far repeats, sparse, random tails.
fn cluster(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let run = 1 + random.below(6000);
        match random.below(6) {
            0 => bytes.resize(bytes.len() + run, random.next() as u8),
            1 => (0..run).for_each(|_| bytes.push(b'a' + (random.next() % 16) as u8)),
            2 => (0..run).for_each(|_| bytes.push(random.next() as u8)),
            3 => (0..run).for_each(|i| bytes.push((i / 7) as u8)),
            _ if bytes.is_empty() => {}
            // A repeat from far behind, beyond and within the 4 KiB window.
            _ => {
                let back = 1 + random.below(bytes.len().min(9000));
                (0..run).for_each(|_| bytes.push(bytes[bytes.len() - back]));
            }
        }
    }
    bytes.truncate(len);
    bytes
}

fn clusters() -> impl Iterator<Item = Vec<u8>> {
    let sizes = [(9, 200), (12, 200), (16, 120), (18, 20), (21, 6)];
    sizes.into_iter().flat_map(|(bits, count)| (0..count).map(move |seed| cluster(seed, 1 << bits)))
}

#[test]
fn what_is_encoded_decodes_and_is_smaller() {
    for codec in CODECS {
        let (mut encoder, mut decoder) = (Encoder::new(codec).unwrap(), Decoder::new(codec).unwrap());
        let mut payload = Vec::new();
        for cluster in clusters() {
            if !encoder.encode(&cluster, &mut payload).unwrap() {
                assert!(payload.is_empty());
                continue;
            }
            assert!(payload.len() < cluster.len());
            let mut out = vec![0xaa; cluster.len()];
            // The next cluster's data may follow directly.
            payload.extend_from_slice(&[0x5a; 300]);
            decoder.decode(&payload, &mut out).unwrap();
            assert!(out == cluster);
        }
    }
}

/// Distances in a deflate stream never exceed what a reader with a 4 KiB window keeps: fed in small steps, so
/// that nothing but its window is there to copy from.
#[test]
fn deflate_needs_no_more_than_a_window_of_4_kib() {
    let mut encoder = Encoder::new(Codec::Deflate).unwrap();
    let mut payload = Vec::new();
    for cluster in clusters() {
        if !encoder.encode(&cluster, &mut payload).unwrap() {
            continue;
        }
        let mut state = Decompress::new_with_window_bits(false, DEFLATE_WINDOW_BITS);
        let mut out = Vec::new();
        let mut step = [0; 97];
        loop {
            let (read, written) = (state.total_in() as usize, state.total_out());
            let status = state.decompress(&payload[read..], &mut step, FlushDecompress::None).unwrap();
            out.extend_from_slice(&step[..(state.total_out() - written) as usize]);
            if status == Status::StreamEnd {
                break;
            }
        }
        assert!(out == cluster);
    }
}

#[test]
fn noise_is_not_made_larger() {
    let mut random = Random(99);
    let noise: Vec<u8> = (0..65536).map(|_| random.next() as u8).collect();
    for codec in CODECS {
        let mut encoder = Encoder::new(codec).unwrap();
        let mut payload = vec![1, 2, 3];
        assert!(!encoder.encode(&noise, &mut payload).unwrap());
        assert!(encoder.encode(&cluster(3, 65536), &mut payload).unwrap(), "the state is usable afterwards");
    }
}

#[test]
fn noise_is_told_from_what_repeats_or_leans() {
    let mut random = Random(7);
    let noise: Vec<u8> = (0..65536).map(|_| (random.next() >> 24) as u8).collect();
    assert!(noise::is_noise(&noise) && noise::is_noise(&noise[..8192]));
    assert!(!noise::is_noise(&noise[..4096]), "too short to judge");
    let mut repeating = noise.clone();
    repeating.copy_within(20_000..20_512, 22_000);
    assert!(!noise::is_noise(&repeating));
    let mut leaning = noise.clone();
    leaning[30_000..34_000].fill(b' ');
    assert!(!noise::is_noise(&leaning));
    let text: Vec<u8> = noise.iter().map(|byte| byte % 64).collect();
    assert!(!noise::is_noise(&text));
    for bits in [12, 16, 21] {
        assert!((0..40).all(|seed| !noise::is_noise(&cluster(seed, 1 << bits))), "{bits}");
    }
}

#[test]
fn damaged_payloads_are_corrupt_never_a_panic() {
    for codec in CODECS {
        let (mut encoder, mut decoder) = (Encoder::new(codec).unwrap(), Decoder::new(codec).unwrap());
        let whole = cluster(7, 4096);
        let mut payload = Vec::new();
        assert!(encoder.encode(&whole, &mut payload).unwrap());
        let mut out = vec![0; whole.len()];
        for len in 0..payload.len() - 8 {
            let error = decoder.decode(&payload[..len], &mut out).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{codec:?} cut to {len}");
        }
        let mut random = Random(5);
        for _ in 0..2000 {
            let mut bad = payload.clone();
            let at = random.below(bad.len());
            bad[at] ^= 1 << random.below(8);
            if let Err(error) = decoder.decode(&bad, &mut out) {
                assert_eq!(error.kind(), ErrorKind::Corrupt);
            }
        }
        decoder.decode(&payload, &mut out).unwrap();
        assert_eq!(out, whole, "the state is usable afterwards");
    }
}

#[test]
fn data_of_the_wrong_length_is_refused() {
    for codec in CODECS {
        let (mut encoder, mut decoder) = (Encoder::new(codec).unwrap(), Decoder::new(codec).unwrap());
        let mut payload = Vec::new();
        assert!(encoder.encode(&vec![7; 65536], &mut payload).unwrap());
        let error = decoder.decode(&payload, &mut vec![0; 131_072]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{codec:?}: too short");
        let result = decoder.decode(&payload, &mut vec![0; 4096]);
        // A deflate stream that goes on behind a full cluster is accepted (so does qemu), a zstd frame is not.
        assert_eq!(result.is_ok(), codec == Codec::Deflate);
    }
}

#[test]
fn several_zstd_frames_make_a_cluster() {
    let mut encoder = Encoder::new(Codec::Zstd).unwrap();
    let (mut all, mut part) = (Vec::new(), Vec::new());
    for fill in 0..4 {
        assert!(encoder.encode(&[fill; 1024], &mut part).unwrap());
        all.extend_from_slice(&part);
    }
    let mut out = vec![9; 4096];
    Decoder::new(Codec::Zstd).unwrap().decode(&all, &mut out).unwrap();
    assert!(out.chunks(1024).zip(0..4).all(|(chunk, fill)| chunk.iter().all(|byte| *byte == fill)));
}

#[test]
fn zstd_frames_say_their_length_and_carry_no_checksum() {
    let mut payload = Vec::new();
    assert!(Encoder::new(Codec::Zstd).unwrap().encode(&vec![1; 65536], &mut payload).unwrap());
    assert_eq!(payload[..7], [0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x00, 0xff]);
}

#[test]
fn types_of_the_header() {
    assert_eq!((codec_of(0), codec_of(1), codec_of(2)), (Some(Codec::Deflate), Some(Codec::Zstd), None));
}
