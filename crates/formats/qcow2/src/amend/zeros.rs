//! Zero clusters expressed without the flag that version 2 does not have, in the active tables and in those of snapshots.
//!
//! Without a backing file a cluster that is not allocated reads as zeros. With one, zeros have to be written. A host
//! cluster that a zero entry keeps is zeroed and becomes a normal one if nobody but this entry refers to it.
//! Order, table by table: zeros and refcounts | the entries (see [`crate::meta`]). A version 3 image reads alike before
//! and after each.

use std::collections::BTreeMap;

use diskimg_core::{ByteRange, Error, Result, read_zero_padded, to_usize};

use super::steps::Steps;
use crate::crypt::Place;
use crate::entry::{COPIED, ClusterKind, L1Entry, L2Entry, ZERO};
use crate::image::Qcow2;
use crate::limits::MAX_L1_ENTRIES;
use crate::meta::TableSlice;

/// Bytes of a table that are read at a time.
const STEP: u64 = 1 << 20;

/// The L2 tables of the image and its snapshots by host offset, each once, with the index of the L1 entry that it is
/// for.
pub(super) type Trees = BTreeMap<u64, u64>;

impl Qcow2 {
    /// The L2 tables that the active L1 table and those of snapshots refer to.
    pub(super) fn trees(&self) -> Result<Trees> {
        let mut trees = Trees::new();
        let geo = self.meta.geo;
        let mut add = |index: u64, entry: u64| {
            let offset = L1Entry(entry).offset();
            if !geo.is_aligned(offset) {
                return Err(Error::corrupt(format!("L2 table offset {offset:#x} unaligned")));
            }
            if offset != 0 {
                trees.entry(offset).or_insert(index);
            }
            Ok(())
        };
        self.meta
            .with_tables(|tables| (0..).zip(tables.l1).try_for_each(|(index, entry)| add(index, *entry)))?;
        for snapshot in self.snapshots.read().iter() {
            let (offset, count) = (snapshot.l1_offset, u64::from(snapshot.l1_size));
            if !geo.is_aligned(offset) {
                return Err(Error::corrupt("Snapshot L1 table offset invalid"));
            }
            if count > MAX_L1_ENTRIES {
                return Err(Error::limit("Snapshot L1 table too large"));
            }
            let end = offset.saturating_add(count * 8).min(self.storage.len());
            let mut at = offset;
            while at < end {
                let mut bytes = vec![0; to_usize(STEP.min((end - at).next_multiple_of(8)))];
                read_zero_padded(&*self.storage, at, &mut bytes)?;
                let first = (at - offset) / 8;
                let mut entries = (first..).zip(bytes.as_chunks().0);
                entries.try_for_each(|(index, entry)| add(index, u64::from_be_bytes(*entry)))?;
                at += STEP;
            }
        }
        Ok(trees)
    }

    /// Offsets of the slices of a table.
    fn slices(&self, table: u64) -> impl Iterator<Item = u64> + use<> {
        (table..table + self.meta.geo.cluster_size()).step_by(to_usize(self.meta.geo.slice_size()))
    }

    /// True if a table has a compressed cluster.
    pub(super) fn has_compressed_clusters(&self, trees: &Trees) -> Result<bool> {
        let geo = self.meta.geo;
        for table in trees.keys() {
            for slice in self.slices(*table) {
                let entries = self.meta.slice_entries(slice)?;
                if entries.iter().any(|entry| entry.kind(&geo, false) == ClusterKind::Compressed) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Replaces all zero clusters.
    pub(super) fn expand_zero_clusters(&self, trees: &Trees, steps: &Steps<'_>) -> Result<()> {
        for ((table, l1_index), done) in trees.iter().zip(0..) {
            let references = self.meta.refcount_of(table >> self.meta.geo.cluster_bits)?;
            let mut guest = l1_index.saturating_mul(self.meta.geo.l2_coverage());
            for slice in self.slices(*table) {
                guest += self.expand_slice(TableSlice { offset: slice, references }, guest)?;
            }
            steps.report(done + 1, trees.len() as u64)?;
        }
        self.decompression.forget();
        Ok(())
    }

    /// The same for a slice whose first entry is for guest byte `first`; how many bytes it is for.
    fn expand_slice(&self, slice: TableSlice, first: u64) -> Result<u64> {
        let geo = self.meta.geo;
        let entries = self.meta.slice_entries(slice.offset)?;
        let covered = (entries.len() as u64) << geo.cluster_bits;
        let guests = (first..).step_by(to_usize(geo.cluster_size()));
        for ((entry, index), guest) in entries.into_iter().zip(0..).zip(guests) {
            let kind = entry.kind(&geo, false);
            if !matches!(kind, ClusterKind::ZeroPlain | ClusterKind::ZeroAllocated) {
                continue;
            }
            let cluster = entry.offset() >> geo.cluster_bits;
            let alone = kind == ClusterKind::ZeroAllocated
                && geo.is_aligned(entry.offset())
                && self.meta.refcount_of(cluster)? == slice.references;
            let new = if alone {
                self.zero_for_entry(guest, geo.cluster_run(cluster, 1))?;
                L2Entry { descriptor: entry.descriptor & !ZERO, bitmap: 0 }
            } else if self.has_backing() {
                let new = self.meta.allocate_shared(slice.references)?;
                let host = new.bytes(&geo);
                if let Err(error) = self.zero_for_entry(guest, host) {
                    (0..slice.references).for_each(|_| self.meta.give_back(new));
                    return Err(error);
                }
                let copied = if slice.references == 1 { COPIED } else { 0 };
                L2Entry { descriptor: host.start | copied, bitmap: 0 }
            } else {
                L2Entry::default()
            };
            self.meta.replace_in_slice(slice, index, new)?;
        }
        Ok(covered)
    }

    /// Zeros the cluster at guest byte `guest`, unless that would hit metadata.
    fn zero_for_entry(&self, guest: u64, host: ByteRange) -> Result<()> {
        self.meta.check_overlap(host)?;
        self.zero_data(Place { guest, host: host.start }, host.len)
    }
}
