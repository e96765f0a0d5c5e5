//! L2 tables in the cache: reading and changing entries, making tables.

use std::ops::Range;

use diskimg_core::to_usize;

use super::alloc::Clusters;
use super::{Miss, NewEntry, State, Which, hex};
use crate::entry::{L1Entry, L2Entry};

/// Entries that are compared before a decision.
const GROUP: usize = 16;

/// How descriptors go on where a run does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steady {
    /// The next one.
    pub next: u64,
    /// What each has more than the one before it.
    pub step: u64,
    /// As far as offsets reach: how many there can be.
    pub most: u64,
}

/// Entries of one L2 table slice, to be looked at one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SliceView<'a> {
    bytes: &'a [u8],
    /// Host offset of the table.
    pub table: u64,
    /// Index within the table of the slice's first entry.
    pub first: u64,
    entry_size: u64,
}

impl SliceView<'_> {
    /// Entries in it.
    pub(crate) const fn len(&self) -> u64 {
        self.bytes.len() as u64 / self.entry_size
    }

    /// How many entries from `index` on, at most `most`, are as `steady` says. For entries of one descriptor alone.
    pub(crate) fn alike(&self, index: u64, most: u64, steady: Option<Steady>) -> u64 {
        let Some(Steady { mut next, step, most: sound }) = steady else { return 0 };
        let from = to_usize(index.saturating_sub(self.first) * self.entry_size);
        let rest = self.bytes.get(from..).unwrap_or_default().as_chunks::<8>().0;
        let rest = rest.get(..to_usize(most.min(sound))).unwrap_or(rest);
        if rest.first().is_none_or(|entry| u64::from_be_bytes(*entry) != next) {
            return 0;
        }
        let mut alike = 0;
        for group in rest.chunks(GROUP) {
            // All of a group are compared before anything is decided.
            let differ = group.iter().zip(0..).fold(0, |all, (entry, at)| {
                all | (u64::from_be_bytes(*entry) ^ next.wrapping_add(step * at))
            });
            if differ != 0 {
                let same = |(entry, at): &(&[u8; 8], u64)| {
                    u64::from_be_bytes(**entry) == next.wrapping_add(step * at)
                };
                return alike + group.iter().zip(0..).take_while(same).count() as u64;
            }
            alike += group.len() as u64;
            next = next.wrapping_add(step * group.len() as u64);
        }
        alike
    }

    /// Entry `index` of the table, if it is in this slice.
    pub(crate) fn entry(&self, index: u64) -> Option<L2Entry> {
        let at = to_usize(index.checked_sub(self.first)? * self.entry_size);
        decode(self.bytes.get(at..at + to_usize(self.entry_size))?)
    }
}

pub(super) fn decode(bytes: &[u8]) -> Option<L2Entry> {
    let (descriptor, rest) = bytes.split_first_chunk::<8>()?;
    let bitmap = rest.first_chunk::<8>().map_or(0, |bitmap| u64::from_be_bytes(*bitmap));
    Some(L2Entry { descriptor: u64::from_be_bytes(*descriptor), bitmap })
}

impl State {
    /// Host offset of the L2 table of `l1_index`; `None`: nothing is mapped there.
    pub(super) fn l2_table(&self, l1_index: u64) -> Result<Option<u64>, Miss> {
        let offset = L1Entry(self.l1.get(l1_index)).offset();
        if !self.geo.is_aligned(offset) {
            let (offset, l1_index) = (hex(offset), hex(l1_index));
            return Err(Miss::Corrupt(format!("L2 table offset {offset} unaligned (L1 index: {l1_index})")));
        }
        Ok(Some(offset).filter(|offset| *offset != 0))
    }

    /// The slice that maps guest byte `offset`; `None`: no table.
    pub(crate) fn l2_slice(&self, offset: u64) -> Result<Option<SliceView<'_>>, Miss> {
        let Some(table) = self.l2_table(self.geo.l1_index(offset))? else { return Ok(None) };
        let entry_size = self.geo.l2_entry_size();
        let per_slice = self.geo.slice_size() / entry_size;
        let number = self.geo.l2_index(offset) / per_slice;
        let at = table + number * self.geo.slice_size();
        let bytes = self.l2.get(at).ok_or(Miss::Slice(Which::L2, at))?;
        Ok(Some(SliceView { bytes, table, first: number * per_slice, entry_size }))
    }

    /// Guest bytes that one slice maps.
    pub(crate) fn l2_slice_coverage(&self) -> u64 {
        self.l2_per_slice() << self.geo.cluster_bits
    }

    /// The entry of guest cluster `cluster`.
    pub(super) fn entry(&self, cluster: u64) -> Result<L2Entry, Miss> {
        let offset = cluster << self.geo.cluster_bits;
        let slice = self.l2_slice(offset)?;
        Ok(slice.and_then(|slice| slice.entry(self.geo.l2_index(offset))).unwrap_or_default())
    }

    /// The entries of guest clusters `clusters`.
    pub(super) fn entries(&self, clusters: Range<u64>) -> Result<Vec<L2Entry>, Miss> {
        let mut found = Vec::with_capacity(to_usize(clusters.end - clusters.start));
        let mut cluster = clusters.start;
        while cluster < clusters.end {
            let offset = cluster << self.geo.cluster_bits;
            let (index, table_len) = (self.geo.l2_index(offset), self.geo.l2_entries());
            let Some(slice) = self.l2_slice(offset)? else {
                let count = (table_len - index).min(clusters.end - cluster);
                found.resize(found.len() + to_usize(count), L2Entry::default());
                cluster += count;
                continue;
            };
            let count = (slice.first + slice.len() - index).min(clusters.end - cluster);
            found.extend((index..index + count).filter_map(|index| slice.entry(index)));
            cluster += count;
        }
        Ok(found)
    }

    /// Entries that one slice of an L2 table holds.
    pub(super) fn l2_per_slice(&self) -> u64 {
        self.geo.slice_size() / self.geo.l2_entry_size()
    }

    /// Replaces entries of one slice, whose table belongs to this image alone (see `ensure_l2`); clusters ascend.
    pub(super) fn set_entries(&mut self, new: &[NewEntry]) -> Result<(), Miss> {
        let (Some(first), Some(last)) = (new.first(), new.last()) else { return Ok(()) };
        let offset = first.cluster << self.geo.cluster_bits;
        let Some(table) = self.l2_table(self.geo.l1_index(offset))? else {
            return Err(Miss::Corrupt("There is no L2 table for a new entry".to_owned()));
        };
        let (size, slice_size) = (self.geo.l2_entry_size(), self.geo.slice_size());
        let byte = self.geo.l2_index(offset) * size;
        let slice = table + byte / slice_size * slice_size;
        let start = to_usize(byte % slice_size);
        let part = start..start + to_usize((last.cluster - first.cluster + 1) * size);
        let target = self.l2.get_mut(slice, part).ok_or(Miss::Slice(Which::L2, slice))?;
        for new in new {
            let at = to_usize((new.cluster - first.cluster) * size);
            let Some(bytes) = target.get_mut(at..at + to_usize(size)) else { break };
            let (descriptor, bitmap) = bytes.split_at_mut(8);
            descriptor.copy_from_slice(&new.entry.descriptor.to_be_bytes());
            if !bitmap.is_empty() {
                bitmap.copy_from_slice(&new.entry.bitmap.to_be_bytes());
            }
        }
        Ok(())
    }

    /// Makes sure that the L2 table of `l1_index` exists and is this image's alone; the slice that maps guest byte
    /// `offset` is in the cache afterwards.
    pub(super) fn ensure_l2(&mut self, offset: u64) -> Result<(), Miss> {
        let l1_index = self.geo.l1_index(offset);
        let entry = L1Entry(self.l1.get(l1_index));
        match self.l2_table(l1_index)? {
            Some(_) if entry.is_copied() => self.l2_slice(offset).map(|_| ()),
            None => self.new_l2(l1_index).map(|_| ()),
            Some(old) => self.unshare_l2(l1_index, old),
        }
    }

    fn new_l2(&mut self, l1_index: u64) -> Result<u64, Miss> {
        let cluster = self.allocate_for("L2 table", 1)?.first;
        let offset = cluster << self.geo.cluster_bits;
        self.insert_zero_slices(Which::L2, offset);
        self.l1.set(l1_index, L1Entry::copied(offset).0);
        self.index.l2_tables.insert(cluster);
        Ok(offset)
    }

    /// Copies a table that a snapshot refers to as well.
    fn unshare_l2(&mut self, l1_index: u64, old: u64) -> Result<(), Miss> {
        let (slice, cluster) = (self.geo.slice_size(), self.geo.cluster_size());
        let offsets = (0..cluster).step_by(to_usize(slice));
        for at in offsets.clone() {
            if !self.l2.contains(old + at) {
                return Err(Miss::Slice(Which::L2, old + at));
            }
        }
        let new = self.new_l2(l1_index)?;
        for at in offsets {
            if let Some(bytes) = self.l2.get(old + at).map(<[u8]>::to_vec) {
                self.l2.insert_new(new + at, bytes);
            }
        }
        self.forget_l2(old);
        self.alloc.drop_later(Clusters { first: old >> self.geo.cluster_bits, count: 1 });
        Ok(())
    }

    /// Drops what is cached of an L2 table that the active L1 table no longer refers to.
    pub(super) fn forget_l2(&mut self, table: u64) {
        for at in (table..table + self.geo.cluster_size()).step_by(to_usize(self.geo.slice_size())) {
            self.l2.drop_slice(at);
        }
        self.index.l2_tables.remove(&(table >> self.geo.cluster_bits));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_go_on_are_counted_to_the_first_that_does_not() {
        for step in [0, 1 << 16] {
            for broken in [0, 1, 15, 16, 17, 40, 99, 100] {
                let entry = |at: u64| 5 + at * step + u64::from(at == broken);
                let bytes: Vec<u8> = (0..100).flat_map(|at| entry(at).to_be_bytes()).collect();
                let slice = SliceView { bytes: &bytes, table: 0, first: 7, entry_size: 8 };
                let alike = |from: u64, most: u64, sound: u64| {
                    let next = 5 + from * step;
                    slice.alike(7 + from, most, Some(Steady { next, step, most: sound }))
                };
                assert_eq!(alike(0, u64::MAX, u64::MAX), broken);
                assert_eq!(alike(3, 20, u64::MAX), if broken < 3 { 20 } else { (broken - 3).min(20) });
                assert_eq!(alike(3, u64::MAX, 5), if broken < 3 { 5 } else { (broken - 3).min(5) });
                assert_eq!(slice.alike(107, 1, Some(Steady { next: 0, step, most: 9 })), 0);
                assert_eq!(slice.alike(8, 9, None), 0);
            }
        }
    }
}
