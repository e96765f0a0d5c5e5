//! The bitmap directory (specification, "Bitmaps"): the bitmaps' headers, and the checks of their tables.

use diskimg_core::{BlockDevice, Error, Fields, Result, read_table, to_usize};

use crate::entry::OFFSET_MASK;
use crate::header::Header;
use crate::limits::{MAX_BITMAP_DIRECTORY_BYTES, MAX_BITMAP_TABLE_ENTRIES};

/// Flag bit 0: not closed cleanly; the contents can't be trusted.
pub(crate) const IN_USE: u32 = 1;
/// Flag bit 1: kept up to date by a running machine.
pub(crate) const AUTO: u32 = 1 << 1;

/// Bytes of a directory entry without its name.
const ENTRY_HEAD: usize = 24;
/// Entries start at multiples of it, in bytes.
const ENTRY_ALIGN: usize = 8;
/// The one type of bitmap there is.
const TYPE_DIRTY_TRACKING: u8 = 1;
/// Longest name, in bytes.
const MAX_NAME: u16 = 1023;
/// Finest and coarsest granularity: 512 bytes and 2 GiB.
const GRANULARITY_BITS: std::ops::RangeInclusive<u8> = 9..=31;
/// Most bytes of a bitmap's data.
const MAX_DATA_BYTES: u64 = 512 << 20;
/// Reserved bits of a bitmap table entry; bit 0 is reserved only where there is an offset.
const TABLE_RESERVED: u64 = !(OFFSET_MASK | 1);
/// How much of a bitmap table is read at a time, in bytes.
const TABLE_STEP: u64 = 1 << 20;

/// A persistent bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bitmap {
    /// Its name; bytes that are not UTF-8 are replaced.
    pub name: String,
    /// [`IN_USE`], [`AUTO`].
    pub flags: u32,
    /// log2 of the bytes that a bit stands for.
    pub granularity_bits: u8,
    /// Host offset of its table.
    pub table_offset: u64,
    /// Entries of its table.
    pub table_size: u32,
}
