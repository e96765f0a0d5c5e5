//! [`QedMap`]: where clusters are, and where the next one goes.
//!
//! # Write order
//!
//! ```text
//! need-check bit │ guest data, new tables (zeros) │ entries of L2 tables │ entries of the L1 table │ bit cleared
//! ```
//!
//! with a barrier at each `│`, so that no table on the host refers to bytes that are not there: a crash leaves clusters
//! that nothing refers to at worst. The bit tells other programs to look for these; as they write it, it is set for images
//! without a backing file alone, and cleared when an image is closed, or flushed a while after the last new cluster.
//!
//! New clusters come from the end of the file. The table for a range of the disk comes behind the clusters that it is
//! made for, as other programs lay it out.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use diskimg_core::mapped::{AppendSpace, ClusterMap, Cut, EntryTree, Place, Run, Space};
use diskimg_core::{
    BackingChange, BackingRef, BlockDevice, ByteRange, Check, Error, ErrorKind, ImageInfo, Prealloc, Result,
    ZeroMode, errno,
};
use parking_lot::{Mutex, RwLock};

use crate::create::RAW;
use crate::geometry::Geometry;
use crate::header::{Header, NEED_CHECK};

/// An L2 entry for a cluster of zeros.
const ZERO: u64 = 1;
/// How long after the last new cluster a flush clears the need-check bit, in milliseconds.
const SETTLED: u64 = 5000;

/// An image's tables and header.
#[derive(Debug)]
pub(crate) struct QedMap {
    storage: Arc<dyn BlockDevice>,
    filename: String,
    pub(crate) geo: Geometry,
    pub(crate) tree: EntryTree,
    space: AppendSpace,
    /// Places of tables that are to be made when something is in them, by their index in the L1 table.
    plans: Mutex<HashMap<u64, u64>>,
    /// The header as it stands in the file.
    header: Mutex<Header>,
    backing: RwLock<Option<BackingRef>>,
    /// The need-check bit is set.
    marked: AtomicBool,
    /// When the last cluster was added, in milliseconds since the image was opened.
    added: AtomicU64,
    opened: Instant,
}

fn bad_entry() -> Error {
    Error::new(ErrorKind::Corrupt, diskimg_core::strerror(errno::EINVAL)).with_errno(errno::EINVAL)
}

impl QedMap {
    pub(crate) fn new(
        storage: Arc<dyn BlockDevice>,
        filename: &str,
        header: Header,
        backing: Option<BackingRef>,
    ) -> Self {
        let geo = header.geo;
        let end = diskimg_core::align_down(storage.len(), geo.cluster_size);
        let limit = crate::limits::MAX_HOST_OFFSET;
        let space = AppendSpace::new(&*storage, geo.cluster_size, end.max(geo.header_bytes()), limit);
        Self {
            tree: EntryTree::new(Arc::clone(&storage), geo.tree(header.l1_offset)),
            storage,
            filename: filename.to_owned(),
            geo,
            space,
            plans: Mutex::default(),
            marked: AtomicBool::new(header.features & NEED_CHECK != 0),
            header: Mutex::new(header),
            backing: RwLock::new(backing),
            added: AtomicU64::new(0),
            opened: Instant::now(),
        }
    }

    /// The header as it stands in the file.
    pub(crate) fn header(&self) -> Header {
        self.header.lock().clone()
    }

    /// Where the whole clusters of the file end. Space that was given back is not of the file any more.
    pub(crate) fn file_end(&self) -> u64 {
        diskimg_core::align_down(self.storage.len(), self.geo.cluster_size).min(self.space.end())
    }

    /// Writes the header with other features.
    fn set_features(&self, features: impl FnOnce(u64) -> u64) -> Result<bool> {
        let mut header = self.header.lock();
        let mut new = header.clone();
        new.features = features(header.features);
        let changed = new.features != header.features;
        if changed {
            self.storage.write_at(0, &new.encode())?;
            *header = new;
        }
        self.marked.store(header.features & NEED_CHECK != 0, Ordering::Release);
        Ok(changed)
    }

    /// Says on the host that tables are about to change.
    fn mark(&self) -> Result<()> {
        self.added.store(self.now(), Ordering::Release);
        if self.marked.load(Ordering::Acquire) || self.backing.read().is_some() {
            return Ok(());
        }
        if self.set_features(|features| features | NEED_CHECK)? {
            self.storage.flush()?;
        }
        Ok(())
    }

    /// Says on the host that the tables are sound.
    pub(crate) fn unmark(&self) -> Result<()> {
        if self.marked.load(Ordering::Acquire) {
            self.set_features(|features| features & !NEED_CHECK)?;
        }
        Ok(())
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The leaf table of root entry `index`; `None`: there is none.
    fn table(&self, index: u64) -> Result<Option<u64>> {
        match self.tree.root_entry(index)? {
            0 => Ok(None),
            offset if self.geo.is_table_offset(offset, self.space.end()) => Ok(Some(offset)),
            _ => Err(bad_entry()),
        }
    }

    /// Sets a place aside for a table that is missing.
    fn plan_table(&self, index: u64) -> Result<()> {
        if self.table(index)?.is_some() {
            return Ok(());
        }
        let mut plans = self.plans.lock();
        if !plans.contains_key(&index) && self.table(index)?.is_none() {
            plans.insert(index, self.space.take(self.geo.table_len(), self.geo.cluster_size)?);
        }
        Ok(())
    }

    /// A table; it is made if it is missing.
    fn ensure_table(&self, index: u64) -> Result<u64> {
        if let Some(table) = self.table(index)? {
            return Ok(table);
        }
        let mut plans = self.plans.lock();
        if let Some(table) = self.table(index)? {
            return Ok(table);
        }
        let len = self.geo.table_len();
        let place = match plans.get(&index) {
            Some(place) => *place,
            None => self.space.take(len, self.geo.cluster_size)?,
        };
        // Kept where making it fails, or it would be lost.
        plans.insert(index, place);
        self.tree.add_leaf(index, ByteRange::new(place, len), self.space.is_fresh(place))?;
        plans.remove(&index);
        Ok(place)
    }

    /// Gives up a table that was to come behind `space`, if both are the last in the file.
    fn give_up_table(&self, space: Space) -> bool {
        let behind = space.offset.saturating_add(space.count.saturating_mul(self.geo.cluster_size));
        let mut plans = self.plans.lock();
        let planned = plans.iter().find(|(_, place)| **place == behind).map(|(index, _)| *index);
        let given_up = planned
            .filter(|_| self.space.give_back_end(space.offset, behind.saturating_add(self.geo.table_len())));
        given_up.and_then(|index| plans.remove(&index)).is_some()
    }

    fn place(&self, entry: u64) -> Result<Place> {
        match entry {
            0 => Ok(Place::Absent),
            ZERO => Ok(Place::Zero),
            // The end is asked for after the entry was read: whoever wrote it had moved the end before.
            offset if self.geo.is_cluster_offset(offset, self.space.end()) => Ok(Place::Stored(offset)),
            _ => Err(bad_entry()),
        }
    }
}

impl BackingChange for QedMap {
    fn set_backing(&self, backing: Option<&BackingRef>) -> Result<()> {
        let mut header = self.header.lock();
        if header.compat_features != 0 {
            // Somebody may have said more of the backing file there.
            return Err(Error::from_errno(errno::ENOTSUP));
        }
        let named = backing.map(|backing| (backing.name.as_str(), backing.format.as_deref() == Some(RAW)));
        let no_room = || Error::new(ErrorKind::NoSpace, "No space left on device").with_errno(errno::ENOSPC);
        let (new, name) = header.with_backing(named).ok_or_else(no_room)?;
        if !new.is_one_write(&name) {
            // Where the old name is not: the header says which one counts.
            self.storage.write_at(new.backing_offset.into(), &name)?;
            self.storage.flush()?;
            self.storage.write_at(0, &new.encode())?;
        } else {
            let mut bytes = new.encode();
            bytes.extend(&name);
            self.storage.write_at(0, &bytes)?;
        }
        self.storage.flush()?;
        *header = new;
        let is_raw = named.is_some_and(|(_, is_raw)| is_raw).then(|| RAW.to_owned());
        *self.backing.write() = backing.map(|backing| BackingRef { format: is_raw, ..backing.clone() });
        Ok(())
    }
}

impl ClusterMap for QedMap {
    diskimg_core::mapped_file!(crate::DRIVER);

    fn cluster_size(&self) -> u64 {
        self.geo.cluster_size
    }

    fn run_at(&self, cluster: u64, most: u64) -> Result<Run> {
        let (index, within) = self.tree.place_of(cluster);
        let Some(table) = self.table(index)? else {
            return Ok(Run { place: Place::Absent, count: self.tree.without_leaf(cluster, most)? });
        };
        let (mut first, mut count) = (0, 0);
        self.tree.leaf_entries(table, within, |entry| {
            let follows = match first {
                _ if count == 0 => {
                    first = entry;
                    true
                }
                0 | ZERO => entry == first,
                offset => offset.checked_add(count * self.geo.cluster_size) == Some(entry),
            };
            count += u64::from(follows);
            follows && count < most
        })?;
        let place = self.place(first)?;
        // One that lies behind the end is an error of its own.
        let room = match place {
            Place::Stored(offset) => (self.space.end() - offset).div_ceil(self.geo.cluster_size),
            _ => count,
        };
        Ok(Run { place, count: count.min(room).max(1) })
    }

    fn allocate(&self, cluster: u64, most: u64) -> Result<Space> {
        self.mark()?;
        let (index, within) = self.tree.place_of(cluster);
        let space = self.space.take_clusters(most.min(self.geo.entries() - within))?;
        if let Err(error) = self.plan_table(index) {
            self.space.give_back(space);
            return Err(error);
        }
        Ok(space)
    }

    fn give_back(&self, space: Space) {
        if !self.give_up_table(space) {
            self.space.give_back(space);
        }
    }

    fn publish(&self, cluster: u64, count: u64, place: Place) -> Result<()> {
        self.mark()?;
        let mut done = 0;
        while done < count {
            let (index, within) = self.tree.place_of(cluster + done);
            let some = (self.geo.entries() - within).min(count - done);
            let table = self.ensure_table(index)?;
            self.tree.set_leaves(table, within, some, |step| match place {
                Place::Stored(offset) => offset + (done + step) * self.geo.cluster_size,
                Place::Absent => 0,
                Place::Zero | Place::Packed { .. } => ZERO,
            })?;
            done += some;
        }
        Ok(())
    }

    fn zeroed(&self, old: Place, _: ZeroMode) -> Option<Place> {
        matches!(old, Place::Absent | Place::Zero).then_some(Place::Zero)
    }

    fn wants_write_back(&self) -> bool {
        self.tree.wants_write_back()
    }

    fn take_dirty(&self) -> Cut {
        self.tree.take_dirty()
    }

    fn not_written(&self, _: Cut) {
        self.tree.written(false);
    }

    fn written(&self, _: u64) {
        self.tree.written(true);
        if self.now().saturating_sub(self.added.load(Ordering::Acquire)) >= SETTLED {
            // It only says that a check is due.
            let _ = self.unmark();
        }
    }

    fn set_len(&self, len: u64, prealloc: Prealloc) -> Result<u64> {
        if prealloc != Prealloc::Off {
            let text = format!("Unsupported preallocation mode '{}'", prealloc.name());
            return Err(Error::unsupported(text));
        }
        let mut header = self.header.lock();
        if !self.geo.is_valid_disk_size(len) {
            return Err(Error::invalid("Invalid image size specified"));
        }
        if len < header.image_size {
            return Err(Error::unsupported("Shrinking images is currently not supported"));
        }
        let new = Header { image_size: len, ..header.clone() };
        self.storage.write_at(0, &new.encode())?;
        *header = new;
        Ok(len)
    }

    fn close(&self) {
        if let Some(end) = self.space.surplus().filter(|end| *end < self.storage.len()) {
            let _ = self.storage.set_len(end, Prealloc::Off);
        }
        // Without it the next one that writes checks the tables, and finds nothing.
        let _ = self.unmark();
    }

    fn info(&self) -> Result<ImageInfo> {
        Ok(ImageInfo {
            cluster_size: Some(self.geo.cluster_size),
            dirty: Some(false),
            ..ImageInfo::default()
        })
    }

    fn backing(&self) -> Option<BackingRef> {
        self.backing.read().clone()
    }

    fn as_backing_change(&self) -> Option<&dyn BackingChange> {
        Some(self)
    }

    fn as_check(&self) -> Option<&dyn Check> {
        Some(self)
    }
}
