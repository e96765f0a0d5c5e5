//! The block allocation table (MS-VHDX 2.5): where each block of the disk is. After the entries of each chunk of blocks
//! stands the entry of the chunk's sector bitmap, which is in use in differencing disks alone.

use diskimg_core::mapped::TableEntry;
use diskimg_core::{BlockDevice, ByteRange, Error, errno, read_zero_padded, to_usize};

use crate::damage::Damage;
use crate::limits::{CHUNK_SECTORS, MIB};
use crate::metadata::Metadata;
use crate::region::Taken;

/// How much of the table is read at a time, in bytes.
const STEP: u64 = 1 << 20;

/// A table entry as stored: a state in the low three bits, a file offset in MiB from bit 20 on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry(pub u64);

/// Never written: zeros, or the parent's.
pub(crate) const NOT_PRESENT: Entry = Entry(0);
/// Zeros.
pub(crate) const ZERO: Entry = Entry(2);
const FULLY_PRESENT: u64 = 6;
const PARTIALLY_PRESENT: u64 = 7;

/// Where a block's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    /// Not in this file: the parent's, or zeros.
    Absent,
    /// Zeros.
    Zero,
    /// All of it at this file offset.
    Stored(u64),
    /// Some of it at this file offset: the sector bitmap says which sectors.
    Partial(u64),
}

impl Entry {
    /// A block, or a sector bitmap, that is wholly at file offset `offset`, a multiple of a MiB.
    pub(crate) const fn present(offset: u64) -> Self {
        Self(offset | FULLY_PRESENT)
    }

    /// A block of which some sectors are at file offset `offset`.
    pub(crate) const fn partial(offset: u64) -> Self {
        Self(offset | PARTIALLY_PRESENT)
    }

    const fn state(self) -> u64 {
        self.0 & 7
    }

    /// The file offset that it names.
    pub(crate) const fn offset(self) -> u64 {
        self.0 & !(MIB - 1)
    }

    /// What it says of a block.
    ///
    /// # Errors
    /// `Corrupt` with `EIO` for states that a disk of the kind does not have.
    pub(crate) fn block(self, has_parent: bool) -> Result<Block, Error> {
        match self.state() {
            0 if has_parent => Ok(Block::Absent),
            0..=3 | 5 => Ok(Block::Zero),
            FULLY_PRESENT => Ok(Block::Stored(self.offset())),
            PARTIALLY_PRESENT if has_parent => Ok(Block::Partial(self.offset())),
            _ => Err(Error::corrupt("the state of a block is not valid").with_errno(errno::EIO)),
        }
    }

    /// Where it says that a sector bitmap is.
    pub(crate) fn bitmap(self) -> Option<u64> {
        (self.state() == FULLY_PRESENT).then_some(self.offset())
    }

    /// The host space that a block's entry refers to.
    pub(crate) fn place(self, has_parent: bool) -> Option<u64> {
        match self.block(has_parent) {
            Ok(Block::Stored(offset) | Block::Partial(offset)) => Some(offset),
            _ => None,
        }
    }
}

impl TableEntry for Entry {
    const LEN: usize = 8;

    fn put(self, bytes: &mut Vec<u8>) {
        bytes.extend(self.0.to_le_bytes());
    }
}

/// How a disk is cut into blocks and chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Bytes.
    pub disk_size: u64,
    /// Bytes.
    pub block_size: u64,
    /// Bytes.
    pub sector_size: u64,
    pub has_parent: bool,
}

impl From<&Metadata> for Geometry {
    fn from(metadata: &Metadata) -> Self {
        Self {
            disk_size: metadata.disk_size,
            block_size: metadata.block_size,
            sector_size: metadata.sector_size.into(),
            has_parent: metadata.locator.is_some(),
        }
    }
}

impl Geometry {
    /// Blocks in a chunk.
    pub(crate) fn ratio(&self) -> u64 {
        CHUNK_SECTORS * self.sector_size / self.block_size
    }

    /// Blocks of the disk.
    pub(crate) fn blocks(&self) -> u64 {
        self.disk_size.div_ceil(self.block_size)
    }

    /// Chunks of the disk.
    pub(crate) fn chunks(&self) -> u64 {
        self.blocks().div_ceil(self.ratio())
    }

    /// Entries of the table.
    pub(crate) fn entries(&self) -> u64 {
        let blocks = self.blocks();
        if self.has_parent {
            self.chunks() * (self.ratio() + 1)
        } else {
            blocks + blocks.saturating_sub(1) / self.ratio()
        }
    }

    /// Index of a block's entry.
    pub(crate) fn index(&self, block: u64) -> u64 {
        block + block / self.ratio()
    }

    /// Index of the entry of a chunk's sector bitmap.
    pub(crate) fn bitmap_index(&self, chunk: u64) -> u64 {
        chunk * (self.ratio() + 1) + self.ratio()
    }

    /// Host space that entry `index` refers to, with what stands there.
    pub(crate) fn space(&self, index: u64, entry: Entry) -> Option<ByteRange> {
        match self.block_of(index) {
            Some(_) => entry.place(self.has_parent).map(|at| ByteRange::new(at, self.block_size)),
            None if self.has_parent => entry.bitmap().map(|at| ByteRange::new(at, MIB)),
            None => None,
        }
    }

    /// The block that entry `index` stands for, unless it is a sector bitmap's.
    pub(crate) fn block_of(&self, index: u64) -> Option<u64> {
        let (chunk, within) = (index / (self.ratio() + 1), index % (self.ratio() + 1));
        (within < self.ratio()).then(|| chunk * self.ratio() + within)
    }
}

/// Reads the table, which has to be there as a whole: no memory is taken for what a header only claims.
pub(crate) fn read(
    storage: &dyn BlockDevice,
    region: ByteRange,
    geometry: &Geometry,
) -> Result<Vec<Entry>, Damage> {
    let len = geometry.entries() * 8;
    if len > region.len {
        return Err(Damage::Invalid("the block allocation table is too short"));
    }
    if region.start.saturating_add(len) > storage.len() {
        return Err(Damage::Invalid("the block allocation table is cut short"));
    }
    let mut entries = Vec::new();
    let no_memory = |_| Error::limit("no memory for the block allocation table");
    entries.try_reserve_exact(to_usize(geometry.entries())).map_err(no_memory)?;
    let mut at = 0;
    while at < len {
        let mut bytes = vec![0; to_usize(STEP.min(len - at))];
        read_zero_padded(storage, region.start + at, &mut bytes)?;
        entries.extend(bytes.as_chunks().0.iter().map(|entry| Entry(u64::from_le_bytes(*entry))));
        at += bytes.len() as u64;
    }
    Ok(entries)
}

/// The length of a file as its structures are held against it: an incomplete sector at its end counts.
pub(crate) fn file_len(storage: &dyn BlockDevice) -> u64 {
    storage.len().checked_next_multiple_of(512).unwrap_or(u64::MAX)
}

/// Looks at every entry that refers to space: each finding goes to `found`, which says whether to go on.
pub(crate) fn check(
    entries: &[Entry],
    geometry: &Geometry,
    taken: &Taken,
    file_len: u64,
    mut found: impl FnMut(Damage) -> Result<(), Damage>,
) -> Result<(), Damage> {
    for (entry, value) in (0..).zip(entries) {
        let behind = |which, offset| Damage::BehindEnd { entry, which, offset, file_len };
        let Some(space) = geometry.space(entry, *value) else { continue };
        let (offset, whole) = (space.start, space.len);
        let used = match geometry.block_of(entry) {
            Some(block) => {
                whole.min(geometry.disk_size.saturating_sub(block.saturating_mul(geometry.block_size)))
            }
            None => whole,
        };
        if offset > i64::MAX.cast_unsigned() - whole {
            found(Damage::Overflow(entry))?;
        }
        if offset >= file_len {
            found(behind("start", offset))?;
        } else if used > 0 && file_len - offset < used {
            found(behind("end", offset.saturating_add(used - 1)))?;
        }
        if let Err(overlap) = taken.check(space) {
            found(overlap)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(disk_size: u64, block_size: u64, has_parent: bool) -> Geometry {
        Geometry { disk_size, block_size, sector_size: 512, has_parent }
    }

    #[test]
    fn each_chunk_ends_with_its_bitmap() {
        let plain = geometry(9 << 30, 8 << 20, false);
        assert_eq!((plain.ratio(), plain.blocks(), plain.chunks(), plain.entries()), (512, 1152, 3, 1154));
        assert_eq!((plain.index(511), plain.index(512)), (511, 513));
        assert_eq!(
            (plain.block_of(511), plain.block_of(512), plain.block_of(513)),
            (Some(511), None, Some(512))
        );
        assert_eq!(geometry(9 << 30, 8 << 20, true).entries(), 3 * 513);
        assert_eq!(geometry(0, 8 << 20, false).entries(), 0);
        assert_eq!(geometry(4 << 30, 8 << 20, false).entries(), 512);
    }

    #[test]
    fn states_of_blocks() {
        let states: Vec<_> = (0..8).map(|state| Entry((5 << 20) | state).block(false).ok()).collect();
        let zero = Some(Block::Zero);
        assert_eq!(states, [zero, zero, zero, zero, None, zero, Some(Block::Stored(5 << 20)), None]);
        assert_eq!(NOT_PRESENT.block(true).unwrap(), Block::Absent);
        assert_eq!(Entry::partial(1 << 20).block(true).unwrap(), Block::Partial(1 << 20));
    }
}
