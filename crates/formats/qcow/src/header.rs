//! The header: 48 bytes at the start of the file, big-endian, and the name of the backing file.

use diskimg_core::mapped::{ByteOrder, TreeShape};
use diskimg_core::{BlockDevice, Error, ErrorKind, Fields, Result, errno, read_zero_padded, to_usize};

use crate::limits::{CLUSTER_BITS, L2_BITS, MAX_BACKING_NAME, MAX_HOST_OFFSET, MAX_L1_ENTRIES, SECTOR};

/// Bytes of the header.
pub(crate) const HEADER_LEN: usize = 48;
/// What an image begins with.
const MAGIC: [u8; 4] = *b"QFI\xfb";
/// The version of the format that this is.
const VERSION: u32 = 1;
/// Encryption with AES.
pub(crate) const AES: u32 = 1;
/// Bytes of a table entry.
const ENTRY: u64 = 8;
/// The bit of an entry whose cluster is compressed.
const COMPRESSED: u64 = 1 << 63;

/// The header's fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub backing_offset: u64,
    pub backing_size: u32,
    /// Bytes of the disk as the header says; whole sectors of it are the disk.
    pub size: u64,
    /// log2 of the bytes of a cluster.
    pub cluster_bits: u8,
    /// log2 of the entries of an L2 table.
    pub l2_bits: u8,
    pub crypt_method: u32,
    pub l1_offset: u64,
}

/// Why a file is no image that can be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QcowError {
    #[error("Image not in qcow format")]
    Magic,
    #[error("qcow (v1) does not support qcow version {0}")]
    Version(u32),
    #[error("Image size is too small (must be at least 2 bytes)")]
    TooSmall,
    #[error("Cluster size must be between 512 and 64k")]
    ClusterBits,
    #[error("L2 table size must be between 512 and 64k")]
    L2Bits,
    #[error("invalid encryption method in qcow header")]
    CryptMethod,
    #[error("Image too large")]
    TooLarge,
    #[error("Backing file name too long")]
    BackingName,
    #[error("Input/output error")]
    BackingRead,
    #[error("Input/output error")]
    PastFiles,
}

impl From<QcowError> for Error {
    fn from(error: QcowError) -> Self {
        let (kind, code) = match error {
            QcowError::Magic => (ErrorKind::NotThisFormat, errno::EINVAL),
            QcowError::Version(_) => (ErrorKind::Unsupported, errno::ENOTSUP),
            QcowError::TooLarge => (ErrorKind::Limit, errno::EINVAL),
            QcowError::BackingRead | QcowError::PastFiles => (ErrorKind::Corrupt, errno::EIO),
            _ => (ErrorKind::Corrupt, errno::EINVAL),
        };
        let told = Self::new(kind, error.to_string()).with_errno(code);
        match error {
            QcowError::Version(2 | 3) => told.with_hint("Try the 'qcow2' driver instead."),
            _ => told,
        }
    }
}

/// What an entry of an L2 table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Absent,
    /// Host offset of the cluster.
    Stored(u64),
    /// Host offset and bytes of the payload.
    Packed {
        offset: u64,
        len: u64,
    },
}

impl Header {
    /// True if `bytes` begin as an image of this version does.
    pub(crate) fn is_signed(bytes: &[u8]) -> bool {
        let mut fields = Fields::new(bytes);
        bytes.len() >= HEADER_LEN && fields.array() == Some(MAGIC) && fields.u32_be() == Some(VERSION)
    }

    /// Reads and checks the header.
    pub(crate) fn read(storage: &dyn BlockDevice) -> Result<Self> {
        let mut bytes = [0; HEADER_LEN];
        read_zero_padded(storage, 0, &mut bytes)?;
        Ok(Self::parse(&bytes).ok_or(QcowError::Magic)??)
    }

    fn parse(bytes: &[u8]) -> Option<Result<Self, QcowError>> {
        let mut fields = Fields::new(bytes);
        if fields.array() != Some(MAGIC) {
            return None;
        }
        let version = fields.u32_be()?;
        if version != VERSION {
            return Some(Err(QcowError::Version(version)));
        }
        let (backing_offset, backing_size) = (fields.u64_be()?, fields.u32_be()?);
        fields.u32_be()?;
        let size = fields.u64_be()?;
        let (cluster_bits, l2_bits) = (fields.u8()?, fields.u8()?);
        fields.u16_be()?;
        let (crypt_method, l1_offset) = (fields.u32_be()?, fields.u64_be()?);
        let header =
            Self { backing_offset, backing_size, size, cluster_bits, l2_bits, crypt_method, l1_offset };
        Some(header.check().map(|()| header))
    }

    fn check(&self) -> Result<(), QcowError> {
        if self.size <= 1 {
            return Err(QcowError::TooSmall);
        }
        if !(CLUSTER_BITS.0..=CLUSTER_BITS.1).contains(&self.cluster_bits) {
            return Err(QcowError::ClusterBits);
        }
        if !(L2_BITS.0..=L2_BITS.1).contains(&self.l2_bits) {
            return Err(QcowError::L2Bits);
        }
        if self.crypt_method > AES {
            return Err(QcowError::CryptMethod);
        }
        Ok(())
    }

    /// Checks what follows from the size of the disk. Behind the check of what the image is opened with.
    pub(crate) fn check_size(&self) -> Result<(), QcowError> {
        let table = 1_u64 << (self.cluster_bits + self.l2_bits);
        let too_large = self.size.checked_add(table - 1).is_none() || self.l1_entries() > MAX_L1_ENTRIES;
        if too_large { Err(QcowError::TooLarge) } else { Ok(()) }
    }

    /// The L1 table has to lie where a file can have one.
    pub(crate) fn check_l1(&self) -> Result<()> {
        if self.l1_end() > MAX_HOST_OFFSET { Err(QcowError::PastFiles.into()) } else { Ok(()) }
    }

    /// The name of the backing file, if there is one.
    pub(crate) fn read_backing(&self, storage: &dyn BlockDevice) -> Result<Option<String>> {
        if self.backing_offset == 0 {
            return Ok(None);
        }
        if self.backing_size > MAX_BACKING_NAME {
            return Err(QcowError::BackingName.into());
        }
        if self.backing_offset > MAX_HOST_OFFSET {
            return Err(QcowError::PastFiles.into());
        }
        let mut name = vec![0; to_usize(self.backing_size.into())];
        read_zero_padded(storage, self.backing_offset, &mut name)?;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        name.truncate(end);
        let name = String::from_utf8(name).map_err(|_| QcowError::BackingRead)?;
        Ok(Some(name).filter(|name| !name.is_empty()))
    }

    /// The header's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_be_bytes());
        bytes.extend(self.backing_offset.to_be_bytes());
        bytes.extend(self.backing_size.to_be_bytes());
        bytes.extend(0_u32.to_be_bytes());
        bytes.extend(self.size.to_be_bytes());
        bytes.extend([self.cluster_bits, self.l2_bits, 0, 0]);
        bytes.extend(self.crypt_method.to_be_bytes());
        bytes.extend(self.l1_offset.to_be_bytes());
        bytes
    }

    /// Bytes of the disk.
    pub(crate) const fn disk_len(&self) -> u64 {
        self.size / SECTOR * SECTOR
    }

    /// Bytes of a cluster.
    pub(crate) const fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of an L2 table.
    pub(crate) const fn l2_len(&self) -> u64 {
        ENTRY << self.l2_bits
    }

    /// Entries of the L1 table.
    pub(crate) const fn l1_entries(&self) -> u64 {
        self.size.div_ceil(1 << (self.cluster_bits + self.l2_bits))
    }

    /// Where the L1 table ends.
    pub(crate) const fn l1_end(&self) -> u64 {
        self.l1_offset.saturating_add(self.l1_entries() * ENTRY)
    }

    /// The tables.
    pub(crate) const fn tree(&self) -> TreeShape {
        TreeShape {
            root: self.l1_offset,
            root_entries: self.l1_entries(),
            leaf_entries: 1 << self.l2_bits,
            order: ByteOrder::Big,
        }
    }

    /// Payloads end below it, so that an entry can say where one is.
    pub(crate) const fn payload_limit(&self) -> u64 {
        1 << (63 - self.cluster_bits)
    }

    /// What an entry says; `None`: nothing that makes sense.
    pub(crate) const fn decode(&self, entry: u64) -> Option<Entry> {
        match entry {
            0 => Some(Entry::Absent),
            _ if entry & COMPRESSED != 0 => {
                let offset = entry & (self.payload_limit() - 1);
                let len = entry >> (63 - self.cluster_bits) & (self.cluster_size() - 1);
                Some(Entry::Packed { offset, len })
            }
            offset if offset.is_multiple_of(SECTOR) => Some(Entry::Stored(offset)),
            _ => None,
        }
    }

    /// The entry that says so.
    pub(crate) const fn encode_entry(&self, entry: Entry) -> u64 {
        match entry {
            Entry::Absent => 0,
            Entry::Stored(offset) => offset,
            Entry::Packed { offset, len } => COMPRESSED | len << (63 - self.cluster_bits) | offset,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            backing_offset: 0,
            backing_size: 0,
            size: 64 << 20,
            cluster_bits: 12,
            l2_bits: 9,
            crypt_method: 0,
            l1_offset: 48,
        }
    }

    #[test]
    fn a_header_is_read_back() {
        let bytes = header().encode();
        assert_eq!(Header::parse(&bytes).unwrap().unwrap(), header());
        assert!(Header::is_signed(&bytes) && !Header::is_signed(&bytes[..47]));
        assert_eq!((header().l1_entries(), header().l1_end()), (32, 304));
    }

    #[test]
    fn entries_are_packed_as_others_do() {
        let packed = Entry::Packed { offset: 0x2000, len: 42 };
        assert_eq!(header().encode_entry(packed), 0x8150_0000_0000_2000);
        assert_eq!(header().decode(0x8150_0000_0000_2000), Some(packed));
        assert_eq!(header().decode(0x2000), Some(Entry::Stored(0x2000)));
        assert_eq!((header().decode(0), header().decode(0x2001)), (Some(Entry::Absent), None));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let check = |change: fn(&mut Header)| {
            let mut header = header();
            change(&mut header);
            let found = header.check().and_then(|()| header.check_size());
            found.err().map_or(String::new(), |error| error.to_string())
        };
        assert_eq!(check(|_| ()), "");
        assert_eq!(check(|header| header.size = 1), "Image size is too small (must be at least 2 bytes)");
        assert_eq!(check(|header| header.cluster_bits = 17), "Cluster size must be between 512 and 64k");
        assert_eq!(check(|header| header.l2_bits = 5), "L2 table size must be between 512 and 64k");
        assert_eq!(check(|header| header.crypt_method = 2), "invalid encryption method in qcow header");
        assert_eq!(check(|header| header.size = u64::MAX), "Image too large");
        assert_eq!(check(|header| header.size = 1 << 60), "Image too large");
    }
}
