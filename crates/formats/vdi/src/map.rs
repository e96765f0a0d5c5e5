//! [`BlockMap`]: the table of blocks, and where the next one goes.
//!
//! Write order: blocks | header (the number of allocated blocks) | table. So the header's number never is one that the
//! table uses; a block that a crash leaves counted in the header alone is unused space.

use std::sync::Arc;

use diskimg_core::mapped::{ClusterMap, Cut, EntryTable, Place, Run, Space, TableEntry, TableWrite};
use diskimg_core::{
    BackingRef, BlockDevice, Check, Error, ExtentFlags, Result, errno, read_zero_padded, to_usize,
};
use parking_lot::RwLock;

use crate::header::{Header, STATIC};
use crate::limits::{BLOCK, MAX_BLOCKS, MAX_HOST, SECTOR};

/// A table entry: the number of a block on the host, or one of the two below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry(pub u32);

/// Never allocated: zeros, or the parent's.
pub(crate) const FREE: Entry = Entry(u32::MAX);
/// Discarded: zeros.
pub(crate) const DISCARDED: Entry = Entry(u32::MAX - 1);

impl Entry {
    /// It has a block on the host.
    pub(crate) const fn is_allocated(self) -> bool {
        self.0 < DISCARDED.0
    }
}

impl TableEntry for Entry {
    const LEN: usize = 4;

    fn put(self, bytes: &mut Vec<u8>) {
        bytes.extend(self.0.to_le_bytes());
    }
}

/// What changes while an image is open.
#[derive(Debug)]
struct State {
    table: EntryTable<Entry>,
    /// Number of the next block.
    next: u32,
    /// One more than the last number in the table: what the header says is allocated.
    top: u32,
    /// Numbers below `next` that were given back; they are taken again first.
    free: Vec<u32>,
    header_dirty: bool,
}

/// Number of the first block that nothing takes. The header's number may be too small in an image that was not closed: a
/// block that the table has, and the file, is never given away.
fn behind_all(header: &Header, entries: &[Entry], file_len: u64) -> u32 {
    let room = file_len.saturating_sub(header.data_offset) / (BLOCK + header.block_extra);
    let stored = |entry: &&Entry| entry.is_allocated() && u64::from(entry.0) <= room;
    let last = entries.iter().filter(stored).map(|entry| entry.0).max();
    last.map_or(0, |last| last + 1).max(header.allocated)
}

/// The map of an open image.
#[derive(Debug)]
pub(crate) struct BlockMap {
    pub(crate) storage: Arc<dyn BlockDevice>,
    pub(crate) header: Header,
    filename: String,
    parent: Option<BackingRef>,
    state: RwLock<State>,
}

impl BlockMap {
    /// The map of the image with `header`, whose table is `entries`.
    pub(crate) fn new(
        storage: Arc<dyn BlockDevice>,
        header: Header,
        entries: Vec<Entry>,
        filename: &str,
        parent: Option<BackingRef>,
    ) -> Self {
        let len = (entries.len() as u64 * 4).next_multiple_of(SECTOR);
        let next = behind_all(&header, &entries, storage.len());
        let table = EntryTable::new(header.table_offset, entries, len, 0);
        let state =
            RwLock::new(State { table, next, top: header.allocated, free: Vec::new(), header_dirty: false });
        Self { storage, header, filename: filename.to_owned(), parent, state }
    }

    /// Calls `each` with the table.
    pub(crate) fn with_entries<T>(&self, each: impl FnOnce(&[Entry]) -> T) -> T {
        each(self.state.read().table.entries())
    }

    /// Host offset of block number `number`.
    fn host(&self, number: u32) -> u64 {
        let step = BLOCK + self.header.block_extra;
        let start = self.header.data_offset + self.header.block_extra;
        u64::from(number).saturating_mul(step).saturating_add(start).min(MAX_HOST)
    }

    /// Number of the block at host offset `offset`.
    fn number(&self, offset: u64) -> u64 {
        let step = BLOCK + self.header.block_extra;
        offset.saturating_sub(self.header.data_offset + self.header.block_extra) / step
    }

    /// Numbers that were given back and not taken again must not stay: blocks are counted up to the last. The last
    /// block moves into the hole: its bytes | the table.
    fn fill_holes(&self) -> Result<()> {
        loop {
            let moves = {
                let state = &mut *self.state.write();
                // What was never published is no hole.
                state.next = state.next.min(state.top);
                let top = state.top;
                state.free.retain(|free| *free < top);
                let Some(last) = state.next.checked_sub(1).filter(|_| !state.free.is_empty()) else {
                    return Ok(());
                };
                (state.next, state.top) = (last, state.top.min(last));
                state.header_dirty = true;
                match state.free.iter().position(|free| *free == last) {
                    Some(at) => {
                        state.free.swap_remove(at);
                        None
                    }
                    None => state.free.pop().map(|hole| (hole, last)),
                }
            };
            if let Some((hole, last)) = moves {
                let mut block = vec![0; to_usize(BLOCK)];
                read_zero_padded(&*self.storage, self.host(last), &mut block)?;
                self.storage.write_at(self.host(hole), &block)?;
                let state = &mut *self.state.write();
                if let Some(at) = state.table.entries().iter().position(|entry| *entry == Entry(last)) {
                    state.table.set(at as u64, Entry(hole));
                }
            }
            self.storage.flush()?;
            for write in self.take_dirty().into_iter().flatten() {
                self.storage.write_at(write.offset, &write.bytes)?;
            }
            self.storage.flush()?;
        }
    }

    /// Allocated blocks as the header counts them, without those that were given back.
    pub(crate) fn counted(&self) -> u32 {
        let state = self.state.read();
        let holes = state.free.iter().filter(|free| **free < state.top).count();
        state.top.saturating_sub(u32::try_from(holes).unwrap_or(u32::MAX))
    }
}

impl ClusterMap for BlockMap {
    diskimg_core::mapped_file!(crate::DRIVER);

    fn cluster_size(&self) -> u64 {
        BLOCK
    }

    fn run_at(&self, cluster: u64, most: u64) -> Result<Run> {
        let table = &self.state.read().table;
        let first = table.get(cluster).unwrap_or(FREE);
        let absent = first == FREE && self.parent.is_some();
        let count = if first.is_allocated() {
            let follows = |step: u64, entry: Entry| {
                entry.is_allocated() && u64::from(entry.0) == u64::from(first.0) + step
            };
            if self.header.block_extra == 0 { table.run(cluster, most, follows) } else { 1 }
        } else if self.parent.is_some() {
            table.run(cluster, most, |_, entry| entry == first)
        } else {
            table.run(cluster, most, |_, entry| !entry.is_allocated())
        };
        let place = match first {
            _ if absent => Place::Absent,
            Entry(number) if first.is_allocated() => Place::Stored(self.host(number)),
            _ => Place::Zero,
        };
        Ok(Run { place, count: count.max(1) })
    }

    fn allocate(&self, _: u64, most: u64) -> Result<Space> {
        let mut state = self.state.write();
        if let Some(number) = state.free.pop() {
            return Ok(Space { offset: self.host(number), count: 1, fresh: false });
        }
        let most = if self.header.block_extra == 0 { most } else { 1 };
        let room = MAX_BLOCKS.saturating_sub(state.next);
        let count = room.min(u32::try_from(most).unwrap_or(room));
        if count == 0 {
            return Err(Error::limit("the image has no more blocks").with_errno(errno::EFBIG));
        }
        let offset = self.host(state.next);
        state.next += count;
        // A file that others have made longer may hold anything there.
        Ok(Space { offset, count: count.into(), fresh: offset >= self.storage.len() })
    }

    fn give_back(&self, space: Space) {
        let mut state = self.state.write();
        let first = self.number(space.offset);
        state.free.extend((0..space.count).filter_map(|step| u32::try_from(first + step).ok()));
    }

    fn publish(&self, cluster: u64, count: u64, place: Place) -> Result<()> {
        let mut state = self.state.write();
        for index in 0..count {
            let entry = match place {
                Place::Stored(offset) => u32::try_from(self.number(offset) + index).map_or(DISCARDED, Entry),
                Place::Absent => FREE,
                Place::Zero | Place::Packed { .. } => DISCARDED,
            };
            if entry.is_allocated() && entry.0 >= state.top {
                (state.top, state.header_dirty) = (entry.0 + 1, true);
            }
            state.table.set(cluster + index, entry);
        }
        Ok(())
    }

    fn stored_flags(&self) -> ExtentFlags {
        if self.header.kind == STATIC { ExtentFlags::ASK_HOST } else { ExtentFlags::empty() }
    }

    fn take_dirty(&self) -> Cut {
        let mut state = self.state.write();
        let mut cut = Cut::new();
        if std::mem::take(&mut state.header_dirty) {
            cut.push(vec![TableWrite { offset: 0, bytes: self.header.with_allocated(state.top) }]);
        }
        cut.extend(Some(state.table.take_dirty()).filter(|writes| !writes.is_empty()));
        cut
    }

    fn not_written(&self, cut: Cut) {
        let mut state = self.state.write();
        for writes in &cut {
            state.header_dirty |= writes.iter().any(|write| write.offset == 0);
            state.table.not_written(writes);
        }
    }

    fn close(&self) {
        // Without it a check finds a wrong number of blocks, and no harm.
        let _ = self.fill_holes();
    }

    fn backing(&self) -> Option<BackingRef> {
        self.parent.clone()
    }

    fn as_check(&self) -> Option<&dyn Check> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_block_stands_beyond_what_offsets_reach() {
        let mut header = Header::new(1 << 20, false, [[1; 16], [2; 16]]);
        header.block_extra = 0xffff_fff8;
        let storage = Arc::new(diskimg_core::MemDevice::new(0));
        let map = BlockMap::new(storage, header, vec![FREE], "image", None);
        assert_eq!(map.host(u32::MAX - 2), MAX_HOST);
        assert!(map.number(map.host(1)) == 1);
    }

    #[test]
    fn a_block_in_use_is_not_given_away_whatever_the_header_counts() {
        let disk = 6 * BLOCK;
        let table = [2, 0, 1].map(Entry).into_iter().chain([FREE; 3]).collect::<Vec<_>>();
        for (counted, blocks_there, next) in [(1, 3, 3), (3, 3, 3), (5, 3, 5), (0, 2, 3)] {
            let mut header = Header::new(disk, false, Default::default());
            header.allocated = counted;
            let len = header.data_offset + blocks_there * BLOCK;
            let storage = Arc::new(diskimg_core::MemDevice::new(to_usize(len)));
            let map = BlockMap::new(storage, header, table.clone(), "image", None);
            let space = map.allocate(3, 1).unwrap();
            assert_eq!(map.number(space.offset), next, "{counted} of {blocks_there}");
        }
        // One that lies far behind the file takes nothing.
        let header = Header::new(disk, false, Default::default());
        let storage = Arc::new(diskimg_core::MemDevice::new(to_usize(header.data_offset)));
        let map = BlockMap::new(storage, header, vec![Entry(7 << 20), FREE], "image", None);
        assert_eq!(map.allocate(1, 1).map(|space| map.number(space.offset)).unwrap(), 0);
    }
}
