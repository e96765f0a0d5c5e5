//! Headers of hosted sparse (`KDMV`) and COWD extents, and the footer and metadata markers of streams.
//!
//! Parsing takes the fields as they stand; [`Header::geometry`] and [`CowdHeader::geometry`] check each against a limit
//! before anything is made of it. The order of the checks is that of qemu-img's messages.

use diskimg_core::{BlockDevice, Error, Fields, Result, read_zero_padded};

use crate::error::VmdkError;
use crate::geometry::{Geometry, SparseKind};
use crate::limits::{
    MAX_COMPRESSED_GRAIN, MAX_DISK, MAX_GRAIN_SECTORS, MAX_TABLE_ENTRIES, MAX_TABLES, SECTOR,
};

/// Starts a hosted sparse extent.
pub(crate) const KDMV: [u8; 4] = *b"KDMV";
/// Starts a COWD extent.
pub(crate) const COWD: [u8; 4] = *b"COWD";
/// "The directory is at the end: look at the footer."
pub(crate) const AT_END: u64 = u64::MAX;
/// Bytes of a header.
pub(crate) const HEADER_LEN: usize = 512;
/// Bytes at the end of a stream: the footer's marker, the footer, the marker of the end.
pub(crate) const TRAILER_LEN: u64 = 3 * SECTOR;
/// Entries of a COWD grain table.
const COWD_TABLE: u64 = 4096;
/// Where the flag of an image that is being written stands.
pub(crate) const UNCLEAN_AT: u64 = 72;

/// Bits of the flags field.
pub(crate) mod flags {
    pub(crate) const NEWLINES: u32 = 1;
    pub(crate) const REDUNDANT: u32 = 1 << 1;
    pub(crate) const ZEROED_GRAINS: u32 = 1 << 2;
    pub(crate) const COMPRESSED: u32 = 1 << 16;
    pub(crate) const MARKERS: u32 = 1 << 17;
}

/// What a metadata marker announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MarkerKind {
    EndOfStream = 0,
    Table = 1,
    Directory = 2,
    Footer = 3,
}

/// A metadata marker, as stored.
pub(crate) fn marker(sectors: u64, kind: MarkerKind) -> Vec<u8> {
    let mut bytes = sectors.to_le_bytes().to_vec();
    bytes.extend_from_slice(&0u32.to_le_bytes());
    bytes.extend_from_slice(&(kind as u32).to_le_bytes());
    bytes.resize(HEADER_LEN, 0);
    bytes
}

/// Value, size and type of a metadata marker.
pub(crate) fn parse_marker(bytes: &[u8]) -> Option<(u64, u32, u32)> {
    let mut fields = Fields::new(bytes);
    Some((fields.u64_le()?, fields.u32_le()?, fields.u32_le()?))
}

/// The header of a hosted sparse extent, fields as they stand; sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub version: u32,
    pub flags: u32,
    pub capacity: u64,
    pub grain: u64,
    pub descriptor: u64,
    pub descriptor_len: u64,
    pub table_entries: u32,
    pub redundant: u64,
    pub directory: u64,
    pub overhead: u64,
    pub unclean: bool,
    pub compression: u16,
}

impl Header {
    /// The fields of a header; `None` if that is none.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        if fields.array::<4>()? != KDMV {
            return None;
        }
        let header = Self {
            version: fields.u32_le()?,
            flags: fields.u32_le()?,
            capacity: fields.u64_le()?,
            grain: fields.u64_le()?,
            descriptor: fields.u64_le()?,
            descriptor_len: fields.u64_le()?,
            table_entries: fields.u32_le()?,
            redundant: fields.u64_le()?,
            directory: fields.u64_le()?,
            overhead: fields.u64_le()?,
            unclean: fields.u8()? != 0,
            compression: 0,
        };
        let _newlines = fields.bytes(4)?;
        Some(Self { compression: fields.u16_le()?, ..header })
    }

    /// As stored.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = KDMV.to_vec();
        for field in [self.version, self.flags] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        for field in [self.capacity, self.grain, self.descriptor, self.descriptor_len] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.extend_from_slice(&self.table_entries.to_le_bytes());
        for field in [self.redundant, self.directory, self.overhead] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.push(u8::from(self.unclean));
        bytes.extend_from_slice(b"\n \r\n");
        bytes.extend_from_slice(&self.compression.to_le_bytes());
        bytes.resize(HEADER_LEN, 0);
        bytes
    }

    pub(crate) const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Grains are compressed.
    pub(crate) const fn is_compressed(&self) -> bool {
        self.has(flags::COMPRESSED) && self.compression == 1
    }

    /// A header that holds nothing but a text descriptor.
    pub(crate) const fn is_bare_descriptor(&self) -> bool {
        self.capacity == 0 && self.descriptor != 0
    }

    /// Refuses what can't be read, or not be written.
    ///
    /// # Errors
    /// Those of the fields.
    pub(crate) fn geometry(&self, file_len: u64, write: bool) -> Result<Geometry, VmdkError> {
        let compressed = self.is_compressed();
        if self.version > 3 {
            return Err(VmdkError::Version(self.version));
        }
        if self.version == 3 && write && !self.has(flags::COMPRESSED) {
            return Err(VmdkError::Version3Write);
        }
        if self.has(flags::COMPRESSED) && !compressed {
            return Err(VmdkError::Compression(self.compression));
        }
        if self.table_entries > MAX_TABLE_ENTRIES {
            return Err(VmdkError::TableSize);
        }
        let reach = u64::from(self.table_entries).checked_mul(self.grain);
        let reach = reach.filter(|reach| u32::try_from(*reach).is_ok_and(|low| low > 0));
        if reach.is_none() && self.grain <= MAX_GRAIN_SECTORS {
            return Err(VmdkError::TableReach);
        }
        let overhead = self.overhead.saturating_mul(SECTOR);
        if file_len < overhead {
            return Err(VmdkError::Truncated(overhead));
        }
        let reach = reach.filter(|_| self.grain <= MAX_GRAIN_SECTORS).ok_or(VmdkError::Grain)?;
        let tables = self.capacity.div_ceil(reach);
        if tables > MAX_TABLES {
            return Err(VmdkError::DirectorySize);
        }
        let bytes = |sectors: u64| sectors.checked_mul(SECTOR).ok_or(VmdkError::Invalid);
        let len = bytes(self.capacity)?;
        let grain = bytes(self.grain)?;
        if len > MAX_DISK || (compressed && grain > MAX_COMPRESSED_GRAIN) {
            return Err(VmdkError::TooLarge);
        }
        let redundant = self.has(flags::REDUNDANT) && self.redundant != self.directory && self.redundant != 0;
        Ok(Geometry {
            kind: SparseKind::Hosted,
            len,
            grain,
            table_entries: self.table_entries.into(),
            tables,
            directory: bytes(self.directory)?,
            redundant: if redundant { Some(bytes(self.redundant)?) } else { None },
            overhead,
            zeroed_grains: self.has(flags::ZEROED_GRAINS),
            compressed,
            markers: self.has(flags::MARKERS),
        })
    }
}

/// The header of a COWD extent; sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CowdHeader {
    pub capacity: u32,
    pub grain: u32,
    pub directory: u32,
    pub tables: u32,
}

impl CowdHeader {
    /// The fields of a header; `None` if that is none.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        if fields.array::<4>()? != COWD {
            return None;
        }
        let _version_and_flags = (fields.u32_le()?, fields.u32_le()?);
        Some(Self {
            capacity: fields.u32_le()?,
            grain: fields.u32_le()?,
            directory: fields.u32_le()?,
            tables: fields.u32_le()?,
        })
    }

    /// Refuses what can't be read.
    ///
    /// # Errors
    /// Those of the fields.
    pub(crate) fn geometry(&self) -> Result<Geometry, VmdkError> {
        if u64::from(self.grain) > MAX_GRAIN_SECTORS || self.grain == 0 {
            return Err(VmdkError::Grain);
        }
        if u64::from(self.tables) > MAX_TABLES {
            return Err(VmdkError::DirectorySize);
        }
        Ok(Geometry {
            kind: SparseKind::Cowd,
            len: u64::from(self.capacity) * SECTOR,
            grain: u64::from(self.grain) * SECTOR,
            table_entries: COWD_TABLE,
            tables: self.tables.into(),
            directory: u64::from(self.directory) * SECTOR,
            redundant: None,
            overhead: 0,
            zeroed_grains: false,
            compressed: false,
            markers: false,
        })
    }
}

/// The footer that takes the header's place.
///
/// # Errors
/// `Invalid footer`; the storage's.
pub(crate) fn read_footer(storage: &dyn BlockDevice) -> Result<Header> {
    // What the last sector lacks is zeros.
    let end = storage.len().next_multiple_of(SECTOR);
    let start = end.checked_sub(TRAILER_LEN).ok_or(VmdkError::Footer)?;
    let mut bytes = vec![0; 3 * HEADER_LEN];
    read_zero_padded(storage, start, &mut bytes).map_err(|error| error.context("Failed to read footer"))?;
    parse_footer(&bytes).ok_or_else(|| Error::from(VmdkError::Footer))
}

fn parse_footer(bytes: &[u8]) -> Option<Header> {
    let (footer_marker, rest) = bytes.split_at_checked(HEADER_LEN)?;
    let (footer, end) = rest.split_at_checked(HEADER_LEN)?;
    let (_, size, kind) = parse_marker(footer_marker)?;
    let ends = parse_marker(end)? == (0, 0, MarkerKind::EndOfStream as u32);
    let announced = size == 0 && kind == MarkerKind::Footer as u32;
    Header::parse(footer).filter(|_| announced && ends)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> Header {
        Header {
            version: 1,
            flags: flags::NEWLINES | flags::REDUNDANT,
            capacity: 2048,
            grain: 128,
            descriptor: 1,
            descriptor_len: 20,
            table_entries: 512,
            redundant: 21,
            directory: 26,
            overhead: 128,
            unclean: false,
            compression: 0,
        }
    }

    fn refusal(header: &Header) -> String {
        header.geometry(1 << 20, true).unwrap_err().to_string()
    }

    #[test]
    fn a_header_comes_back_and_has_its_geometry() {
        let header = sample();
        assert_eq!(Header::parse(&header.to_bytes()).as_ref(), Some(&header));
        let geo = header.geometry(65_536, true).unwrap();
        assert_eq!((geo.len, geo.grain, geo.tables, geo.redundant), (1 << 20, 65_536, 1, Some(21 * 512)));
        assert_eq!(Header::parse(&header.to_bytes()[..70]), None);
        assert_eq!(Header::parse(&[0; 512]), None);
    }

    #[test]
    fn fields_beyond_their_limits_are_refused_in_known_words() {
        let rows = [
            (Header { version: 4, ..sample() }, "Unsupported VMDK version 4"),
            (Header { version: 3, ..sample() }, "VMDK version 3 must be read only"),
            (Header { grain: 0x20_0001, ..sample() }, "Invalid granularity, image may be corrupt"),
            (Header { grain: 0, ..sample() }, "L1 entry size is invalid"),
            (Header { table_entries: 513, ..sample() }, "L2 table size too big"),
            (Header { table_entries: 0, ..sample() }, "L1 entry size is invalid"),
            (Header { overhead: 0xffff, ..sample() }, "File truncated, expecting at least 33553920 bytes"),
            (Header { capacity: 1 << 50, grain: 1, table_entries: 1, ..sample() }, "L1 size too big"),
        ];
        for (header, text) in rows {
            assert_eq!(refusal(&header), text);
        }
    }

    #[test]
    fn a_footer_needs_both_of_its_markers() {
        let footer = sample().to_bytes();
        let good =
            [marker(1, MarkerKind::Footer), footer.clone(), marker(0, MarkerKind::EndOfStream)].concat();
        assert_eq!(parse_footer(&good), Some(sample()));
        let bad = [marker(1, MarkerKind::Table), footer, marker(0, MarkerKind::EndOfStream)].concat();
        assert_eq!(parse_footer(&bad), None);
    }
}
