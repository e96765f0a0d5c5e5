//! Snapshots inside an image: creating, applying and deleting them, reading one, and the state of a machine.
//!
//! # Order of writes
//! With a barrier at each `│`. Every change of the header is one write within one sector, so a crash leaves it done or
//! not done. `dirty` is the incompatible bit 0 of version 3; a writable open repairs refcounts and COPIED flags then.
//!
//! ```text
//! create  dirty │ refcounts + 1 │ COPIED cleared in L2 │ and in L1, the snapshot's L1, new table │ header: table, not dirty
//! apply   refcounts of the snapshot's tree + 1, new L1 │ header: L1, size │ refcounts of the old tree - 1
//! delete  new table │ header: table, dirty │ refcounts of the snapshot's tree - 1 │ COPIED set │ header: not dirty
//! ```
//!
//! - A count is raised before anything new refers to it, and lowered only after nothing on the host does: at every
//!   moment each cluster that something refers to is counted at least as often as it is referred to. What a crash
//!   leaves behind are counts that are too high: leaks.
//! - COPIED is never set where two trees refer to a cluster. It is cleared before the header names a new snapshot, and
//!   set again only after the header has forgotten one. In between a flag and a count may differ (a cleared flag
//!   costs a needless copy; a set one is true: one tree alone refers to the cluster), which a check reports. No order
//!   avoids that, since flags and counts stand in different clusters: that is what the dirty bit is for. An image of
//!   version 2 has none; there the order alone protects the data.
//! - Applying needs no dirty bit: the new active tree is wholly shared with the snapshot, so its counts are two and
//!   more, and its flags clear, before and after the switch.
//! - The active L1 table and the snapshot table are never overwritten in place.
//!
//! # Who may run meanwhile
//! Changes of the image wait at [`Qcow2::change_gate`] until the operation is over, so each falls wholly before or
//! behind it. Readers go on; one that an apply overtakes reads again (see [`Contents`]).

mod apply;
mod create;
mod delete;
pub(crate) mod table;
mod view;
mod vm_state;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use diskimg_core::driver::OpenMode;
use diskimg_core::{
    Error, ErrorKind, Image, NewSnapshot, RangeGuard, Result, SnapshotInfo, SnapshotKey, Snapshots, errno,
    to_usize,
};
use parking_lot::RwLockWriteGuard;

use crate::cursor::check_reach;
use crate::entry::L1Entry;
use crate::image::{Qcow2, snapshot_areas};
use crate::limits::MAX_L1_ENTRIES;
use crate::open::read_entries;
use crate::settings::Overlap;
use crate::snapshot_table::Snapshot;

/// How long an operation keeps new changes waiting before it lets them pass once more: one of them may be what the
/// changes that it waits for are waiting for.
const PATIENCE: Duration = Duration::from_millis(20);

/// No change of the image runs while it lives.
pub(crate) struct Exclusive<'a> {
    _claim: RangeGuard<'a>,
    _gate: RwLockWriteGuard<'a, ()>,
}

/// Which disk the image shows: changes when a snapshot is applied.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// Odd while one takes another's place.
    generation: AtomicUsize,
}

impl Contents {
    /// Runs `read`, again if the disk was replaced meanwhile.
    pub(crate) fn read<T>(&self, mut read: impl FnMut() -> Result<T>) -> Result<T> {
        loop {
            let before = self.generation.load(Ordering::SeqCst);
            let result = read();
            if before.is_multiple_of(2) && self.generation.load(Ordering::SeqCst) == before {
                return result;
            }
            std::thread::yield_now();
        }
    }

    /// Replaces the disk. Readers wait for the end of `swap`.
    pub(crate) fn replace<T>(&self, swap: impl FnOnce() -> T) -> T {
        self.generation.fetch_add(1, Ordering::SeqCst);
        let result = swap();
        self.generation.fetch_add(1, Ordering::SeqCst);
        result
    }
}

fn no_such_snapshot() -> Error {
    let text = diskimg_core::strerror(errno::ENOENT);
    Error::invalid(text).with_errno(errno::ENOENT)
}

impl Qcow2 {
    /// Waits until no change runs, and keeps new ones waiting.
    pub(crate) fn exclusive(&self) -> Exclusive<'_> {
        loop {
            if let Some(gate) = self.change_gate.try_write_for(PATIENCE) {
                if let Some(claim) = self.meta.inflight.try_lock_all() {
                    return Exclusive { _claim: claim, _gate: gate };
                }
                drop(gate);
                // Reserved places: whoever holds them may still have to write before it commits them.
                self.meta.inflight.wait_until_idle();
            }
        }
    }

    /// Refuses a change of the snapshots where there can be none.
    fn check_snapshots_changeable(&self) -> Result<()> {
        if self.data_file.is_some() {
            return Err(Error::from_errno(errno::ENOTSUP));
        }
        self.check_writable()
    }

    fn find_snapshot(&self, which: &SnapshotKey<'_>) -> Result<(usize, Snapshot)> {
        let snapshots = self.snapshots.read();
        let found = snapshots.iter().enumerate().find(|(_, snapshot)| which.fits(&snapshot.info()));
        found.map(|(index, snapshot)| (index, snapshot.clone())).ok_or_else(no_such_snapshot)
    }

    /// The L1 table of a snapshot, checked and as stored.
    fn snapshot_l1(&self, snapshot: &Snapshot) -> Result<Vec<u64>> {
        let entries = u64::from(snapshot.l1_size);
        if entries > MAX_L1_ENTRIES {
            return Err(Error::limit("Snapshot L1 table too large").with_errno(errno::EFBIG));
        }
        if !self.meta.geo.is_aligned(snapshot.l1_offset) {
            return Err(Error::invalid("Snapshot L1 table offset invalid").with_errno(errno::EINVAL));
        }
        let unreadable = |error: Error| error.told_as("Failed to read l1 table for snapshot");
        check_reach(snapshot.l1_offset, entries * 8).map_err(unreadable)?;
        read_entries(&*self.storage, (snapshot.l1_offset, entries), OpenMode::default()).map_err(unreadable)
    }

    /// Writes the snapshot table anew, with all that is known of each entry. No change of the image runs.
    ///
    /// Order: the new table | the header | the old one is given back.
    pub(crate) fn rewrite_snapshot_table(&self) -> Result<()> {
        let mut list = self.snapshots.read().clone();
        let bytes = table::encode(&mut list)?;
        let old_table = self.table_area();
        let new_table = self.meta.allocate_table(bytes.len() as u64)?;
        let switched = self
            .meta
            .write_table(new_table, bytes)
            .and_then(|()| self.meta.switch_header(|header| header.snapshots_offset = new_table.start));
        if let Err(error) = switched {
            // What can't be undone is leaked.
            let _ = self.meta.free_table(new_table);
            return Err(error);
        }
        self.adopt_snapshots(list);
        self.meta.free_table(old_table)
    }

    /// Takes note of a new list, whose table stands at `table` already and is named by the header.
    fn adopt_snapshots(&self, snapshots: Vec<Snapshot>) {
        self.meta.set_snapshot_areas(snapshot_areas(&self.meta.header(), &snapshots));
        *self.snapshots.write() = snapshots;
        self.guard_inactive_tables();
    }

    /// Finds the L2 tables of all snapshots, if writes are checked against them. What can't be read is not guarded.
    pub(crate) fn guard_inactive_tables(&self) {
        if !self.mode.write || !self.settings.overlap.contains(Overlap::INACTIVE_L2) {
            return;
        }
        let (end, bits) = (self.storage.len(), self.meta.geo.cluster_bits);
        let mut tables = HashSet::new();
        for l1 in self.snapshots.read().iter().filter_map(|snapshot| self.snapshot_l1(snapshot).ok()) {
            let offsets = l1.iter().map(|entry| L1Entry(*entry).offset());
            // Behind the end there is nothing to lose.
            tables
                .extend(offsets.filter(|offset| *offset != 0 && *offset < end).map(|offset| offset >> bits));
        }
        self.meta.set_inactive_tables(tables);
    }
}

/// The limit on a count or a table, as the host would say it.
fn too_large() -> Error {
    Error::new(ErrorKind::Limit, diskimg_core::strerror(errno::EFBIG)).with_errno(errno::EFBIG)
}

fn as_u32(value: u64) -> Result<u32> {
    u32::try_from(value).map_err(|_| too_large())
}

/// At least `len` entries: padded with empty ones.
fn padded(mut entries: Vec<u64>, len: u64) -> Vec<u64> {
    let len = to_usize(len).max(entries.len());
    entries.resize(len, 0);
    entries
}

impl Snapshots for Qcow2 {
    fn snapshots(&self) -> Vec<SnapshotInfo> {
        self.snapshots.read().iter().map(Snapshot::info).collect()
    }

    fn create_snapshot(&self, new: &NewSnapshot) -> Result<SnapshotInfo> {
        self.check_snapshots_changeable()?;
        let _alone = self.exclusive();
        self.create_alone(new)
    }

    fn apply_snapshot(&self, which: &SnapshotKey<'_>) -> Result<()> {
        let _alone = self.exclusive();
        // qemu-img tells of bitmaps, which `apply_alone` refuses, before anything else.
        if !self.has_bitmaps() {
            self.check_snapshots_changeable()?;
        }
        self.apply_alone(which)
    }

    fn delete_snapshot(&self, which: &SnapshotKey<'_>) -> Result<()> {
        self.check_writable()?;
        let _alone = self.exclusive();
        self.delete_alone(which)
    }

    fn open_snapshot(&self, which: &SnapshotKey<'_>) -> Result<Arc<dyn Image>> {
        self.view_of(which)
    }

    fn read_vm_state(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.read_state_area(offset, buf)
    }

    fn write_vm_state(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.write_state_area(offset, buf)
    }
}
