//! Reads the bitmaps of a qcow2 file straight from its bytes, by the specification alone: no program of either side
//! is asked. A small reader for sound images; anything odd is an error.

use super::model::Bitmap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The header extension that points to the directory.
const EXTENSION: u32 = 0x2385_2875;

struct Image(File);

impl Image {
    /// Bytes at an offset; zeros behind the end.
    fn bytes(&self, offset: u64, len: usize) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; len];
        let mut done = 0;
        while done < len {
            match self.0.read_at(&mut bytes[done..], offset + done as u64).map_err(|e| e.to_string())? {
                0 => break,
                n => done += n,
            }
        }
        Ok(bytes)
    }

    fn number(&self, offset: u64, len: usize) -> Result<u64, String> {
        Ok(number(&self.bytes(offset, len)?))
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

/// The bitmaps of an image whose disk has `size` bytes, and whether one is not consistent.
pub fn read(path: &Path, size: u64) -> Result<Vec<Bitmap>, String> {
    let image = Image(File::open(path).map_err(|e| e.to_string())?);
    let version = image.number(4, 4)?;
    if version < 3 || image.number(88, 8)? & 1 == 0 {
        return Ok(Vec::new());
    }
    let cluster = 1_u64 << image.number(20, 4)?;
    let mut at = image.number(100, 4)?;
    loop {
        let (magic, len) = (image.number(at, 4)? as u32, image.number(at + 4, 4)?);
        match magic {
            0 => return Ok(Vec::new()),
            EXTENSION => break,
            _ => at += 8 + len.next_multiple_of(8),
        }
    }
    let (count, dir_len, mut dir) =
        (image.number(at + 8, 4)?, image.number(at + 16, 8)?, image.number(at + 24, 8)?);
    let end = dir + dir_len;
    let mut all = Vec::new();
    while dir < end {
        let entry = image.bytes(dir, 24)?;
        let (table, entries, flags) = (number(&entry[..8]), number(&entry[8..12]), number(&entry[12..16]));
        let (kind, bits, name_len, extra) =
            (entry[16], entry[17], number(&entry[18..20]), number(&entry[20..24]));
        if kind != 1 || flags & !2 != 0 || extra != 0 {
            return Err(format!("a bitmap of type {kind} with flags {flags:#x}"));
        }
        let name = image.bytes(dir + 24, name_len as usize)?;
        let granularity = 1_u64 << bits;
        let bits = bits_of(&image, table, entries, cluster, size.div_ceil(granularity) as usize)?;
        let name = String::from_utf8(name).map_err(|e| e.to_string())?;
        all.push(Bitmap::new(name, granularity, flags & 2 != 0, bits));
        dir += (24 + name_len).next_multiple_of(8);
    }
    if dir != end || all.len() as u64 != count {
        return Err(format!("{} bitmaps instead of {count}", all.len()));
    }
    Ok(all)
}

fn bits_of(image: &Image, table: u64, entries: u64, cluster: u64, count: usize) -> Result<Vec<bool>, String> {
    if entries != (count as u64).div_ceil(8).div_ceil(cluster) {
        return Err(format!("a bitmap table of {entries} entries for {count} bits"));
    }
    let mut bytes = Vec::new();
    for at in 0..entries {
        let entry = image.number(table + at * 8, 8)?;
        match entry {
            0 => bytes.resize(bytes.len() + cluster as usize, 0),
            1 => bytes.resize(bytes.len() + cluster as usize, 0xff),
            offset => bytes.extend(image.bytes(offset, cluster as usize)?),
        }
    }
    let bit = |at: usize| bytes[at / 8] >> (at % 8) & 1 == 1;
    let bits: Vec<bool> = (0..bytes.len() * 8).map(bit).collect();
    if bits[count..].contains(&true) {
        return Err("a bit is set behind the end of the disk".to_owned());
    }
    Ok(bits[..count].to_vec())
}
