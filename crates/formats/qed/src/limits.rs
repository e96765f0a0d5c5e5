//! Named limits of the format.

/// Bytes of a sector: the unit of a disk's length.
pub(crate) const SECTOR: u64 = 512;
/// Bytes of the smallest and of the largest cluster.
pub(crate) const CLUSTER_SIZES: (u64, u64) = (4096, 64 << 20);
/// Clusters of the largest table.
pub(crate) const MAX_TABLE_SIZE: u64 = 16;
/// Bytes of the longest name of a backing file.
pub(crate) const MAX_BACKING_NAME: u64 = 4095;
/// Bytes that the clusters of the header have at most.
pub(crate) const MAX_HEADER_BYTES: u64 = u32::MAX as u64;
/// Host offsets lie below it.
pub(crate) const MAX_HOST_OFFSET: u64 = i64::MAX as u64;
