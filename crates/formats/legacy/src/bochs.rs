//! Bochs' growing redolog: a catalog of extents, each with a bitmap of the sectors that were written.
//!
//! Whatever the bitmap does not have reads as zeros, as does what lies behind the end of the file.

use std::sync::Arc;

use diskimg_core::driver::{OpenContext, ProbeInput, Score};
use diskimg_core::{
    BlockDevice, Error, ErrorKind, Fields, FormatDriver, Image, Result, len_u64, read_table,
    read_zero_padded, to_usize,
};

use crate::SECTOR;
use crate::image::{Contents, ReadOnly, check_mode};

/// Bytes of the header that are looked at.
const HEADER_LEN: usize = 512;
/// Version 1, whose disk size stands four bytes earlier.
const VERSION_1: u32 = 0x0001_0000;
/// Version 2.
const VERSION_2: u32 = 0x0002_0000;
/// Most entries of the catalog.
const MAX_CATALOG_ENTRIES: u32 = 0x10_0000;
/// Longest extent, in bytes.
const MAX_EXTENT_BYTES: u32 = 8 << 20;
/// A catalog entry without an extent.
const NOT_ALLOCATED: u32 = u32::MAX;

/// The fields of a header of a known kind; everything else is to be checked.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    catalog_offset: u32,
    entries: u32,
    bitmap_bytes: u32,
    extent_bytes: u32,
    disk_bytes: u64,
}

impl Header {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        let strings = [
            (32, b"Bochs Virtual HD Image".as_slice()),
            (16, b"Redolog".as_slice()),
            (16, b"Growing".as_slice()),
        ];
        for (len, expected) in strings {
            if fields.bytes(len)?.split(|byte| *byte == 0).next()? != expected {
                return None;
            }
        }
        let version = fields.u32_le()?;
        if version != VERSION_1 && version != VERSION_2 {
            return None;
        }
        let [catalog_offset, entries, bitmap_bytes, extent_bytes] =
            [fields.u32_le()?, fields.u32_le()?, fields.u32_le()?, fields.u32_le()?];
        if version == VERSION_2 {
            fields.u32_le()?;
        }
        let disk_bytes = fields.u64_le()?;
        Some(Self { catalog_offset, entries, bitmap_bytes, extent_bytes, disk_bytes })
    }

    /// Bytes of the disk: whole sectors.
    const fn len(&self) -> u64 {
        self.disk_bytes / SECTOR * SECTOR
    }

    fn check(&self) -> Result<()> {
        let extent = self.extent_bytes;
        if self.entries > MAX_CATALOG_ENTRIES {
            return Err(Error::limit("Catalog size is too large"));
        }
        if u64::from(extent) < SECTOR {
            return Err(Error::corrupt("Extent size must be at least 512"));
        }
        if !extent.is_power_of_two() {
            return Err(Error::corrupt(format!("Extent size {extent} is not a power of two")));
        }
        if extent > MAX_EXTENT_BYTES {
            return Err(Error::limit(format!("Extent size {extent} is too large")));
        }
        if u64::from(self.entries) < self.len().div_ceil(u64::from(extent)) {
            return Err(Error::corrupt("Catalog size is too small for this disk size"));
        }
        Ok(())
    }
}

/// 100 for a header that can be read.
pub(crate) fn probe(input: &ProbeInput<'_>) -> Score {
    if input.head.len() >= HEADER_LEN && Header::parse(input.head).is_some() { 100 } else { 0 }
}

/// Opens an image.
pub(crate) fn open(context: OpenContext<'_>) -> Result<Arc<dyn Image>> {
    check_mode(&context)?;
    let storage = context.storage;
    let mut head = [0; HEADER_LEN];
    read_zero_padded(&*storage, 0, &mut head)?;
    let Some(header) = Header::parse(&head) else {
        return Err(Error::new(ErrorKind::NotThisFormat, "Image not in Bochs format"));
    };
    header.check()?;
    let bytes = u64::from(header.entries) * 4;
    let limit = u64::from(MAX_CATALOG_ENTRIES) * 4;
    let table = read_table(&*storage, header.catalog_offset.into(), bytes, limit, "catalog")?;
    let catalog = table.as_chunks().0.iter().map(|entry| u32::from_le_bytes(*entry)).collect();
    Ok(Arc::new(ReadOnly(Bochs { storage, header, catalog })))
}

/// The disk.
#[derive(Debug)]
struct Bochs {
    storage: Arc<dyn BlockDevice>,
    header: Header,
    /// The number of each extent on the host, or [`NOT_ALLOCATED`].
    catalog: Vec<u32>,
}

impl Bochs {
    /// Host offsets of the bitmap and of the data of the extent that holds byte `offset`.
    fn extent(&self, offset: u64) -> Option<(u64, u64)> {
        let index = offset / u64::from(self.header.extent_bytes);
        let number = self.catalog.get(to_usize(index)).copied().filter(|number| *number != NOT_ALLOCATED)?;
        let bitmap = u64::from(self.header.bitmap_bytes).next_multiple_of(SECTOR);
        let extent = u64::from(self.header.extent_bytes).next_multiple_of(SECTOR);
        let first = u64::from(self.header.catalog_offset) + u64::from(self.header.entries) * 4;
        let place = first + u64::from(number) * (bitmap + extent);
        Some((place, place + bitmap))
    }

    /// Fills `buf`, which lies within one extent and begins at byte `offset`.
    fn read_extent(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let Some((bitmap_at, data_at)) = self.extent(offset) else {
            buf.fill(0);
            return Ok(());
        };
        let within = offset % u64::from(self.header.extent_bytes);
        let (first, last) = (within / SECTOR, (within + len_u64(buf) - 1) / SECTOR);
        let mut bitmap = vec![0; to_usize(last / 8 - first / 8 + 1)];
        read_zero_padded(&*self.storage, bitmap_at + first / 8, &mut bitmap)?;
        let written = |sector: u64| {
            let byte = bitmap.get(to_usize(sector / 8 - first / 8)).copied().unwrap_or(0);
            byte >> (sector % 8) & 1 != 0
        };
        let (mut rest, mut at) = (buf, within);
        while !rest.is_empty() {
            let sector = at / SECTOR;
            let stored = written(sector);
            let run = (sector..=last).take_while(|sector| written(*sector) == stored).count() as u64;
            let len = to_usize((sector + run) * SECTOR - at).min(rest.len());
            let Some((part, behind)) = rest.split_at_mut_checked(len) else { break };
            if stored {
                read_zero_padded(&*self.storage, data_at + at, part)?;
            } else {
                part.fill(0);
            }
            (rest, at) = (behind, at + len as u64);
        }
        Ok(())
    }
}

impl Contents for Bochs {
    fn driver(&self) -> &'static FormatDriver {
        &crate::BOCHS
    }

    fn storage(&self) -> &Arc<dyn BlockDevice> {
        &self.storage
    }

    fn len(&self) -> u64 {
        self.header.len()
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let extent = u64::from(self.header.extent_bytes);
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            let len = to_usize(extent - at % extent).min(rest.len());
            let Some((part, behind)) = rest.split_at_mut_checked(len) else { break };
            self.read_extent(at, part)?;
            (rest, at) = (behind, at + len as u64);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version: u32, entries: u32, extent: u32, disk: u64) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        bytes[..22].copy_from_slice(b"Bochs Virtual HD Image");
        bytes[32..39].copy_from_slice(b"Redolog");
        bytes[48..55].copy_from_slice(b"Growing");
        for (at, value) in [(64, version), (68, 512), (72, entries), (76, 1), (80, extent)] {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let at = if version == VERSION_2 { 88 } else { 84 };
        bytes[at..at + 8].copy_from_slice(&disk.to_le_bytes());
        bytes
    }

    #[test]
    fn both_versions_are_read() {
        for version in [VERSION_1, VERSION_2] {
            let header = Header::parse(&header(version, 4, 4096, 16384)).unwrap();
            assert_eq!(header.len(), 16384);
            header.check().unwrap();
        }
        assert!(Header::parse(&header(3, 4, 4096, 16384)).is_none());
    }

    #[test]
    fn bad_fields_are_named() {
        let message = |entries, extent, disk| {
            let header = Header::parse(&header(VERSION_2, entries, extent, disk)).unwrap();
            header.check().unwrap_err().to_string()
        };
        assert_eq!(message(0x10_0001, 4096, 1), "Catalog size is too large");
        assert_eq!(message(1, 256, 1), "Extent size must be at least 512");
        assert_eq!(message(1, 5000, 1), "Extent size 5000 is not a power of two");
        assert_eq!(message(1, 16 << 20, 1), "Extent size 16777216 is too large");
        assert_eq!(message(1, 4096, 4608), "Catalog size is too small for this disk size");
    }
}
