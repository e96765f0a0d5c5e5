//! [`EntryTree`]: a table of tables, as formats have it whose tables are too long to be kept whole: each entry of the
//! root table is the host offset of a leaf table, or 0. Both are read in slices; memory is bounded.
//!
//! What changes is written as a cut with a barrier in between, `leaf tables │ root table`, so that the root never refers
//! to a table whose entries are not there.

use std::sync::Arc;

use super::Cut;
use super::slices::{TableSlices, bad_place};
use crate::device::BlockDevice;
use crate::error::Result;
use crate::range::{ByteRange, to_usize};
use crate::read::read_zero_padded;

/// Bytes of an entry.
const ENTRY: u64 = 8;
/// Bytes of a slice. A whole number of them, or one that is shorter, makes a leaf table.
const SLICE: u64 = 64 << 10;
/// Bytes of slices that are kept; more only while they are dirty.
const KEPT: u64 = 8 << 20;

/// Byte order of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteOrder {
    /// The lowest byte first.
    Little,
    /// The highest byte first.
    Big,
}

impl ByteOrder {
    const fn get(self, bytes: [u8; 8]) -> u64 {
        match self {
            Self::Little => u64::from_le_bytes(bytes),
            Self::Big => u64::from_be_bytes(bytes),
        }
    }

    const fn put(self, value: u64) -> [u8; 8] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }
}

/// Where the tables are and how long.
#[derive(Clone, Copy, Debug)]
pub struct TreeShape {
    /// Host offset of the root table.
    pub root: u64,
    /// Entries of the root table.
    pub root_entries: u64,
    /// Entries of a leaf table, a power of two.
    pub leaf_entries: u64,
    /// How entries are stored.
    pub order: ByteOrder,
}

/// A part of a table: the table's host offset and length in bytes, and the byte that is wanted.
#[derive(Clone, Copy)]
struct Spot {
    table: u64,
    len: u64,
    at: u64,
}

impl Spot {
    /// Host offset and length of the slice that has the byte, and the place of the byte in it.
    fn slice(self) -> Result<(u64, u64, u64)> {
        let within = self.at - self.at % SLICE;
        let offset = self.table.checked_add(within).ok_or_else(bad_place)?;
        Ok((offset, SLICE.min(self.len.saturating_sub(within)), self.at - within))
    }
}

/// Slices of `slice` bytes, as many as are kept.
fn level(io: &Arc<dyn BlockDevice>, slice: u64) -> TableSlices {
    TableSlices::new(Arc::clone(io), to_usize(KEPT / slice.max(1)).max(8))
}

/// Calls `look` with the bytes from `spot` on to the end of its slice.
fn look<T>(level: &TableSlices, spot: Spot, mut look: impl FnMut(&[u8]) -> T) -> Result<T> {
    let (offset, len, at) = spot.slice()?;
    level.look(offset, len, |slice| look(slice.get(to_usize(at)..).unwrap_or_default()))
}

/// Changes the bytes from `spot` on, all in one slice.
fn change(level: &TableSlices, spot: Spot, bytes: &[u8]) -> Result<()> {
    let (offset, len, at) = spot.slice()?;
    let part = to_usize(at)..to_usize(at).saturating_add(bytes.len());
    if part.end > to_usize(len) {
        return Err(bad_place());
    }
    level.change(offset, len, part, |target| target.copy_from_slice(bytes))
}

/// The tables of an open image.
#[derive(Debug)]
pub struct EntryTree {
    io: Arc<dyn BlockDevice>,
    shape: TreeShape,
    root: TableSlices,
    leaves: TableSlices,
}

impl EntryTree {
    /// The tables in `io`. Nothing is read.
    #[must_use]
    pub fn new(io: Arc<dyn BlockDevice>, shape: TreeShape) -> Self {
        let leaf_len = shape.leaf_entries.saturating_mul(ENTRY);
        let (root, leaves) = (level(&io, SLICE), level(&io, SLICE.min(leaf_len)));
        Self { io, shape, root, leaves }
    }

    /// Where the tables are and how long.
    #[must_use]
    pub const fn shape(&self) -> &TreeShape {
        &self.shape
    }

    /// The entry of the root table and the index in its leaf table that are `cluster`'s.
    #[must_use]
    pub fn place_of(&self, cluster: u64) -> (u64, u64) {
        (
            cluster.checked_div(self.shape.leaf_entries).unwrap_or(0),
            cluster.checked_rem(self.shape.leaf_entries).unwrap_or(0),
        )
    }

    fn root_spot(&self, index: u64) -> Option<Spot> {
        let len = self.shape.root_entries.saturating_mul(ENTRY);
        (index < self.shape.root_entries).then(|| Spot { table: self.shape.root, len, at: index * ENTRY })
    }

    fn leaf_spot(&self, table: u64, index: u64) -> Spot {
        let len = self.shape.leaf_entries.saturating_mul(ENTRY);
        Spot { table, len, at: index.min(self.shape.leaf_entries).saturating_mul(ENTRY) }
    }

    /// Entry `index` of the root table; 0 behind its end.
    ///
    /// # Errors
    /// The storage's.
    pub fn root_entry(&self, index: u64) -> Result<u64> {
        let Some(spot) = self.root_spot(index) else { return Ok(0) };
        let entry = look(&self.root, spot, |bytes| bytes.first_chunk().copied())?;
        Ok(self.shape.order.get(entry.unwrap_or_default()))
    }

    /// How many clusters from `cluster` on have no leaf table, at most `most`. The first of them is known to have none.
    ///
    /// # Errors
    /// The storage's.
    pub fn without_leaf(&self, cluster: u64, most: u64) -> Result<u64> {
        let (index, within) = self.place_of(cluster);
        let leaf = self.shape.leaf_entries;
        let mut count = leaf.saturating_sub(within);
        let mut index = index + 1;
        while count < most {
            let Some(spot) = self.root_spot(index) else { return Ok(most) };
            let (offset, len, at) = spot.slice()?;
            let whole = len.saturating_sub(at) / ENTRY;
            // What lies behind the end of the file is zeros, unless it was changed.
            let nothing = offset >= self.io.len() && !self.root.contains(offset);
            let empty = if nothing { whole } else { look(&self.root, spot, leading_zeros)? };
            count = count.saturating_add(empty.saturating_mul(leaf));
            if empty < whole {
                break;
            }
            index += whole.max(1);
        }
        Ok(count.min(most))
    }

    /// Gives `next` entries of the leaf table at host offset `table`, from `index` on, until it says false or a slice ends:
    /// for the first one it is always called.
    ///
    /// # Errors
    /// The storage's.
    pub fn leaf_entries(&self, table: u64, index: u64, mut next: impl FnMut(u64) -> bool) -> Result<()> {
        let order = self.shape.order;
        look(&self.leaves, self.leaf_spot(table, index), |bytes| {
            for entry in bytes.as_chunks().0 {
                if !next(order.get(*entry)) {
                    return;
                }
            }
        })
    }

    /// Changes entry `index` of the root table, in memory.
    ///
    /// # Errors
    /// The storage's; no such entry.
    pub fn set_root(&self, index: u64, value: u64) -> Result<()> {
        let spot = self.root_spot(index).ok_or_else(bad_place)?;
        change(&self.root, spot, &self.shape.order.put(value))
    }

    /// Changes `count` entries of the leaf table at host offset `table`, from `index` on, in memory; `value` gives each by
    /// its number from 0 on.
    ///
    /// # Errors
    /// The storage's; entries that the table does not have.
    pub fn set_leaves(&self, table: u64, index: u64, count: u64, value: impl Fn(u64) -> u64) -> Result<()> {
        let mut done = 0;
        while done < count {
            let spot = self.leaf_spot(table, index.saturating_add(done));
            let some = ((SLICE - spot.at % SLICE) / ENTRY).min(count - done);
            let bytes: Vec<u8> =
                (done..done + some).flat_map(|step| self.shape.order.put(value(step))).collect();
            change(&self.leaves, spot, &bytes)?;
            done += some;
        }
        Ok(())
    }

    /// Makes a leaf table for root entry `index` in host bytes `place`: `fresh` ones lie behind all that the file had when
    /// it was opened, others are made zeros.
    ///
    /// # Errors
    /// The storage's.
    pub fn add_leaf(&self, index: u64, place: ByteRange, fresh: bool) -> Result<()> {
        if !fresh {
            let device = crate::front::Device::new(Arc::clone(&self.io));
            device.write_zeroes(place, crate::device::ZeroMode::MayUnmap)?;
        }
        crate::extend::extend_to(&self.io, place.end())?;
        self.set_root(index, place.start)
    }

    /// True if so much is dirty that a write-back is due.
    #[must_use]
    pub fn wants_write_back(&self) -> bool {
        self.leaves.wants_write_back() || self.root.wants_write_back()
    }

    /// What is dirty. It stays in memory until [`Self::written`] is called.
    #[must_use]
    pub fn take_dirty(&self) -> Cut {
        // The leaves last: no entry of the root table is taken whose leaf table was changed before it and is not.
        let root = self.root.take_dirty_parts();
        let leaves = self.leaves.take_dirty_parts();
        [leaves, root].into_iter().filter(|writes| !writes.is_empty()).collect()
    }

    /// The writing of what was taken has ended; if badly, it is dirty again.
    pub fn written(&self, ok: bool) {
        self.leaves.written(ok);
        self.root.written(ok);
    }

    /// Forgets everything: the host was changed. Nothing may be dirty.
    pub fn clear(&self) {
        self.leaves.clear();
        self.root.clear();
    }

    /// Calls `each` with the entries of the table of `count` entries at host offset `table` that are not 0, by index.
    /// Reads without keeping, and leaves out what the storage knows to be zeros.
    ///
    /// # Errors
    /// The storage's.
    pub fn scan(&self, table: u64, count: u64, mut each: impl FnMut(u64, u64) -> Result<()>) -> Result<()> {
        let end = table.checked_add(count.saturating_mul(ENTRY)).ok_or_else(bad_place)?;
        let mut at = table;
        loop {
            // What lies behind the end of the file is zeros.
            let rest = ByteRange::from_bounds(at, end.min(self.io.len()));
            if rest.is_empty() {
                return Ok(());
            }
            let extent = self.io.extent_at(rest)?;
            // Holes of the host end at blocks; entries need not.
            let hole = if extent.is_zero() { extent.len / ENTRY * ENTRY } else { 0 };
            if hole > 0 {
                at += hole;
                continue;
            }
            let mut bytes = vec![0; to_usize((end - at).min(SLICE))];
            read_zero_padded(&*self.io, at, &mut bytes)?;
            for (step, entry) in (0..).zip(bytes.as_chunks().0) {
                let value = self.shape.order.get(*entry);
                if value != 0 {
                    each((at - table) / ENTRY + step, value)?;
                }
            }
            at += (bytes.len() as u64).max(ENTRY);
        }
    }
}

/// How many entries at the start of a part of a table are 0.
fn leading_zeros(bytes: &[u8]) -> u64 {
    let entries = bytes.as_chunks::<8>().0;
    entries.iter().position(|entry| *entry != [0; 8]).unwrap_or(entries.len()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapped::TableWrite;
    use crate::mem::MemDevice;

    fn tree(memory: &Arc<MemDevice>) -> EntryTree {
        let shape = TreeShape { root: 48, root_entries: 5, leaf_entries: 16_384, order: ByteOrder::Big };
        EntryTree::new(Arc::clone(memory) as _, shape)
    }

    fn write(memory: &MemDevice, cut: Cut) -> usize {
        let writes: Vec<TableWrite> = cut.into_iter().flatten().collect();
        writes.iter().for_each(|write| memory.write_at(write.offset, &write.bytes).unwrap());
        writes.len()
    }

    #[test]
    fn entries_are_kept_and_written() {
        let memory = Arc::new(MemDevice::new(0));
        let tree = tree(&memory);
        assert_eq!((tree.place_of(16_385), tree.root_entry(1).unwrap()), ((1, 1), 0));
        tree.add_leaf(1, ByteRange::new(4096, 131_072), true).unwrap();
        tree.set_leaves(4096, 8190, 5, |step| 100 + step).unwrap();
        let mut found = Vec::new();
        for start in [8190, 8192] {
            tree.leaf_entries(4096, start, |entry| {
                found.push(entry);
                entry != 0
            })
            .unwrap();
        }
        assert_eq!(found, [100, 101, 102, 103, 104, 0]);
        assert_eq!((tree.without_leaf(0, 9).unwrap(), tree.without_leaf(5, 99_999).unwrap()), (9, 16_379));
        assert_eq!((tree.without_leaf(16_384 * 2, 50_000).unwrap()), 50_000);
        let cut = tree.take_dirty();
        assert_eq!(cut.len(), 2);
        tree.written(false);
        let cut = tree.take_dirty();
        assert_eq!(write(&memory, cut), 2);
        tree.written(true);
        assert!(tree.take_dirty().is_empty());
        tree.clear();
        assert_eq!(tree.root_entry(1).unwrap(), 4096);
        let mut seen = Vec::new();
        let each = |index, value| {
            seen.push((index, value));
            Ok(())
        };
        tree.scan(4096, 16_384, each).unwrap();
        assert_eq!(seen, [(8190, 100), (8191, 101), (8192, 102), (8193, 103), (8194, 104)]);
    }

    #[test]
    fn what_does_not_exist_is_refused() {
        let memory = Arc::new(MemDevice::new(100));
        let tree = tree(&memory);
        assert!(tree.set_root(5, 1).is_err() && tree.set_leaves(4096, 16_384, 1, |_| 1).is_err());
        assert!(tree.leaf_entries(u64::MAX - 8, 16_000, |_| true).is_err());
        assert_eq!(tree.root_entry(77).unwrap(), 0);
    }
}
