//! Changing the size of the disk, and allocating clusters in advance.
//!
//! Growing: room in the L1 table, preallocation, then the new size. Shrinking: what lies behind the new end is dropped
//! first, then the size is stored; the host file is cut last.

use diskimg_core::{ByteRange, Error, ErrorKind, Prealloc, Result, errno, extend_to, to_usize};

use crate::crypt::Place;
use crate::entry::{ClusterKind, L2Entry};
use crate::features;
use crate::header::SECTOR;
use crate::image::Qcow2;
use crate::limits::MAX_L1_ENTRIES;
use crate::meta::{Freed, NewEntry};
use crate::room;
use crate::write::Unpublished;

/// Clusters whose entries are published at a time.
const STEP: u64 = 8192;

impl Qcow2 {
    /// Changes the disk's size to `len` bytes.
    pub(crate) fn resize(&self, len: u64, prealloc: Prealloc) -> Result<()> {
        let _alone = self.exclusive();
        let old = self.disk_len();
        self.check_resize(len, prealloc)?;
        self.before_change()?;
        if self.has_bitmaps() {
            self.begin_resizing_bitmaps()?;
        }
        let geo = self.meta.geo;
        // What stands behind the disk must not become part of it.
        self.drop_vm_state()?;
        if len < old {
            return self.shrink(old, len);
        }
        self.meta.grow_l1(geo.l1_entries_for(len)).map_err(|error| room::lacking(error, room::L1))?;
        let raw_data = self.has_autoclear(features::RAW_DATA_FILE) && self.data_file.is_some();
        if let Some(data) = &self.data_file {
            let mode = if prealloc == Prealloc::Metadata { Prealloc::Off } else { prealloc };
            data.set_len(len, mode)?;
        }
        if prealloc != Prealloc::Off || raw_data {
            let new = self.clusters_without_place(old)?..geo.clusters_for(len);
            let range = ByteRange::from_bounds(old, len);
            self.preallocate(range, prealloc).map_err(|error| self.undo_preallocation(old, new, error))?;
        }
        self.zero_tail(old, len)?;
        self.resize_bitmaps(len)?;
        self.meta.store_size(len)?;
        self.set_disk_len(len);
        self.meta.flush()
    }

    fn check_resize(&self, len: u64, prealloc: Prealloc) -> Result<()> {
        if !len.is_multiple_of(SECTOR) {
            return Err(Error::invalid("The new size must be a multiple of 512"));
        }
        if self.meta.version() == 2 && self.has_snapshots() {
            return Err(Error::unsupported("Can't resize a v2 image which has snapshots"));
        }
        self.check_bitmaps_for(len)?;
        if len < self.disk_len() && prealloc != Prealloc::Off {
            return Err(Error::invalid("Preallocation can't be used for shrinking an image"));
        }
        if self.meta.geo.l1_entries_for(len) > MAX_L1_ENTRIES {
            return Err(Error::from_errno(errno::EFBIG).context(room::L1));
        }
        Ok(())
    }

    /// The first guest cluster from the disk's end `old` on that has nothing to lose: the one with the end, or the next.
    fn clusters_without_place(&self, old: u64) -> Result<u64> {
        let geo = self.meta.geo;
        let last = old >> geo.cluster_bits;
        let is_empty = !geo.is_aligned(old) && self.meta.entry(last)? == L2Entry::default();
        Ok(if is_empty { last } else { geo.clusters_for(old) })
    }

    /// What the disk was to grow by gets no space after all: the clusters that it was given are free again, so that
    /// none of them stays behind the end of the file. `error` is why.
    fn undo_preallocation(&self, old: u64, new: std::ops::Range<u64>, error: Error) -> Error {
        let geo = self.meta.geo;
        let undone = self
            .meta
            .update_entries(new, false, Freed::Always, |entry| {
                (entry != L2Entry::default()).then(L2Entry::default)
            })
            .and_then(|()| self.meta.drop_l2_tables(geo.l1_entries_for(old)))
            .and_then(|()| self.meta.flush());
        // What could not be undone is told by the check; the reason is what matters here.
        drop(undone);
        error
    }

    /// What stands behind the old end in its cluster must not show up. The caller has claimed all clusters.
    fn zero_tail(&self, old: u64, len: u64) -> Result<()> {
        let geo = &self.meta.geo;
        if geo.is_aligned(old) || old >= len {
            return Ok(());
        }
        let entry = self.meta.entry(old >> geo.cluster_bits)?;
        let within = geo.in_cluster(old);
        match entry.kind(geo, self.data_file.is_some()) {
            ClusterKind::Normal if entry.is_copied() => {
                let place = Place { guest: old, host: entry.offset() + within };
                self.zero_data(place, geo.cluster_size() - within)
            }
            ClusterKind::Normal | ClusterKind::Compressed => {
                let tail = ByteRange::new(old, geo.cluster_size() - within);
                self.write_claimed(tail, &vec![0; to_usize(tail.len)]).map(|_| ())
            }
            ClusterKind::Unallocated | ClusterKind::ZeroPlain | ClusterKind::ZeroAllocated => Ok(()),
        }
    }

    fn shrink(&self, old: u64, len: u64) -> Result<()> {
        let geo = self.meta.geo;
        let clusters = geo.clusters_for(len)..geo.clusters_for(old);
        self.meta.update_entries(clusters, false, Freed::Always, |entry| {
            (entry != L2Entry::default()).then(L2Entry::default)
        })?;
        self.decompression.forget();
        self.meta.drop_l2_tables(geo.l1_entries_for(len))?;
        self.meta.flush()?;
        while self.meta.drop_empty_refblocks()? {
            self.meta.flush()?;
        }
        self.meta.store_size(len)?;
        self.set_disk_len(len);
        self.resize_bitmaps(len)?;
        self.meta.flush()?;
        if let Some(data) = &self.data_file {
            data.set_len(len, Prealloc::Off)?;
        }
        let end = self.meta.counted_end()?;
        let _quiet = self.meta.pause_write_back();
        if end < self.storage.len()
            && let Err(error) = self.storage.set_len(end, Prealloc::Off)
        {
            self.notices.warn(&format!("Failed to truncate the tail of the image: {}", error.strerror()));
        }
        Ok(())
    }

    /// Gives every cluster of guest range `range` a host cluster. Tables come first, so that the clusters are one run
    /// that the host can provide for in one go.
    pub(crate) fn preallocate(&self, range: ByteRange, mode: Prealloc) -> Result<()> {
        let geo = self.meta.geo;
        let clusters = range.start >> geo.cluster_bits..range.end().div_ceil(geo.cluster_size());
        let on_host = self.data_file.is_none() && matches!(mode, Prealloc::Falloc | Prealloc::Full);
        let what = if on_host { room::REFCOUNTS } else { room::CLUSTERS };
        let no_room = |error: Error| room::lacking(error, what);
        if on_host {
            self.prepare_tables(clusters.clone()).map_err(no_room)?;
        }
        let end = self.preallocate_clusters(clusters).map_err(no_room)?;
        if self.data_file.is_some() || end <= self.storage.len() {
            return Ok(());
        }
        if on_host {
            let _quiet = self.meta.pause_write_back();
            return self.storage.set_len(end, mode).map_err(room::too_short);
        }
        extend_to(&self.storage, end).map_err(no_room)
    }

    /// Makes the tables of guest clusters `clusters`, and writes them.
    fn prepare_tables(&self, clusters: std::ops::Range<u64>) -> Result<()> {
        let per_table = self.meta.geo.l2_entries();
        let mut at = clusters.start;
        while at < clusters.end {
            self.meta.prepare(at..at + 1)?;
            at = (at / per_table + 1) * per_table;
        }
        self.meta.write_back()
    }

    /// Host clusters for guest clusters `clusters`; the end of the last one on the host, in bytes.
    fn preallocate_clusters(&self, clusters: std::ops::Range<u64>) -> Result<u64> {
        let per_table = self.meta.geo.l2_entries();
        let mut end = 0;
        let mut at = clusters.start;
        while at < clusters.end {
            let table_end = (at / per_table + 1) * per_table;
            let step = at..clusters.end.min(at + STEP).min(table_end);
            end = end.max(self.preallocate_step(step.clone())?);
            at = step.end;
        }
        Ok(end)
    }

    /// Host clusters for the guest clusters of `step` that have none; the end of the last one on the host, in bytes.
    fn preallocate_step(&self, step: std::ops::Range<u64>) -> Result<u64> {
        let geo = self.meta.geo;
        let data_file = self.data_file.is_some();
        let old = self.meta.prepare(step.clone())?;
        let mut new = Vec::new();
        let mut end = 0;
        let missing = |entry: &L2Entry| {
            matches!(entry.kind(&geo, data_file), ClusterKind::Unallocated | ClusterKind::ZeroPlain)
        };
        let mut want = old.iter().filter(|entry| missing(entry)).count() as u64;
        let mut run = 0..0;
        let mut unpublished = Unpublished { image: self, runs: Vec::new() };
        for (cluster, entry) in step.zip(&old) {
            if !missing(entry) {
                continue;
            }
            if data_file {
                run = cluster..cluster + 1;
            } else if run.is_empty() {
                let found = self.meta.allocate(want)?;
                unpublished.runs.push(found.clusters);
                if !found.fresh {
                    self.zero_host(
                        found.clusters.bytes(&geo).intersect(ByteRange::new(0, self.storage.len())),
                    )?;
                }
                run = found.clusters.first..found.clusters.first + found.clusters.count;
            }
            want -= 1;
            let Some(host) = run.next() else {
                return Err(Error::new(ErrorKind::NoSpace, "no cluster to preallocate"));
            };
            let mut entry = L2Entry::normal(&geo, host << geo.cluster_bits);
            // Reads still fall through; a subcluster is allocated when it is written.
            entry.bitmap = if geo.extended_l2 { 0 } else { entry.bitmap };
            end = end.max((host + 1) << geo.cluster_bits);
            new.push(NewEntry { cluster, entry });
        }
        self.meta.publish(&new)?;
        unpublished.runs.clear();
        Ok(end)
    }
}
