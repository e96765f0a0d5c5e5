//! Named limits of the format, in bytes where nothing else is said.

/// What regions, blocks and the log are aligned to.
pub(crate) const MIB: u64 = 1 << 20;
/// What the log writes: tables change in these units.
pub(crate) const LOG_SECTOR: u64 = 4096;
/// Longest disk.
pub(crate) const MAX_DISK: u64 = 64 << 40;
/// Smallest block.
pub(crate) const MIN_BLOCK: u64 = MIB;
/// Largest block.
pub(crate) const MAX_BLOCK: u64 = 256 * MIB;
/// Sectors that a chunk has, and so bits of a sector bitmap block.
pub(crate) const CHUNK_SECTORS: u64 = 1 << 23;
/// Most entries of a region table or a metadata table.
pub(crate) const MAX_ENTRIES: u32 = 2047;
/// Longest log that is created.
pub(crate) const MAX_LOG: u64 = (4 << 30) - MIB;
/// A replay never makes a file longer than this: no disk needs as much.
pub(crate) const MAX_FILE: u64 = 2 * MAX_DISK;
/// Most bytes of replayed sectors that are kept in memory.
pub(crate) const MAX_REPLAY: u64 = 256 << 20;
/// Longest parent locator.
pub(crate) const MAX_LOCATOR: u32 = 1 << 20;
/// Most values in a parent locator.
pub(crate) const MAX_LOCATOR_VALUES: u16 = 256;
