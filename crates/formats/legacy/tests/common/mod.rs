//! Images for the tests, made of random contents; each comes with what its guest sees.
#![allow(dead_code, clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::io::Write as _;

use base64::Engine as _;
use diskimg_testkit::Rng;
use diskimg_testkit::layouts::{self, bochs_header, resource_fork};

/// An image and its disk.
pub(crate) struct Sample {
    pub(crate) image: Vec<u8>,
    pub(crate) guest: Vec<u8>,
}

fn noise(rng: &mut Rng, len: usize) -> Vec<u8> {
    let step = rng.below(7) + 1;
    (0..len as u64).map(|i| (i / step * 11 + rng.below(2)).to_le_bytes()[0]).collect()
}

/// A Bochs disk of `extents` extents, some of them there in part.
pub(crate) fn bochs(rng: &mut Rng, version_1: bool) -> Sample {
    let extent = 512 << rng.below(5);
    let extents = 1 + rng.index(20);
    let len = extents * extent - rng.index(extent / 512) * 512;
    let bitmap = (extent / 512).div_ceil(8);
    let version = if version_1 { 0x1_0000 } else { 0x2_0000 };
    let mut image = bochs_header(version, extents as u32, bitmap as u32, extent as u32, len as u64);
    let mut order: Vec<usize> = (0..extents).filter(|_| rng.chance(70)).collect();
    for index in (1..order.len()).rev() {
        order.swap(index, rng.index(index + 1));
    }
    let mut guest = vec![0; extents * extent];
    for index in 0..extents {
        let place = order.iter().position(|other| *other == index);
        let number = place.map_or(u32::MAX, |place| place as u32);
        image.extend(number.to_le_bytes());
    }
    for index in order {
        let data = noise(rng, extent);
        let mut bits = vec![0; bitmap.next_multiple_of(512)];
        for sector in 0..extent / 512 {
            if rng.chance(60) {
                bits[sector / 8] |= 1 << (sector % 8);
                let at = index * extent + sector * 512;
                guest[at..at + 512].copy_from_slice(&data[sector * 512..sector * 512 + 512]);
            }
        }
        image.extend(bits);
        image.extend(data);
    }
    guest.truncate(len);
    Sample { image, guest }
}

/// A zlib stream.
pub(crate) fn zlib(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// A compressed loop image.
pub(crate) fn cloop(rng: &mut Rng) -> Sample {
    let block = 512 << rng.below(8);
    let guest = {
        let len = block * (1 + rng.index(12));
        noise(rng, len)
    };
    let blocks: Vec<Vec<u8>> = guest.chunks(block).map(zlib).collect();
    Sample { image: layouts::cloop(block as u32, &blocks), guest }
}

fn checksum(value: u32) -> Vec<u8> {
    let mut field = [2u32.to_be_bytes(), 32u32.to_be_bytes(), value.to_be_bytes()].concat();
    field.resize(136, 0);
    field
}

/// A disk image with several tables of chunks; `codings` are the types of entries that may occur.
pub(crate) fn dmg(rng: &mut Rng, codings: &[u32], in_fork: bool) -> Sample {
    let data_fork = rng.below(3) * 100;
    let mut image = vec![0xee; usize::try_from(data_fork).unwrap()];
    let (mut guest, mut tables, mut sums) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..1 + rng.below(3) {
        let first = guest.len() as u64 / 512;
        let base = rng.below(image.len() as u64 - data_fork + 1);
        let (mut entries, mut hasher, mut sector) = (Vec::new(), crc32fast::Hasher::new(), 0u64);
        for _ in 0..1 + rng.below(5) {
            let kind = *rng.pick(codings);
            let sectors = 1 + rng.below(40);
            let len = usize::try_from(sectors).unwrap() * 512;
            let data = if matches!(kind, 0 | 2) { vec![0; len] } else { noise(rng, len) };
            let payload = match kind {
                0 | 2 => Vec::new(),
                0x8000_0005 => zlib(&data),
                _ => data.clone(),
            };
            if kind != 2 {
                hasher.update(&data);
            }
            let offset = image.len() as u64 - data_fork - base;
            entries.push((kind, sector, sectors, offset, payload.len() as u64));
            sector += sectors;
            image.extend(payload);
            guest.extend(data);
        }
        entries.push((0xffff_ffff, sector, 0, 0, 0));
        let sum = hasher.finalize();
        sums.extend(sum.to_be_bytes());
        let mut table = [b"mish".as_slice(), &1u32.to_be_bytes(), &first.to_be_bytes()].concat();
        table.extend([sector.to_be_bytes(), base.to_be_bytes()].concat());
        table.extend([0; 32]);
        table.extend(checksum(sum));
        table.extend((entries.len() as u32).to_be_bytes());
        for (kind, sector, sectors, offset, len) in entries {
            table.extend([kind.to_be_bytes(), [0; 4]].concat());
            table.extend([sector, sectors, offset, len].map(u64::to_be_bytes).concat());
        }
        tables.push(table);
    }
    let list = if in_fork { resource_fork(&tables) } else { plist(&tables) };
    let place = (image.len() as u64, list.len() as u64);
    image.extend(list);
    let (resources, plist) = if in_fork { (place, (0, 0)) } else { ((0, 0), place) };
    let mut trailer = vec![0; 512];
    let mut put = |at: usize, bytes: &[u8]| trailer[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"koly");
    for (at, value) in [
        (0x18, data_fork),
        (0x28, resources.0),
        (0x30, resources.1),
        (0xd8, plist.0),
        (0xe0, plist.1),
        (0x1ec, guest.len() as u64 / 512),
    ] {
        put(at, &value.to_be_bytes());
    }
    put(0x160, &checksum(crc32fast::hash(&sums)));
    image.extend(trailer);
    Sample { image, guest }
}

fn plist(tables: &[Vec<u8>]) -> Vec<u8> {
    let mut text = String::from("<?xml version=\"1.0\"?>\n<plist><dict><key>blkx</key><array>\n");
    for table in tables {
        let data = base64::engine::general_purpose::STANDARD.encode(table);
        text.push_str("<dict><key>Data</key>\n<data>\n");
        for line in data.as_bytes().chunks(52) {
            text.push_str("\t\t");
            text.push_str(std::str::from_utf8(line).unwrap());
            text.push('\n');
        }
        text.push_str("</data></dict>\n");
    }
    text.push_str("</array><key>x</key><data>\nAAAA\n</data></dict></plist>\n");
    text.into_bytes()
}
