//! [`BlockMap`]: the table of blocks, their sector bitmaps, and where the next one goes.
//!
//! Write order: block and bitmap, footer behind the last block | table. The copy of the footer at the start never
//! changes, so that an image opens in which a new block has overwritten the old footer. A block that a crash leaves
//! without an entry is unused space.
//!
//! A cut writes the footer to where the next block will begin, perhaps while somebody fills that block. Its bitmap then
//! waits for the next cut (`late`); cuts follow each other.
//!
//! A differencing image is mapped by sectors, as its bitmaps say: what is not written of a new block stays the parent's.
//! Write order: sectors | bitmaps, footer behind the last block | table.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use diskimg_core::mapped::{ClusterMap, Cut, EntryTable, Place, Run, Space, TableEntry, TableWrite};
use diskimg_core::{
    BackingRef, BlockDevice, Error, Image, ImageInfo, Result, errno, read_zero_padded, to_usize,
};
use parking_lot::RwLock;

use crate::bitmaps::Bitmaps;
use crate::footer::{COOKIE, Footer};
use crate::header::{HEADER_LEN, Header};
use crate::limits::SECTOR;
use crate::open::truncated;
use crate::parent;

/// Zeros that are written at a time, in bytes.
const ZEROS: u64 = 1 << 20;

/// A table entry: the host sector where a block's bitmap begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry(pub u32);

/// Not allocated.
pub(crate) const FREE: Entry = Entry(u32::MAX);

impl Entry {
    fn is_allocated(self) -> bool {
        self != FREE
    }

    /// Host offset of the bitmap.
    fn host(self) -> u64 {
        u64::from(self.0) * SECTOR
    }
}

impl TableEntry for Entry {
    const LEN: usize = 4;

    fn put(self, bytes: &mut Vec<u8>) {
        bytes.extend(self.0.to_be_bytes());
    }
}

/// What the structures of an image say.
#[derive(Debug)]
pub(crate) struct Layout {
    pub footer: Footer,
    pub header: Header,
    /// The footer was found at the end only.
    pub at_end: bool,
    /// The parent of a differencing image.
    pub parent: Option<BackingRef>,
}

/// What changes while an image is open.
#[derive(Debug)]
struct State {
    table: EntryTable<Entry>,
    /// Host offset of the next block; the footer's too.
    next: u64,
    footer_dirty: bool,
    /// Where the last cut put the footer.
    footer_at: Option<u64>,
    /// Host offsets of bitmaps that the next cut writes.
    late: Vec<u64>,
    /// Host offsets of blocks that were given back; they are taken again first.
    free: Vec<u64>,
    /// A bit for each block whose bitmap is known to be all ones.
    full: Vec<u64>,
    /// Blocks of a differencing image whose first sectors are on their way, and where their bitmaps will be.
    filling: HashMap<u64, u64>,
}

/// The map of an open image.
#[derive(Debug)]
pub(crate) struct BlockMap {
    storage: Arc<dyn BlockDevice>,
    filename: String,
    layout: Layout,
    bitmap_len: u64,
    /// Bytes from the start that hold no block.
    front: u64,
    /// Length of the file when it was opened: what is behind it reads as zeros.
    old_len: u64,
    /// The copy of the footer at the start has to be written.
    heal: AtomicBool,
    state: RwLock<State>,
    /// Those of a differencing image.
    bitmaps: Bitmaps,
}

impl BlockMap {
    /// The map of an image whose table is `entries`.
    pub(crate) fn new(
        storage: Arc<dyn BlockDevice>,
        filename: &str,
        layout: Layout,
        entries: Vec<Entry>,
    ) -> Result<Self> {
        let header = &layout.header;
        let (bitmap_len, block_size) = (header.bitmap_len(), header.block_size);
        let table_len = (entries.len() as u64 * 4).next_multiple_of(SECTOR);
        let old_len = storage.len().next_multiple_of(SECTOR);
        let table_end = header.table_offset.saturating_add(table_len);
        let last = entries.iter().filter(|entry| entry.is_allocated()).map(|entry| entry.host()).max();
        let end = last.map_or(0, |last| last + bitmap_len + block_size).max(table_end);
        if end > old_len {
            return Err(truncated());
        }
        // The footer stays at the end of the file, whatever is between the last block and it.
        let mut cookie = [0; COOKIE.len()];
        read_zero_padded(&*storage, old_len.saturating_sub(SECTOR), &mut cookie)?;
        let tail = if cookie == COOKIE { old_len.saturating_sub(SECTOR) } else { old_len };
        let front = table_end.max(layout.footer.header_offset.saturating_add(HEADER_LEN as u64));
        let state = RwLock::new(State {
            full: vec![0; entries.len().div_ceil(64)],
            table: EntryTable::new(header.table_offset, entries, table_len, 0xff),
            next: end.max(tail).max(front).next_multiple_of(SECTOR),
            footer_dirty: false,
            footer_at: None,
            late: Vec::new(),
            free: Vec::new(),
            filling: HashMap::new(),
        });
        let heal = AtomicBool::new(layout.at_end);
        let bitmaps = Bitmaps::new(Arc::clone(&storage), bitmap_len);
        let filename = filename.to_owned();
        Ok(Self { storage, filename, layout, bitmap_len, front, old_len, heal, state, bitmaps })
    }

    /// Bytes that a block and its bitmap take.
    fn step(&self) -> u64 {
        self.bitmap_len + self.layout.header.block_size
    }

    /// A bitmap that says that all sectors are there.
    fn ones(&self) -> Vec<u8> {
        vec![0xff; to_usize(self.bitmap_len)]
    }

    /// Sectors of one kind in a differencing image.
    fn sectors_at(&self, sector: u64, most: u64) -> Result<Run> {
        let each = self.layout.header.block_size / SECTOR;
        let (block, within) = (sector / each, sector % each);
        let entry = {
            let table = &self.state.read().table;
            let entry = table.get(block).unwrap_or(FREE);
            if !entry.is_allocated() {
                let blocks = table.run(block, most.div_ceil(each) + 1, |_, entry| !entry.is_allocated());
                let count = (blocks.max(1) * each - within).min(most).max(1);
                return Ok(Run { place: Place::Absent, count });
            }
            entry
        };
        let (here, count) = self.bitmaps.run(entry.host(), within, most.min(each - within))?;
        let stored = entry.host() + self.bitmap_len + within * SECTOR;
        Ok(Run { place: if here { Place::Stored(stored) } else { Place::Absent }, count: count.max(1) })
    }

    /// The block of a sector, and which of its sectors it is.
    fn split(&self, sector: u64) -> (u64, u64) {
        let each = self.layout.header.block_size / SECTOR;
        (sector / each, sector % each)
    }

    /// Space for sectors of a differencing image, in their block.
    fn allocate_sectors(&self, sector: u64, most: u64) -> Result<Space> {
        let (block, within) = self.split(sector);
        let state = &mut *self.state.write();
        let entry = state.table.get(block).filter(|entry| entry.is_allocated());
        let host = match entry.map(Entry::host).or_else(|| state.filling.get(&block).copied()) {
            Some(host) if host < self.front => return Err(in_front()),
            Some(host) => host,
            None => {
                let host = state.next;
                if host / SECTOR >= u64::from(FREE.0) {
                    return Err(no_blocks());
                }
                state.next = host + self.step();
                state.filling.insert(block, host);
                host
            }
        };
        let count = most.min(self.layout.header.block_size / SECTOR - within);
        Ok(Space { offset: host + self.bitmap_len + within * SECTOR, count, fresh: false })
    }

    /// Makes sectors of a differencing image visible: the first one's bytes are at host offset `offset`.
    fn publish_sectors(&self, sector: u64, count: u64, offset: u64) -> Result<()> {
        let (block, within) = self.split(sector);
        let host = offset.saturating_sub(self.bitmap_len + within * SECTOR);
        loop {
            {
                // The lock is held for both, so that a cut has both or none.
                let state = &mut *self.state.write();
                if !state.table.get(block).is_some_and(Entry::is_allocated) {
                    self.bitmaps.add(host);
                    let entry = u32::try_from(host / SECTOR).map_err(|_| no_blocks())?;
                    state.table.set(block, Entry(entry));
                    state.filling.remove(&block);
                    state.footer_dirty = true;
                }
                if self.bitmaps.set(host, within, count) {
                    return Ok(());
                }
            }
            self.bitmaps.load(host)?;
        }
    }

    /// Makes what is left of older contents zero in the block whose bitmap is at `host`.
    fn clear(&self, host: u64, end: u64) -> Result<()> {
        let mut at = host + self.bitmap_len;
        while at < end {
            let len = ZEROS.min(end - at);
            self.storage.write_at(at, &vec![0; to_usize(len)])?;
            at += len;
        }
        Ok(())
    }

    fn is_full(&self, block: u64) -> bool {
        let (word, bit) = (to_usize(block / 64), block % 64);
        self.state.read().full.get(word).is_some_and(|word| *word >> bit & 1 != 0)
    }
}

fn no_blocks() -> Error {
    Error::limit("the image has no more blocks").with_errno(errno::EFBIG)
}

/// The error for a block that lies where an image has its structures.
fn in_front() -> Error {
    Error::corrupt("a VHD block lies in the image's own structures").with_errno(errno::EIO)
}

impl State {
    fn set_full(&mut self, block: u64) {
        if let Some(word) = self.full.get_mut(to_usize(block / 64)) {
            *word |= 1 << (block % 64);
        }
    }
}

impl ClusterMap for BlockMap {
    diskimg_core::mapped_file!(crate::DRIVER);

    fn cluster_size(&self) -> u64 {
        if self.layout.parent.is_some() { SECTOR } else { self.layout.header.block_size }
    }

    fn run_at(&self, cluster: u64, most: u64) -> Result<Run> {
        if self.layout.parent.is_some() {
            return self.sectors_at(cluster, most);
        }
        let table = &self.state.read().table;
        let entry = table.get(cluster).unwrap_or(FREE);
        if entry.is_allocated() {
            return Ok(Run { place: Place::Stored(entry.host() + self.bitmap_len), count: 1 });
        }
        let count = table.run(cluster, most, |_, entry| !entry.is_allocated());
        Ok(Run { place: Place::Zero, count: count.max(1) })
    }

    fn allocate(&self, cluster: u64, most: u64) -> Result<Space> {
        if self.layout.parent.is_some() {
            return self.allocate_sectors(cluster, most);
        }
        let (host, old) = {
            let mut state = self.state.write();
            match state.free.pop() {
                Some(host) => (host, host + self.step()),
                None => {
                    let host = state.next;
                    if host / SECTOR >= u64::from(FREE.0) {
                        return Err(no_blocks());
                    }
                    state.next = host + self.step();
                    (host, self.old_len.min(host + self.step()))
                }
            }
        };
        let space = Space { offset: host + self.bitmap_len, count: 1, fresh: true };
        if let Err(error) = self.clear(host, old) {
            self.give_back(space);
            return Err(error);
        }
        Ok(space)
    }

    fn give_back(&self, space: Space) {
        if self.layout.parent.is_some() {
            // The block keeps its place, and the bitmap does not have the sectors.
            return;
        }
        self.state.write().free.push(space.offset.saturating_sub(self.bitmap_len));
    }

    fn publish(&self, cluster: u64, count: u64, place: Place) -> Result<()> {
        let Place::Stored(offset) = place else {
            return Err(Error::invalid("a VHD block never loses its place"));
        };
        if self.layout.parent.is_some() {
            return self.publish_sectors(cluster, count, offset);
        }
        let host = offset.saturating_sub(self.bitmap_len);
        let entry = u32::try_from(host / SECTOR).map_or(FREE, Entry);
        let late = self.state.read().footer_at == Some(host);
        if !late {
            self.storage.write_at(host, &self.ones())?;
        }
        let mut state = self.state.write();
        if late {
            state.late.push(host);
        }
        state.footer_dirty = true;
        state.set_full(cluster);
        state.table.set(cluster, entry);
        Ok(())
    }

    fn before_change(&self) -> Result<()> {
        if self.heal.load(Ordering::Acquire) {
            // The footer at the end is about to be overwritten.
            self.storage.write_at(0, &self.layout.footer.bytes)?;
            self.storage.flush()?;
            self.heal.store(false, Ordering::Release);
        }
        Ok(())
    }

    fn before_overwrite(&self, first: u64, count: u64) -> Result<()> {
        if self.layout.parent.is_some() {
            let table = &self.state.read().table;
            let blocks = self.split(first).0..=self.split(first + count.saturating_sub(1)).0;
            let bad = |block| table.get(block).is_some_and(|entry: Entry| entry.host() < self.front);
            return if blocks.into_iter().any(bad) { Err(in_front()) } else { Ok(()) };
        }
        for cluster in first..first.saturating_add(count) {
            if self.is_full(cluster) {
                continue;
            }
            let Some(entry) = self.state.read().table.get(cluster).filter(|entry| entry.is_allocated())
            else {
                continue;
            };
            if entry.host() < self.front {
                return Err(in_front());
            }
            let mut bitmap = vec![0; to_usize(self.bitmap_len)];
            read_zero_padded(&*self.storage, entry.host(), &mut bitmap)?;
            if bitmap.iter().any(|byte| *byte != 0xff) {
                // What is not there reads as zeros, and its place holds zeros.
                self.storage.write_at(entry.host(), &self.ones())?;
            }
            self.state.write().set_full(cluster);
        }
        Ok(())
    }

    fn take_dirty(&self) -> Cut {
        let mut state = self.state.write();
        let mut cut = Cut::new();
        if self.layout.parent.is_some() {
            let mut writes = self.bitmaps.slices.take_dirty();
            if std::mem::take(&mut state.footer_dirty) {
                writes.push(TableWrite { offset: state.next, bytes: self.layout.footer.bytes.clone() });
            }
            cut.extend(Some(writes).filter(|writes| !writes.is_empty()));
        } else if std::mem::take(&mut state.footer_dirty) {
            let mut writes: Vec<TableWrite> = std::mem::take(&mut state.late)
                .into_iter()
                .map(|offset| TableWrite { offset, bytes: self.ones() })
                .collect();
            let offset = state.next;
            state.footer_at = Some(offset);
            writes.push(TableWrite { offset, bytes: self.layout.footer.bytes.clone() });
            cut.push(writes);
        }
        cut.extend(Some(state.table.take_dirty()).filter(|writes| !writes.is_empty()));
        cut
    }

    fn wants_write_back(&self) -> bool {
        self.bitmaps.slices.wants_write_back()
    }

    fn written(&self, _: u64) {
        self.bitmaps.slices.written(true);
    }

    fn not_written(&self, cut: Cut) {
        let mut state = self.state.write();
        if self.layout.parent.is_some() {
            self.bitmaps.slices.written(false);
            state.footer_dirty = true;
            // It knows which of them are its own.
            cut.iter().for_each(|writes| state.table.not_written(writes));
            return;
        }
        let mut groups = cut.into_iter();
        if let Some(writes) = groups.next() {
            if writes.iter().any(|write| write.bytes.starts_with(COOKIE)) {
                state.footer_dirty = true;
                let bitmaps = writes.iter().filter(|write| !write.bytes.starts_with(COOKIE));
                state.late.extend(bitmaps.map(|write| write.offset));
            } else {
                state.table.not_written(&writes);
            }
        }
        for writes in groups {
            state.table.not_written(&writes);
        }
    }

    fn info(&self) -> Result<ImageInfo> {
        let cluster_size = Some(self.layout.header.block_size);
        Ok(ImageInfo { cluster_size, dirty: Some(false), ..ImageInfo::default() })
    }

    fn backing(&self) -> Option<BackingRef> {
        self.layout.parent.clone()
    }

    fn accepts_backing(&self, backing: &dyn Image) -> Result<()> {
        parent::accepts(self.layout.header.parent, backing)
    }
}
