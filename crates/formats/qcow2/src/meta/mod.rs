//! Everything that knows the metadata of an open image: caches, refcounts, allocation, and the order of writes.
//! No other module writes metadata.
//!
//! Lookups run under a read lock, changes under a write lock, both on memory alone. What is not in memory makes the
//! attempt fail with a [`Miss`]; the slice is then loaded without any lock, and the attempt repeated.
//!
//! Lock order: the write-back lock, then the state.
//!
//! Memory: L2 slices at most [`L2_CACHE`], refcount slices [`REFCOUNT_CACHE`], both [`FIRST_CACHE`] for who walks along
//! the tables once; and the L1 and refcount tables as they are.

mod alloc;
mod any_table;
mod areas;
mod corrupt;
mod empty;
mod epoch;
mod grow;
mod l2;
mod lazy;
mod overhaul;
mod overlap;
mod punch;
pub(crate) mod refcounts;
mod requests;
mod rewidth;
mod survey;
mod switch;
mod table;
mod trees;
mod write_back;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32};

use diskimg_core::driver::Notices;
use diskimg_core::{BlockDevice, Error, RangeLock, Result, SliceCache, read_zero_padded, to_usize};
use parking_lot::{Mutex, RwLock};

pub(crate) use alloc::Clusters;
pub(crate) use any_table::TableSlice;
pub(crate) use epoch::Epochs;
pub(crate) use l2::SliceView;
pub(crate) use overlap::FixedArea;
pub(crate) use punch::{Freed, HoleRules};
pub(crate) use requests::NewEntry;
pub(crate) use table::MemTable;
pub(crate) use trees::Shift;

use crate::geometry::Geometry;
use crate::header::Header;
use crate::settings::Overlap;
use alloc::Allocator;
use overlap::{FixedAreas, MetadataIndex};
use write_back::Released;

/// Bytes of L2 slices kept.
const L2_CACHE: u64 = 8 << 20;
/// Bytes of refcount slices kept.
const REFCOUNT_CACHE: u64 = 4 << 20;
/// Bytes of slices of either kind that are kept at first.
const FIRST_CACHE: u64 = 1 << 20;
/// Slices that are kept at first, at least.
const FIRST_SLICES: u64 = 8;
/// Slices kept in the end, at least: more than two whole tables of the largest clusters, so that one can be copied.
const MIN_SLICES: u64 = 80;

/// The two kinds of tables that are cached in slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    L2,
    Refcounts,
}

/// Why an attempt could not be carried through.
#[derive(Debug)]
pub(crate) enum Miss {
    /// This slice (host offset) is not in memory.
    Slice(Which, u64),
    /// The refcount table has no room for this refcount block.
    Reftable(u64),
    /// The image contradicts itself: it is marked corrupt.
    Corrupt(String),
    /// Nothing helps.
    Error(Error),
}

/// The metadata of an open image.
#[derive(Debug)]
pub(crate) struct Meta {
    /// The layout as it was when the image was opened. All of it stays but the refcount width, which the state owns.
    pub(crate) geo: Geometry,
    storage: Arc<dyn BlockDevice>,
    data_file: Option<Arc<dyn BlockDevice>>,
    state: RwLock<State>,
    /// One write-back at a time; also held while a table moves.
    write_back: Mutex<()>,
    pub(crate) epochs: Epochs,
    /// Guest clusters that are being mapped anew, so that two writers never allocate for the same one.
    pub(crate) inflight: RangeLock,
    notices: Notices,
    writable: bool,
    /// Of the header, for those who hold its lock.
    version: AtomicU32,
    /// Of the header, for those who hold its lock.
    compression_type: AtomicU8,
    /// Corruption was found and reported.
    reported: AtomicBool,
    lazy: lazy::Postponement,
    /// Nobody knows what the header on the host is.
    given_up: AtomicBool,
}

/// What is known in memory; behind one lock.
#[derive(Debug)]
pub(crate) struct State {
    geo: Geometry,
    header: Header,
    l1: MemTable,
    reftable: MemTable,
    l2: SliceCache,
    refs: SliceCache,
    alloc: Allocator,
    index: MetadataIndex,
    released: Vec<Released>,
    /// Clusters without users that wait for their holes; each has one reference left.
    holes: Vec<Clusters>,
}

impl State {
    fn cache(&mut self, which: Which) -> &mut SliceCache {
        match which {
            Which::L2 => &mut self.l2,
            Which::Refcounts => &mut self.refs,
        }
    }
}

/// What [`Meta`] is made from.
#[derive(Debug)]
pub(crate) struct MetaParts {
    pub storage: Arc<dyn BlockDevice>,
    pub data_file: Option<Arc<dyn BlockDevice>>,
    pub header: Header,
    pub l1: Vec<u64>,
    pub reftable: Vec<u64>,
    /// Metadata outside of the active tables.
    pub fixed: Vec<FixedArea>,
    /// What writes are checked against.
    pub checked: Overlap,
    /// Which freed clusters leave holes on the host.
    pub hole_rules: HoleRules,
    /// Whether refcounts may be postponed; `None`: as the header says.
    pub lazy_refcounts: Option<bool>,
    pub notices: Notices,
    pub writable: bool,
}

/// A number as `%#x` prints it: 0 without a prefix.
pub(crate) fn hex(value: u64) -> String {
    if value == 0 { "0".to_owned() } else { format!("{value:#x}") }
}

impl Meta {
    pub(crate) fn new(parts: MetaParts) -> Self {
        let geo = parts.header.geometry();
        let slots = |bytes: u64| to_usize((bytes / geo.slice_size()).max(MIN_SLICES));
        let first = to_usize((FIRST_CACHE / geo.slice_size()).max(FIRST_SLICES));
        let mut index = MetadataIndex {
            checked: parts.checked,
            fixed: FixedAreas::new(parts.fixed),
            l2_tables: HashSet::new(),
            inactive_l2: HashSet::new(),
            refblocks: HashSet::new(),
        };
        if parts.writable {
            index.take_tables(geo, &parts.l1, &parts.reftable);
        }
        let (version, compression_type) = (parts.header.version, parts.header.compression_type);
        let state = State {
            geo,
            l1: MemTable::new(parts.header.l1_offset, parts.l1),
            reftable: MemTable::new(parts.header.reftable_offset, parts.reftable),
            header: parts.header,
            l2: SliceCache::growing(first, slots(L2_CACHE)),
            refs: SliceCache::growing(first, slots(REFCOUNT_CACHE)),
            alloc: Allocator::new(parts.hole_rules),
            index,
            released: Vec::new(),
            holes: Vec::new(),
        };
        Self {
            geo,
            storage: parts.storage,
            data_file: parts.data_file,
            state: RwLock::new(state),
            write_back: Mutex::new(()),
            epochs: Epochs::default(),
            inflight: RangeLock::default(),
            notices: parts.notices,
            writable: parts.writable,
            version: AtomicU32::new(version),
            compression_type: AtomicU8::new(compression_type),
            reported: AtomicBool::new(false),
            lazy: lazy::Postponement::new(parts.lazy_refcounts),
            given_up: AtomicBool::new(false),
        }
    }

    /// Looks something up; `attempt` is repeated until all it needs is in memory.
    pub(crate) fn look<T>(&self, mut attempt: impl FnMut(&State) -> Result<T, Miss>) -> Result<T> {
        loop {
            let result = attempt(&self.state.read());
            match result {
                Ok(found) => return Ok(found),
                Err(miss) => self.resolve(miss)?,
            }
        }
    }

    /// Changes metadata in memory; a write-back may come first to keep memory bounded. `attempt` is repeated after a
    /// miss: until then it must have left everything consistent.
    fn change<T>(&self, attempt: impl FnMut(&mut State) -> Result<T, Miss>) -> Result<T> {
        self.check_usable()?;
        if self.state.read().wants_write_back() {
            self.write_back()?;
        }
        self.change_unhurried(attempt)
    }

    fn change_unhurried<T>(&self, mut attempt: impl FnMut(&mut State) -> Result<T, Miss>) -> Result<T> {
        loop {
            let result = {
                let mut state = self.state.write();
                let result = attempt(&mut state);
                state.l2.evict();
                state.refs.evict();
                result
            };
            match result {
                Ok(done) => return Ok(done),
                Err(miss) => self.resolve(miss)?,
            }
        }
    }

    fn resolve(&self, miss: Miss) -> Result<()> {
        match miss {
            Miss::Slice(which, offset) => self.load(which, offset),
            Miss::Reftable(block) => self.grow_reftable(block),
            Miss::Corrupt(text) => Err(self.corruption(&text)),
            Miss::Error(error) => Err(error),
        }
    }

    /// Brings a slice in. What was read counts only if nothing was evicted meanwhile: it could have been this slice,
    /// changed and written by somebody else in between.
    fn load(&self, which: Which, offset: u64) -> Result<()> {
        loop {
            let generation = self.state.write().cache(which).generation();
            let mut bytes = vec![0; to_usize(self.geo.slice_size())];
            read_zero_padded(&*self.storage, offset, &mut bytes)?;
            if self.state.write().cache(which).insert_current(offset, bytes, generation) {
                return Ok(());
            }
        }
    }
}
