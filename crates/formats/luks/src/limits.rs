//! Numbers that bound what a volume may take.

/// Bytes of a sector, the unit of encryption.
pub(crate) const SECTOR: u64 = 512;
/// Most bytes that are encrypted before they are written.
pub(crate) const STEP: usize = 256 << 10;
/// Buffers of that size that are kept for the next writers.
pub(crate) const KEPT_BUFFERS: usize = 16;
/// The greatest length of a file that holds a volume, in bytes.
pub(crate) const MAX_FILE: u64 = i64::MAX.cast_unsigned();
