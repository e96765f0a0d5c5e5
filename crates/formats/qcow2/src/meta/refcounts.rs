//! Refcounts of host clusters (specification, "Host cluster management"): packed entries, and who holds them.

use diskimg_core::{Error, is_zero, to_usize};

use super::{Clusters, Miss, State, Which, hex};
use crate::entry::REFTABLE_RESERVED;

/// Entry `index` of a slice of refcounts that are `1 << order` bits wide.
pub(crate) fn read_packed(slice: &[u8], order: u32, index: usize) -> u64 {
    fn wide<const BYTES: usize>(slice: &[u8], index: usize) -> u64 {
        let entry = slice.as_chunks::<BYTES>().0.get(index);
        entry.map_or(0, |entry| entry.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }
    match order {
        3 => return wide::<1>(slice, index),
        4 => return wide::<2>(slice, index),
        5 => return wide::<4>(slice, index),
        6 => return wide::<8>(slice, index),
        _ => {}
    }
    let per_byte = 8 >> order;
    let byte = slice.get(index / per_byte).copied().unwrap_or(0);
    let shift = (index % per_byte) << order;
    u64::from(byte >> shift) & ((1 << (1 << order)) - 1)
}

/// Sets entry `index`; bits of `value` beyond the width are dropped.
pub(crate) fn write_packed(slice: &mut [u8], order: u32, index: usize, value: u64) {
    if order >= 3 {
        let bytes = 1 << (order - 3);
        if let Some(part) = slice.get_mut(index * bytes..(index + 1) * bytes) {
            let value = value.to_be_bytes();
            part.copy_from_slice(value.get(8 - bytes..).unwrap_or_default());
        }
        return;
    }
    let per_byte = 8 >> order;
    if let Some(byte) = slice.get_mut(index / per_byte) {
        let shift = (index % per_byte) << order;
        let mask = u8::MAX >> (8 - (1u32 << order));
        let low = value.to_le_bytes().first().copied().unwrap_or(0) & mask;
        *byte = *byte & !(mask << shift) | low << shift;
    }
}

/// How many entries of a slice of refcounts are not 0.
pub(super) fn count_used(slice: &[u8], order: u32) -> usize {
    fn of_bytes<const N: usize>(slice: &[u8]) -> usize {
        slice.as_chunks::<N>().0.iter().filter(|entry| **entry != [0; N]).count()
    }
    match order {
        _ if is_zero(slice) => 0,
        3 => of_bytes::<1>(slice),
        4 => of_bytes::<2>(slice),
        5 => of_bytes::<4>(slice),
        6 => of_bytes::<8>(slice),
        _ => (0..(slice.len() * 8) >> order).filter(|index| read_packed(slice, order, *index) != 0).count(),
    }
}

/// The last entry of a slice of refcounts that is not 0.
pub(super) fn last_used(slice: &[u8], order: u32) -> Option<usize> {
    let byte = slice.iter().rposition(|byte| *byte != 0).filter(|_| !is_zero(slice))?;
    let entries = match order.checked_sub(3) {
        Some(wide) => byte >> wide..(byte >> wide) + 1,
        None => byte << (3 - order)..(byte + 1) << (3 - order),
    };
    entries.rev().find(|index| read_packed(slice, order, *index) != 0)
}

/// Where a cluster's refcount stands: the slice's host offset and the index in it.
struct Place {
    slice: u64,
    index: usize,
}

impl State {
    /// Index of the refcount block that counts `cluster`.
    pub(super) fn refblock_index(&self, cluster: u64) -> u64 {
        cluster / self.geo.refblock_entries()
    }

    /// Host offset of refcount block `block`; 0: there is none.
    pub(super) fn refblock_offset(&self, block: u64) -> Result<u64, Miss> {
        let offset = self.reftable.get(block) & !REFTABLE_RESERVED;
        if self.geo.is_aligned(offset) {
            return Ok(offset);
        }
        let text = format!("Refblock offset {offset:#x} unaligned (reftable index: {})", hex(block));
        Err(Miss::Corrupt(text))
    }

    fn refcount_place(&self, cluster: u64) -> Result<Option<Place>, Miss> {
        let block = self.refblock_offset(self.refblock_index(cluster))?;
        if block == 0 {
            return Ok(None);
        }
        let per_slice = (self.geo.slice_size() * 8) >> self.geo.refcount_order;
        let index = cluster % self.geo.refblock_entries();
        let slice = block + index / per_slice * self.geo.slice_size();
        Ok(Some(Place { slice, index: to_usize(index % per_slice) }))
    }

    /// The refcount of host cluster `cluster`; 0 where nothing counts it.
    pub(super) fn refcount(&self, cluster: u64) -> Result<u64, Miss> {
        let Some(place) = self.refcount_place(cluster)? else { return Ok(0) };
        let slice = self.refs.get(place.slice).ok_or(Miss::Slice(Which::Refcounts, place.slice))?;
        Ok(read_packed(slice, self.geo.refcount_order, place.index))
    }

    /// Moves `cluster` on over clusters in use, to the end of one slice of refcounts at most; true: it is free.
    pub(super) fn skip_used(&self, cluster: &mut u64) -> Result<bool, Miss> {
        let Some(place) = self.refcount_place(*cluster)? else { return Ok(true) };
        let slice = self.refs.get(place.slice).ok_or(Miss::Slice(Which::Refcounts, place.slice))?;
        let order = self.geo.refcount_order;
        let count = (slice.len() * 8) >> order;
        let used = (place.index..count).take_while(|index| read_packed(slice, order, *index) != 0).count();
        *cluster += used as u64;
        Ok(place.index + used < count)
    }

    /// Free clusters from `first` (free) on that follow each other, at most `most`.
    pub(super) fn free_run(&self, first: u64, most: u64) -> Result<u64, Miss> {
        let order = self.geo.refcount_order;
        let mut found = 0;
        while found < most {
            let Some(place) = self.refcount_place(first + found)? else {
                // A whole block that nothing counts.
                let per_block = self.geo.refblock_entries();
                found += per_block - (first + found) % per_block;
                continue;
            };
            let slice = self.refs.get(place.slice).ok_or(Miss::Slice(Which::Refcounts, place.slice))?;
            let count = ((slice.len() * 8) >> order).min(place.index.saturating_add(to_usize(most - found)));
            let free =
                (place.index..count).take_while(|index| read_packed(slice, order, *index) == 0).count();
            found += free as u64;
            if place.index + free < count {
                break;
            }
        }
        Ok(found.min(most))
    }

    /// Gives each of `clusters`, which are free, one reference.
    pub(super) fn count_new(&mut self, clusters: Clusters) -> Result<(), Miss> {
        let order = self.geo.refcount_order;
        let (mut at, end) = (clusters.first, clusters.first + clusters.count);
        while at < end {
            let Some(place) = self.refcount_place(at)? else { return Err(uncounted(at)) };
            let per_slice = to_usize((self.geo.slice_size() * 8) >> order);
            let count = (per_slice - place.index).min(to_usize(end - at));
            let part = (place.index << order) / 8..((place.index + count) << order).div_ceil(8);
            let lead = if order >= 3 { 0 } else { place.index % (8 >> order) };
            let target =
                self.refs.get_mut(place.slice, part).ok_or(Miss::Slice(Which::Refcounts, place.slice))?;
            for index in lead..lead + count {
                write_packed(target, order, index, 1);
            }
            at += count as u64;
        }
        Ok(())
    }

    pub(super) fn set_refcount(&mut self, cluster: u64, value: u64) -> Result<(), Miss> {
        let Some(place) = self.refcount_place(cluster)? else {
            return Err(uncounted(cluster));
        };
        let order = self.geo.refcount_order;
        let first_byte = (place.index << order) / 8;
        let bytes = ((1usize << order) / 8).max(1);
        let part = first_byte..first_byte + bytes;
        let target =
            self.refs.get_mut(place.slice, part).ok_or(Miss::Slice(Which::Refcounts, place.slice))?;
        // Within the bytes of this entry alone.
        write_packed(target, order, if order >= 3 { 0 } else { place.index % (8 >> order) }, value);
        Ok(())
    }

    /// Appends the refcounts of the first of `clusters`, as far as one slice goes: how many; 0 where nothing counts them.
    pub(super) fn refcounts_of(&self, clusters: Clusters, counts: &mut Vec<u64>) -> Result<u64, Miss> {
        let Some(place) = self.refcount_place(clusters.first)? else { return Ok(0) };
        let slice = self.refs.get(place.slice).ok_or(Miss::Slice(Which::Refcounts, place.slice))?;
        let order = self.geo.refcount_order;
        let end = ((slice.len() * 8) >> order).min(place.index.saturating_add(to_usize(clusters.count)));
        counts.extend((place.index..end).map(|index| read_packed(slice, order, index)));
        Ok((end - place.index) as u64)
    }

    /// Sets the refcounts of neighbours from `first` on, which one slice holds.
    pub(super) fn set_refcounts(&mut self, first: u64, values: &[u64]) -> Result<(), Miss> {
        let Some(place) = self.refcount_place(first)? else { return Err(uncounted(first)) };
        let order = self.geo.refcount_order;
        let part = (place.index << order) / 8..((place.index + values.len()) << order).div_ceil(8);
        let lead = if order >= 3 { 0 } else { place.index % (8 >> order) };
        let target =
            self.refs.get_mut(place.slice, part).ok_or(Miss::Slice(Which::Refcounts, place.slice))?;
        for (value, index) in values.iter().zip(lead..) {
            write_packed(target, order, index, *value);
        }
        Ok(())
    }

    /// One more reference to `cluster`; false if its refcount is at its maximum.
    pub(super) fn add_reference(&mut self, cluster: u64) -> Result<bool, Miss> {
        let old = self.refcount(cluster)?;
        if old >= self.geo.max_refcount() {
            return Ok(false);
        }
        self.set_refcount(cluster, old + 1)?;
        Ok(true)
    }
}

fn uncounted(cluster: u64) -> Miss {
    Miss::Error(Error::corrupt(format!("no refcount block for host cluster {cluster}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_packs_and_unpacks() {
        for order in 0..=6 {
            let max = u64::MAX >> (64 - (1u32 << order));
            let mut slice = vec![0; 64];
            let count = (64 * 8) >> order;
            for index in 0..count {
                write_packed(
                    &mut slice,
                    order,
                    index,
                    (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) & max,
                );
            }
            for index in 0..count {
                let wanted = (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) & max;
                assert_eq!(read_packed(&slice, order, index), wanted, "order {order}, index {index}");
            }
        }
    }

    #[test]
    fn what_is_used_is_found_in_every_width() {
        for order in 0..=6 {
            let count = (1024 * 8) >> order;
            for used in
                [vec![], vec![0], vec![count - 1], vec![0, 1, 5, 13], vec![3, count / 2, count / 2 + 1]]
            {
                let mut slice = vec![0; 1024];
                used.iter().for_each(|index| write_packed(&mut slice, order, *index, 1));
                let found = (count_used(&slice, order), last_used(&slice, order));
                assert_eq!(found, (used.len(), used.last().copied()), "order {order}: {used:?}");
            }
        }
    }

    #[test]
    fn narrow_widths_start_at_the_least_significant_bits() {
        let mut slice = [0; 1];
        write_packed(&mut slice, 1, 0, 3);
        write_packed(&mut slice, 1, 2, 1);
        assert_eq!(slice, [0b0001_0011]);
    }
}
