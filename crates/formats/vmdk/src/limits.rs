//! The named limits of what a file may claim.

/// Bytes of a sector, the unit of most fields.
pub(crate) const SECTOR: u64 = 512;
/// Bytes of a descriptor that are looked at.
pub(crate) const MAX_DESCRIPTOR: u64 = (1 << 20) - 1;
/// Longest text descriptor that is rewritten, in bytes.
pub(crate) const MAX_REWRITTEN_DESCRIPTOR: u64 = 16 << 20;
/// Bytes of an embedded descriptor that are looked at, from its start.
pub(crate) const EMBEDDED_DESCRIPTOR: u64 = 20 * SECTOR;
/// Longest `createType`, in bytes.
pub(crate) const MAX_CREATE_TYPE: usize = 127;
/// Longest name of a parent, in bytes.
pub(crate) const MAX_PARENT_NAME: usize = 1023;
/// Longest name of an extent's file, in bytes.
pub(crate) const MAX_EXTENT_NAME: usize = 511;
/// Longest access or type word of an extent line, in bytes.
pub(crate) const MAX_EXTENT_WORD: usize = 10;
/// Most extents of a disk: 64 TiB in files of 2 GiB.
pub(crate) const MAX_EXTENTS: usize = 32_768;
/// Longest disk, in bytes.
pub(crate) const MAX_DISK: u64 = (1 << 63) - (1 << 30);
/// Most grain tables of an extent.
pub(crate) const MAX_TABLES: u64 = 32 << 20;
/// Most entries of a grain table of a hosted sparse extent.
pub(crate) const MAX_TABLE_ENTRIES: u32 = 512;
/// Largest grain, in sectors.
pub(crate) const MAX_GRAIN_SECTORS: u64 = 0x20_0000;
/// Largest grain that writers fill up, in bytes: a whole one is held in memory. Longer ones are written one at a time.
pub(crate) const MAX_FILLED_GRAIN: u64 = 64 << 20;
/// Largest grain that is compressed, in bytes: a whole one is held in memory.
pub(crate) const MAX_COMPRESSED_GRAIN: u64 = 64 << 20;
/// Sectors that a 32-bit entry reaches.
pub(crate) const MAX_ENTRY_SECTOR: u64 = u32::MAX as u64;
/// Bytes of a table that are read and kept at once.
pub(crate) const SLICE: u64 = 4096;
/// Slices that are kept in memory for each extent (8 MiB); more only while they wait to be written.
pub(crate) const CACHED_SLICES: usize = 2048;
/// Grain tables that an interrupted stream may have for being recovered.
pub(crate) const MAX_RECOVERED_TABLES: usize = 65_536;
/// Grain tables of a stream that is written: its directory is held in memory (32 TiB of disk with usual grains).
pub(crate) const MAX_STREAM_TABLES: u64 = 1 << 20;
