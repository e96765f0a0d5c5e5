//! Named limits of the format.

/// Bytes of a block: the only size that is in use.
pub(crate) const BLOCK: u64 = 1 << 20;
/// Host offset of blocks that no file reaches: large numbers with many extra bytes per block.
pub(crate) const MAX_HOST: u64 = 1 << 62;
/// Most blocks of a disk.
pub(crate) const MAX_BLOCKS: u32 = 0x1fff_ff80;
/// Longest disk, in bytes.
pub(crate) const MAX_DISK: u64 = MAX_BLOCKS as u64 * BLOCK;
/// Sectors are this long, in bytes.
pub(crate) const SECTOR: u64 = 512;
