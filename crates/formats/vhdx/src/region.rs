//! The region table (MS-VHDX 2.2.3): where the block allocation table and the metadata stand. Both copies are equal;
//! the second one is read where the first one is damaged.

use diskimg_core::{BlockDevice, ByteRange, Fields, read_zero_padded};
use uuid::Uuid;

use crate::damage::Damage;
use crate::header::{checksum, put};
use crate::limits::{LOG_SECTOR, MAX_ENTRIES};

/// Where the two copies stand.
pub(crate) const TABLE_OFFSETS: [u64; 2] = [192 << 10, 256 << 10];
const TABLE_LEN: usize = 64 << 10;
const HEAD: &[u8; 4] = b"regi";
const BAT: Uuid = Uuid::from_u128(0x2dc27766_f623_4200_9d64_115e9bfd4a08);
const METADATA: Uuid = Uuid::from_u128(0x8b7ca206_4790_4b9a_b8fe_575f050f886e);
/// A file with a region that is required can't be used without understanding it.
const REQUIRED: u32 = 1;

/// Ranges of the file that are taken, the last one first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taken(Vec<ByteRange>);

impl Taken {
    /// Refuses a range that overlaps one that is taken.
    pub(crate) fn check(&self, range: ByteRange) -> Result<(), Damage> {
        match self.0.iter().rev().find(|taken| taken.overlaps(&range)) {
            Some(taken) => Err(Damage::Overlap(range, *taken)),
            None => Ok(()),
        }
    }

    /// Takes `range`.
    pub(crate) fn take(&mut self, range: ByteRange) -> Result<(), Damage> {
        self.check(range)?;
        self.0.push(range);
        Ok(())
    }

    /// Behind the last range.
    pub(crate) fn end(&self) -> u64 {
        self.0.iter().map(ByteRange::end).max().unwrap_or(0)
    }
}

/// The two regions that every file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Regions {
    pub bat: ByteRange,
    pub metadata: ByteRange,
}

impl Regions {
    /// Reads the table and takes all its regions.
    pub(crate) fn read(storage: &dyn BlockDevice, taken: &mut Taken) -> Result<Self, Damage> {
        for offset in TABLE_OFFSETS {
            let mut bytes = vec![0; TABLE_LEN];
            read_zero_padded(storage, offset, &mut bytes)?;
            if is_whole(&bytes) {
                return Self::parse(&bytes, taken);
            }
        }
        Err(Damage::Invalid("both region tables are damaged"))
    }

    fn parse(bytes: &[u8], taken: &mut Taken) -> Result<Self, Damage> {
        let mut fields = Fields::new(bytes.get(8..).unwrap_or_default());
        let cut = || Damage::Invalid("the region table is cut short");
        let count = fields.u32_le().ok_or_else(cut)?;
        fields.u32_le().ok_or_else(cut)?;
        if count > MAX_ENTRIES {
            return Err(Damage::Invalid("the region table has too many entries"));
        }
        let (mut bat, mut metadata) = (None, None);
        for _ in 0..count {
            let guid = fields.array().map(Uuid::from_bytes_le).ok_or_else(cut)?;
            let start = fields.u64_le().ok_or_else(cut)?;
            let len = fields.u32_le().ok_or_else(cut)?;
            let flags = fields.u32_le().ok_or_else(cut)?;
            let range = ByteRange::new(start, len.into());
            taken.take(range)?;
            let slot = match guid {
                BAT => &mut bat,
                METADATA => &mut metadata,
                _ if flags & REQUIRED != 0 => return Err(Damage::Unknown("a required region is unknown")),
                _ => continue,
            };
            if slot.replace(range).is_some() {
                return Err(Damage::Invalid("a region is there twice"));
            }
        }
        let (Some(bat), Some(metadata)) = (bat, metadata) else {
            return Err(Damage::Invalid("a region is missing"));
        };
        if !bat.start.is_multiple_of(LOG_SECTOR) || !bat.len.is_multiple_of(LOG_SECTOR) {
            return Err(Damage::Invalid("the block allocation table is not aligned"));
        }
        Ok(Self { bat, metadata })
    }

    /// The bytes of a table that names these two.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = HEAD.to_vec();
        for field in [0, 2, 0] {
            bytes.extend(u32::to_le_bytes(field));
        }
        for (guid, range) in [(BAT, self.bat), (METADATA, self.metadata)] {
            bytes.extend(guid.to_bytes_le());
            bytes.extend(range.start.to_le_bytes());
            bytes.extend(u32::try_from(range.len).unwrap_or(u32::MAX).to_le_bytes());
            bytes.extend(0_u32.to_le_bytes());
        }
        bytes.resize(TABLE_LEN, 0);
        let crc = checksum(&bytes, 4);
        put(&mut bytes, 4, &crc.to_le_bytes());
        bytes
    }
}

fn is_whole(bytes: &[u8]) -> bool {
    let mut fields = Fields::new(bytes);
    fields.array() == Some(*HEAD) && fields.u32_le() == Some(checksum(bytes, 4))
}

#[cfg(test)]
mod tests {
    use diskimg_core::MemDevice;

    use super::*;

    fn regions() -> Regions {
        Regions { bat: ByteRange::new(2 << 20, 1 << 20), metadata: ByteRange::new(3 << 20, 1 << 20) }
    }

    #[test]
    fn either_copy_will_do() {
        let device = MemDevice::new(320 << 10);
        let read = || Regions::read(&device, &mut Taken::default());
        assert!(matches!(read(), Err(Damage::Invalid(_))));
        device.write_at(TABLE_OFFSETS[1], &regions().encode()).unwrap();
        assert_eq!(read().unwrap(), regions());
        device.write_at(TABLE_OFFSETS[0], &regions().encode()).unwrap();
        assert_eq!(read().unwrap(), regions());
    }

    #[test]
    fn regions_do_not_overlap() {
        let mut taken = Taken::default();
        taken.take(ByteRange::new(1 << 20, (1 << 20) + 1)).unwrap();
        let error = Regions::parse(&regions().encode(), &mut taken).unwrap_err();
        assert_eq!(error.to_string(), "VHDX region 2097152-3145728 overlaps with region 1048576-2097153");
    }
}
