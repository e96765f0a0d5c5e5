//! The metadata region (MS-VHDX 2.6): what the disk is like, and the names of a parent.

use diskimg_core::{BlockDevice, ByteRange, Fields, read_zero_padded, to_usize};
use uuid::Uuid;

use crate::bat::file_len;
use crate::damage::Damage;
use crate::limits::{MAX_BLOCK, MAX_DISK, MAX_ENTRIES, MAX_LOCATOR, MIN_BLOCK};

/// Bytes of the table, and so the offset of the first item.
pub(crate) const TABLE_LEN: u32 = 64 << 10;
const SIGNATURE: &[u8; 8] = b"metadata";
/// The image can't be used without understanding the item.
const REQUIRED: u32 = 4;
/// The item belongs to the disk, not to the file.
const VIRTUAL_DISK: u32 = 2;
/// Blocks keep their place in the file.
const LEAVE_ALLOCATED: u32 = 1;
const HAS_PARENT: u32 = 2;

const FILE_PARAMETERS: Uuid = Uuid::from_u128(0xcaa16737_fa36_4d43_b3b6_33f0aa44e76b);
const DISK_SIZE: Uuid = Uuid::from_u128(0x2fa54224_cd1b_4876_b211_5dbed83bf4b8);
const PAGE_83: Uuid = Uuid::from_u128(0xbeca12ab_b2e6_4523_93ef_c309e000c746);
const LOGICAL_SECTOR: Uuid = Uuid::from_u128(0x8141bf1d_a96f_4709_ba47_f233a8faab5f);
const PHYSICAL_SECTOR: Uuid = Uuid::from_u128(0xcda348c7_445d_4471_9cc9_e9885251c556);
const PARENT_LOCATOR: Uuid = Uuid::from_u128(0xa8d35f2d_b30b_454d_abf7_d3d84834ab0c);

/// Items with their flags, in the order of new files.
const ITEMS: [(Uuid, u32); 6] = [
    (FILE_PARAMETERS, REQUIRED),
    (DISK_SIZE, REQUIRED | VIRTUAL_DISK),
    (PAGE_83, REQUIRED | VIRTUAL_DISK),
    (LOGICAL_SECTOR, REQUIRED | VIRTUAL_DISK),
    (PHYSICAL_SECTOR, REQUIRED | VIRTUAL_DISK),
    (PARENT_LOCATOR, REQUIRED),
];

/// What the metadata say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// Bytes.
    pub block_size: u64,
    /// Blocks never lose their place: a disk of fixed size.
    pub leave_allocated: bool,
    /// Bytes of the disk, a multiple of a sector.
    pub disk_size: u64,
    pub page_83: Uuid,
    /// Bytes: 512 or 4096.
    pub sector_size: u32,
    /// Bytes.
    pub physical_sector_size: u32,
    /// The bytes of the parent locator of a differencing disk.
    pub locator: Option<Vec<u8>>,
}

/// Where an item stands, counted from the region's start.
type Item = (u32, u32);

impl Metadata {
    /// Reads the region at file offset `region`.
    pub(crate) fn read(storage: &dyn BlockDevice, region: u64) -> Result<Self, Damage> {
        let items = read_table(storage, region)?;
        let value = |index: usize, len: usize| -> Result<Vec<u8>, Damage> {
            let missing = Damage::Unknown("a metadata item is missing");
            let (offset, _) = items.get(index).copied().flatten().ok_or(missing)?;
            let mut bytes = vec![0; len];
            let start = region.saturating_add(offset.into());
            if start.saturating_add(len as u64) > file_len(storage) {
                return Err(Damage::Invalid("a metadata item is cut short"));
            }
            read_zero_padded(storage, start, &mut bytes)?;
            Ok(bytes)
        };
        let number = |bytes: &[u8]| Fields::new(bytes).u32_le().unwrap_or_default();
        let parameters = value(0, 8)?;
        let size = value(1, 8)?;
        let page_83 = Uuid::from_slice_le(&value(2, 16)?).unwrap_or_default();
        let (sector_size, physical_sector_size) = (number(&value(3, 4)?), number(&value(4, 4)?));
        let flags = number(parameters.get(4..).unwrap_or_default());
        let locator = match items.get(5).copied().flatten() {
            Some((_, len)) if len > MAX_LOCATOR => {
                return Err(Damage::Invalid("the parent locator is too long"));
            }
            Some((_, len)) => Some(value(5, to_usize(len.into()))?),
            None => None,
        };
        if locator.is_some() && flags & HAS_PARENT == 0 {
            return Err(Damage::Unknown("a disk without a parent has a parent locator"));
        }
        if locator.is_none() && flags & HAS_PARENT != 0 {
            return Err(Damage::Invalid("the parent locator is missing"));
        }
        Self {
            block_size: number(&parameters).into(),
            leave_allocated: flags & LEAVE_ALLOCATED != 0,
            disk_size: Fields::new(&size).u64_le().unwrap_or_default(),
            page_83,
            sector_size,
            physical_sector_size,
            locator,
        }
        .checked()
    }

    fn checked(mut self) -> Result<Self, Damage> {
        if !matches!(self.sector_size, 512 | 4096) {
            return Err(Damage::Unknown("the sector size is not supported"));
        }
        if !self.block_size.is_power_of_two() || !(MIN_BLOCK..=MAX_BLOCK).contains(&self.block_size) {
            return Err(Damage::Invalid("the block size is wrong"));
        }
        self.disk_size -= self.disk_size % u64::from(self.sector_size);
        if self.disk_size > MAX_DISK {
            return Err(Damage::Invalid("the disk is too long"));
        }
        Ok(self)
    }

    /// The region's bytes: the table and the items, without what follows these.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let block_size = u32::try_from(self.block_size).unwrap_or(u32::MAX);
        let flags = if self.leave_allocated { LEAVE_ALLOCATED } else { 0 }
            | if self.locator.is_some() { HAS_PARENT } else { 0 };
        let mut values = vec![
            [block_size.to_le_bytes(), flags.to_le_bytes()].concat(),
            self.disk_size.to_le_bytes().to_vec(),
            self.page_83.to_bytes_le().to_vec(),
            self.sector_size.to_le_bytes().to_vec(),
            self.physical_sector_size.to_le_bytes().to_vec(),
        ];
        values.extend(self.locator.clone());
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0; 2]);
        bytes.extend(u16::try_from(values.len()).unwrap_or(u16::MAX).to_le_bytes());
        bytes.resize(32, 0);
        let mut offset = TABLE_LEN;
        for ((guid, flags), value) in ITEMS.iter().zip(&values) {
            let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
            bytes.extend(guid.to_bytes_le());
            for field in [offset, len, *flags, 0] {
                bytes.extend(field.to_le_bytes());
            }
            offset = offset.saturating_add(len);
        }
        bytes.resize(to_usize(TABLE_LEN.into()), 0);
        bytes.extend(values.into_iter().flatten());
        bytes
    }
}

/// Where the parent locator of the region at file offset `region` stands in the file.
pub(crate) fn locator_place(storage: &dyn BlockDevice, region: u64) -> Result<Option<ByteRange>, Damage> {
    let item = read_table(storage, region)?.get(5).copied().flatten();
    Ok(item.map(|(offset, len)| ByteRange::new(region.saturating_add(offset.into()), len.into())))
}

/// The items that are known, in the order of [`ITEMS`].
fn read_table(storage: &dyn BlockDevice, region: u64) -> Result<[Option<Item>; ITEMS.len()], Damage> {
    let mut bytes = vec![0; to_usize(TABLE_LEN.into())];
    read_zero_padded(storage, region, &mut bytes)?;
    let mut fields = Fields::new(&bytes);
    let cut = || Damage::Invalid("the metadata table is cut short");
    if fields.array() != Some(*SIGNATURE) {
        return Err(Damage::Invalid("the metadata table has no signature"));
    }
    fields.u16_le().ok_or_else(cut)?;
    let count = fields.u16_le().ok_or_else(cut)?;
    if u32::from(count) > MAX_ENTRIES {
        return Err(Damage::Invalid("the metadata table has too many entries"));
    }
    fields.bytes(20).ok_or_else(cut)?;
    let mut items = [None; ITEMS.len()];
    for _ in 0..count {
        let guid = fields.array().map(Uuid::from_bytes_le).ok_or_else(cut)?;
        let (offset, len) = (fields.u32_le().ok_or_else(cut)?, fields.u32_le().ok_or_else(cut)?);
        let flags = fields.u32_le().ok_or_else(cut)?;
        fields.u32_le().ok_or_else(cut)?;
        let known = ITEMS.iter().position(|(known, _)| *known == guid);
        match known.and_then(|index| items.get_mut(index)) {
            Some(item) => {
                if offset < TABLE_LEN {
                    return Err(Damage::Invalid("a metadata item lies in the metadata table"));
                }
                if item.replace((offset, len)).is_some() {
                    return Err(Damage::Invalid("a metadata item is there twice"));
                }
            }
            None if flags & REQUIRED != 0 => {
                return Err(Damage::Unknown("a required metadata item is unknown"));
            }
            None => {}
        }
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use diskimg_core::MemDevice;

    use super::*;

    #[test]
    fn metadata_are_read_back() {
        let mut metadata = Metadata {
            block_size: 8 << 20,
            leave_allocated: true,
            disk_size: 10 << 20,
            page_83: Uuid::new_v4(),
            sector_size: 4096,
            physical_sector_size: 512,
            locator: None,
        };
        let read = |metadata: &Metadata| Metadata::read(&MemDevice::from(metadata.encode()), 0);
        assert_eq!(read(&metadata).unwrap(), metadata);
        metadata.locator = Some(vec![1, 2, 3]);
        assert_eq!(read(&metadata).unwrap(), metadata);
        metadata.disk_size += 100;
        assert_eq!(read(&metadata).unwrap().disk_size, 10 << 20);
        metadata.block_size = 3 << 20;
        assert!(matches!(read(&metadata), Err(Damage::Invalid(_))));
        metadata.sector_size = 1024;
        assert!(matches!(read(&metadata), Err(Damage::Unknown(_))));
        metadata.leave_allocated = false;
        let mut bytes = metadata.encode();
        bytes[65540] = 0;
        assert!(matches!(Metadata::read(&MemDevice::from(bytes), 0), Err(Damage::Unknown(_))));
    }
}
