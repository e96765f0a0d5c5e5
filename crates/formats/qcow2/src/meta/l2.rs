//! L2 tables in the cache: reading and changing entries, making tables.

use std::ops::Range;

use diskimg_core::to_usize;

use super::alloc::Clusters;
use super::{Miss, NewEntry, State, Which, hex};
use crate::entry::{L1Entry, L2Entry, OFFSET_MASK};

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

    /// Entry `index` of the table, if it is in this slice.
    pub(crate) fn entry(&self, index: u64) -> Option<L2Entry> {
        let at = to_usize(index.checked_sub(self.first)? * self.entry_size);
        decode(self.bytes.get(at..at + to_usize(self.entry_size))?)
    }

    /// How many entries behind `index` (at most `most`) go on from it: each descriptor is `step` more than the one
    /// before, the bitmap the same.
    pub(crate) fn going_on(&self, index: u64, step: u64, most: u64) -> u64 {
        let (Some(first), Some(from)) = (self.entry(index), (index + 1).checked_sub(self.first)) else {
            return 0;
        };
        let rest = self.bytes.get(to_usize(from * self.entry_size)..).unwrap_or_default();
        let rest = rest.get(..to_usize(most.saturating_mul(self.entry_size))).unwrap_or(rest);
        if self.entry_size == 8 {
            going_on::<8>(rest, first, step)
        } else {
            going_on::<16>(rest, first, step)
        }
    }
}

/// Entries that are looked at before anything is decided, so that they are looked at side by side.
const BLOCK: usize = 32;

/// How many entries at the start of `bytes`, of `SIZE` each, go on from `first`.
fn going_on<const SIZE: usize>(bytes: &[u8], first: L2Entry, step: u64) -> u64 {
    let flags = first.descriptor & !OFFSET_MASK;
    let mut before = first.descriptor;
    let mut count = 0;
    for block in bytes.chunks(BLOCK * SIZE) {
        let (mut differs, mut last) = (0, before);
        for entry in block.chunks_exact(SIZE).filter_map(decode) {
            last = last.wrapping_add(step);
            differs |= (entry.descriptor ^ last) | (entry.bitmap ^ first.bitmap);
        }
        if differs != 0 || last & !OFFSET_MASK != flags {
            let goes_on = |entry: &L2Entry| {
                before = before.wrapping_add(step);
                entry.descriptor == before && before & !OFFSET_MASK == flags && entry.bitmap == first.bitmap
            };
            let part = block.chunks_exact(SIZE).filter_map(decode).take_while(goes_on).count();
            return count + part as u64;
        }
        before = last;
        count += (block.len() / SIZE) as u64;
    }
    count
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
    use crate::entry::COPIED;

    fn slice(entries: &[(u64, u64)], size: usize) -> Vec<u8> {
        let both =
            entries.iter().map(|(descriptor, bitmap)| [descriptor.to_be_bytes(), bitmap.to_be_bytes()]);
        both.flat_map(|both| both.concat()[..size].to_vec()).collect()
    }

    /// What `going_on` says of `entries`, from entry 100 of their table on.
    fn count(entries: &[(u64, u64)], size: usize, step: u64, most: u64) -> u64 {
        let bytes = slice(entries, size);
        let view = SliceView { bytes: &bytes, table: 0, first: 100, entry_size: size as u64 };
        view.going_on(100, step, most)
    }

    #[test]
    fn entries_go_on_until_one_differs() {
        for (size, len) in [(8, 1), (8, 31), (8, 33), (8, 200), (16, 33), (16, 100)] {
            let run = |at: u64| (COPIED | (0x5_0000 + at * 0x1_0000), if size == 16 { 7 } else { 0 });
            let mut entries: Vec<_> = (0..len).map(run).collect();
            assert_eq!(count(&entries, size, 0x1_0000, u64::MAX), len - 1);
            assert_eq!(count(&entries, size, 0x1_0000, 20), 20.min(len - 1));
            for at in 1..entries.len() {
                let kept = entries[at];
                for other in [0, kept.0 & !COPIED, kept.0 + 0x1_0000, kept.0 | 1] {
                    entries[at].0 = other;
                    assert_eq!(count(&entries, size, 0x1_0000, u64::MAX), at as u64 - 1);
                }
                entries[at] = (kept.0, kept.1 + 1);
                let expected = if size == 16 { at as u64 - 1 } else { len - 1 };
                assert_eq!(count(&entries, size, 0x1_0000, u64::MAX), expected);
                entries[at] = kept;
            }
        }
        assert_eq!(count(&[(0, 0); 70], 8, 0, u64::MAX), 69);
        assert_eq!(count(&[(1, 0); 70], 8, 0, 64), 64);
    }

    #[test]
    fn offsets_never_grow_into_the_bits_above_them() {
        let last = COPIED | (OFFSET_MASK & !0xffff);
        let entries: Vec<_> = (0..40).map(|at| (last.wrapping_add(at << 16), 0)).collect();
        assert_eq!(count(&entries, 8, 1 << 16, u64::MAX), 0);
        let entries: Vec<_> = (0..80).map(|at| (last.wrapping_add(at << 16) - (33 << 16), 0)).collect();
        assert_eq!(count(&entries, 8, 1 << 16, u64::MAX), 33);
    }
}
