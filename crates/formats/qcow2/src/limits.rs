//! Named limits of the format and of its usual implementation; every bound check reads them here.

/// Smallest cluster: 2^9 bytes.
pub(crate) const MIN_CLUSTER_BITS: u32 = 9;
/// Largest cluster: 2^21 bytes.
pub(crate) const MAX_CLUSTER_BITS: u32 = 21;
/// Smallest cluster with extended L2 entries: 2^14 bytes.
pub(crate) const MIN_EXTENDED_L2_BITS: u32 = 14;
/// Greatest L1 table, in entries (32 MiB).
pub(crate) const MAX_L1_ENTRIES: u64 = (32 << 20) / 8;
/// Greatest refcount table, in bytes.
pub(crate) const MAX_REFTABLE_BYTES: u64 = 8 << 20;
/// Widest refcount: 2^6 bits.
pub(crate) const MAX_REFCOUNT_ORDER: u32 = 6;
/// Most snapshots.
pub(crate) const MAX_SNAPSHOTS: u32 = 65536;
/// Greatest snapshot table, in bytes.
pub(crate) const MAX_SNAPSHOT_TABLE_BYTES: u64 = 64 << 20;
/// First length of a snapshot table that is too long, also with extra data that is not kept, in bytes.
pub(crate) const MAX_SNAPSHOT_REACH: u64 = 0x7fff_ffff;
/// Most extra data of a snapshot table entry, in bytes.
pub(crate) const MAX_SNAPSHOT_EXTRA: u32 = 1024;
/// Most bitmaps.
pub(crate) const MAX_BITMAPS: u32 = 65535;
/// Greatest bitmap directory, in bytes.
pub(crate) const MAX_BITMAP_DIRECTORY_BYTES: u64 = 67_107_840;
/// Greatest bitmap table, in entries.
pub(crate) const MAX_BITMAP_TABLE_ENTRIES: u32 = 0x800_0000;
/// Longest backing file name, in bytes.
pub(crate) const MAX_BACKING_NAME: u32 = 1023;
/// First host offset that an entry can't hold, in bytes.
pub(crate) const HOST_OFFSET_END: u64 = 1 << 56;
/// Longest host file, in bytes: 2^63 - 1 rounded down to whole GiB.
pub(crate) const MAX_HOST_LENGTH: u64 = 0x7fff_ffff_c000_0000;
/// Most data of a bitmap, in bytes.
pub(crate) const MAX_BITMAP_DATA_BYTES: u64 = 512 << 20;
/// Longest name of a bitmap, in bytes.
pub(crate) const MAX_BITMAP_NAME: u16 = 1023;
/// Coarsest granularity of a bitmap, in bytes.
pub(crate) const MAX_BITMAP_GRANULARITY: u64 = 2 << 30;
/// Smallest piece of a hole in the host file, in bytes: what file systems allocate. Less would make them write zeros.
pub(crate) const HOLE_UNIT: u64 = 4096;
