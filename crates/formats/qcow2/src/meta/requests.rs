//! What the read, write, zero and resize paths ask of the metadata.

use std::ops::Range;
use std::sync::atomic::Ordering;

use diskimg_core::{ByteRange, Result, to_usize};

use super::alloc::Clusters;
use super::{Freed, Meta, Miss, State};
use crate::entry::{ClusterKind, L2Entry};
use crate::header::Header;

/// Clusters that were allocated for guest data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allocated {
    pub clusters: Clusters,
    /// They lie behind everything that was ever written: they read as zeros.
    pub fresh: bool,
}

/// The header and the tables that are wholly in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tables<'a> {
    pub header: &'a Header,
    pub l1: &'a [u64],
    pub reftable: &'a [u64],
}

/// A new entry for a guest cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewEntry {
    /// The guest cluster.
    pub cluster: u64,
    pub entry: L2Entry,
}

impl State {
    /// Notes that what `old` refers to has one reference less.
    pub(super) fn drop_entry(&mut self, old: L2Entry, data_file: bool, freed: Freed) {
        if data_file {
            return;
        }
        let geo = self.geo;
        match old.kind(&geo, false) {
            ClusterKind::Unallocated | ClusterKind::ZeroPlain => {}
            ClusterKind::Normal | ClusterKind::ZeroAllocated => {
                let cluster = Clusters { first: old.offset() >> geo.cluster_bits, count: 1 };
                self.alloc.drop_later_as(cluster, freed);
            }
            ClusterKind::Compressed => {
                let payload = old.compressed_ref(&geo);
                let clusters = Clusters::holding(&geo, ByteRange::new(payload.offset, payload.len));
                self.alloc.drop_later_as(clusters, freed);
            }
        }
    }

    /// Replaces entries (clusters ascend), making or unsharing their tables; what only the old ones referred to is
    /// dropped. All are replaced or none.
    fn replace_entries(&mut self, new: &[NewEntry], data_file: bool, freed: Freed) -> Result<(), Miss> {
        let per_slice = self.l2_per_slice();
        let groups = || new.chunk_by(|a, b| a.cluster / per_slice == b.cluster / per_slice);
        // What can be missing is looked for before the first entry changes: it may not be had at all.
        for first in groups().filter_map(<[NewEntry]>::first) {
            self.ensure_l2(first.cluster << self.geo.cluster_bits)?;
        }
        for group in groups() {
            let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
            let old = self.entries(first.cluster..last.cluster + 1)?;
            self.set_entries(group)?;
            for new in group {
                let Some(old) = old.get(to_usize(new.cluster - first.cluster)) else { continue };
                if !self.same_host(*old, new.entry, data_file) {
                    self.drop_entry(*old, data_file, freed);
                }
            }
        }
        Ok(())
    }

    /// True if the new entry keeps what the old one refers to.
    fn same_host(&self, old: L2Entry, new: L2Entry, data_file: bool) -> bool {
        let compressed = |entry: L2Entry| entry.kind(&self.geo, data_file) == ClusterKind::Compressed;
        old == new || (!compressed(old) && !compressed(new) && old.offset() == new.offset())
    }
}

impl Meta {
    /// Guest clusters whose entries can be looked at together: more of their slices might not be in memory at once.
    pub(crate) fn most_prepared(&self) -> u64 {
        let slices = (super::L2_CACHE / self.geo.slice_size()).max(super::MIN_SLICES) / 4;
        slices * self.geo.slice_size() / self.geo.l2_entry_size()
    }

    /// The entries of guest clusters (at most [`Self::most_prepared`]), whose L2 tables exist afterwards and belong to
    /// this image alone.
    pub(crate) fn prepare(&self, clusters: Range<u64>) -> Result<Vec<L2Entry>> {
        let geo = self.geo;
        let mut at = clusters.start;
        while at < clusters.end {
            let offset = at << geo.cluster_bits;
            self.change(|state| state.ensure_l2(offset))?;
            at = (at / geo.l2_entries() + 1) * geo.l2_entries();
        }
        self.look(|state| state.entries(clusters.clone()))
    }

    /// The entry of guest cluster `cluster`.
    pub(crate) fn entry(&self, cluster: u64) -> Result<L2Entry> {
        self.look(|state| state.entry(cluster))
    }

    /// The entries of guest clusters.
    pub(crate) fn entries(&self, clusters: Range<u64>) -> Result<Vec<L2Entry>> {
        self.look(|state| state.entries(clusters.clone()))
    }

    /// Allocates up to `most` host clusters that follow each other.
    pub(crate) fn allocate(&self, most: u64) -> Result<Allocated> {
        let clusters = self.change(|state| state.allocate(most))?;
        let fresh = clusters.bytes(&self.geo).start >= self.storage.len();
        Ok(Allocated { clusters, fresh })
    }

    /// Allocates `count` host clusters that follow each other.
    pub(crate) fn allocate_run(&self, count: u64) -> Result<Clusters> {
        let mut from = 0;
        self.change(|state| state.allocate_exactly(count, &mut from))
    }

    /// A place for a compressed payload of `len` bytes.
    pub(crate) fn allocate_payload(&self, len: u64) -> Result<u64> {
        self.change(|state| state.allocate_payload(len))
    }

    /// Gives back references to host clusters that no entry ever had.
    pub(crate) fn give_back(&self, clusters: Clusters) {
        self.state.write().alloc.drop_later(clusters);
    }

    /// Makes new entries visible. Their tables were prepared.
    pub(crate) fn publish(&self, entries: &[NewEntry]) -> Result<()> {
        let data_file = self.data_file.is_some();
        self.change(|state| state.replace_entries(entries, data_file, Freed::Other))
    }

    /// Replaces each entry of a run of guest clusters by what `decide` makes of it (`None`: unchanged). L2 tables that
    /// do not exist are made only if `make_tables`; `freed` says why clusters lose their entries.
    pub(crate) fn update_entries(
        &self,
        clusters: Range<u64>,
        make_tables: bool,
        freed: Freed,
        decide: impl Fn(L2Entry) -> Option<L2Entry>,
    ) -> Result<()> {
        let data_file = self.data_file.is_some();
        let mut at = clusters.start;
        while at < clusters.end {
            let table_end = (at / self.geo.l2_entries() + 1) * self.geo.l2_entries();
            let end = table_end.min(clusters.end);
            self.change(|state| {
                let offset = at << state.geo.cluster_bits;
                if !make_tables && state.l2_table(state.geo.l1_index(offset))?.is_none() {
                    return Ok(());
                }
                let old = state.entries(at..end)?;
                let decided = (at..end).zip(old).filter_map(|(cluster, old)| {
                    decide(old).filter(|entry| *entry != old).map(|entry| NewEntry { cluster, entry })
                });
                state.replace_entries(&decided.collect::<Vec<_>>(), data_file, freed)
            })?;
            at = end;
        }
        Ok(())
    }

    /// Drops the L2 tables from L1 index `first` on; their entries must be empty.
    pub(crate) fn drop_l2_tables(&self, first: u64) -> Result<()> {
        self.change(|state| {
            for index in first..state.l1.len() {
                let Some(table) = state.l2_table(index)? else { continue };
                state.l1.set(index, 0);
                state.forget_l2(table);
                let cluster = Clusters { first: table >> state.geo.cluster_bits, count: 1 };
                state.alloc.drop_later_as(cluster, Freed::Always);
            }
            Ok(())
        })
    }

    /// The version as it is now: 2 or 3. May be asked under any lock.
    pub(crate) fn version(&self) -> u32 {
        self.version.load(Ordering::Acquire)
    }

    /// The compression type as it is now. May be asked under any lock.
    pub(crate) fn compression_type(&self) -> u8 {
        self.compression_type.load(Ordering::Acquire)
    }

    /// The header as it is now.
    pub(crate) fn header(&self) -> Header {
        self.state.read().header.clone()
    }

    /// Calls `each` with the tables, which do not change meanwhile; it must not use the image. They can be large, so
    /// they are not copied.
    pub(crate) fn with_tables<T>(&self, each: impl FnOnce(Tables<'_>) -> T) -> T {
        let state = self.state.read();
        each(Tables { header: &state.header, l1: state.l1.entries(), reftable: state.reftable.entries() })
    }
}
