//! [`BlockMap`]: the block allocation table, and how blocks get and lose their places.
//!
//! Write order: the bytes of blocks, and a file that is long enough for them | the table, through the log
//! ([`crate::journal`]). A block is filled cluster by cluster; what is not written of it reads as zeros, because new
//! places are made of zeros. In a differencing disk a cluster is a sector, and what is not written of a block is the
//! parent's: the sector bitmaps are written before the table. A place that the table dropped is used again only when the table without it is durable, the
//! requests that may have looked it up have ended, and it has been zeroed.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use diskimg_core::mapped::{Clearing, ClusterMap, Cut, EntryTable, Place, Run, Space, TableWrite};
use diskimg_core::{
    BackingRef, BlockDevice, ByteRange, Check, Device, Error, ErrorKind, ExtentFlags, Image, ImageInfo,
    Result, ZeroMode, errno, extend_to,
};
use parking_lot::{Mutex, RwLock};
use uuid::Uuid;

use crate::bat::{Block, Entry, Geometry, NOT_PRESENT, ZERO};
use crate::bitmap::{SectorBitmaps, Sectors};
use crate::header::Current;
use crate::journal::{FRONT, Journal};
use crate::limits::{LOG_SECTOR, MAX_FILE, MIB};
use crate::locator::Parent;
use crate::metadata::Metadata;
use crate::parent;
use crate::region::{Regions, Taken};
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
    pub regions: Regions,
    pub metadata: Metadata,
    pub parent: Option<Parent>,
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
    pub(crate) journal: Journal,
    /// File offset of the metadata.
    pub(crate) metadata_at: u64,
    /// Bytes of a cluster: what a block is filled in.
    cluster: u64,
    /// Blocks may lose their places.
    may_drop: bool,
    /// Some block lies in front of everything that blocks may lie in.
    has_bad_place: bool,
    pub(crate) parent: Option<Parent>,
    /// GUIDs that the parent's data may have.
    pub(crate) linkages: RwLock<Vec<Uuid>>,
    bitmaps: SectorBitmaps,
    /// Held while sectors of a differencing disk are published.
    publishing: Mutex<()>,
    state: RwLock<State>,
}

impl BlockMap {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { storage, filename, current, taken, regions, metadata, parent, entries, replayed } = parts;
        let geometry = Geometry::from(&metadata);
        let mut places: Vec<ByteRange> =
            (0..).zip(&entries).filter_map(|(index, entry)| geometry.space(index, *entry)).collect();
        places.sort_unstable_by_key(|place| place.start);
        let shared = places.windows(2).any(|pair| matches!(pair, [a, b] if a.overlaps(b)));
        let has_bad_place = places.first().is_some_and(|first| first.start < FRONT);
        // A damaged table may name places behind the end of the file.
        let end = places.iter().map(ByteRange::end).max().unwrap_or(0);
        let next = storage.len().max(taken.end()).max(end).checked_next_multiple_of(MIB).unwrap_or(u64::MAX);
        let len = (entries.len() as u64 * 8).next_multiple_of(LOG_SECTOR);
        let state = RwLock::new(State {
            table: EntryTable::new(regions.bat.start, entries, len, 0),
            space: HostSpace::new(geometry.block_size, next),
        });
        Self {
            journal: Journal::new(Arc::clone(&storage), current),
            bitmaps: SectorBitmaps::new(Arc::clone(&storage)),
            publishing: Mutex::default(),
            metadata_at: regions.metadata.start,
            cluster: if parent.is_some() { geometry.sector_size } else { LOG_SECTOR },
            linkages: RwLock::new(parent.iter().flat_map(|parent| parent.linkages.clone()).collect()),
            parent,
            storage,
            filename,
            taken,
            geometry,
            replayed,
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

    /// Takes the places of all blocks out of the table: what has to be written.
    pub(crate) fn vacate(&self) -> Vec<TableWrite> {
        let state = &mut *self.state.write();
        let vacant = if self.parent.is_some() { NOT_PRESENT } else { ZERO };
        for block in 0..self.geometry.blocks() {
            let index = self.geometry.index(block);
            let old = state.table.get(index).unwrap_or(vacant);
            if let Some(host) = old.place(self.geometry.has_parent) {
                state.space.drop_place(host);
            }
            state.table.set(index, vacant);
        }
        state.space.taken();
        state.table.take_dirty()
    }

    /// Makes what the table dropped, durably, ready to be used again. There are no requests.
    pub(crate) fn recycle_all(&self) {
        let unused = self.state.write().space.rest();
        if self.may_drop {
            self.recycle(unused);
        }
    }

    /// The place of the bitmap that has the sectors of a block.
    fn bitmap(&self, state: &State, block: u64) -> Option<u64> {
        state.table.get(self.geometry.bitmap_index(block / self.geometry.ratio()))?.bitmap()
    }

    /// Sectors of a block, which are its clusters in a differencing disk.
    fn sectors(&self, bitmap: u64, block: u64, within: u64, count: u64) -> Sectors {
        let first = block % self.geometry.ratio() * self.per_block() + within;
        Sectors { bitmap, first, count }
    }

    /// Clusters of the block at `host` of a differencing disk from a cluster of it on: in the file, or the parent's.
    fn partial_run(&self, bitmap: Option<u64>, cluster: u64, most: u64, host: u64) -> Result<Run> {
        let (block, within) = self.split(cluster);
        let missing = || Error::corrupt("a sector bitmap is missing").with_errno(errno::EIO);
        let most = most.min(self.per_block() - within);
        let sectors = self.sectors(bitmap.ok_or_else(missing)?, block, within, most);
        let (here, count) = self.bitmaps.run(sectors)?;
        let stored = host.saturating_add(within * self.cluster);
        Ok(Run { place: if here { Place::Stored(stored) } else { Place::Absent }, count })
    }

    /// The bitmap for a block, which is made if need be.
    fn ensure_bitmap(&self, block: u64) -> Result<u64> {
        let host = {
            let state = &mut *self.state.write();
            if let Some(bitmap) = self.bitmap(state, block) {
                return Ok(bitmap);
            }
            state.space.append(MIB, MAX_FILE).ok_or_else(no_room)?
        };
        extend_to(&self.storage, host + MIB)?;
        let index = self.geometry.bitmap_index(block / self.geometry.ratio());
        self.state.write().table.set(index, Entry::present(host));
        Ok(host)
    }

    /// Makes sectors of a differencing disk's block at `host` visible.
    fn publish_sectors(&self, cluster: u64, count: u64, host: u64) -> Result<()> {
        let _one_at_a_time = self.publishing.lock();
        let (block, within) = self.split(cluster);
        let kind = self.block(&self.state.read(), block)?;
        let entry = match kind {
            Block::Zero | Block::Stored(_) => Entry::present(host),
            Block::Absent | Block::Partial(_) => {
                let bitmap = self.ensure_bitmap(block)?;
                let there = self.geometry.disk_size / self.cluster - block * self.per_block();
                let whole = self.sectors(bitmap, block, 0, self.per_block().min(there));
                if kind == Block::Absent {
                    self.bitmaps.set(Sectors { count: self.per_block(), ..whole }, false)?;
                }
                self.bitmaps.set(self.sectors(bitmap, block, within, count), true)?;
                let full = self.bitmaps.run(whole)? == (true, whole.count);
                if full { Entry::present(host) } else { Entry::partial(host) }
            }
        };
        let state = &mut *self.state.write();
        state.table.set(self.geometry.index(block), entry);
        state.space.leave(block, ByteRange::new(cluster, count), true);
        Ok(())
    }
}

fn no_room() -> Error {
    Error::limit("the image has no room for more blocks").with_errno(errno::EFBIG)
}

impl ClusterMap for BlockMap {
    diskimg_core::mapped_file!(crate::DRIVER);

    fn cluster_size(&self) -> u64 {
        self.cluster
    }

    fn entry_size(&self) -> u64 {
        self.geometry.block_size
    }

    fn run_at(&self, cluster: u64, most: u64) -> Result<Run> {
        let (block, within) = self.split(cluster);
        let (kind, bitmap) = {
            let state = &*self.state.read();
            let kind = self.block(state, block)?;
            let place = match kind {
                Block::Absent => Place::Absent,
                Block::Zero => Place::Zero,
                Block::Stored(offset) | Block::Partial(offset) => {
                    Place::Stored(offset.saturating_add(within * self.cluster))
                }
            };
            if matches!(kind, Block::Partial(_)) {
                (kind, self.bitmap(state, block))
            } else if state.space.is_filling(block) {
                let end = (block + 1) * self.per_block();
                let (outstanding, end) = match state.space.outstanding(block, cluster) {
                    Some((outstanding, until)) => (outstanding, until.min(end)),
                    None => (false, end),
                };
                // Only a block of zeros is filled like this.
                let place = if outstanding && matches!(kind, Block::Stored(_)) { Place::Zero } else { place };
                return Ok(Run { place, count: (end - cluster).min(most) });
            } else {
                let blocks = within.saturating_add(most).div_ceil(self.per_block());
                let count = self.blocks_like(state, block, kind, blocks);
                return Ok(Run { place, count: (count * self.per_block() - within).min(most) });
            }
        };
        match kind {
            Block::Partial(host) => self.partial_run(bitmap, cluster, most, host),
            _ => Ok(Run { place: Place::Zero, count: 1 }),
        }
    }

    fn allocate(&self, cluster: u64, most: u64) -> Result<Space> {
        let (block, within) = self.split(cluster);
        let count = most.min(self.per_block() - within);
        let clusters = ByteRange::new(cluster, count);
        let (host, fresh) = {
            let state = &mut *self.state.write();
            let stored = match self.block(state, block)? {
                Block::Stored(offset) | Block::Partial(offset) => Some(offset),
                Block::Absent | Block::Zero => None,
            };
            let host = state.space.enter(block, clusters, stored, MAX_FILE).ok_or_else(no_room)?;
            // What a sector holds that is the parent's is of no interest.
            (host, stored.is_none() || self.parent.is_none())
        };
        if let Err(error) = extend_to(&self.storage, host + self.geometry.block_size) {
            self.state.write().space.leave(block, clusters, false);
            return Err(error);
        }
        Ok(Space { offset: host + within * self.cluster, count, fresh })
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
        let (block, within) = self.split(cluster);
        if let (Place::Stored(offset), Some(_)) = (place, &self.parent) {
            return self.publish_sectors(cluster, count, offset.saturating_sub(within * self.cluster));
        }
        let state = &mut *self.state.write();
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
            if matches!(self.block(state, block)?, Block::Stored(host) | Block::Partial(host) if host < FRONT)
            {
                let text = "a block lies in the structures of the image";
                return Err(Error::new(ErrorKind::Corrupt, text).with_errno(EFAULT));
            }
        }
        Ok(())
    }

    fn present_flags(&self) -> ExtentFlags {
        // qemu-img's driver says nothing of where the data are. It does not read differencing disks.
        if self.parent.is_some() { ExtentFlags::empty() } else { ExtentFlags::UNTOLD }
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
        let table = {
            let state = &mut *self.state.write();
            state.space.taken();
            state.table.take_dirty()
        };
        // They may say more than the table that was taken, never less; and they are written first.
        let mut writes = self.bitmaps.slices.take_dirty();
        writes.extend(table);
        Some(writes).filter(|writes| !writes.is_empty()).into_iter().collect()
    }

    fn wants_write_back(&self) -> bool {
        self.bitmaps.slices.wants_write_back()
    }

    fn write_cut(&self, cut: &Cut) -> Result<()> {
        cut.iter().try_for_each(|writes| self.journal.commit(writes))
    }

    fn not_written(&self, cut: Cut) {
        let state = &mut *self.state.write();
        state.space.not_written();
        self.bitmaps.slices.written(false);
        cut.iter().for_each(|writes| state.table.not_written(writes));
    }

    fn written(&self, epoch: u64) {
        self.bitmaps.slices.written(true);
        let unused = self.state.write().space.written(epoch);
        self.recycle(unused);
    }

    fn close(&self) {
        // Neither is needed: the older header says the same, and the space is only lost.
        let _ = self.journal.close();
        self.recycle_all();
    }

    fn info(&self) -> Result<ImageInfo> {
        let cluster_size = Some(self.geometry.block_size);
        Ok(ImageInfo { cluster_size, dirty: Some(false), ..ImageInfo::default() })
    }

    fn backing(&self) -> Option<BackingRef> {
        let parent = self.parent.as_ref()?;
        Some(BackingRef { name: parent.name.clone(), format: Some(crate::DRIVER.name.to_owned()) })
    }

    fn adopt_backing(&self, backing: &dyn Image) -> Result<()> {
        self.relink(backing)
    }

    fn as_clearing(&self) -> Option<&dyn Clearing> {
        Some(self)
    }

    fn accepts_backing(&self, backing: &dyn Image) -> Result<()> {
        match &self.parent {
            Some(_) => parent::accepts(&self.linkages.read(), self.geometry.sector_size, backing),
            None => Ok(()),
        }
    }

    fn as_check(&self) -> Option<&dyn Check> {
        Some(self)
    }
}
