//! Sizes of clusters and tables, and what follows from them.

use diskimg_core::mapped::{ByteOrder, TreeShape};

use crate::limits::{CLUSTER_SIZES, MAX_TABLE_SIZE, SECTOR};

/// Bytes of an entry.
const ENTRY: u64 = 8;

/// The layout of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Bytes of a cluster.
    pub cluster_size: u64,
    /// Clusters of a table.
    pub table_size: u64,
    /// Clusters of the header.
    pub header_size: u64,
}

impl Geometry {
    pub(crate) fn has_valid_cluster_size(&self) -> bool {
        let (least, most) = CLUSTER_SIZES;
        self.cluster_size.is_power_of_two() && (least..=most).contains(&self.cluster_size)
    }

    pub(crate) fn has_valid_table_size(&self) -> bool {
        self.table_size.is_power_of_two() && self.table_size <= MAX_TABLE_SIZE
    }

    /// Bytes of a table.
    pub(crate) const fn table_len(&self) -> u64 {
        self.cluster_size.saturating_mul(self.table_size)
    }

    /// Entries of a table.
    pub(crate) const fn entries(&self) -> u64 {
        self.table_len() / ENTRY
    }

    /// The tables, with the L1 table at host offset `root`.
    pub(crate) const fn tree(&self, root: u64) -> TreeShape {
        let entries = self.entries();
        TreeShape { root, root_entries: entries, leaf_entries: entries, order: ByteOrder::Little }
    }

    /// Bytes of the clusters of the header.
    pub(crate) const fn header_bytes(&self) -> u64 {
        self.cluster_size.saturating_mul(self.header_size)
    }

    /// Bytes of the longest disk. The format's users compute it within 64 bits, so that it is 0 for the largest tables.
    pub(crate) const fn max_disk_size(&self) -> u64 {
        self.entries().wrapping_mul(self.entries()).wrapping_mul(self.cluster_size)
    }

    pub(crate) const fn is_valid_disk_size(&self, len: u64) -> bool {
        len.is_multiple_of(SECTOR) && len <= self.max_disk_size()
    }

    /// True if a cluster can begin at `offset` in a file whose whole clusters end at `end`.
    pub(crate) const fn is_cluster_offset(&self, offset: u64, end: u64) -> bool {
        offset.is_multiple_of(self.cluster_size) && offset >= self.header_bytes() && offset < end
    }

    /// True if a table can begin at `offset`. One of a single cluster never can: the format's users want its last cluster
    /// to be another than its first.
    pub(crate) const fn is_table_offset(&self, offset: u64, end: u64) -> bool {
        let last = offset.saturating_add((self.table_size - 1) * self.cluster_size);
        self.is_cluster_offset(offset, end) && self.is_cluster_offset(last, end) && offset < last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_disk_follows_from_the_tables() {
        let max =
            |cluster_size, table_size| Geometry { cluster_size, table_size, header_size: 1 }.max_disk_size();
        assert_eq!((max(65_536, 4), max(4096, 1), max(2 << 20, 4)), (64 << 40, 1 << 30, 2 << 60));
        assert_eq!((max(4 << 20, 4), max(64 << 20, 16)), (0, 0));
    }
}
