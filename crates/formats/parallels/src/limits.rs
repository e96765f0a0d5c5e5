//! Named limits of the format.

/// Sectors are this long, in bytes.
pub(crate) const SECTOR: u64 = 512;
/// Longest cluster, in sectors.
pub(crate) const MAX_CLUSTER_SECTORS: u32 = 2_147_483_647 / 513;
/// Most entries of a table.
pub(crate) const MAX_ENTRIES: u32 = 536_870_911;
/// The extension lies before this sector.
pub(crate) const MAX_EXTENSION_SECTOR: u64 = (1 << 54) - 1;
/// Longest extension that is looked at, in bytes: the features of real images take some hundred.
pub(crate) const MAX_EXTENSION: u64 = 64 << 20;
/// Clusters of new images are shorter than this, in bytes.
pub(crate) const CREATE_CLUSTER: u64 = 1 << 31;
/// Cluster of new images where none is asked for, in bytes, as its option spells it.
pub(crate) const DEFAULT_CLUSTER: &str = "1048576";
