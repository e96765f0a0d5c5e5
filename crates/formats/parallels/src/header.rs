//! The header: 64 bytes at the start of the file, little-endian; the table stands right behind it.

use diskimg_core::{Error, ErrorKind, Fields, MAX_DEVICE_LEN, Result, errno};

use crate::limits::{MAX_CLUSTER_SECTORS, MAX_ENTRIES, MAX_EXTENSION_SECTOR, SECTOR};

/// Bytes of the header.
pub(crate) const HEADER_LEN: usize = 64;
const MAGIC_OLD: &[u8; 16] = b"WithoutFreeSpace";
const MAGIC_NEW: &[u8; 16] = b"WithouFreSpacExt";
const VERSION: u32 = 2;
/// The mark of an image that is open for writing, or was not closed.
pub(crate) const IN_USE: u32 = 0x746f_6e59;
/// Where the mark stands, in bytes.
pub(crate) const IN_USE_OFFSET: u64 = 44;
/// Where the data offset stands, in bytes.
pub(crate) const DATA_OFFSET_OFFSET: u64 = 48;

/// The header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The magic says that entries count clusters, not sectors.
    pub in_clusters: bool,
    /// Bytes of a cluster, a multiple of 512.
    pub cluster_size: u64,
    /// Entries of the table.
    pub entries: u32,
    /// Bytes of the disk.
    pub disk_size: u64,
    /// The mark as it stands.
    pub in_use: u32,
    /// The data offset as it stands, in sectors.
    pub data_offset: u32,
    /// Host offset of the extension, in bytes; 0: there is none.
    pub extension: u64,
}

impl Header {
    /// True if `head` has a magic and the version of the format.
    pub(crate) fn is_signed(head: &[u8]) -> bool {
        let magic = head.starts_with(MAGIC_OLD) || head.starts_with(MAGIC_NEW);
        magic && head.get(16..20) == Some(&VERSION.to_le_bytes()) && head.len() >= HEADER_LEN
    }

    /// Parses and checks the header.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let foreign = || Error::new(ErrorKind::NotThisFormat, "Image not in Parallels format");
        if !Self::is_signed(bytes) {
            return Err(foreign());
        }
        Raw::parse(bytes).ok_or_else(foreign)?.check(bytes.starts_with(MAGIC_NEW))
    }

    /// Bytes of a new image's header. `data_offset` in sectors.
    pub(crate) fn encode_new(cluster_sectors: u32, entries: u32, sectors: u64, data_offset: u32) -> Vec<u8> {
        let mut bytes = MAGIC_NEW.to_vec();
        // Cylinders of 16 heads and 32 sectors; the field keeps the low bits.
        let cylinders = u32::try_from((sectors / (16 * 32)) & u64::from(u32::MAX)).unwrap_or(0);
        for field in [VERSION, 16, cylinders, cluster_sectors, entries] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(sectors.to_le_bytes());
        for field in [0, data_offset, 0] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.resize(HEADER_LEN, 0);
        bytes
    }

    /// Host offset of the byte behind the table.
    pub(crate) fn table_end(&self) -> u64 {
        HEADER_LEN as u64 + u64::from(self.entries) * 4
    }

    /// Bytes that an entry counts in.
    pub(crate) fn entry_unit(&self) -> u64 {
        if self.in_clusters { self.cluster_size } else { SECTOR }
    }

    /// Host offset where data begins at the earliest, in bytes.
    fn least_data_start(&self) -> u64 {
        self.table_end().next_multiple_of(self.entry_unit())
    }

    /// The data offset is one that the format allows, in a file of `file_len` bytes.
    pub(crate) fn has_good_data_offset(&self, file_len: u64) -> bool {
        let start = u64::from(self.data_offset) * SECTOR;
        if start == 0 {
            !self.in_clusters
        } else {
            start >= self.least_data_start() && start <= file_len.next_multiple_of(SECTOR)
        }
    }

    /// Host offset where data begins, in bytes; the smallest right one where the header's is wrong.
    pub(crate) fn data_start(&self, file_len: u64) -> u64 {
        let start = u64::from(self.data_offset) * SECTOR;
        if start > 0 && self.has_good_data_offset(file_len) { start } else { self.least_data_start() }
    }
}

/// The fields as they stand.
struct Raw {
    cluster: u32,
    entries: u32,
    sectors: u64,
    in_use: u32,
    data_offset: u32,
    extension: u64,
}

impl Raw {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        fields.bytes(28)?;
        let (cluster, entries, sectors) = (fields.u32_le()?, fields.u32_le()?, fields.u64_le()?);
        let (in_use, data_offset) = (fields.u32_le()?, fields.u32_le()?);
        fields.u32_le()?;
        Some(Self { cluster, entries, sectors, in_use, data_offset, extension: fields.u64_le()? })
    }

    fn check(self, in_clusters: bool) -> Result<Header> {
        let wrong = |text: &'static str, code| Err(Error::corrupt(text).with_errno(code));
        if self.cluster == 0 {
            return wrong("Invalid image: Zero sectors per track", errno::EINVAL);
        }
        if self.cluster > MAX_CLUSTER_SECTORS {
            return wrong("Invalid image: Too big cluster", errno::EFBIG);
        }
        if self.entries > MAX_ENTRIES {
            return wrong("Catalog too large", errno::EFBIG);
        }
        if self.extension >= MAX_EXTENSION_SECTOR {
            return wrong("Invalid image: Too big offset", errno::EFBIG);
        }
        let sectors = if in_clusters { self.sectors } else { self.sectors & u64::from(u32::MAX) };
        let disk_size = sectors.checked_mul(SECTOR).filter(|size| *size <= MAX_DEVICE_LEN);
        let Some(disk_size) = disk_size else {
            return wrong("Could not refresh total sector count: File too large", errno::EFBIG);
        };
        Ok(Header {
            in_clusters,
            cluster_size: u64::from(self.cluster) * SECTOR,
            entries: self.entries,
            disk_size,
            in_use: self.in_use,
            data_offset: self.data_offset,
            extension: self.extension * SECTOR,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_header_is_read_back() {
        let bytes = Header::encode_new(2048, 10, 20480, 2048);
        let header = Header::parse(&bytes).unwrap();
        assert_eq!((header.cluster_size, header.disk_size, header.entries), (1 << 20, 10 << 20, 10));
        assert!(
            header.in_clusters && header.has_good_data_offset(1 << 20) && !header.has_good_data_offset(512)
        );
        let mut old = bytes;
        old[..16].copy_from_slice(MAGIC_OLD);
        old[40] = 9;
        let header = Header::parse(&old).unwrap();
        assert_eq!((header.entry_unit(), header.disk_size), (512, 10 << 20));
        assert_eq!(header.data_start(1 << 20), 1 << 20);
        assert_eq!(Header { data_offset: 0, ..header }.data_start(1 << 20), 512);
    }
}
