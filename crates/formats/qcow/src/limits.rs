//! Named limits of the format.

/// Bytes of a sector.
pub(crate) const SECTOR: u64 = 512;
/// log2 of the smallest and of the largest cluster.
pub(crate) const CLUSTER_BITS: (u8, u8) = (9, 16);
/// log2 of the fewest and of the most entries of an L2 table.
pub(crate) const L2_BITS: (u8, u8) = (6, 13);
/// Entries of the longest L1 table.
pub(crate) const MAX_L1_ENTRIES: u64 = i32::MAX as u64 / 8;
/// Bytes of the longest name of a backing file.
pub(crate) const MAX_BACKING_NAME: u32 = 1023;
/// Host offsets lie below it.
pub(crate) const MAX_HOST_OFFSET: u64 = i64::MAX as u64;
