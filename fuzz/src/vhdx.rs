//! VHDX images with damage that only a fuzzer thinks of: checksums are made right, so that it gets beyond them.

use std::sync::OnceLock;

use arbitrary::Arbitrary;
use diskimg_core::BlockDevice;
use diskimg_testkit::{FormatSubject, Subject};

const SECTOR: usize = 4096;
const MIB: usize = 1 << 20;
/// Where structures stand in [`image`]: file identifier, headers, region tables, block table, metadata, blocks.
const PLACES: [usize; 9] =
    [0, 64 << 10, 128 << 10, 192 << 10, 256 << 10, 2 * MIB, 3 * MIB, 3 * MIB + (64 << 10), 4 * MIB];
/// Structures with a checksum at byte 4, and their lengths.
const SUMMED: [(usize, usize); 4] =
    [(64 << 10, SECTOR), (128 << 10, SECTOR), (192 << 10, 64 << 10), (256 << 10, 64 << 10)];
const LOG: usize = MIB;
/// What the header names the log by.
const GUID: [u8; 16] = [0x5a; 16];

/// A disk of 3 MiB in blocks of 1 MiB, of which the first one is stored.
#[must_use]
pub fn image() -> Vec<u8> {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    let made = IMAGE.get_or_init(|| {
        let subject = FormatSubject::new(&diskimg_vhdx::DRIVER, 3 << 20, &["block_size=1M"]);
        let disk = subject.fresh().remove(0);
        let opened = subject.open(&[disk.clone() as _], true).expect("open");
        opened.device.write_at(1000, &[7; 3000]).expect("write");
        opened.device.flush().expect("flush");
        drop(opened);
        let mut image = disk.to_vec();
        // The reserve in front of the blocks is left out.
        image.copy_within(8 * MIB..9 * MIB, 4 * MIB);
        image.truncate(5 * MIB);
        image[2 * MIB..2 * MIB + 8].copy_from_slice(&((4 * MIB as u64) | 6).to_le_bytes());
        image
    });
    made.clone()
}

fn sum(bytes: &mut [u8]) {
    bytes[4..8].fill(0);
    let crc = crc32c::crc32c(bytes);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// Makes the checksums of headers and region tables right.
pub fn mend(image: &mut [u8]) {
    for (at, len) in SUMMED {
        sum(&mut image[at..at + len]);
    }
}

/// Names the log in both headers.
pub fn set_log(image: &mut [u8]) {
    for at in [64 << 10, 128 << 10] {
        image[at + 48..at + 64].copy_from_slice(&GUID);
    }
    mend(image);
}

/// Bytes put somewhere into a structure.
#[derive(Arbitrary, Debug)]
pub struct Patch {
    place: u8,
    offset: u16,
    value: u64,
    len: u8,
}

impl Patch {
    /// Into a structure.
    pub fn apply(&self, image: &mut [u8]) {
        let at = PLACES[usize::from(self.place) % PLACES.len()] + usize::from(self.offset);
        self.put(image, at);
    }

    /// Into the log.
    pub fn apply_to_log(&self, image: &mut [u8]) {
        self.put(image, LOG + usize::from(self.place) * SECTOR + usize::from(self.offset) % SECTOR);
    }

    fn put(&self, image: &mut [u8], at: usize) {
        let bytes = self.value.to_le_bytes();
        let len = usize::from(self.len % 8) + 1;
        if let Some(target) = image.get_mut(at..at + len) {
            target.copy_from_slice(&bytes[..len]);
        }
    }
}

/// A descriptor of a log entry.
#[derive(Arbitrary, Debug)]
struct Descriptor {
    zero: bool,
    /// Sectors.
    target: u16,
    /// Sectors, of zeros.
    len: u8,
    fill: u8,
    wrong_sequence: bool,
}

/// An entry of the log, right or wrong.
#[derive(Arbitrary, Debug)]
pub struct Entry {
    /// Sectors.
    at: u8,
    /// Sectors; the entry's own position, if there is none.
    tail: Option<u8>,
    sequence: u8,
    descriptors: Vec<Descriptor>,
    /// Sectors that the header's length says more.
    more: u8,
    /// The file's length, in sectors; its real one, if there is none.
    file_len: Option<u16>,
    last_len: Option<u16>,
    wrong_checksum: bool,
}

impl Entry {
    /// Puts it into the log, around its end.
    pub fn write(&self, image: &mut [u8]) {
        let bytes = self.encode(image.len());
        for (number, sector) in bytes.chunks(SECTOR).enumerate().take(256) {
            let at = LOG + (usize::from(self.at) + number) % 256 * SECTOR;
            image[at..at + SECTOR].copy_from_slice(sector);
        }
    }

    fn encode(&self, file_len: usize) -> Vec<u8> {
        let sequence = u64::from(self.sequence);
        let sectors = |len: Option<u16>| len.map_or(file_len as u64, |len| u64::from(len) * SECTOR as u64);
        let front = (64 + self.descriptors.len() * 32).div_ceil(SECTOR) * SECTOR;
        let data = self.descriptors.iter().filter(|descriptor| !descriptor.zero).count();
        let len = front + data * SECTOR + usize::from(self.more % 4) * SECTOR;
        let mut bytes = b"loge\0\0\0\0".to_vec();
        bytes.extend(u32::try_from(len).expect("short").to_le_bytes());
        bytes.extend((u32::from(self.tail.unwrap_or(self.at)) * SECTOR as u32).to_le_bytes());
        bytes.extend(sequence.to_le_bytes());
        bytes.extend((self.descriptors.len() as u64).to_le_bytes());
        bytes.extend(GUID);
        bytes.extend(sectors(self.file_len).to_le_bytes());
        bytes.extend(sectors(self.last_len).to_le_bytes());
        for one in &self.descriptors {
            bytes.extend(if one.zero { b"zero" } else { b"desc" });
            bytes.extend([if one.zero { 0 } else { one.fill }; 4]);
            let first = if one.zero { u64::from(one.len) * SECTOR as u64 } else { u64::from(one.fill) * 0x0101_0101_0101_0101 };
            bytes.extend(first.to_le_bytes());
            bytes.extend((u64::from(one.target) * SECTOR as u64).to_le_bytes());
            bytes.extend((sequence + u64::from(one.wrong_sequence)).to_le_bytes());
        }
        bytes.resize(front, 0);
        for one in self.descriptors.iter().filter(|one| !one.zero) {
            let start = bytes.len();
            bytes.extend(b"data\0\0\0\0");
            bytes.resize(start + SECTOR - 4, one.fill);
            bytes.extend(u32::from(self.sequence).to_le_bytes());
        }
        bytes.resize(len, 0);
        sum(&mut bytes);
        bytes[4] ^= u8::from(self.wrong_checksum);
        bytes
    }
}
