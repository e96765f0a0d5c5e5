//! [`BatMap`]: the table of clusters (the BAT), and where the next one goes.
//!
//! Write order: in-use mark | clusters | table | end of the file, mark cleared. The mark is durable before the first
//! change and cleared when the image is closed after its last flush. A cluster that the table dropped is used again only
//! when the table without it is durable and the requests that may have looked it up have ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use diskimg_core::mapped::{ClusterMap, Cut, EntryTable, Place, Run, Space, TableEntry};
use diskimg_core::{BlockDevice, ByteRange, Check, Error, ImageInfo, Prealloc, Result, ZeroMode, errno};
use parking_lot::{Mutex, RwLock};

use crate::header::{HEADER_LEN, Header, IN_USE, IN_USE_OFFSET};
use crate::space::HostSpace;

/// A table entry: where a cluster is, in the header's entry units; 0: nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry(pub u32);

impl TableEntry for Entry {
    const LEN: usize = 4;

    fn put(self, bytes: &mut Vec<u8>) {
        bytes.extend(self.0.to_le_bytes());
    }
}

/// Host clusters that entries dropped, on their way to being free.
#[derive(Debug, Default)]
struct Dropped {
    /// The table without them is not written yet.
    pending: Vec<u64>,
    /// It is being written.
    cut: Vec<u64>,
    /// It is durable: the epoch at that moment, and the clusters.
    waiting: Vec<(u64, Vec<u64>)>,
}

/// What changes while an image is open.
#[derive(Debug)]
pub(crate) struct State {
    pub table: EntryTable<Entry>,
    pub space: HostSpace,
    dropped: Dropped,
}

/// The map of an open image.
#[derive(Debug)]
pub(crate) struct BatMap {
    pub(crate) storage: Arc<dyn BlockDevice>,
    pub(crate) header: Header,
    /// Host offset that clusters are counted from, in bytes.
    base: u64,
    filename: String,
    /// Host ranges of the extension.
    pub(crate) extension: Vec<ByteRange>,
    pub(crate) state: RwLock<State>,
    /// The mark stands on the host, set by us.
    marked: AtomicBool,
    marking: Mutex<()>,
    /// The image was not closed, which no repair has dealt with yet.
    pub(crate) unclean: AtomicBool,
    /// The data offset is wrong, which no repair has dealt with yet.
    pub(crate) bad_data_offset: AtomicBool,
}

impl BatMap {
    /// The map of the image with `header`, whose table is `entries`.
    pub(crate) fn new(
        storage: Arc<dyn BlockDevice>,
        header: Header,
        entries: Vec<Entry>,
        filename: &str,
        extension: Vec<ByteRange>,
    ) -> Self {
        let len = entries.len() as u64 * 4;
        let table = EntryTable::new(HEADER_LEN as u64, entries, len, 0);
        let state = RwLock::new(State { table, space: HostSpace::default(), dropped: Dropped::default() });
        let file_len = storage.len();
        let base = header.data_start(file_len);
        // Entries that count clusters can't say anything else.
        let base = if header.in_clusters { base.next_multiple_of(header.cluster_size) } else { base };
        let unclean = AtomicBool::new(header.in_use == IN_USE);
        let bad_data_offset = AtomicBool::new(!header.has_good_data_offset(file_len));
        Self {
            storage,
            header,
            base,
            filename: filename.to_owned(),
            extension,
            state,
            marked: AtomicBool::new(false),
            marking: Mutex::default(),
            unclean,
            bad_data_offset,
        }
    }

    /// Host offset of what `entry`, which is not 0, stands for.
    pub(crate) fn host(&self, entry: Entry) -> u64 {
        u64::from(entry.0) * self.header.entry_unit()
    }

    /// The host clusters that `range` touches: the first, and how many. What lies before the data is left out.
    fn slots(&self, range: ByteRange) -> (u64, u64) {
        let size = self.header.cluster_size;
        let start = range.start.saturating_sub(self.base) / size;
        let end = range.end().saturating_sub(self.base).div_ceil(size);
        (start, end.saturating_sub(start))
    }

    /// Host offset of host cluster `slot`.
    pub(crate) fn slot_offset(&self, slot: u64) -> u64 {
        self.base + slot * self.header.cluster_size
    }

    /// The entry of host cluster `slot`.
    pub(crate) fn slot_entry(&self, slot: u64) -> Option<Entry> {
        u32::try_from(self.slot_offset(slot) / self.header.entry_unit()).ok().map(Entry)
    }

    /// The host cluster of an entry that has one for itself.
    fn own_slot(&self, entry: Entry) -> Option<u64> {
        let within = self.host(entry).checked_sub(self.base).filter(|_| entry.0 != 0)?;
        within.is_multiple_of(self.header.cluster_size).then(|| within / self.header.cluster_size)
    }

    /// Number of the first host cluster that no entry can name.
    pub(crate) fn slot_limit(&self) -> u64 {
        let reach = u64::from(u32::MAX) * self.header.entry_unit();
        (reach.saturating_sub(self.base)) / self.header.cluster_size
    }

    /// Host offset behind everything that entries and the extension take; where data begins if there is nothing.
    pub(crate) fn image_end(&self, entries: &[Entry]) -> u64 {
        let last = entries.iter().map(|entry| entry.0).max().unwrap_or(0);
        let data =
            if last == 0 { 0 } else { self.host(Entry(last)).saturating_add(self.header.cluster_size) };
        let extension = self.extension.iter().map(ByteRange::end).max().unwrap_or(0);
        let start = self.header.data_start(self.storage.len());
        if data == 0 { start.max(extension) } else { data.max(extension) }
    }

    /// Finds out which host clusters are free.
    pub(crate) fn find_space(&self) {
        let mut state = self.state.write();
        let size = self.header.cluster_size;
        let file_end = self.storage.len();
        let used = state.table.entries().iter().filter(|entry| entry.0 != 0);
        let ranges = used.map(|entry| ByteRange::new(self.host(*entry), size));
        // One that lies behind the file takes nothing.
        let ranges = ranges.filter(|range| range.start < file_end).chain(self.extension.iter().copied());
        let runs = ranges.map(|range| self.slots(range)).filter(|run| run.1 > 0).collect();
        (state.space, state.dropped) = (HostSpace::around(runs), Dropped::default());
    }

    /// It was changed since it was opened.
    pub(crate) fn is_marked(&self) -> bool {
        self.marked.load(Ordering::Acquire)
    }

    /// Writes the mark.
    pub(crate) fn write_mark(&self, mark: u32) -> Result<()> {
        self.storage.write_at(IN_USE_OFFSET, &mark.to_le_bytes())?;
        self.storage.flush()
    }

    /// The end of an image that was changed: nothing behind the last cluster, no mark.
    fn finish(&self) -> Result<()> {
        let end = self.image_end(self.state.read().table.entries());
        if end < self.storage.len() {
            self.storage.set_len(end, Prealloc::Off)?;
        }
        self.write_mark(0)
    }
}

impl ClusterMap for BatMap {
    diskimg_core::mapped_file!(crate::DRIVER);

    fn cluster_size(&self) -> u64 {
        self.header.cluster_size
    }

    fn run_at(&self, cluster: u64, most: u64) -> Result<Run> {
        let table = &self.state.read().table;
        let Some(first) = table.get(cluster) else {
            return Ok(Run { place: Place::Absent, count: most.max(1) });
        };
        if first.0 == 0 {
            let count = table.run(cluster, most, |_, entry| entry.0 == 0);
            return Ok(Run { place: Place::Absent, count: count.max(1) });
        }
        let host = self.host(first);
        if host < self.header.table_end() {
            return Err(Error::corrupt("a cluster lies in the block allocation table").with_errno(errno::EIO));
        }
        let step = self.header.cluster_size / self.header.entry_unit();
        let count =
            table.run(cluster, most, |index, entry| u64::from(entry.0) == u64::from(first.0) + index * step);
        Ok(Run { place: Place::Stored(host), count: count.max(1) })
    }

    fn allocate(&self, cluster: u64, most: u64) -> Result<Space> {
        let mut state = self.state.write();
        let entries = state.table.entries().len() as u64;
        let most = most.min(entries.saturating_sub(cluster));
        if most == 0 {
            return Err(Error::limit("the block allocation table is too short").with_errno(errno::EINVAL));
        }
        let Some((slot, count)) = state.space.take(most, self.slot_limit()) else {
            return Err(Error::limit("the image has no more clusters").with_errno(errno::EFBIG));
        };
        let offset = self.slot_offset(slot);
        // A file that others have made longer may hold anything there.
        Ok(Space { offset, count, fresh: offset >= self.storage.len() })
    }

    fn give_back(&self, space: Space) {
        let (slot, _) = self.slots(ByteRange::new(space.offset, 0));
        self.state.write().space.give_back(slot, space.count);
    }

    fn publish(&self, cluster: u64, count: u64, place: Place) -> Result<()> {
        let state = &mut *self.state.write();
        for index in 0..count {
            let entry = match place {
                Place::Stored(offset) => {
                    let (slot, _) = self.slots(ByteRange::new(offset, 0));
                    self.slot_entry(slot + index)
                        .ok_or_else(|| Error::limit("the image has no more clusters"))?
                }
                _ => Entry(0),
            };
            let old = state.table.get(cluster + index).filter(|old| *old != entry);
            state.dropped.pending.extend(old.and_then(|old| self.own_slot(old)));
            state.table.set(cluster + index, entry);
        }
        Ok(())
    }

    fn before_change(&self) -> Result<()> {
        if self.is_marked() {
            return Ok(());
        }
        let _one_at_a_time = self.marking.lock();
        if !self.is_marked() {
            self.write_mark(IN_USE)?;
            self.marked.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn zeroed(&self, old: Place, how: ZeroMode) -> Option<Place> {
        match old {
            Place::Stored(_) if how == ZeroMode::KeepAllocated => None,
            _ => Some(Place::Absent),
        }
    }

    fn discarded(&self, _: Place) -> Option<Place> {
        Some(Place::Absent)
    }

    fn take_dirty(&self) -> Cut {
        let state = &mut *self.state.write();
        state.dropped.cut.append(&mut state.dropped.pending);
        Some(state.table.take_dirty()).filter(|writes| !writes.is_empty()).into_iter().collect()
    }

    fn not_written(&self, cut: Cut) {
        let state = &mut *self.state.write();
        state.dropped.pending.append(&mut state.dropped.cut);
        cut.iter().for_each(|writes| state.table.not_written(writes));
    }

    fn written(&self, epoch: u64) {
        let free = {
            let dropped = &mut self.state.write().dropped;
            let cut = std::mem::take(&mut dropped.cut);
            let (free, mut waiting): (Vec<_>, Vec<_>) =
                std::mem::take(&mut dropped.waiting).into_iter().partition(|(since, _)| since + 2 <= epoch);
            waiting.extend((!cut.is_empty()).then_some((epoch, cut)));
            dropped.waiting = waiting;
            free
        };
        for slot in free.into_iter().flat_map(|(_, slots)| slots) {
            // Giving the space back to the host is a kindness, not a promise.
            let _ = self.storage.discard(ByteRange::new(self.slot_offset(slot), self.header.cluster_size));
            self.state.write().space.give_back(slot, 1);
        }
    }

    fn close(&self) {
        if self.is_marked() {
            // Without it the image stays marked, and the next one to open it repairs it.
            let _ = self.finish();
        }
    }

    fn info(&self) -> Result<ImageInfo> {
        Ok(ImageInfo::default())
    }

    fn as_check(&self) -> Option<&dyn Check> {
        Some(self)
    }
}
