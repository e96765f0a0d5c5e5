//! Questions about many refcounts at once, answered slice by slice: how far the file is in use, which refcount blocks
//! count nothing. All are bounded by the length of the file, whatever the refcount table says.

use diskimg_core::{Result, is_zero, to_usize};

use super::refcounts::{count_used, last_used, read_packed};
use super::{Clusters, Meta, Miss, State, Which};

impl State {
    /// Clusters that one slice of refcounts counts.
    fn per_slice(&self) -> u64 {
        (self.geo.slice_size() * 8) >> self.geo.refcount_order
    }

    /// The slice of refcounts that begins with cluster `first` (a multiple of [`Self::per_slice`]).
    fn refcount_slice(&self, first: u64) -> Result<Option<&[u8]>, Miss> {
        let block = self.refblock_offset(self.refblock_index(first))?;
        if block == 0 {
            return Ok(None);
        }
        let within = first % self.geo.refblock_entries() / self.per_slice() * self.geo.slice_size();
        let slice = block + within;
        self.refs.get(slice).map(Some).ok_or(Miss::Slice(Which::Refcounts, slice))
    }
}

impl Meta {
    /// log2 of a refcount's width in bits, and how many one slice holds.
    fn refcount_layout(&self) -> (u32, u64) {
        let state = self.state.read();
        (state.geo.refcount_order, state.per_slice())
    }

    /// Clusters of the file, the last one perhaps in part.
    fn file_clusters(&self) -> u64 {
        self.geo.clusters_for(self.storage.len())
    }

    /// What `ask` makes of the slice of refcounts from cluster `first` on: its bytes, and how many clusters it counts.
    fn survey<T>(&self, first: u64, ask: impl Fn(&[u8], usize) -> T) -> Result<Option<T>> {
        self.look(|state| {
            Ok(state.refcount_slice(first)?.map(|slice| ask(slice, to_usize(state.per_slice()))))
        })
    }

    /// True if at least `threshold` clusters of the file are counted.
    pub(crate) fn counts_at_least(&self, threshold: u64) -> Result<bool> {
        let (order, per_slice) = self.refcount_layout();
        let mut counted = 0;
        for first in (0..self.file_clusters()).step_by(to_usize(per_slice)) {
            let here = self.survey(first, |slice, _| count_used(slice, order))?;
            counted += here.unwrap_or(0) as u64;
            if counted >= threshold {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// First byte behind the last cluster of the file that is counted.
    pub(crate) fn counted_end(&self) -> Result<u64> {
        let (order, per_slice) = self.refcount_layout();
        for number in (0..self.file_clusters().div_ceil(per_slice)).rev() {
            let first = number * per_slice;
            let last = self.survey(first, |slice, _| last_used(slice, order))?;
            if let Some(index) = last.flatten() {
                return Ok((first + index as u64 + 1) << self.geo.cluster_bits);
            }
        }
        Ok(self.geo.cluster_size())
    }

    /// Gives back refcount blocks that count nothing but themselves; true if there was one. A block that another block
    /// counts may leave that one empty once it is released: to be repeated after a flush.
    pub(crate) fn drop_empty_refblocks(&self) -> Result<bool> {
        let per_block = self.state.read().geo.refblock_entries();
        let mut dropped = false;
        for block in 0..self.file_clusters().div_ceil(per_block) {
            let own = self.look(|state| Ok(state.refblock_offset(block)? >> state.geo.cluster_bits))?;
            if own == 0 || !self.counts_only(block * per_block, own)? {
                continue;
            }
            dropped = true;
            self.change(|state| {
                state.reftable.set(block, 0);
                state.index.refblocks.remove(&own);
                if own / per_block != block {
                    state.alloc.drop_later(Clusters { first: own, count: 1 });
                }
                Ok(())
            })?;
        }
        Ok(dropped)
    }

    /// True if of the refcount block from cluster `first` on only `own` is counted.
    fn counts_only(&self, first: u64, own: u64) -> Result<bool> {
        let (order, per_slice) = self.refcount_layout();
        let end = first + self.state.read().geo.refblock_entries();
        for slice_first in (first..end).step_by(to_usize(per_slice)) {
            let only = self.survey(slice_first, |slice, count| {
                let others = |index: &usize| {
                    slice_first + *index as u64 != own && read_packed(slice, order, *index) != 0
                };
                is_zero(slice) || !(0..count).any(|index| others(&index))
            })?;
            if only == Some(false) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
