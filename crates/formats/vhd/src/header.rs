//! The header of dynamic and differencing images: 1024 bytes, big-endian, with the names of a parent.

use diskimg_core::{Error, Fields, Result, errno};

use crate::footer::seal;
use crate::limits::{BLOCK, MAX_ENTRIES, MAX_PATH, SECTOR};

/// Bytes of the header.
pub(crate) const HEADER_LEN: usize = 1024;
const COOKIE: &[u8] = b"cxsparse";
const CHECKSUM: usize = 36;
const VERSION: u32 = 0x0001_0000;
/// Where the header stands in new images.
pub(crate) const HEADER_OFFSET: u64 = 512;
/// Where the table stands in new images.
pub(crate) const TABLE_OFFSET: u64 = 1536;
/// Bytes of the parent's name.
const NAME_LEN: usize = 512;
/// Where the parent locators begin.
const LOCATORS_OFFSET: usize = 576;
/// Parent locators.
const LOCATORS: usize = 8;

/// Where a name of the parent stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Locator {
    /// The kind of the name.
    pub platform: [u8; 4],
    /// Bytes of the name.
    pub len: u32,
    /// Host offset, in bytes.
    pub offset: u64,
}

/// What a new differencing image says of its parent.
#[derive(Clone, Debug)]
pub(crate) struct NewParent {
    pub uuid: [u8; 16],
    /// Its name as it was given.
    pub name: String,
    /// The kind of the path.
    pub platform: [u8; 4],
    /// The path's bytes.
    pub path: Vec<u8>,
    /// Where they stand.
    pub offset: u64,
}

/// The header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Host offset of the block table, in bytes.
    pub table_offset: u64,
    /// Entries of the block table.
    pub entries: u32,
    /// Bytes of a block, a power of two.
    pub block_size: u64,
    /// The parent's UUID.
    pub parent: [u8; 16],
    /// The parent's name; may be empty.
    pub parent_name: String,
    /// Other names of the parent.
    pub locators: Vec<Locator>,
}

fn invalid(text: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::corrupt(text).with_errno(errno::EINVAL)
}

impl Header {
    /// Parses the header of a disk of `len` bytes.
    pub(crate) fn parse(bytes: &[u8], len: u64) -> Result<Self> {
        if !bytes.starts_with(COOKIE) {
            return Err(invalid("Invalid header magic"));
        }
        let header = Self::fields(bytes).ok_or_else(|| invalid("Error reading dynamic VHD header"))?;
        if !header.block_size.is_power_of_two() || header.block_size < SECTOR {
            return Err(invalid(format!("Invalid block size {}", header.block_size)));
        }
        if u64::from(header.entries) * header.block_size < len {
            return Err(invalid("Page table too small"));
        }
        if header.entries > MAX_ENTRIES {
            let text = format!("Max Table Entries too large ({})", header.entries.cast_signed());
            return Err(invalid(text));
        }
        Ok(header)
    }

    fn fields(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        fields.bytes(16)?;
        let table_offset = fields.u64_be()?;
        fields.u32_be()?;
        let (entries, block_size) = (fields.u32_be()?, fields.u32_be()?.into());
        fields.u32_be()?;
        let parent = fields.array()?;
        fields.bytes(8)?;
        let name = fields.bytes(NAME_LEN)?.as_chunks().0.iter().map(|unit| u16::from_be_bytes(*unit));
        let parent_name = text(name);
        let mut locators = Vec::new();
        for _ in 0..LOCATORS {
            let platform = fields.array()?;
            fields.u32_be()?;
            let len = fields.u32_be()?.min(MAX_PATH);
            fields.u32_be()?;
            locators.push(Locator { platform, len, offset: fields.u64_be()? });
        }
        Some(Self { table_offset, entries, block_size, parent, parent_name, locators })
    }

    /// All bytes of the header of a new image with `entries` blocks, perhaps over a parent.
    pub(crate) fn encode_new(entries: u32, parent: Option<&NewParent>) -> Vec<u8> {
        let mut bytes = COOKIE.to_vec();
        bytes.extend([0xff; 8]);
        bytes.extend(TABLE_OFFSET.to_be_bytes());
        bytes.extend(VERSION.to_be_bytes());
        bytes.extend(entries.to_be_bytes());
        bytes.extend(u32::try_from(BLOCK).unwrap_or_default().to_be_bytes());
        bytes.extend([0; 4]);
        if let Some(parent) = parent {
            bytes.extend(parent.uuid);
            bytes.extend([0; 8]);
            let file_name = parent.name.rsplit('/').next().unwrap_or_default();
            let units = file_name.encode_utf16().take(NAME_LEN / 2 - 1);
            bytes.extend(units.flat_map(u16::to_be_bytes));
            bytes.resize(LOCATORS_OFFSET, 0);
            bytes.extend(parent.platform);
            let path = u32::try_from(parent.path.len()).unwrap_or(u32::MAX);
            // The room is given in bytes, as Windows gives it.
            for field in [path.div_ceil(512).saturating_mul(512), path, 0] {
                bytes.extend(field.to_be_bytes());
            }
            bytes.extend(parent.offset.to_be_bytes());
        }
        bytes.resize(HEADER_LEN, 0);
        seal(&mut bytes, CHECKSUM);
        bytes
    }

    /// Bytes of a block's sector bitmap.
    pub(crate) fn bitmap_len(&self) -> u64 {
        (self.block_size / SECTOR).div_ceil(8).next_multiple_of(SECTOR)
    }
}

/// Text of UTF-16 units up to the first zero.
pub(crate) fn text(units: impl Iterator<Item = u16>) -> String {
    char::decode_utf16(units.take_while(|unit| *unit != 0))
        .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_header_is_read_back() {
        let bytes = Header::encode_new(6, None);
        let read = Header::parse(&bytes, 6 * BLOCK).unwrap();
        assert_eq!((read.table_offset, read.entries, read.block_size), (TABLE_OFFSET, 6, BLOCK));
        assert_eq!((read.bitmap_len(), read.parent_name.as_str(), read.locators.len()), (512, "", 8));
    }

    #[test]
    fn wrong_values_are_named() {
        let message = |at: usize, value: u32| {
            let mut bytes = Header::encode_new(6, None);
            bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
            Header::parse(&bytes, 6 * BLOCK).map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(message(0, 0), Err("Invalid header magic".to_owned()));
        assert_eq!(message(32, 2_097_153), Err("Invalid block size 2097153".to_owned()));
        assert_eq!(message(28, 5), Err("Page table too small".to_owned()));
        assert_eq!(message(28, 536_870_913), Err("Max Table Entries too large (536870913)".to_owned()));
        assert_eq!(message(28, u32::MAX), Err("Max Table Entries too large (-1)".to_owned()));
        assert_eq!(message(28, 7), Ok(()));
    }
}
