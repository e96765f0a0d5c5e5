//! [`BlockMap`]: the block allocation table, and how blocks get and lose their places.
//!
//! Write order: the bytes of blocks, and a file that is long enough for them | the table, through the log
//! ([`crate::journal`]). A block is filled cluster by cluster; what is not written of it reads as zeros, because new
//! places are made of zeros. A place that the table dropped is used again only when the table without it is durable, the
//! requests that may have looked it up have ended, and it has been zeroed.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use diskimg_core::mapped::{ClusterMap, Cut, EntryTable, Place, Run, Space};
use diskimg_core::{
    BlockDevice, ByteRange, Check, Device, Error, ErrorKind, FormatDriver, ImageInfo, Result, ZeroMode, errno,
};
use parking_lot::RwLock;

use crate::bat::{Block, Entry, Geometry, NOT_PRESENT, ZERO};
use crate::header::Current;
use crate::journal::{FRONT, Journal};
use crate::limits::{LOG_SECTOR, MAX_FILE, MIB};
use crate::metadata::Metadata;
use crate::region::Taken;
use crate::space::HostSpace;

/// The error number for a place that is not an image's to write to: `Bad address`.
const EFAULT: i32 = 14;

/// What an open image is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub storage: Arc<dyn BlockDevice>,
    pub filename: String,
    pub current: Current,
    pub taken: Taken,
    /// Where the table is.
    pub bat: ByteRange,
    pub metadata: Metadata,
    pub entries: Vec<Entry>,
    /// The log was replayed, which no check has told yet.
    pub replayed: AtomicBool,
}

/// What changes while an image is open.
#[derive(Debug)]
struct State {
    table: EntryTable<Entry>,
    space: HostSpace,
}

/// The map of an open image.
#[derive(Debug)]
pub(crate) struct BlockMap {
    pub(crate) storage: Arc<dyn BlockDevice>,
    filename: String,
    pub(crate) taken: Taken,
    pub(crate) geometry: Geometry,
    pub(crate) replayed: AtomicBool,
    journal: Journal,
    /// Bytes of a cluster: what a block is filled in.
    cluster: u64,
    /// Blocks may lose their places.
    may_drop: bool,
    /// Some block lies in front of everything that blocks may lie in.
    has_bad_place: bool,
    state: RwLock<State>,
}

impl BlockMap {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { storage, filename, current, taken, bat, metadata, entries, replayed } = parts;
        let geometry = Geometry::from(&metadata);
        let mut places: Vec<u64> =
            entries.iter().filter_map(|entry| entry.place(geometry.has_parent)).collect();
        places.sort_unstable();
        let shared = places.windows(2).any(|pair| matches!(pair, [a, b] if b - a < geometry.block_size));
        let has_bad_place = places.first().is_some_and(|first| *first < FRONT);
        // A damaged table may name places behind the end of the file.
        let end = places.last().map_or(0, |last| last.saturating_add(geometry.block_size));
        let next = storage.len().max(taken.end()).max(end).checked_next_multiple_of(MIB).unwrap_or(u64::MAX);
        let len = (entries.len() as u64 * 8).next_multiple_of(LOG_SECTOR);
        let state = RwLock::new(State {
            table: EntryTable::new(bat.start, entries, len, 0),
            space: HostSpace::new(geometry.block_size, next),
        });
        Self {
            journal: Journal::new(Arc::clone(&storage), current),
            storage,
            filename,
            taken,
            geometry,
            replayed,
            cluster: LOG_SECTOR,
            may_drop: !metadata.leave_allocated && !shared && !has_bad_place,
            has_bad_place,
            state,
        }
    }

    /// Calls `each` with the table.
    pub(crate) fn with_entries<T>(&self, each: impl FnOnce(&[Entry]) -> T) -> T {
        each(self.state.read().table.entries())
    }

    /// Clusters of a block.
    fn per_block(&self) -> u64 {
        self.geometry.block_size / self.cluster
    }

    /// The block of a cluster, and which of its clusters it is.
    fn split(&self, cluster: u64) -> (u64, u64) {
        (cluster / self.per_block(), cluster % self.per_block())
    }

    /// What the table says of a block.
    fn block(&self, state: &State, block: u64) -> Result<Block> {
        let entry = state.table.get(self.geometry.index(block)).unwrap_or(NOT_PRESENT);
        entry.block(self.geometry.has_parent)
    }

    /// Blocks from `first` on (at most `most`) that are of one kind, and follow each other on the host.
    fn blocks_like(&self, state: &State, first: u64, kind: Block, most: u64) -> u64 {
        let follows = |step: u64| {
            let next = self.block(state, first + step).ok();
            let fits = match (kind, next) {
                (Block::Stored(place), Some(Block::Stored(next))) => {
                    place.checked_add(step * self.geometry.block_size) == Some(next)
                }
                (Block::Partial(_), _) => false,
                (kind, next) => Some(kind) == next,
            };
            fits && !state.space.is_filling(first + step)
        };
        1 + (1..most).take_while(|step| follows(*step)).count() as u64
    }

    /// Makes a place that nobody uses zeros, for those who get it next.
    fn recycle(&self, places: Vec<u64>) {
        for host in places {
            let range = ByteRange::new(host, self.geometry.block_size);
            let inside = range.intersect(ByteRange::new(0, self.storage.len()));
            let device = Device::new(Arc::clone(&self.storage));
            if inside.is_empty() || device.write_zeroes(inside, ZeroMode::MayUnmap).is_ok() {
                self.state.write().space.set_free(host);
            }
        }
    }

    /// Makes the file long enough for the block at `host`.
    fn extend(&self, host: u64) -> Result<()> {
        let end = host + self.geometry.block_size;
        if self.storage.len() >= end {
            return Ok(());
        }
        // Zeroing never makes a file shorter, whatever others do meanwhile.
        match self.storage.write_zeroes(ByteRange::new(end - 1, 1), ZeroMode::MayUnmap) {
            Ok(()) if self.storage.len() >= end => Ok(()),
            _ => self.storage.write_at(end - 1, &[0]),
        }
    }
}

impl ClusterMap for BlockMap {
    fn driver(&self) -> &'static FormatDriver {
        &crate::DRIVER
    }

    fn storage(&self) -> &Arc<dyn BlockDevice> {
        &self.storage
    }

    fn filename(&self) -> &str {
        &self.filename
    }

    fn cluster_size(&self) -> u64 {
        self.cluster
    }

    fn entry_size(&self) -> u64 {
        self.geometry.block_size
    }

    fn run_at(&self, cluster: u64, most: u64) -> Result<Run> {
        let (block, within) = self.split(cluster);
        let state = &*self.state.read();
        let kind = self.block(state, block)?;
        let before = if self.geometry.has_parent { Place::Absent } else { Place::Zero };
        let stored = |offset: u64| Place::Stored(offset.saturating_add(within * self.cluster));
        if state.space.is_filling(block) {
            let end = (block + 1) * self.per_block();
            let (outside, end) = match state.space.outstanding(block, cluster) {
                Some((outstanding, until)) => (!outstanding, until.min(end)),
                None => (true, end),
            };
            let place = match kind {
                Block::Stored(offset) if outside => stored(offset),
                Block::Stored(_) => before,
                Block::Absent => Place::Absent,
                _ => Place::Zero,
            };
            return Ok(Run { place, count: (end - cluster).min(most) });
        }
        let blocks = within.saturating_add(most).div_ceil(self.per_block());
        let count = self.blocks_like(state, block, kind, blocks);
        let place = match kind {
            Block::Absent => Place::Absent,
            Block::Zero => Place::Zero,
            Block::Stored(offset) | Block::Partial(offset) => stored(offset),
        };
        Ok(Run { place, count: (count * self.per_block() - within).min(most) })
    }

    fn allocate(&self, cluster: u64, most: u64) -> Result<Space> {
        let (block, within) = self.split(cluster);
        let count = most.min(self.per_block() - within);
        let clusters = ByteRange::new(cluster, count);
        let host = {
            let state = &mut *self.state.write();
            let stored = match self.block(state, block)? {
                Block::Stored(offset) | Block::Partial(offset) => Some(offset),
                Block::Absent | Block::Zero => None,
            };
            let full = || Error::limit("the image has no room for more blocks").with_errno(errno::EFBIG);
            state.space.enter(block, clusters, stored, MAX_FILE).ok_or_else(full)?
        };
        if let Err(error) = self.extend(host) {
            self.state.write().space.leave(block, clusters, false);
            return Err(error);
        }
        Ok(Space { offset: host + within * self.cluster, count, fresh: true })
    }

    fn give_back(&self, space: Space) {
        let Some((block, host)) = self.state.read().space.block_at(space.offset) else { return };
        let first = block * self.per_block() + (space.offset - host) / self.cluster;
        let clusters = ByteRange::new(first, space.count);
        // The rest of the block may be in use: what was written here must not show.
        let device = Device::new(Arc::clone(&self.storage));
        let range = ByteRange::new(space.offset, space.count * self.cluster);
        let clean = device.write_zeroes(range, ZeroMode::MayUnmap).is_ok();
        let space = &mut self.state.write().space;
        if clean { space.leave(block, clusters, false) } else { space.lose(block, clusters) }
    }

    fn publish(&self, cluster: u64, count: u64, place: Place) -> Result<()> {
        let state = &mut *self.state.write();
        let (block, within) = self.split(cluster);
        if let Place::Stored(offset) = place {
            let host = offset.saturating_sub(within * self.cluster);
            state.table.set(self.geometry.index(block), Entry::present(host));
            state.space.leave(block, ByteRange::new(cluster, count), true);
            return Ok(());
        }
        let blocks = (within + count).div_ceil(self.per_block());
        for block in block..block + blocks {
            if let Block::Stored(host) | Block::Partial(host) = self.block(state, block)? {
                state.space.drop_place(host);
            }
            state.table.set(self.geometry.index(block), ZERO);
        }
        Ok(())
    }

    fn before_change(&self) -> Result<()> {
        self.journal.mark()
    }

    fn before_overwrite(&self, first: u64, count: u64) -> Result<()> {
        if !self.has_bad_place {
            return Ok(());
        }
        let state = &*self.state.read();
        for block in self.split(first).0..=self.split(first + count.saturating_sub(1)).0 {
            if matches!(self.block(state, block)?, Block::Stored(host) if host < FRONT) {
                let text = "a block lies in the structures of the image";
                return Err(Error::new(ErrorKind::Corrupt, text).with_errno(EFAULT));
            }
        }
        Ok(())
    }

    fn zeroed(&self, old: Place, how: ZeroMode) -> Option<Place> {
        match old {
            Place::Stored(_) if !self.may_drop || how == ZeroMode::KeepAllocated => None,
            _ => Some(Place::Zero),
        }
    }

    fn discarded(&self, old: Place) -> Option<Place> {
        (self.may_drop && matches!(old, Place::Stored(_))).then_some(Place::Zero)
    }

    fn take_dirty(&self) -> Cut {
        let state = &mut *self.state.write();
        state.space.taken();
        Some(state.table.take_dirty()).filter(|writes| !writes.is_empty()).into_iter().collect()
    }

    fn write_cut(&self, cut: &Cut) -> Result<()> {
        cut.iter().try_for_each(|writes| self.journal.commit(writes))
    }

    fn not_written(&self, cut: Cut) {
        let state = &mut *self.state.write();
        state.space.not_written();
        cut.iter().for_each(|writes| state.table.not_written(writes));
    }

    fn written(&self, epoch: u64) {
        let unused = self.state.write().space.written(epoch);
        self.recycle(unused);
    }

    fn close(&self) {
        // Neither is needed: the older header says the same, and the space is only lost.
        let _ = self.journal.close();
        let unused = self.state.write().space.rest();
        self.recycle(unused);
    }

    fn info(&self) -> Result<ImageInfo> {
        let cluster_size = Some(self.geometry.block_size);
        Ok(ImageInfo { cluster_size, dirty: Some(false), ..ImageInfo::default() })
    }

    fn as_check(&self) -> Option<&dyn Check> {
        Some(self)
    }
}
