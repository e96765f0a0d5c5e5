//! [`MappedImage`]: what formats have in common that keep a disk in clusters and a table that says where each one is.
//!
//! A format provides a [`ClusterMap`]: lookups, space, and table entries. Reading, writing in place and into new
//! clusters, two-phase writes, zeroing, extents and flushing are here, once for all of them.
//!
//! # Rules
//!
//! - A cluster's bytes are written before its entry is published, so that a reader sees the old or the new contents.
//! - A flush makes a *cut* of what is dirty in the tables, then a barrier, then makes the cut durable. So a
//!   table on the host never refers to bytes that are not there; a crash leaves unused space at worst.
//! - Writers of the same cluster that has no place yet wait for each other; everybody else runs in parallel. No lock
//!   is held over the I/O of data by a map.
//! - A map that uses freed space again waits until the table without it is durable and the requests that may have looked
//!   it up before have ended ([`ClusterMap::written`]).

mod append;
mod bytes;
mod clearing;
mod device;
mod epoch;
mod packed;
mod read;
mod reserve;
mod slices;
mod table;
mod tree;
mod write;

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::backing::BackingChange;
use crate::device::{BlockDevice, Prealloc, ZeroMode};
use crate::driver::FormatDriver;
use crate::error::{Error, Result};
use crate::extent::ExtentFlags;
use crate::image::{BackingRef, Check, Child};
use crate::info::ImageInfo;
use crate::range_lock::RangeLock;

pub use append::AppendSpace;
pub use bytes::DataCipher;
pub use clearing::Clearing;
pub use packed::Packing;
pub use slices::TableSlices;
pub use table::{EntryTable, TableEntry};
pub use tree::{ByteOrder, EntryTree, TreeShape};

/// Where a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Not in this layer: the backing file's, or zeros where there is none.
    Absent,
    /// Zeros that take no space.
    Zero,
    /// Its bytes stand at this host offset as they are.
    Stored(u64),
    /// A payload of `len` bytes at host offset `offset`, which [`ClusterMap::unpack`] decodes.
    Packed {
        /// Host offset.
        offset: u64,
        /// Bytes.
        len: u64,
    },
}

/// Clusters that follow each other and are of one kind: stored ones also follow each other on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where the first one is.
    pub place: Place,
    /// How many; at least 1. A packed cluster is alone.
    pub count: u64,
}

/// Host space that nothing refers to yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Host offset of the first byte.
    pub offset: u64,
    /// Clusters.
    pub count: u64,
    /// It reads as zeros (or lies behind the end of the file).
    pub fresh: bool,
}

/// Bytes of a table to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableWrite {
    /// Host offset.
    pub offset: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// What was dirty at one moment: groups of writes with a barrier between them.
pub type Cut = Vec<Vec<TableWrite>>;

/// A format's side of a [`MappedImage`]. All calls may come from many threads at once.
pub trait ClusterMap: Send + Sync + Debug + 'static {
    /// The format.
    fn driver(&self) -> &'static FormatDriver;

    /// What holds the image.
    fn storage(&self) -> &Arc<dyn BlockDevice>;

    /// The displayed name.
    fn filename(&self) -> &str;

    /// Bytes of a cluster, a multiple of 512.
    fn cluster_size(&self) -> u64;

    /// Bytes that change together where clusters are zeroed or discarded, a multiple of a cluster: the entries that
    /// [`ClusterMap::zeroed`] and [`ClusterMap::discarded`] speak of stand for so much.
    fn entry_size(&self) -> u64 {
        self.cluster_size()
    }

    /// Where cluster `cluster` is, with up to `most` (not 0) that follow and are of one kind with it.
    ///
    /// # Errors
    /// The storage's; `Corrupt` with errno `EIO` for an entry that makes no sense.
    fn run_at(&self, cluster: u64, most: u64) -> Result<Run>;

    /// Decodes the payload of a packed cluster into `out`, a cluster long.
    ///
    /// # Errors
    /// The storage's; `Corrupt` for a damaged payload.
    fn unpack(&self, payload: &[u8], out: &mut [u8]) -> Result<()> {
        let _ = (payload, out);
        Err(Error::unsupported("compressed clusters are not supported"))
    }

    /// Space for cluster `cluster` and up to `most - 1` that follow it.
    ///
    /// # Errors
    /// `Limit` where the format has no more room; the storage's.
    fn allocate(&self, cluster: u64, most: u64) -> Result<Space>;

    /// Takes back space that was never published. Losing it is allowed.
    fn give_back(&self, space: Space) {
        let _ = space;
    }

    /// Changes the entries of `count` clusters from `cluster` on, in memory: stored ones follow each other on the host
    /// from the given place on.
    ///
    /// # Errors
    /// The storage's, where a table has to be made first.
    fn publish(&self, cluster: u64, count: u64, place: Place) -> Result<()>;

    /// Called before every change, for marks such as *in use*.
    ///
    /// # Errors
    /// The storage's.
    fn before_change(&self) -> Result<()> {
        Ok(())
    }

    /// Called before bytes of stored clusters change in place: of `count` clusters from `first` on.
    ///
    /// # Errors
    /// The storage's; `Corrupt` for places that are not to be written to.
    fn before_overwrite(&self, first: u64, count: u64) -> Result<()> {
        let _ = (first, count);
        Ok(())
    }

    /// What an entry becomes when its whole cluster is made zero; `None`: zeros have to be written.
    fn zeroed(&self, old: Place, how: ZeroMode) -> Option<Place> {
        let _ = how;
        match old {
            Place::Zero => Some(Place::Zero),
            Place::Absent if self.backing().is_none() => Some(Place::Absent),
            _ => None,
        }
    }

    /// What an entry becomes when its whole cluster is discarded; `None`: it stays as it is.
    fn discarded(&self, old: Place) -> Option<Place> {
        let _ = old;
        None
    }

    /// Flags of all that this layer answers for, besides those of its kind.
    fn present_flags(&self) -> ExtentFlags {
        ExtentFlags::empty()
    }

    /// Flags of stored clusters besides `PRESENT` and `DATA`.
    fn stored_flags(&self) -> ExtentFlags {
        ExtentFlags::empty()
    }

    /// What encrypts the bytes of stored clusters, if something does. It does not change while the image is open.
    fn cipher(&self) -> Option<&dyn DataCipher> {
        None
    }

    /// How packed clusters are written, if they can be.
    fn packing(&self) -> Option<&dyn Packing> {
        None
    }

    /// True if so much is dirty in the tables that they should be written, to keep memory bounded.
    fn wants_write_back(&self) -> bool {
        false
    }

    /// What is dirty in the tables, which then counts as clean. No I/O.
    fn take_dirty(&self) -> Cut;

    /// Makes a cut durable. What it refers to is durable already.
    ///
    /// # Errors
    /// The storage's.
    fn write_cut(&self, cut: &Cut) -> Result<()> {
        let storage = self.storage();
        for group in cut {
            for write in group {
                storage.write_at(write.offset, &write.bytes)?;
            }
            storage.flush()?;
        }
        Ok(())
    }

    /// A cut could not be written: it is dirty again.
    fn not_written(&self, cut: Cut);

    /// The last cut is durable. What it took out of the tables is still used by requests that began before; these have
    /// ended when a later call gives an `epoch` that is at least 2 greater than this one's.
    fn written(&self, epoch: u64) {
        let _ = epoch;
    }

    /// Changes the length of the disk in the tables and the header; the length that it has then.
    ///
    /// # Errors
    /// `Unsupported` where the format has a fixed length; the storage's.
    fn set_len(&self, len: u64, prealloc: Prealloc) -> Result<u64> {
        let _ = (len, prealloc);
        Err(Error::unsupported("Image format driver does not support resize"))
    }

    /// Called once, after the last flush, when the image is closed.
    fn close(&self) {}

    /// What `info` tells.
    ///
    /// # Errors
    /// The storage's.
    fn info(&self) -> Result<ImageInfo> {
        Ok(ImageInfo { cluster_size: Some(self.cluster_size()), dirty: Some(false), ..ImageInfo::default() })
    }

    /// The backing file, if there is one.
    fn backing(&self) -> Option<BackingRef> {
        None
    }

    /// Looks at the image that comes below it, as [`crate::Image::accepts_backing`] says.
    ///
    /// # Errors
    /// What a reader of bytes that are not in this layer is told.
    fn accepts_backing(&self, backing: &dyn crate::image::Image) -> Result<()> {
        let _ = backing;
        Ok(())
    }

    /// Records what the image below is now, as [`crate::Image::adopt_backing`] says.
    ///
    /// # Errors
    /// The storage's; `Unsupported`.
    fn adopt_backing(&self, backing: &dyn crate::image::Image) -> Result<()> {
        let _ = backing;
        Ok(())
    }

    /// Devices that hold the image besides the storage.
    fn more_children(&self) -> Vec<Child> {
        Vec::new()
    }

    /// Another backing file, if the format can have one.
    fn as_backing_change(&self) -> Option<&dyn BackingChange> {
        None
    }

    /// How everything is given up, if the format can do it.
    fn as_clearing(&self) -> Option<&dyn Clearing> {
        None
    }

    /// The consistency check, if the format has one. Everything was flushed before.
    fn as_check(&self) -> Option<&dyn Check> {
        None
    }
}

/// The methods of [`ClusterMap`](crate::mapped::ClusterMap) that say what is mapped: the driver, and the fields `storage`
/// and `filename`.
#[macro_export]
macro_rules! mapped_file {
    ($driver:expr) => {
        fn driver(&self) -> &'static $crate::FormatDriver {
            &$driver
        }

        fn storage(&self) -> &std::sync::Arc<dyn $crate::BlockDevice> {
            &self.storage
        }

        fn filename(&self) -> &str {
            &self.filename
        }
    };
}

/// An open image whose clusters are mapped by `M`.
#[derive(Debug)]
pub struct MappedImage<M: ClusterMap> {
    map: M,
    len: AtomicU64,
    writable: bool,
    /// Held by each change while it runs.
    changes: RwLock<()>,
    /// Clusters that are being given a place.
    claims: RangeLock,
    /// One write-back at a time.
    write_back: Mutex<()>,
    /// Requests that are running.
    requests: epoch::Epoch,
    unpacked: crate::chunk_cache::ChunkCache,
}

/// Bytes of unpacked clusters that are kept for readers of less than a cluster.
const KEPT_BYTES: usize = 4 << 20;

impl<M: ClusterMap> MappedImage<M> {
    /// The image of `len` bytes that `map` describes.
    #[must_use]
    pub fn new(map: M, len: u64, writable: bool) -> Self {
        Self {
            map,
            len: AtomicU64::new(len),
            writable,
            changes: RwLock::default(),
            claims: RangeLock::default(),
            write_back: Mutex::default(),
            requests: epoch::Epoch::default(),
            unpacked: crate::chunk_cache::ChunkCache::new(KEPT_BYTES),
        }
    }

    /// The format's side.
    #[must_use]
    pub fn map(&self) -> &M {
        &self.map
    }

    fn disk_len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Writes dirty tables if they take too much memory.
    fn settle(&self) -> Result<()> {
        if self.map.wants_write_back() { self.write_tables() } else { Ok(()) }
    }

    /// Writes dirty tables: a cut, a barrier, its groups with a barrier behind each.
    fn write_tables(&self) -> Result<()> {
        let _one_at_a_time = self.write_back.lock();
        let cut = self.map.take_dirty();
        let written = self.map.storage().flush().and_then(|()| self.map.write_cut(&cut));
        if written.is_err() {
            self.map.not_written(cut);
        } else {
            self.map.written(self.requests.advance());
        }
        written
    }
}

impl<M: ClusterMap> Drop for MappedImage<M> {
    fn drop(&mut self) {
        if self.writable && self.write_tables().is_ok() {
            self.map.close();
        }
    }
}
