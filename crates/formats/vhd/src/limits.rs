//! Named limits of the format.

/// Sectors are this long, in bytes.
pub(crate) const SECTOR: u64 = 512;
/// Longest disk, in bytes: 2040 GiB.
pub(crate) const MAX_DISK: u64 = 0xff00_0000 * SECTOR;
/// Bytes of a block in new images.
pub(crate) const BLOCK: u64 = 2 << 20;
/// Most entries of a block table.
pub(crate) const MAX_ENTRIES: u32 = 0x7fff_ffff / 4;
/// Longest path in a parent locator that is read, in bytes.
pub(crate) const MAX_PATH: u32 = 64 << 10;
/// Most sectors that a geometry can say.
pub(crate) const MAX_GEOMETRY: u64 = 65_535 * 16 * 255;
