//! [`BlockMap`]: the block allocation table, and where the next block goes.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use diskimg_core::mapped::{ClusterMap, Cut, EntryTable, Place, Run, Space};
use diskimg_core::{BlockDevice, ByteRange, Check, Error, FormatDriver, ImageInfo, Result};
use parking_lot::RwLock;

use crate::bat::{Block, Entry, Geometry, NOT_PRESENT};
use crate::header::Current;
use crate::limits::LOG_SECTOR;
use crate::metadata::Metadata;
use crate::region::Taken;

/// What an open image is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub storage: Arc<dyn BlockDevice>,
    pub filename: String,
    pub current: Current,
    pub taken: Taken,
    /// Where the table is.
    pub bat: ByteRange,
    pub geometry: Geometry,
    pub metadata: Metadata,
    pub entries: Vec<Entry>,
    /// The log was replayed, which no check has told yet.
    pub replayed: AtomicBool,
}

/// What changes while an image is open.
#[derive(Debug)]
struct State {
    table: EntryTable<Entry>,
}

/// The map of an open image.
#[derive(Debug)]
pub(crate) struct BlockMap {
    pub(crate) storage: Arc<dyn BlockDevice>,
    filename: String,
    pub(crate) taken: Taken,
    pub(crate) geometry: Geometry,
    pub(crate) replayed: AtomicBool,
    /// Bytes of a cluster: what a block is filled in.
    cluster: u64,
    state: RwLock<State>,
}

impl BlockMap {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { storage, filename, taken, bat, geometry, entries, replayed, .. } = parts;
        let len = (entries.len() as u64 * 8).next_multiple_of(LOG_SECTOR);
        let state = RwLock::new(State { table: EntryTable::new(bat.start, entries, len, 0) });
        Self { storage, filename, taken, geometry, replayed, cluster: LOG_SECTOR, state }
    }

    /// Calls `each` with the table.
    pub(crate) fn with_entries<T>(&self, each: impl FnOnce(&[Entry]) -> T) -> T {
        each(self.state.read().table.entries())
    }

    /// Clusters of a block.
    fn per_block(&self) -> u64 {
        self.geometry.block_size / self.cluster
    }
}

impl State {
    fn entry(&self, geometry: &Geometry, block: u64) -> Entry {
        self.table.get(geometry.index(block)).unwrap_or(NOT_PRESENT)
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

    fn run_at(&self, cluster: u64, most: u64) -> Result<Run> {
        let (block, within) = (cluster / self.per_block(), cluster % self.per_block());
        let state = self.state.read();
        let first = state.entry(&self.geometry, block).block(self.geometry.has_parent)?;
        let blocks = within.saturating_add(most).div_ceil(self.per_block());
        let count = (1..blocks)
            .take_while(|step| {
                let next = state.entry(&self.geometry, block + step).block(self.geometry.has_parent);
                match (first, next) {
                    (Block::Stored(first), Ok(Block::Stored(next))) => {
                        first.checked_add(step * self.geometry.block_size) == Some(next)
                    }
                    (first, Ok(next)) => first == next,
                    _ => false,
                }
            })
            .count() as u64
            + 1;
        let place = match first {
            Block::Absent => Place::Absent,
            Block::Zero => Place::Zero,
            Block::Stored(offset) | Block::Partial(offset) => {
                Place::Stored(offset.saturating_add(within * self.cluster))
            }
        };
        Ok(Run { place, count: (count * self.per_block() - within).min(most) })
    }

    fn allocate(&self, _: u64, _: u64) -> Result<Space> {
        Err(Error::unsupported("VHDX images are only read"))
    }

    fn publish(&self, _: u64, _: u64, _: Place) -> Result<()> {
        Err(Error::unsupported("VHDX images are only read"))
    }

    fn take_dirty(&self) -> Cut {
        Cut::new()
    }

    fn not_written(&self, _: Cut) {}

    fn info(&self) -> Result<ImageInfo> {
        let cluster_size = Some(self.geometry.block_size);
        Ok(ImageInfo { cluster_size, dirty: Some(false), ..ImageInfo::default() })
    }

    fn as_check(&self) -> Option<&dyn Check> {
        Some(self)
    }
}
