//! The fixed parts of the formats that are only read (Bochs, cloop, the resource fork of dmg): qemu-img does not make such images,
//! so tests lay them out. What is in them, and how it is damaged, is the callers' choice.

/// The 512 bytes before the catalog of a growing Bochs redolog whose disk has `len` bytes in `extents` extents of `extent` bytes,
/// each behind a bitmap of `bitmap` bytes; of version 1 (`0x1_0000`) or 2 (`0x2_0000`).
#[must_use]
pub fn bochs_header(version: u32, extents: u32, bitmap: u32, extent: u32, len: u64) -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..22].copy_from_slice(b"Bochs Virtual HD Image");
    header[32..39].copy_from_slice(b"Redolog");
    header[48..55].copy_from_slice(b"Growing");
    for (index, field) in [version, 512, extents, bitmap, extent].into_iter().enumerate() {
        header[64 + index * 4..68 + index * 4].copy_from_slice(&field.to_le_bytes());
    }
    let at = if version == 0x1_0000 { 84 } else { 88 };
    header[at..at + 8].copy_from_slice(&len.to_le_bytes());
    header
}

/// A compressed loop image of these `blocks`, zlib streams of `block` bytes each.
#[must_use]
pub fn cloop(block: u32, blocks: &[Vec<u8>]) -> Vec<u8> {
    let mut image =
        b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n".to_vec();
    image.resize(128, 0);
    image.extend(block.to_be_bytes());
    image.extend(length(blocks).to_be_bytes());
    let mut at = 136 + 8 * (blocks.len() as u64 + 1);
    for block in blocks {
        image.extend(at.to_be_bytes());
        at += block.len() as u64;
    }
    image.extend(at.to_be_bytes());
    image.extend(blocks.concat());
    image
}

/// The resource fork of a disk image with these `mish` tables.
#[must_use]
pub fn resource_fork(tables: &[Vec<u8>]) -> Vec<u8> {
    let area: Vec<u8> =
        tables.iter().flat_map(|table| [&length(table).to_be_bytes(), table.as_slice()].concat()).collect();
    let mut fork = [256, 256 + length(&area), length(&area), 4].map(u32::to_be_bytes).concat();
    fork.resize(256, 0);
    fork.extend(area);
    fork.extend([0; 4]);
    fork
}

fn length<T>(items: &[T]) -> u32 {
    u32::try_from(items.len()).unwrap()
}
