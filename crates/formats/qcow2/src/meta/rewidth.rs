//! Refcounts of another width: a second set of refcount blocks and a second table, written beside the first.
//!
//! Order: the new areas counted in the old structure | the new blocks and the new table | the header | the old areas
//! dropped in the new structure. The header says table and width in one sector, so a crash leaves the old structure or
//! the new one; both count everything, and what the other one takes is leaked at worst.
//!
//! The caller keeps writers out. Memory: a cluster, the new table, and one number for each new block.

use std::collections::BTreeMap;

use diskimg_core::{Error, ErrorKind, Result, is_zero, to_usize};

use super::alloc::Clusters;
use super::grow::{as_u32, table_bytes};
use super::refcounts::{read_packed, write_packed};
use super::{Meta, Miss, State, Which};
use crate::entry::REFTABLE_RESERVED;
use crate::geometry::Geometry;
use crate::header::Header;
use crate::header_swap;
use crate::limits::MAX_REFTABLE_BYTES;

/// How often the refcount table is gone through: to find what is needed, to find that it suffices, to write.
const PASSES: u64 = 3;

/// Where the new structure is.
#[derive(Debug, Default)]
struct Places {
    /// The host cluster of each new refcount block, by its number.
    blocks: BTreeMap<u64, u64>,
    table: Option<Clusters>,
}

impl Places {
    fn all(&self) -> impl Iterator<Item = Clusters> + '_ {
        self.blocks.values().map(|first| Clusters { first: *first, count: 1 }).chain(self.table)
    }
}

/// Says how far the change is: (done, total).
pub(super) type Report<'a> = &'a dyn Fn(u64, u64) -> Result<()>;

impl State {
    /// Host offset of the slice of refcounts that counts cluster `first`, and the slice's bytes from that count on.
    fn counts_from(&self, first: u64) -> Result<Option<&[u8]>, Miss> {
        let block = self.refblock_offset(self.refblock_index(first))?;
        if block == 0 {
            return Ok(None);
        }
        let byte = ((first % self.geo.refblock_entries()) << self.geo.refcount_order) / 8;
        let slice = block + byte / self.geo.slice_size() * self.geo.slice_size();
        let bytes = self.refs.get(slice).ok_or(Miss::Slice(Which::Refcounts, slice))?;
        Ok(bytes.get(to_usize(byte % self.geo.slice_size())..))
    }
}

impl Meta {
    /// Gives every refcount `1 << order` bits; `change` is applied to the header in the same write.
    ///
    /// # Errors
    /// `InvalidArg` for a refcount that does not fit: nothing is changed then; `Limit`; the storage's.
    pub(crate) fn change_refcount_width(
        &self,
        order: u32,
        report: Report<'_>,
        change: impl FnOnce(&mut Header),
    ) -> Result<()> {
        let new = Geometry { refcount_order: order, ..self.state.read().geo };
        self.flush()?;
        let mut places = Places::default();
        if let Err(error) = self.build_beside(new, &mut places, report, change) {
            if self.check_usable().is_err() {
                // Nobody knows which structure the host uses.
                return Err(error);
            }
            for clusters in places.all() {
                self.give_back(clusters);
            }
            // The error that led here says more than one of cleaning up.
            let _ = self.flush();
            return Err(error);
        }
        self.flush()
    }

    /// All but the freeing of the old structure.
    fn build_beside(
        &self,
        new: Geometry,
        places: &mut Places,
        report: Report<'_>,
        change: impl FnOnce(&mut Header),
    ) -> Result<()> {
        let table = self.find_places(new, places, report)?;
        self.flush()?;
        let _one_at_a_time = self.write_back.lock();
        // From here on the old structure stands still: what waits to be released waits until the new one is in use.
        let waiting = {
            let state = &mut *self.state.write();
            self.write_back_held(state)?;
            std::mem::take(&mut state.released)
        };
        let result = self
            .write_beside(new, places, table, report)
            .and_then(|entries| self.switch_structure(new, places, (table, entries), change));
        self.state.write().released.extend(waiting);
        result
    }

    /// Allocates the new structure, which has to count itself; where its table goes.
    fn find_places(&self, new: Geometry, places: &mut Places, report: Report<'_>) -> Result<Clusters> {
        let mut pass = 0;
        loop {
            let known = places.blocks.len();
            let needed =
                self.blocks_needed(new, (pass == 0).then_some(new.max_refcount()), &|done, total| {
                    report((pass.min(1)) * total + done, PASSES * total)
                })?;
            for block in needed {
                if let std::collections::btree_map::Entry::Vacant(entry) = places.blocks.entry(block) {
                    entry.insert(self.allocate(1)?.clusters.first);
                }
            }
            let entries = places.blocks.last_key_value().map_or(1, |(last, _)| last + 1);
            if entries * 8 > MAX_REFTABLE_BYTES {
                return Err(Error::from_errno(diskimg_core::errno::EFBIG));
            }
            let wanted = new.clusters_for(entries * 8);
            match places.table {
                Some(table) if table.count >= wanted && places.blocks.len() == known => return Ok(table),
                Some(table) if table.count >= wanted => {}
                old => {
                    let mut from = 0;
                    let found = self.change(|state| state.allocate_exactly(wanted, &mut from))?;
                    places.table = Some(found);
                    old.into_iter().for_each(|old| self.give_back(old));
                }
            }
            pass += 1;
        }
    }

    /// The numbers of the new blocks that count something. `most`: the greatest refcount that may be found.
    fn blocks_needed(&self, new: Geometry, most: Option<u64>, report: Report<'_>) -> Result<Vec<u64>> {
        let old = self.state.read().geo;
        let most = most.filter(|most| *most < old.max_refcount());
        let blocks = self.state.read().reftable.len();
        let unit = unit(&old, &new);
        let mut needed: Vec<u64> = Vec::new();
        for block in 0..blocks {
            report(block, blocks)?;
            if !self.has_counts(block)? {
                continue;
            }
            let first = block * old.refblock_entries();
            for at in (first..first + old.refblock_entries()).step_by(to_usize(unit)) {
                let (used, beyond) = self.look(|state| {
                    let bytes = state.counts_from(at)?.unwrap_or_default();
                    Ok(inspect(bytes, old.refcount_order, to_usize(unit), most))
                })?;
                if let Some((index, count)) = beyond {
                    return Err(too_great(new, (at + index) << old.cluster_bits, count));
                }
                let number = at / new.refblock_entries();
                if used && needed.last() != Some(&number) {
                    needed.push(number);
                }
            }
        }
        Ok(needed)
    }

    /// False for a block that is not there, or that the file ends before: it counts nothing.
    fn has_counts(&self, block: u64) -> Result<bool> {
        let offset = self.look(|state| state.refblock_offset(block))?;
        let cached = offset != 0 && self.state.read().refs.contains(offset);
        Ok(offset != 0 && (cached || offset < self.storage.len()))
    }

    /// Writes the new blocks and the new table; its entries. The caller holds the write-back lock.
    fn write_beside(
        &self,
        new: Geometry,
        places: &Places,
        table: Clusters,
        report: Report<'_>,
    ) -> Result<Vec<u64>> {
        let old_blocks = self.state.read().reftable.len();
        let old_entries = self.state.read().geo.refblock_entries();
        let mut entries = vec![0; to_usize((table.count << new.cluster_bits) / 8)];
        let mut reported = 0;
        for (number, cluster) in &places.blocks {
            let bytes = self.repacked(new, *number)?;
            let clusters = Clusters { first: *cluster, count: 1 };
            self.check_overlap(clusters.bytes(&new))?;
            self.storage.write_at(cluster << new.cluster_bits, &bytes)?;
            if let Some(entry) = entries.get_mut(to_usize(*number)) {
                *entry = cluster << new.cluster_bits;
            }
            let until = ((number + 1) * new.refblock_entries() / old_entries).min(old_blocks);
            for block in reported..until {
                report(2 * old_blocks + block, PASSES * old_blocks)?;
            }
            reported = until.max(reported);
        }
        for block in reported..old_blocks {
            report(2 * old_blocks + block, PASSES * old_blocks)?;
        }
        self.check_overlap(table.bytes(&new))?;
        self.storage.write_at(table.first << new.cluster_bits, &table_bytes(&entries))?;
        Ok(entries)
    }

    /// New refcount block `number`.
    fn repacked(&self, new: Geometry, number: u64) -> Result<Vec<u8>> {
        let old = self.state.read().geo;
        let mut block = vec![0; to_usize(new.cluster_size())];
        let unit = unit(&old, &new);
        let bytes = to_usize((unit << new.refcount_order) / 8);
        let first = number * new.refblock_entries();
        for (part, at) in block.chunks_mut(bytes).zip((first..).step_by(to_usize(unit))) {
            self.look(|state| {
                let counts = state.counts_from(at)?.unwrap_or_default();
                repack((counts, old.refcount_order), (&mut *part, new.refcount_order), to_usize(unit));
                Ok(())
            })?;
        }
        Ok(block)
    }

    /// Uses the new structure from now on. The caller holds the write-back lock.
    fn switch_structure(
        &self,
        new: Geometry,
        places: &Places,
        (table, entries): (Clusters, Vec<u64>),
        change: impl FnOnce(&mut Header),
    ) -> Result<()> {
        self.barrier()?;
        let state = &mut *self.state.write();
        let old: Vec<Clusters> = state.structure();
        let mut header = state.header.clone();
        change(&mut header);
        header.refcount_order = new.refcount_order;
        header.reftable_offset = table.first << new.cluster_bits;
        header.reftable_clusters = as_u32(table.count, "refcount table too large")?;
        let cluster = header.encode()?;
        header_swap::replace(&*self.storage, &cluster).inspect_err(|_| self.give_up())?;
        state.reftable.replace(header.reftable_offset, entries);
        self.adopt_header(state, header);
        state.geo = new;
        state.refs.clear();
        state.index.refblocks = places.blocks.values().copied().collect();
        old.into_iter().for_each(|clusters| state.alloc.drop_later(clusters));
        Ok(())
    }
}

impl State {
    /// The clusters of the refcount table and its blocks.
    fn structure(&self) -> Vec<Clusters> {
        let bits = self.geo.cluster_bits;
        let offsets = self.reftable.entries().iter().map(|entry| entry & !REFTABLE_RESERVED);
        let blocks = offsets.filter(|offset| *offset != 0 && self.geo.is_aligned(*offset));
        let table =
            Clusters { first: self.reftable.offset >> bits, count: self.header.reftable_clusters.into() };
        blocks.map(|offset| Clusters { first: offset >> bits, count: 1 }).chain([table]).collect()
    }
}

/// Counts that stand together in both structures: in one slice of the old, in one block of the new.
fn unit(old: &Geometry, new: &Geometry) -> u64 {
    ((old.slice_size() * 8) >> old.refcount_order).min(new.refblock_entries())
}

/// True if one of the first `count` refcounts is not 0; and the first that exceeds `most`, with its index.
fn inspect(bytes: &[u8], order: u32, count: usize, most: Option<u64>) -> (bool, Option<(u64, u64)>) {
    let bytes = bytes.get(..(count << order) / 8).unwrap_or(bytes);
    if is_zero(bytes) {
        return (false, None);
    }
    let beyond = most.and_then(|most| {
        (0..count)
            .map(|index| (index as u64, read_packed(bytes, order, index)))
            .find(|(_, value)| *value > most)
    });
    (true, beyond)
}

/// Packs the first `count` refcounts of `from` anew into `to`, which holds zeros.
fn repack((from, from_order): (&[u8], u32), (to, to_order): (&mut [u8], u32), count: usize) {
    let from = from.get(..(count << from_order) / 8).unwrap_or(from);
    if is_zero(from) {
        to.fill(0);
        return;
    }
    for index in 0..count {
        write_packed(to, to_order, index, read_packed(from, from_order, index));
    }
}

fn too_great(new: Geometry, offset: u64, count: u64) -> Error {
    Error::new(
        ErrorKind::InvalidArg,
        format!(
            "Cannot decrease refcount entry width to {} bits: Cluster at offset {offset:#x} has a refcount of {count}",
            1u32 << new.refcount_order
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_survive_every_change_of_width() {
        for from in 0..=6 {
            for to in 0..=6 {
                let count = 64;
                let (mut old, mut new) = (vec![0; (count << from) / 8], vec![0; (count << to) / 8]);
                for index in 0..count {
                    write_packed(&mut old, from, index, index as u64 % 2);
                }
                repack((&old, from), (&mut new, to), count);
                for index in 0..count {
                    assert_eq!(read_packed(&new, to, index), index as u64 % 2, "{from} to {to}, {index}");
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_found() {
        let mut slice = [0; 8];
        assert_eq!(inspect(&slice, 3, 8, Some(1)), (false, None));
        write_packed(&mut slice, 3, 5, 2);
        assert_eq!(inspect(&slice, 3, 8, Some(1)), (true, Some((5, 2))));
        assert_eq!(inspect(&slice, 3, 8, Some(2)), (true, None));
        assert_eq!(inspect(&slice, 3, 5, None), (false, None));
    }
}
