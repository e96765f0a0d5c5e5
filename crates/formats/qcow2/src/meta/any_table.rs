//! Entries of L2 tables by where the tables stand, also of those that only snapshots refer to.
//!
//! Callers keep writers out.

use diskimg_core::{Result, to_usize};

use super::alloc::Clusters;
use super::l2::decode;
use super::{Freed, Meta, Miss, Which};
use crate::entry::L2Entry;

/// A slice of an L2 table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableSlice {
    /// Host offset of the slice.
    pub offset: u64,
    /// References to the table; each stands for one to everything that it refers to.
    pub references: u64,
}

impl Meta {
    /// The entries of the slice at host offset `offset`.
    ///
    /// # Errors
    /// The storage's.
    pub(crate) fn slice_entries(&self, offset: u64) -> Result<Vec<L2Entry>> {
        let size = to_usize(self.geo.l2_entry_size());
        self.look(|state| {
            let bytes = state.l2.get(offset).ok_or(Miss::Slice(Which::L2, offset))?;
            Ok(bytes.chunks_exact(size).filter_map(decode).collect())
        })
    }

    /// The refcount of a host cluster.
    ///
    /// # Errors
    /// The storage's.
    pub(crate) fn refcount_of(&self, cluster: u64) -> Result<u64> {
        self.look(|state| state.refcount(cluster))
    }

    /// A free cluster, with as many references at once.
    ///
    /// # Errors
    /// `NoSpace`, `Limit`; the storage's.
    pub(crate) fn allocate_shared(&self, references: u64) -> Result<Clusters> {
        let clusters = self.change(|state| state.allocate(1))?;
        if references > 1 {
            self.change(|state| state.set_refcount(clusters.first, references))?;
        }
        Ok(clusters)
    }

    /// Replaces entry `index` of a slice; what only the old one referred to is dropped.
    ///
    /// # Errors
    /// The storage's.
    pub(crate) fn replace_in_slice(&self, slice: TableSlice, index: u64, new: L2Entry) -> Result<()> {
        let size = self.geo.l2_entry_size();
        let part = to_usize(index * size)..to_usize((index + 1) * size);
        self.change(|state| {
            let bytes =
                state.l2.get_mut(slice.offset, part.clone()).ok_or(Miss::Slice(Which::L2, slice.offset))?;
            let old = decode(bytes).unwrap_or_default();
            let (descriptor, bitmap) = bytes.split_at_mut(8);
            descriptor.copy_from_slice(&new.descriptor.to_be_bytes());
            if !bitmap.is_empty() {
                bitmap.copy_from_slice(&new.bitmap.to_be_bytes());
            }
            if old.offset() != new.offset() {
                (0..slice.references).for_each(|_| state.drop_entry(old, false, Freed::Other));
            }
            Ok(())
        })
    }
}
