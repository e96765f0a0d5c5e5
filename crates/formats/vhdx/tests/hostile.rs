//! Structures with changes that only their checksums would tell, and those are right: nothing panics, hangs or takes much
//! memory. And logs of all sorts: who replays one on the host sees what a reader sees who replays it in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;

use diskimg_core::driver::OpenMode;
use diskimg_core::opener::NoReferences;
use diskimg_core::options::{RuntimeOptions, RuntimeValue};
use diskimg_core::{BlockDevice, Image, MemDevice, Result, to_usize};
use diskimg_testkit::{FormatSubject, Rng, contract, open_image, open_image_with};
use diskimg_vhdx::DRIVER;

const MIB: usize = 1 << 20;
const SECTOR: usize = 4096;
const HEADERS: [usize; 2] = [64 << 10, 128 << 10];
const REGIONS: [usize; 2] = [192 << 10, 256 << 10];
const LOG: usize = MIB;
const BAT: usize = 2 * MIB;
const METADATA: usize = 3 * MIB;
/// What the headers name the log by.
const GUID: [u8; 16] = [0x5a; 16];

/// `DISKIMG_PROP_ROUNDS` asks for more.
fn rounds(usual: u64) -> u64 {
    diskimg_testkit::rounds(usual)
}

/// A disk of 3 MiB in blocks of 1 MiB, of which the first one is stored, without the reserve in front of the blocks.
fn image() -> Vec<u8> {
    let mut image = FormatSubject::new(&DRIVER, 3 << 20, &["block_size=1M"]).fresh()[0].to_vec();
    image.truncate(5 * MIB);
    image[4 * MIB..].fill(7);
    image[BAT..BAT + 8].copy_from_slice(&((4 * MIB as u64) | 6).to_le_bytes());
    image
}

fn seal(bytes: &mut [u8]) {
    bytes[4..8].fill(0);
    let crc = crc32c::crc32c(bytes);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
}

fn seal_all(image: &mut [u8]) {
    HEADERS.iter().for_each(|at| seal(&mut image[*at..at + SECTOR]));
    REGIONS.iter().for_each(|at| seal(&mut image[*at..at + (64 << 10)]));
}

#[test]
fn changed_structures_with_right_checksums() {
    let subject = FormatSubject::new(&DRIVER, 0, &[]);
    let good = image();
    let mut opened = 0;
    for seed in 0..rounds(250) {
        let mut rng = Rng::new(seed);
        let mut bad = good.clone();
        for _ in 0..=rng.below(2) {
            let (place, len) = *rng.pick(&[
                (HEADERS[0], 80),
                (HEADERS[1], 80),
                (REGIONS[0], 112),
                (METADATA, 240),
                (METADATA + (64 << 10), 40),
                (BAT, 40),
            ]);
            let (at, size) = (place + rng.index(len), 1 + rng.index(4));
            let value = *rng.pick(&[0, 1, 2, 6, 7, 0x10, 0x80, 0xff]);
            bad[at..at + size].fill(value);
        }
        seal_all(&mut bad);
        let (any, _) = contract::poke(&subject, &[bad], &|| format!("seed {seed}"));
        opened += usize::from(any);
    }
    assert!(opened > 20, "{opened} opened");
}

/// An entry with the sequence number `number` whose tail is at sector `tail`: right, or with something wrong in it.
fn entry(rng: &mut Rng, number: u64, tail: usize, file_len: u64) -> Vec<u8> {
    let zeros: Vec<bool> = (0..1 + rng.index(5)).map(|_| rng.chance(30)).collect();
    let wrong = rng.chance(15);
    let data = zeros.iter().filter(|zero| !**zero).count();
    let len = SECTOR * (1 + data);
    let mut bytes = b"loge\0\0\0\0".to_vec();
    bytes.extend(u32::try_from(len).unwrap().to_le_bytes());
    bytes.extend(u32::try_from(tail * SECTOR).unwrap().to_le_bytes());
    bytes.extend(number.to_le_bytes());
    bytes.extend((zeros.len() as u64).to_le_bytes());
    bytes.extend(GUID);
    let grown = if rng.chance(20) { file_len + 3 * SECTOR as u64 } else { file_len };
    bytes.extend(file_len.to_le_bytes());
    bytes.extend(grown.to_le_bytes());
    let mut fills = Vec::new();
    for zero in &zeros {
        let fill = 1 + u8::try_from(rng.below(250)).unwrap();
        let sector = if wrong && rng.chance(50) { rng.below(600) } else { 1024 + rng.below(256) };
        bytes.extend(if *zero { b"zero" } else { b"desc" });
        bytes.extend([if *zero { 0 } else { fill }; 4]);
        let first = if *zero { (1 + rng.below(8)) * SECTOR as u64 } else { u64::from_le_bytes([fill; 8]) };
        bytes.extend(first.to_le_bytes());
        bytes.extend((sector * SECTOR as u64).to_le_bytes());
        bytes.extend((number + u64::from(wrong && rng.chance(20))).to_le_bytes());
        fills.extend((!zero).then_some(fill));
    }
    bytes.resize(SECTOR, 0);
    for fill in fills {
        let start = bytes.len();
        bytes.extend(b"data");
        bytes.extend(u32::try_from(number >> 32).unwrap().to_le_bytes());
        bytes.resize(start + SECTOR - 4, fill);
        bytes.extend(u32::try_from(number & 0xffff_ffff).unwrap().to_le_bytes());
    }
    seal(&mut bytes);
    if wrong && rng.chance(30) {
        let broken = rng.index(bytes.len());
        bytes[broken] ^= 0x40;
    }
    bytes
}

fn contents(image: &dyn Image) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; to_usize(image.len())];
    image.read_at(0, &mut bytes).map_err(|error| error.joined())?;
    Ok(bytes)
}

#[test]
fn a_log_is_replayed_in_memory_as_it_is_on_the_host() {
    let good = image();
    let mut replayed = 0;
    for seed in 0..rounds(300) {
        let mut rng = Rng::new(seed);
        let mut image = good.clone();
        for at in HEADERS {
            image[at + 48..at + 64].copy_from_slice(&GUID);
        }
        seal_all(&mut image);
        let first = rng.index(256);
        let (mut at, mut number) = (first, 1 + rng.below(1 << 40));
        for _ in 0..rng.below(6) {
            let tail = if rng.chance(70) { first } else { at };
            let bytes = entry(&mut rng, number, tail, good.len() as u64);
            for (step, sector) in bytes.chunks(SECTOR).enumerate() {
                let place = LOG + (at + step) % 256 * SECTOR;
                image[place..place + SECTOR].copy_from_slice(sector);
            }
            at = (at + bytes.len() / SECTOR) % 256;
            number += 1 + u64::from(rng.chance(5));
        }
        let mut options = RuntimeOptions::new();
        options.set("replay-log", RuntimeValue::Bool(true));
        let memory: Arc<dyn BlockDevice> = Arc::new(MemDevice::read_only(image.clone()));
        let plain = open_image(&DRIVER, Arc::clone(&memory), OpenMode::default(), &NoReferences);
        let reader = open_image_with(&DRIVER, memory, OpenMode::default(), &NoReferences, options);
        let host = Arc::new(MemDevice::from(image));
        let mode = OpenMode { write: true, ..OpenMode::default() };
        let writer = open_image(&DRIVER, Arc::clone(&host) as _, mode, &NoReferences);
        let dirty = plain.as_ref().is_err_and(|error| error.joined().contains("needs to be replayed"));
        match (&reader, &writer) {
            (Ok(reader), Ok(writer)) => {
                assert!(contents(&**reader) == contents(&**writer), "seed {seed}");
                replayed += usize::from(dirty);
                let after = Arc::new(MemDevice::read_only(host.to_vec()));
                open_image(&DRIVER, after, OpenMode::default(), &NoReferences).expect("an empty log");
            }
            (Err(_), Err(_)) => {}
            _ => panic!("seed {seed}: {reader:?}, {writer:?}"),
        }
    }
    assert!(replayed > 50, "{replayed} replayed");
}
