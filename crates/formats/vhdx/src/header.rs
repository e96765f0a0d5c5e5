//! The file identifier and the two headers (MS-VHDX 2.2.1 and 2.2.2), little-endian. Bytes that nobody looks at are kept.

use diskimg_core::{BlockDevice, Fields, read_zero_padded};
use uuid::Uuid;

use crate::damage::Damage;
use crate::limits::MIB;

/// What a file begins with.
pub(crate) const SIGNATURE: &[u8; 8] = b"vhdxfile";
/// Bytes of a header that count.
pub(crate) const HEADER_LEN: usize = 4096;
/// Where the two headers stand.
pub(crate) const HEADER_OFFSETS: [u64; 2] = [64 << 10, 128 << 10];
/// Everything before this byte is changed without the log or never.
pub(crate) const UNLOGGED_END: u64 = 192 << 10;
const HEAD: &[u8; 4] = b"head";
const VERSION: u16 = 1;
const LOG_VERSION: u16 = 0;

/// CRC-32C of `bytes`, in which the four bytes from `at` on count as zeros.
pub(crate) fn checksum(bytes: &[u8], at: usize) -> u32 {
    let (before, rest) = bytes.split_at_checked(at).unwrap_or((bytes, &[]));
    let crc = crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]);
    crc32c::crc32c_append(crc, rest.get(4..).unwrap_or_default())
}

/// Puts `value` at byte `at`, if there is room.
pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(part) = bytes.get_mut(at..at + value.len()) {
        part.copy_from_slice(value);
    }
}

/// One of the two headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    bytes: Box<[u8]>,
    pub sequence: u64,
    /// Changes when the file is changed.
    pub file_write: Uuid,
    /// Changes when the disk is changed.
    pub data_write: Uuid,
    /// Names the entries of the log that count; nil: the log is empty.
    pub log: Uuid,
    pub log_version: u16,
    pub log_len: u32,
    pub log_offset: u64,
}

impl Header {
    /// The header in `bytes`, if it is whole.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes.get(..HEADER_LEN)?);
        let (signature, crc) = (fields.array::<4>()?, fields.u32_le()?);
        let sequence = fields.u64_le()?;
        let mut guid = || fields.array().map(Uuid::from_bytes_le);
        let (file_write, data_write, log) = (guid()?, guid()?, guid()?);
        let (log_version, version) = (fields.u16_le()?, fields.u16_le()?);
        let (log_len, log_offset) = (fields.u32_le()?, fields.u64_le()?);
        let bytes = bytes.get(..HEADER_LEN)?;
        let whole = signature == *HEAD && version == VERSION && checksum(bytes, 4) == crc;
        whole.then(|| Self {
            bytes: bytes.into(),
            sequence,
            file_write,
            data_write,
            log,
            log_version,
            log_len,
            log_offset,
        })
    }

    /// The header of a new file.
    pub(crate) fn new(sequence: u64, log_len: u32) -> Self {
        Self {
            bytes: vec![0; HEADER_LEN].into(),
            sequence,
            file_write: Uuid::new_v4(),
            data_write: Uuid::new_v4(),
            log: Uuid::nil(),
            log_version: LOG_VERSION,
            log_len,
            log_offset: MIB,
        }
    }

    /// Its bytes, checksum and all.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.bytes.to_vec();
        put(&mut bytes, 0, HEAD);
        put(&mut bytes, 8, &self.sequence.to_le_bytes());
        for (at, guid) in [(16, self.file_write), (32, self.data_write), (48, self.log)] {
            put(&mut bytes, at, &guid.to_bytes_le());
        }
        put(&mut bytes, 64, &self.log_version.to_le_bytes());
        put(&mut bytes, 66, &VERSION.to_le_bytes());
        put(&mut bytes, 68, &self.log_len.to_le_bytes());
        put(&mut bytes, 72, &self.log_offset.to_le_bytes());
        let crc = checksum(&bytes, 4);
        put(&mut bytes, 4, &crc.to_le_bytes());
        bytes
    }

    /// Refuses a log that the format does not allow.
    pub(crate) fn check_log(&self) -> Result<(), Damage> {
        if self.log_version != LOG_VERSION {
            return Err(Damage::Invalid("the log's version is unknown"));
        }
        if self.log_offset < MIB || !self.log_offset.is_multiple_of(MIB) {
            return Err(Damage::Invalid("the log's place is wrong"));
        }
        Ok(())
    }
}

/// The header that counts, and which one it is.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    pub header: Header,
    /// 0 or 1.
    pub slot: usize,
}

impl Current {
    /// Reads both headers and picks the newer one that is whole.
    pub(crate) fn read(storage: &dyn BlockDevice) -> Result<Self, Damage> {
        let mut both = Vec::new();
        for offset in HEADER_OFFSETS {
            let mut bytes = [0; HEADER_LEN];
            read_zero_padded(storage, offset, &mut bytes)?;
            both.push(Header::parse(&bytes));
        }
        let second = both.pop().flatten();
        let first = both.pop().flatten();
        match (first, second) {
            (Some(first), Some(second)) if first.sequence == second.sequence && first != second => {
                Err(Damage::NoHeader)
            }
            (Some(header), other) if other.as_ref().is_none_or(|other| other.sequence <= header.sequence) => {
                Ok(Self { header, slot: 0 })
            }
            (_, Some(header)) => Ok(Self { header, slot: 1 }),
            _ => Err(Damage::NoHeader),
        }
    }
}

/// Refuses what does not begin as a VHDX file does.
pub(crate) fn check_signature(storage: &dyn BlockDevice) -> Result<(), Damage> {
    let mut bytes = [0; SIGNATURE.len()];
    read_zero_padded(storage, 0, &mut bytes)?;
    if bytes == *SIGNATURE { Ok(()) } else { Err(Damage::NotVhdx) }
}

#[cfg(test)]
mod tests {
    use diskimg_core::MemDevice;

    use super::*;

    fn disk(first: &Header, second: &Header) -> MemDevice {
        let device = MemDevice::new(1 << 20);
        device.write_at(HEADER_OFFSETS[0], &first.encode()).unwrap();
        device.write_at(HEADER_OFFSETS[1], &second.encode()).unwrap();
        device
    }

    #[test]
    fn the_newer_whole_header_counts() {
        let (old, new) = (Header::new(7, 1 << 20), Header::new(8, 1 << 20));
        let device = disk(&old, &new);
        let current = Current::read(&device).unwrap();
        assert_eq!((current.slot, current.header.data_write), (1, new.data_write));
        device.write_at(HEADER_OFFSETS[1] + 100, &[1]).unwrap();
        assert_eq!(Current::read(&device).unwrap().header.sequence, 7);
        device.write_at(HEADER_OFFSETS[0], &[1]).unwrap();
        assert!(matches!(Current::read(&device), Err(Damage::NoHeader)));
    }

    #[test]
    fn headers_of_one_number_have_to_be_equal() {
        let header = Header::new(7, 1 << 20);
        assert_eq!(Current::read(&disk(&header, &header)).unwrap().slot, 0);
        assert!(Current::read(&disk(&header, &Header::new(7, 1 << 20))).is_err());
    }
}
