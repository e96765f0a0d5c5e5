//! The trailer (`koly` block) at the end of a disk image.

use diskimg_core::{BlockDevice, Error, ErrorKind, Fields, Result, read_zero_padded, to_usize};

use crate::SECTOR;

const MAGIC: &[u8] = b"koly";
/// Bytes of the trailer.
const TRAILER_LEN: usize = 512;
/// The trailer begins this many bytes before the end of the file at the most.
const SEARCHED: u64 = 2 * SECTOR - 1;

/// What is used of the trailer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Trailer {
    /// Host offset of the trailer itself: everything else stands before it.
    pub offset: u64,
    /// Host offset that chunks are relative to.
    pub data_fork: u64,
    /// Host offset and length of the resource fork.
    pub resource_fork: (u64, u64),
    /// Host offset and length of the property list.
    pub plist: (u64, u64),
    /// Sectors of the disk.
    pub sectors: u64,
    /// CRC-32 over the checksums of the tables, if there is one.
    pub master_checksum: Option<u32>,
}

/// Type number of CRC-32.
const CRC32: u32 = 2;

/// A checksum field (type, bits, 128 bytes of value), if it is a CRC-32.
pub(super) fn checksum(fields: &mut Fields<'_>) -> Option<Option<u32>> {
    let (kind, bits) = (fields.u32_be()?, fields.u32_be()?);
    let value = Fields::new(fields.bytes(128)?).u32_be();
    Some(value.filter(|_| kind == CRC32 && bits == 32))
}

impl Trailer {
    /// Looks for the trailer at the end of the file.
    pub(super) fn find(storage: &dyn BlockDevice) -> Result<Self> {
        let len = storage.len().next_multiple_of(SECTOR);
        if len < SECTOR {
            return Err(Error::corrupt("dmg file must be at least 512 bytes long"));
        }
        let start = len.saturating_sub(SEARCHED);
        let mut end = vec![0; to_usize(len - start) + TRAILER_LEN];
        read_zero_padded(storage, start, &mut end)?;
        let last = to_usize(len - start).saturating_sub(TRAILER_LEN);
        let found = (0..=last).find(|at| end.get(*at..).is_some_and(|bytes| bytes.starts_with(MAGIC)));
        let trailer = found.and_then(|at| Self::parse(start + at as u64, end.get(at..)?));
        trailer
            .ok_or_else(|| Error::new(ErrorKind::NotThisFormat, "Could not locate UDIF trailer in dmg file"))
    }

    fn parse(offset: u64, bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        fields.bytes(0x18)?;
        let data_fork = fields.u64_be()?;
        fields.u64_be()?;
        let resource_fork = (fields.u64_be()?, fields.u64_be()?);
        fields.bytes(0xd8 - 0x38)?;
        let plist = (fields.u64_be()?, fields.u64_be()?);
        fields.bytes(0x160 - 0xe8)?;
        let master_checksum = checksum(&mut fields)?;
        fields.u32_be()?;
        let sectors = fields.u64_be()?;
        Some(Self { offset, data_fork, resource_fork, plist, sectors, master_checksum })
    }

    /// It, if its places lie before the trailer and the disk has a length.
    pub(super) fn checked(self) -> Option<Self> {
        let before = |(offset, len): (u64, u64)| {
            offset.checked_add(len).is_some_and(|end| end <= self.offset)
                && (len == 0 || offset < self.offset)
        };
        let sound = self.data_fork <= self.offset
            && before(self.resource_fork)
            && before(self.plist)
            && i64::try_from(self.sectors).is_ok();
        sound.then_some(self)
    }
}
