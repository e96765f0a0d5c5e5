//! One reference more or less for all that a tree reaches: the L2 tables of an L1 table and the clusters of their
//! entries. A tree is walked slice by slice through the caches, so memory is bounded whatever its size, and its
//! references are changed run by run: neighbours on the host cost one look-up.
//!
//! Callers keep writers out while a tree is walked (see [`crate::snapshots`]).

use diskimg_core::{ByteRange, Error, Result, errno, is_zero, to_usize};

use super::alloc::Clusters;
use super::{Freed, Meta, Miss, State, Which, hex};
use crate::entry::{COPIED, ClusterKind, L1Entry, L2Entry};
use crate::geometry::Geometry;

/// Which way references are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shift {
    /// One more each; entries lose their COPIED flags, since somebody else refers to the same.
    Up,
    /// One less each.
    Down,
}

/// References of one slice of an L2 table that are counted alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refs {
    clusters: Clusters,
    /// References to each of them: compressed clusters share.
    times: u64,
}

/// A table in a tree: its L1 index and host offset.
#[derive(Clone, Copy, Debug)]
struct Table {
    l1_index: u64,
    offset: u64,
}

/// The tables of `l1`, each checked to be where a table can be.
fn tables<'a>(geo: &'a Geometry, l1: &'a [u64]) -> impl Iterator<Item = Result<Table, Miss>> + 'a {
    l1.iter().zip(0..).filter_map(|(entry, l1_index)| {
        let offset = L1Entry(*entry).offset();
        if offset == 0 {
            return None;
        }
        Some(if geo.is_aligned(offset) {
            Ok(Table { l1_index, offset })
        } else {
            let (offset, l1_index) = (hex(offset), hex(l1_index));
            Err(Miss::Corrupt(format!("L2 table offset {offset} unaligned (L1 index: {l1_index})")))
        })
    })
}

impl Meta {
    /// Offsets of a table's slices.
    fn slices_of(&self, table: Table) -> impl Iterator<Item = u64> + use<> {
        (table.offset..table.offset + self.geo.cluster_size()).step_by(to_usize(self.geo.slice_size()))
    }

    /// Counts every reference of the tree of `l1` once more or once less. If a count can't be raised, or a table is
    /// damaged, nothing stays changed but COPIED flags (see [`Self::refresh_copied`]).
    ///
    /// # Errors
    /// `InvalidArg` where a count is at its maximum; `Corrupt`; the storage's.
    pub(crate) fn shift_tree(&self, l1: &[u64], shift: Shift) -> Result<()> {
        let mut done = 0;
        let result = self.walk(l1, shift, &mut done, u64::MAX).and_then(|()| self.make_holes());
        if result.is_err() && shift == Shift::Up {
            // What can't be taken back is leaked.
            let _ = self.walk(l1, Shift::Down, &mut 0, done);
        }
        result
    }

    /// Walks a tree, changing the first `most` references; `done` says how many were.
    fn walk(&self, l1: &[u64], shift: Shift, done: &mut u64, most: u64) -> Result<()> {
        for table in tables(&self.geo, l1) {
            let table = match table {
                Ok(table) => table,
                Err(miss) => return self.resolve(miss),
            };
            if *done >= most {
                return Ok(());
            }
            if self.wants_holes() {
                self.make_holes()?;
            }
            let own = Clusters { first: table.offset >> self.geo.cluster_bits, count: 1 };
            // Always before its entries, so that what was counted can be taken back in the same order.
            self.shift_refs(Refs { clusters: own, times: 1 }, shift, done, most)?;
            let given_up = shift == Shift::Down && self.look(|state| state.is_given_up(own.first))?;
            for slice in self.slices_of(table) {
                for refs in self.look(|state| state.refs_of_slice(table, slice))? {
                    self.shift_refs(refs, shift, done, most)?;
                }
                if shift == Shift::Up {
                    self.change(|state| state.clear_copied(slice))?;
                }
            }
            if given_up {
                self.state.write().forget_l2(table.offset);
            }
        }
        Ok(())
    }

    fn shift_refs(&self, refs: Refs, shift: Shift, done: &mut u64, most: u64) -> Result<()> {
        let Clusters { mut first, mut count } = refs.clusters;
        while count > 0 && *done < most {
            let rest = Clusters { first, count: count.min((most - *done).div_ceil(refs.times)) };
            let changed = self.change(|state| {
                let hole = state.alloc.hole_rules.leave_hole(Freed::Snapshot);
                state.shift_run(rest, refs.times, shift, hole)
            })?;
            *done += changed * refs.times;
            first += changed;
            count -= changed;
        }
        Ok(())
    }

    /// Counts each of `clusters` once more or once less.
    ///
    /// # Errors
    /// As [`Self::shift_tree`].
    pub(crate) fn shift_clusters(&self, clusters: Clusters, shift: Shift) -> Result<()> {
        self.shift_refs(Refs { clusters, times: 1 }, shift, &mut 0, u64::MAX)?;
        self.make_holes()
    }

    /// Sets the COPIED flags of the active tables as the refcounts are: set exactly where a count is one.
    ///
    /// # Errors
    /// `Corrupt`; the storage's.
    pub(crate) fn refresh_copied(&self) -> Result<()> {
        let l1 = self.with_tables(|tables| tables.l1.to_vec());
        for table in tables(&self.geo, &l1) {
            let table = match table {
                Ok(table) => table,
                Err(miss) => return self.resolve(miss),
            };
            let cluster = table.offset >> self.geo.cluster_bits;
            let own = self.look(|state| state.refcount(cluster))? == 1;
            let flagged = table.offset | if own { COPIED } else { 0 };
            self.change(|state| {
                if state.l1.get(table.l1_index) != flagged {
                    state.l1.set(table.l1_index, flagged);
                }
                Ok(())
            })?;
            for slice in self.slices_of(table) {
                self.refresh_slice(table, slice)?;
            }
        }
        Ok(())
    }

    fn refresh_slice(&self, table: Table, slice: u64) -> Result<()> {
        let placed = self.look(|state| state.placed_entries(table, slice))?;
        let mut flags: Vec<bool> = Vec::with_capacity(placed.len());
        while let Some((_, cluster, _)) = placed.get(flags.len()).copied() {
            let rest = placed.get(flags.len()..).unwrap_or_default();
            let run = rest.iter().zip(cluster..).take_while(|((_, at, _), next)| at == next).count();
            let clusters = Clusters { first: cluster, count: run as u64 };
            let found = self.look(|state| state.are_single(clusters))?;
            flags.extend(found);
        }
        let wrong: Vec<(usize, bool)> = placed
            .iter()
            .zip(&flags)
            .filter(|((_, _, copied), own)| copied != *own)
            .map(|((index, ..), own)| (*index, *own))
            .collect();
        if wrong.is_empty() {
            return Ok(());
        }
        self.change(|state| state.set_copied(slice, &wrong))
    }
}

impl State {
    fn slice_bytes(&self, slice: u64) -> Result<&[u8], Miss> {
        self.l2.get(slice).ok_or(Miss::Slice(Which::L2, slice))
    }

    fn entries_of(&self, slice: u64) -> Result<impl Iterator<Item = L2Entry> + '_, Miss> {
        let bytes = self.slice_bytes(slice)?;
        // A slice of zeros is nothing to look at.
        let bytes = if is_zero(bytes) { &[] } else { bytes };
        let words = to_usize(self.geo.l2_entry_size() / 8);
        Ok(bytes.as_chunks::<8>().0.chunks(words).map(|entry| {
            let word = |index: usize| entry.get(index).map_or(0, |bytes| u64::from_be_bytes(*bytes));
            L2Entry { descriptor: word(0), bitmap: word(1) }
        }))
    }

    /// The references of one slice, in the order of its entries, neighbours together.
    fn refs_of_slice(&self, table: Table, slice: u64) -> Result<Vec<Refs>, Miss> {
        let geo = &self.geo;
        let mut found: Vec<Refs> = Vec::new();
        for (entry, index) in self.entries_of(slice)?.zip(0..) {
            let clusters = match entry.kind(geo, false) {
                ClusterKind::Unallocated | ClusterKind::ZeroPlain => continue,
                ClusterKind::Compressed => {
                    let payload = entry.compressed_ref(geo);
                    Clusters::holding(geo, ByteRange::new(payload.offset, payload.len))
                }
                ClusterKind::Normal | ClusterKind::ZeroAllocated => {
                    self.check_placed(entry, table, slice, index)?;
                    Clusters { first: entry.offset() >> geo.cluster_bits, count: 1 }
                }
            };
            match found.last_mut() {
                Some(last) if last.clusters == clusters => last.times += 1,
                Some(last)
                    if last.times == 1 && last.clusters.first + last.clusters.count == clusters.first =>
                {
                    last.clusters.count += clusters.count;
                }
                _ => found.push(Refs { clusters, times: 1 }),
            }
        }
        Ok(found)
    }

    fn check_placed(&self, entry: L2Entry, table: Table, slice: u64, index: u64) -> Result<(), Miss> {
        if self.geo.is_aligned(entry.offset()) {
            return Ok(());
        }
        let index = (slice - table.offset) / self.geo.l2_entry_size() + index;
        let (offset, table, index) = (hex(entry.offset()), hex(table.offset), hex(index));
        let text =
            format!("Cluster allocation offset {offset} unaligned (L2 offset: {table}, L2 index: {index})");
        Err(Miss::Corrupt(text))
    }

    /// Entries of a slice that have a cluster: index in the slice, host cluster, COPIED flag.
    fn placed_entries(&self, table: Table, slice: u64) -> Result<Vec<(usize, u64, bool)>, Miss> {
        let mut found = Vec::new();
        for (entry, index) in self.entries_of(slice)?.zip(0..) {
            if let ClusterKind::Normal | ClusterKind::ZeroAllocated = entry.kind(&self.geo, false) {
                self.check_placed(entry, table, slice, index)?;
                let cluster = entry.offset() >> self.geo.cluster_bits;
                found.push((to_usize(index), cluster, entry.is_copied()));
            }
        }
        Ok(found)
    }

    /// Changes the counts of the first of `clusters`, as far as one slice of refcounts goes: how many. With `hole`, those
    /// that nothing refers to any more keep one reference until they have their holes.
    pub(super) fn shift_run(
        &mut self,
        clusters: Clusters,
        times: u64,
        shift: Shift,
        hole: bool,
    ) -> Result<u64, Miss> {
        let mut old = Vec::new();
        let changed = self.refcounts_of(clusters, &mut old)?;
        if changed == 0 {
            return self.uncounted_run(clusters, shift);
        }
        let most = self.geo.max_refcount();
        let new = |count: u64| match shift {
            Shift::Up => count.checked_add(times).filter(|count| *count <= most),
            // A count that is too low already never becomes negative.
            Shift::Down => Some(count.saturating_sub(times)),
        };
        let fitting = old.iter().take_while(|count| new(**count).is_some()).count();
        if fitting == 0 {
            return Err(Miss::Error(Error::from_errno(errno::EINVAL)));
        }
        old.truncate(fitting);
        let values: Vec<u64> = old.iter().map(|count| new(*count).unwrap_or(most)).collect();
        let freed = |(old, new): (&u64, &u64)| *old != 0 && *new == 0;
        let kept: Vec<u64> = old.iter().zip(&values).map(|pair| u64::from(hole && freed(pair))).collect();
        let stored: Vec<u64> = values.iter().zip(&kept).map(|(new, kept)| new + kept).collect();
        self.set_refcounts(clusters.first, &stored)?;
        let geo = self.geo;
        for (pair, cluster) in old.iter().zip(&values).zip(clusters.first..).filter(|(pair, _)| freed(*pair))
        {
            let _ = pair;
            self.index.l2_tables.remove(&cluster);
            if hole {
                self.hole_later(cluster);
            } else {
                self.alloc.became_free(cluster, &geo);
            }
        }
        Ok(fitting as u64)
    }

    /// Nothing counts `clusters`: damage that only lowering a count can bear.
    fn uncounted_run(&self, clusters: Clusters, shift: Shift) -> Result<u64, Miss> {
        if shift == Shift::Up {
            let text = format!("no refcount block for host cluster {}", clusters.first);
            return Err(Miss::Error(Error::corrupt(text)));
        }
        let per_block = self.geo.refblock_entries();
        Ok(clusters.count.min(per_block - clusters.first % per_block))
    }

    /// For the first of `clusters`, whether their count is one.
    fn are_single(&self, clusters: Clusters) -> Result<Vec<bool>, Miss> {
        let mut counts = Vec::new();
        if self.refcounts_of(clusters, &mut counts)? == 0 {
            return Ok(vec![false]);
        }
        Ok(counts.into_iter().map(|count| count == 1).collect())
    }

    /// Takes the COPIED flags out of a slice.
    fn clear_copied(&mut self, slice: u64) -> Result<(), Miss> {
        let flagged: Vec<(usize, bool)> = self
            .entries_of(slice)?
            .zip(0..)
            .filter(|(entry, _)| entry.kind(&self.geo, false) != ClusterKind::Compressed && entry.is_copied())
            .map(|(_, index)| (index, false))
            .collect();
        self.set_copied(slice, &flagged)
    }

    /// Sets or clears COPIED flags of entries of a slice, by their index, ascending.
    fn set_copied(&mut self, slice: u64, flags: &[(usize, bool)]) -> Result<(), Miss> {
        let (Some((first, _)), Some((last, _))) = (flags.first(), flags.last()) else { return Ok(()) };
        let size = to_usize(self.geo.l2_entry_size());
        let part = first * size..last * size + 1;
        let target = self.l2.get_mut(slice, part).ok_or(Miss::Slice(Which::L2, slice))?;
        for (index, copied) in flags {
            if let Some(top) = target.get_mut((index - first) * size) {
                *top = *top & 0x7f | u8::from(*copied) << 7;
            }
        }
        Ok(())
    }

    /// True if nothing refers to `cluster` any more, which was the last to be given back.
    fn is_given_up(&self, cluster: u64) -> Result<bool, Miss> {
        Ok(self.waits_for_hole(cluster) || self.refcount(cluster)? == 0)
    }
}
