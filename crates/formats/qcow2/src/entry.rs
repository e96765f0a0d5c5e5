//! Table entries (specification, "Cluster mapping"): what their bits mean, and nothing else.

use crate::geometry::Geometry;

/// Bit 63: the refcount is exactly one.
pub(crate) const COPIED: u64 = 1 << 63;
/// Bit 62 of an L2 entry: a compressed cluster.
pub(crate) const COMPRESSED: u64 = 1 << 62;
/// Bit 0 of an L2 entry (version 3, not extended): reads as zeros.
pub(crate) const ZERO: u64 = 1;
/// Bits 9 to 55: a host offset.
pub(crate) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Reserved bits of an L1 entry.
pub(crate) const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
/// Reserved bits of a standard L2 entry (not compressed).
pub(crate) const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;
/// Reserved bits of a refcount table entry.
pub(crate) const REFTABLE_RESERVED: u64 = 0x1ff;
/// Unit in which compressed data is counted, in bytes.
pub(crate) const COMPRESSED_SECTOR: u64 = 512;

/// An entry of an L1 table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct L1Entry(pub u64);

impl L1Entry {
    /// The entry of an L2 table at `offset` with refcount one.
    pub(crate) const fn copied(offset: u64) -> Self {
        Self(offset | COPIED)
    }

    /// Host offset of the L2 table; 0: none.
    pub(crate) const fn offset(self) -> u64 {
        self.0 & OFFSET_MASK
    }

    /// The table's refcount is one.
    pub(crate) const fn is_copied(self) -> bool {
        self.0 & COPIED != 0
    }
}

/// An entry of an L2 table: the descriptor and, with extended entries, the subcluster bitmap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct L2Entry {
    /// The standard 64 bits.
    pub descriptor: u64,
    /// Bits 0 to 31: subcluster allocated; 32 to 63: subcluster reads as zeros. 0 without extended entries.
    pub bitmap: u64,
}

/// What an L2 entry says of a whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClusterKind {
    /// Nothing here: the backing file's.
    Unallocated,
    /// Zeros without a host cluster (standard entries).
    ZeroPlain,
    /// Zeros with a host cluster kept (standard entries).
    ZeroAllocated,
    /// A host cluster; with extended entries the bitmap says what of it holds.
    Normal,
    /// A compressed payload.
    Compressed,
}

/// Where compressed bytes stand on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CompressedRef {
    /// First byte.
    pub offset: u64,
    /// Readable bytes: to the end of the last sector.
    pub len: u64,
}

impl L2Entry {
    /// A normal cluster at `offset` that nothing shares, wholly allocated.
    pub(crate) const fn normal(geo: &Geometry, offset: u64) -> Self {
        Self { descriptor: offset | COPIED, bitmap: if geo.extended_l2 { ALL_ALLOCATED } else { 0 } }
    }

    /// Zeros without a host cluster (version 3).
    pub(crate) const fn zero_plain(geo: &Geometry) -> Self {
        if geo.extended_l2 {
            Self { descriptor: 0, bitmap: ALL_ZERO }
        } else {
            Self { descriptor: ZERO, bitmap: 0 }
        }
    }

    /// A compressed cluster whose payload of `len` bytes stands at `offset`.
    pub(crate) const fn compressed(geo: &Geometry, offset: u64, len: u64) -> Self {
        let sectors = (offset + len - 1) / COMPRESSED_SECTOR - offset / COMPRESSED_SECTOR;
        Self { descriptor: COMPRESSED | offset | sectors << geo.compressed_shift(), bitmap: 0 }
    }

    /// Host offset of a cluster that is not compressed; 0: none (or, with a data file, the first cluster).
    pub(crate) const fn offset(self) -> u64 {
        self.descriptor & OFFSET_MASK
    }

    /// The host cluster's refcount is one.
    pub(crate) const fn is_copied(self) -> bool {
        self.descriptor & COPIED != 0
    }

    /// What it is. `data_file`: host offset 0 with the COPIED bit is a cluster there.
    pub(crate) const fn kind(self, geo: &Geometry, data_file: bool) -> ClusterKind {
        if self.descriptor & COMPRESSED != 0 {
            return ClusterKind::Compressed;
        }
        let zero = !geo.extended_l2 && self.descriptor & ZERO != 0;
        // Zeros at offset 0 are nowhere, also in a data file.
        let allocated = self.offset() != 0 || (data_file && self.is_copied() && !zero);
        match (allocated, zero) {
            (true, true) => ClusterKind::ZeroAllocated,
            (false, true) => ClusterKind::ZeroPlain,
            (true, false) => ClusterKind::Normal,
            (false, false) => ClusterKind::Unallocated,
        }
    }

    /// Where a compressed payload stands.
    pub(crate) const fn compressed_ref(self, geo: &Geometry) -> CompressedRef {
        let shift = geo.compressed_shift();
        let offset = self.descriptor & ((1 << shift) - 1);
        let sectors = (self.descriptor & (COMPRESSED - 1)) >> shift;
        CompressedRef { offset, len: (sectors + 1) * COMPRESSED_SECTOR - offset % COMPRESSED_SECTOR }
    }

    /// Subclusters with data of their own, one bit each.
    pub(crate) const fn allocated_mask(self) -> u32 {
        (self.bitmap & 0xffff_ffff) as u32
    }

    /// Subclusters that read as zeros, one bit each.
    pub(crate) const fn zero_mask(self) -> u32 {
        (self.bitmap >> 32) as u32
    }

    /// The bitmap of those two masks.
    pub(crate) const fn bitmap_of(allocated: u32, zero: u32) -> u64 {
        (zero as u64) << 32 | allocated as u64
    }
}

/// The bitmap of a cluster that holds data throughout.
pub(crate) const ALL_ALLOCATED: u64 = 0xffff_ffff;
/// The bitmap of a cluster that reads as zeros throughout.
pub(crate) const ALL_ZERO: u64 = 0xffff_ffff << 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_descriptors_go_both_ways() {
        for cluster_bits in [9, 12, 16, 21] {
            let geo = Geometry { cluster_bits, refcount_order: 4, extended_l2: false };
            for (offset, len) in
                [(512, 1), (0x5_0001, 511), (0x5_01ff, 2), (0x1234_5678, geo.cluster_size() - 1)]
            {
                let found = L2Entry::compressed(&geo, offset, len).compressed_ref(&geo);
                assert_eq!(found.offset, offset);
                assert!(found.len >= len && found.len < len + COMPRESSED_SECTOR, "{found:?} for {len}");
            }
        }
    }

    #[test]
    fn kinds_follow_the_table_of_the_specification() {
        let geo = Geometry { cluster_bits: 16, refcount_order: 4, extended_l2: false };
        let kind = |descriptor, data_file| L2Entry { descriptor, bitmap: 0 }.kind(&geo, data_file);
        assert_eq!(kind(0, false), ClusterKind::Unallocated);
        assert_eq!(kind(1, false), ClusterKind::ZeroPlain);
        assert_eq!(kind(0x5_0001, false), ClusterKind::ZeroAllocated);
        assert_eq!(kind(0x5_0000 | COPIED, false), ClusterKind::Normal);
        assert_eq!(kind(COPIED, false), ClusterKind::Unallocated);
        assert_eq!(kind(COPIED, true), ClusterKind::Normal);
        assert_eq!(kind(COPIED | ZERO, true), ClusterKind::ZeroPlain);
        assert_eq!(kind(COMPRESSED | 0x5_0001, false), ClusterKind::Compressed);
    }
}
