//! Small images in the formats that are only read, laid out so that the tables of damage know where everything is.
//!
//! | kind | disk | where |
//! |---|---|---|
//! | `bochs`, `bochs1` | 7 extents of 4 KiB less 3 sectors; 1, 2 and 4 are there | catalog at 512, extents behind it |
//! | `cloop` | 6 blocks of 4 KiB | block size at 128, number at 132, offsets from 136 |
//! | `dmg`, `dmg-fork` | 2 tables, 5 chunks of 8 KiB: raw, zlib, zeros; ignored, zlib | list or fork at 32 KiB, trailer at 40 KiB |

use diskimg_testkit::layouts::{self, bochs_header, resource_fork};

/// The image of this kind.
pub fn image(kind: &str) -> Result<Vec<u8>, String> {
    match kind {
        "bochs" => Ok(bochs(0x2_0000)),
        "bochs1" => Ok(bochs(0x1_0000)),
        "cloop" => Ok(cloop()),
        "dmg" => Ok(dmg(false)),
        "dmg-fork" => Ok(dmg(true)),
        other => Err(format!("no such sample: {other}")),
    }
}

/// Contents that tell where they belong.
fn contents(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at / 512) as u8 ^ (at as u8).wrapping_mul(seed)).collect()
}

/// A zlib stream of stored blocks.
fn zlib(data: &[u8]) -> Vec<u8> {
    let len = data.len() as u16;
    let (mut a, mut b) = (1u32, 0u32);
    for byte in data {
        a = (a + u32::from(*byte)) % 65521;
        b = (b + a) % 65521;
    }
    let mut stream = vec![0x78, 0x01, 1];
    stream.extend([len.to_le_bytes(), (!len).to_le_bytes()].concat());
    stream.extend(data);
    stream.extend((b << 16 | a).to_be_bytes());
    stream
}

fn bochs(version: u32) -> Vec<u8> {
    const EXTENT: usize = 4096;
    let mut image = bochs_header(version, 7, 512, EXTENT as u32, (7 * EXTENT - 3 * 512) as u64);
    for number in [u32::MAX, 2, 0, u32::MAX, 1, u32::MAX, u32::MAX] {
        image.extend(number.to_le_bytes());
    }
    for (seed, bits) in [(3, 0xff), (5, 0b1010_0110), (7, 0x0f)] {
        let mut bitmap = vec![0; 512];
        bitmap[0] = bits;
        image.extend(bitmap);
        image.extend(contents(EXTENT, seed));
    }
    image
}

fn cloop() -> Vec<u8> {
    const BLOCK: usize = 4096;
    let blocks: Vec<_> = (1..7).map(|seed| zlib(&contents(BLOCK, seed))).collect();
    layouts::cloop(BLOCK as u32, &blocks)
}

/// Bytes at which the tables of a disk image start, and its trailer.
const TABLES: usize = 32 << 10;
const TRAILER: usize = 40 << 10;

fn dmg(in_fork: bool) -> Vec<u8> {
    const CHUNK: usize = 8192;
    let (zlib_1, zlib_2) = (zlib(&contents(CHUNK, 3)), zlib(&contents(CHUNK, 9)));
    let mut image = contents(CHUNK, 1);
    let chunk = |kind: u32, sector: u64, offset: usize, len: usize| {
        let numbers = [sector, 16, offset as u64, len as u64].map(u64::to_be_bytes).concat();
        [kind.to_be_bytes().to_vec(), vec![0; 4], numbers].concat()
    };
    let first = [
        chunk(1, 0, 0, CHUNK),
        chunk(0x8000_0005, 16, CHUNK, zlib_1.len()),
        chunk(0, 32, 0, 0),
        chunk(0xffff_ffff, 48, 0, 0),
    ];
    let second = [
        chunk(2, 0, 0, 0),
        chunk(0x8000_0005, 16, CHUNK + zlib_1.len(), zlib_2.len()),
        chunk(0xffff_ffff, 32, 0, 0),
    ];
    image.extend([zlib_1, zlib_2].concat());
    image.resize(TABLES, 0);
    let tables = [table(0, 48, &first), table(48, 32, &second)];
    let list = if in_fork { resource_fork(&tables) } else { plist(&tables) };
    let place = [TABLES as u64, list.len() as u64].map(u64::to_be_bytes).concat();
    image.extend(list);
    image.resize(TRAILER, b' ');
    let mut trailer = vec![0; 512];
    trailer[..4].copy_from_slice(b"koly");
    let at = if in_fork { 0x28 } else { 0xd8 };
    trailer[at..at + 16].copy_from_slice(&place);
    trailer[0x1ec..0x1f4].copy_from_slice(&80u64.to_be_bytes());
    image.extend(trailer);
    image
}

fn table(first: u64, sectors: u64, chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut table =
        [b"mish".as_slice(), &1u32.to_be_bytes(), &first.to_be_bytes(), &sectors.to_be_bytes()].concat();
    table.resize(200, 0);
    table.extend((chunks.len() as u32).to_be_bytes());
    table.extend(chunks.concat());
    table
}

fn plist(tables: &[Vec<u8>]) -> Vec<u8> {
    let mut text = String::from("<?xml version=\"1.0\"?>\n<plist><dict><key>blkx</key><array>\n");
    for table in tables {
        text += &format!("<dict><key>Data</key>\n<data>\n{}\n</data></dict>\n", base64(table));
    }
    text += "</array></dict></plist>\n";
    text.into_bytes()
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let bits =
            part.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - part.len()));
        for letter in 0..4 {
            let place = (bits >> (18 - 6 * letter) & 63) as usize;
            text.push(if letter > part.len() { '=' } else { char::from(LETTERS[place]) });
        }
    }
    text
}
