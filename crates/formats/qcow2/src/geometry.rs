//! Arithmetic of an image's layout: what follows from the cluster size, the refcount width and the features.
//!
//! Everything is a power of two and checked when the header is read, so the functions here can't overflow on
//! values within the limits of [`crate::limits`].

use diskimg_core::ByteRange;

/// The greatest slice of a table that is cached and written as one, in bytes.
const MAX_SLICE: u64 = 64 << 10;

/// Layout constants of one image (qcow2 specification, "Cluster mapping" and "Host cluster management").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// log2 of the cluster size in bytes: 9 to 21.
    pub cluster_bits: u32,
    /// log2 of a refcount's width in bits: 0 to 6.
    pub refcount_order: u32,
    /// L2 entries have a subcluster bitmap.
    pub extended_l2: bool,
}

impl Geometry {
    /// Subclusters of a cluster: 32 with extended L2 entries, else 1.
    pub(crate) const fn subclusters(&self) -> u32 {
        if self.extended_l2 { 32 } else { 1 }
    }

    /// Bytes of a cluster.
    pub(crate) const fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of a subcluster (of a cluster without them).
    pub(crate) const fn subcluster_size(&self) -> u64 {
        if self.extended_l2 { 1 << (self.cluster_bits - 5) } else { self.cluster_size() }
    }

    /// Bytes of an L2 entry.
    pub(crate) const fn l2_entry_size(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Entries of an L2 table.
    pub(crate) const fn l2_entries(&self) -> u64 {
        self.cluster_size() / self.l2_entry_size()
    }

    /// Guest bytes that one L2 table maps.
    pub(crate) const fn l2_coverage(&self) -> u64 {
        self.l2_entries() << self.cluster_bits
    }

    /// Bytes of a cached slice of an L2 table or refcount block.
    pub(crate) const fn slice_size(&self) -> u64 {
        if self.cluster_size() < MAX_SLICE { self.cluster_size() } else { MAX_SLICE }
    }

    /// Refcounts of a refcount block.
    pub(crate) const fn refblock_entries(&self) -> u64 {
        (self.cluster_size() * 8) >> self.refcount_order
    }

    /// The greatest refcount.
    pub(crate) const fn max_refcount(&self) -> u64 {
        u64::MAX >> (64 - (1u32 << self.refcount_order))
    }

    /// Clusters that `bytes` take, the last one perhaps in part.
    pub(crate) const fn clusters_for(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.cluster_size())
    }

    /// L1 entries for a disk of `size` bytes.
    pub(crate) const fn l1_entries_for(&self, size: u64) -> u64 {
        size.div_ceil(self.l2_coverage())
    }

    /// The L1 index of guest byte `offset`.
    pub(crate) const fn l1_index(&self, offset: u64) -> u64 {
        offset / self.l2_coverage()
    }

    /// The index within its L2 table of guest byte `offset`.
    pub(crate) const fn l2_index(&self, offset: u64) -> u64 {
        (offset >> self.cluster_bits) % self.l2_entries()
    }

    /// Offset within its cluster.
    pub(crate) const fn in_cluster(&self, offset: u64) -> u64 {
        offset & (self.cluster_size() - 1)
    }

    /// Start of the cluster that holds byte `offset`.
    pub(crate) const fn cluster_start(&self, offset: u64) -> u64 {
        offset & !(self.cluster_size() - 1)
    }

    /// The clusters' own alignment.
    pub(crate) const fn is_aligned(&self, offset: u64) -> bool {
        self.in_cluster(offset) == 0
    }

    /// Index of the bit from which a compressed descriptor counts sectors ("Compressed Clusters Descriptor").
    pub(crate) const fn compressed_shift(&self) -> u32 {
        62 - (self.cluster_bits - 8)
    }

    /// Host bytes of a run of clusters.
    pub(crate) const fn cluster_run(&self, first: u64, count: u64) -> ByteRange {
        ByteRange::new(first << self.cluster_bits, count << self.cluster_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_layout_has_the_known_numbers() {
        let geo = Geometry { cluster_bits: 16, refcount_order: 4, extended_l2: false };
        assert_eq!((geo.l2_entries(), geo.l2_coverage()), (8192, 512 << 20));
        assert_eq!((geo.refblock_entries(), geo.max_refcount()), (32768, 65535));
        assert_eq!(geo.compressed_shift(), 54);
        let wide = Geometry { refcount_order: 6, extended_l2: true, ..geo };
        assert_eq!((wide.max_refcount(), wide.subcluster_size(), wide.l2_entries()), (u64::MAX, 2048, 4096));
    }
}
