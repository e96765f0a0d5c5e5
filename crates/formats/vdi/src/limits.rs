//! Named limits of the format.

/// Bytes of a block: the only size that is in use.
pub(crate) const BLOCK: u64 = 1 << 20;
/// Most bytes that stand in front of each block's data: none are in use.
pub(crate) const MAX_BLOCK_EXTRA: u64 = BLOCK;
/// Most blocks of a disk.
pub(crate) const MAX_BLOCKS: u32 = 0x1fff_ff80;
/// Longest disk, in bytes.
pub(crate) const MAX_DISK: u64 = MAX_BLOCKS as u64 * BLOCK;
/// Sectors are this long, in bytes.
pub(crate) const SECTOR: u64 = 512;
