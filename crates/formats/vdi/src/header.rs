//! The header: 512 bytes at the start of the file, little-endian. Fields that nobody looks at are kept as they are.

use diskimg_core::{Error, ErrorKind, Fields, Result, errno};

use crate::limits::{BLOCK, MAX_BLOCKS, MAX_DISK, SECTOR};

/// Bytes of the header.
pub(crate) const HEADER_LEN: usize = 512;
const SIGNATURE: u32 = 0xbeda_107f;
const SIGNATURE_OFFSET: usize = 0x40;
/// Version 1.1.
const VERSION: u32 = 0x0001_0001;
/// What the header begins with.
const TEXT: &[u8] = b"<<< QEMU VM Virtual Disk Image >>>\n";
/// The header's own length as version 1.1 counts it, in bytes.
const HEADER_SIZE: u32 = 0x180;
/// Where the table begins in new images, in bytes.
const TABLE_OFFSET: u32 = 0x200;
/// Offset of `blocks allocated`.
const ALLOCATED_OFFSET: usize = 0x184;

/// An image whose blocks all have their place from the start.
pub(crate) const STATIC: u32 = 2;
/// An image whose free blocks are its parent's.
const DIFFERENCING: u32 = 4;
/// The same, thrown away when the machine stops.
const UNDO: u32 = 3;
/// An image whose blocks get their place when they are written.
const DYNAMIC: u32 = 1;

/// A UUID as stored.
pub(crate) type RawUuid = [u8; 16];

/// The header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// All 512 bytes.
    bytes: Vec<u8>,
    pub kind: u32,
    /// Host offset of the table, in bytes.
    pub table_offset: u64,
    /// Host offset of block 0, in bytes.
    pub data_offset: u64,
    /// Bytes of the disk, a multiple of 512.
    pub disk_size: u64,
    /// Bytes before each block that are not its contents.
    pub block_extra: u64,
    pub blocks: u32,
    /// Number of the next block that is allocated.
    pub allocated: u32,
    pub uuid: RawUuid,
    pub modification_uuid: RawUuid,
    /// The parent's own UUID; zero: no parent.
    pub link: RawUuid,
    /// The parent's modification UUID.
    pub parent: RawUuid,
}

fn refused(what: std::fmt::Arguments<'_>) -> Error {
    Error::unsupported(format!("unsupported VDI image ({what})"))
}

/// The error for a disk that is too long.
pub(crate) fn too_long(size: u64) -> Error {
    let text = format!("Unsupported VDI image size (size is {size:#x}, max supported is {MAX_DISK:#x})");
    Error::limit(text).with_errno(errno::ENOTSUP)
}

impl Header {
    /// True if `bytes` have the signature at its place.
    pub(crate) fn is_signed(bytes: &[u8]) -> bool {
        bytes.get(SIGNATURE_OFFSET..).is_some_and(|rest| rest.starts_with(&SIGNATURE.to_le_bytes()))
    }

    /// Parses and checks the header; a link to a parent is let through.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        Raw::parse(bytes).ok_or_else(|| Error::corrupt("VDI header is cut short"))?.check(bytes)
    }

    /// The header of a new disk of `disk_size` bytes (checked against the limit).
    pub(crate) fn new(disk_size: u64, is_static: bool, [uuid, modification_uuid]: [RawUuid; 2]) -> Self {
        let blocks = u32::try_from(disk_size.div_ceil(BLOCK)).unwrap_or(MAX_BLOCKS);
        let table = (u64::from(blocks) * 4).next_multiple_of(SECTOR);
        Self {
            bytes: vec![0; HEADER_LEN],
            kind: if is_static { STATIC } else { DYNAMIC },
            table_offset: TABLE_OFFSET.into(),
            data_offset: u64::from(TABLE_OFFSET) + table,
            disk_size,
            block_extra: 0,
            blocks,
            allocated: if is_static { blocks } else { 0 },
            uuid,
            modification_uuid,
            link: RawUuid::default(),
            parent: RawUuid::default(),
        }
    }

    /// All bytes of a new image's header.
    pub(crate) fn encode_new(&self) -> Vec<u8> {
        let mut bytes = TEXT.to_vec();
        bytes.resize(SIGNATURE_OFFSET, 0);
        for field in [SIGNATURE, VERSION, HEADER_SIZE, self.kind, 0] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.resize(0x154, 0);
        let place = |offset: u64| u32::try_from(offset).unwrap_or(u32::MAX);
        for field in [place(self.table_offset), place(self.data_offset), 0, 0, 0, 512, 0] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(self.disk_size.to_le_bytes());
        for field in [place(BLOCK), 0, self.blocks, self.allocated] {
            bytes.extend(field.to_le_bytes());
        }
        for uuid in [self.uuid, self.modification_uuid, self.link, self.parent] {
            bytes.extend(uuid);
        }
        bytes.resize(HEADER_LEN, 0);
        bytes
    }

    /// The bytes of an existing header with `allocated` blocks.
    pub(crate) fn with_allocated(&self, allocated: u32) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        if let Some(field) = bytes.get_mut(ALLOCATED_OFFSET..ALLOCATED_OFFSET + 4) {
            field.copy_from_slice(&allocated.to_le_bytes());
        }
        bytes
    }

    /// Free blocks are those of a parent.
    pub(crate) fn has_parent(&self) -> bool {
        matches!(self.kind, DIFFERENCING | UNDO) && self.link != RawUuid::default()
    }

    /// Refuses a link to a parent, as an image that stands alone has none.
    pub(crate) fn refuse_parent(&self) -> Result<()> {
        if self.link != RawUuid::default() {
            return Err(refused(format_args!("non-NULL link UUID")));
        }
        if self.parent != RawUuid::default() {
            return Err(refused(format_args!("non-NULL parent UUID")));
        }
        Ok(())
    }
}

/// The fields as they stand.
struct Raw {
    signature: u32,
    version: u32,
    kind: u32,
    table_offset: u32,
    data_offset: u32,
    sector_size: u32,
    disk_size: u64,
    block_size: u32,
    block_extra: u32,
    blocks: u32,
    allocated: u32,
    uuids: [RawUuid; 4],
}

impl Raw {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes.get(SIGNATURE_OFFSET..HEADER_LEN)?);
        let (signature, version) = (fields.u32_le()?, fields.u32_le()?);
        fields.u32_le()?;
        let kind = fields.u32_le()?;
        fields.bytes(4 + 256)?;
        let (table_offset, data_offset) = (fields.u32_le()?, fields.u32_le()?);
        fields.bytes(12)?;
        let sector_size = fields.u32_le()?;
        fields.u32_le()?;
        let disk_size = fields.u64_le()?;
        let (block_size, block_extra) = (fields.u32_le()?, fields.u32_le()?);
        let (blocks, allocated) = (fields.u32_le()?, fields.u32_le()?);
        let uuids = [fields.array()?, fields.array()?, fields.array()?, fields.array()?];
        Some(Self {
            signature,
            version,
            kind,
            table_offset,
            data_offset,
            sector_size,
            disk_size,
            block_size,
            block_extra,
            blocks,
            allocated,
            uuids,
        })
    }

    fn check(self, bytes: &[u8]) -> Result<Header> {
        if self.disk_size > MAX_DISK {
            return Err(too_long(self.disk_size));
        }
        let disk_size = self.disk_size.next_multiple_of(SECTOR);
        if self.signature != SIGNATURE {
            let text = format!("Image not in VDI format (bad signature {:08x})", self.signature);
            return Err(Error::new(ErrorKind::NotThisFormat, text));
        }
        if self.version != VERSION {
            let (major, minor) = (self.version >> 16, self.version & 0xffff);
            return Err(refused(format_args!("version {major}.{minor}")));
        }
        if !u64::from(self.table_offset).is_multiple_of(SECTOR) {
            return Err(refused(format_args!("unaligned block map offset {:#x}", self.table_offset)));
        }
        if !u64::from(self.data_offset).is_multiple_of(SECTOR) {
            return Err(refused(format_args!("unaligned data offset {:#x}", self.data_offset)));
        }
        if u64::from(self.sector_size) != SECTOR {
            return Err(refused(format_args!("sector size {} is not 512", self.sector_size)));
        }
        if u64::from(self.block_size) != BLOCK {
            return Err(refused(format_args!("block size {} is not {BLOCK}", self.block_size)));
        }
        let room = u64::from(self.blocks) * BLOCK;
        if disk_size > room {
            let text = format_args!("disk size {disk_size}, image bitmap has room for {room}");
            return Err(refused(text));
        }
        let [uuid, modification_uuid, link, parent] = self.uuids;
        let header = Header {
            bytes: bytes.get(..HEADER_LEN).unwrap_or(bytes).to_vec(),
            kind: self.kind,
            table_offset: self.table_offset.into(),
            data_offset: self.data_offset.into(),
            disk_size,
            block_extra: self.block_extra.into(),
            blocks: self.blocks,
            allocated: self.allocated,
            uuid,
            modification_uuid,
            link,
            parent,
        };
        if !header.has_parent() {
            header.refuse_parent()?;
        }
        if self.blocks > MAX_BLOCKS {
            let text = format_args!("too many blocks {}, max is {MAX_BLOCKS}", self.blocks);
            return Err(refused(text));
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_header_is_read_back() {
        let header = Header::new(10 << 20, true, [[1; 16], [2; 16]]);
        let bytes = header.encode_new();
        let read = Header::parse(&bytes).unwrap();
        assert_eq!(read, Header { bytes: bytes.clone(), ..header });
        assert_eq!(Header::parse(&read.with_allocated(3)).unwrap().allocated, 3);
        assert!(Header::is_signed(&bytes));
    }

    #[test]
    fn a_parent_is_let_through_for_differencing_images_only() {
        let mut header = Header::new(1 << 20, false, [[1; 16], [2; 16]]);
        header.link = [3; 16];
        let message =
            |header: &Header| Header::parse(&header.encode_new()).map_err(|error| error.to_string());
        assert_eq!(message(&header).unwrap_err(), "unsupported VDI image (non-NULL link UUID)");
        header.kind = DIFFERENCING;
        assert!(message(&header).unwrap().has_parent());
    }
}
