//! The bitmap directory (specification, "Bitmaps"): the bitmaps' headers, and the checks of their tables.

use std::collections::{BTreeMap, HashSet};

use diskimg_core::{BlockDevice, Error, Fields, Result, errno, read_zero_padded, to_usize};

use crate::cursor::{TableCursor, check_reach};
use crate::entry::OFFSET_MASK;
use crate::extensions::BitmapsPointer;
use crate::geometry::Geometry;
use crate::header::Header;
use crate::limits::{MAX_BITMAP_DATA_BYTES, MAX_BITMAP_NAME, MAX_BITMAP_TABLE_ENTRIES};

/// Flag bit 0: not closed cleanly; the contents can't be trusted.
pub(crate) const IN_USE: u32 = 1;
/// Flag bit 1: kept up to date by a running machine.
pub(crate) const AUTO: u32 = 1 << 1;

/// Bytes of a directory entry without its name.
const ENTRY_HEAD: u64 = 24;
/// Entries start at multiples of it, in bytes.
const ENTRY_ALIGN: u64 = 8;
/// The one type of bitmap there is.
const TYPE_DIRTY_TRACKING: u8 = 1;
/// Finest and coarsest granularity: 512 bytes and 2 GiB.
const GRANULARITY_BITS: std::ops::RangeInclusive<u8> = 9..=31;
/// Bytes of a bitmap table entry.
pub(crate) const TABLE_ENTRY: u64 = 8;
/// Bit 0 of a bitmap table entry without offset: all bits are ones.
const ALL_ONES: u64 = 1;
/// Reserved bits of a bitmap table entry.
const TABLE_RESERVED: u64 = !(OFFSET_MASK | ALL_ONES);
/// How much of a bitmap table is read at a time, in bytes.
const TABLE_STEP: u64 = 1 << 20;

/// A persistent bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bitmap {
    /// Its name; bytes that are not UTF-8 are replaced.
    pub name: String,
    /// The name as it is stored.
    pub raw_name: Vec<u8>,
    /// [`IN_USE`], [`AUTO`].
    pub flags: u32,
    /// log2 of the bytes that a bit stands for.
    pub granularity_bits: u8,
    /// Host offset of its table.
    pub table_offset: u64,
    /// Entries of its table.
    pub table_size: u32,
}

impl Bitmap {
    /// It was not closed cleanly.
    pub(crate) const fn is_in_use(&self) -> bool {
        self.flags & IN_USE != 0
    }

    /// Bytes that a bit stands for.
    pub(crate) const fn granularity(&self) -> u64 {
        1 << self.granularity_bits
    }
}

/// Reads the directory and checks the bitmaps' tables; no bitmaps if the header points to none.
///
/// # Errors
/// The first violation; the storage's.
pub(crate) fn read(storage: &dyn BlockDevice, header: &Header) -> Result<Vec<Bitmap>> {
    let Some(pointer) = header.extensions.bitmaps else { return Ok(Vec::new()) };
    let bitmaps = read_directory(storage, &pointer, header)?;
    let mut checked = CheckedTables::default();
    let mut names = HashSet::new();
    for bitmap in &bitmaps {
        check_table(storage, bitmap, header, &mut checked)?;
        if !names.insert(bitmap.name.as_str()) {
            return Err(Error::corrupt(format!("Bitmap already exists: {}", bitmap.name)));
        }
    }
    Ok(bitmaps)
}

fn read_directory(
    storage: &dyn BlockDevice,
    pointer: &BitmapsPointer,
    header: &Header,
) -> Result<Vec<Bitmap>> {
    if pointer.directory_size == 0 {
        return Err(Error::corrupt("Requested bitmap directory size is zero"));
    }
    let mut cursor = TableCursor::new(storage, pointer.directory_offset);
    let unreadable = |error: Error| error.context("Failed to read bitmap directory");
    let mut bitmaps = Vec::new();
    let left = |cursor: &TableCursor<'_>| pointer.directory_size.saturating_sub(cursor.position());
    while left(&cursor) > 0 {
        let room = left(&cursor);
        if room < ENTRY_HEAD {
            return Err(Error::corrupt("Broken bitmap directory"));
        }
        let head = cursor.take(ENTRY_HEAD).map_err(unreadable)?;
        let Some(entry) = RawEntry::parse(&head) else {
            return Err(Error::corrupt("Broken bitmap directory"));
        };
        if entry.len() > room {
            return Err(Error::corrupt("Broken bitmap directory"));
        }
        if bitmaps.len() >= to_usize(pointer.count.into()) {
            return Err(Error::corrupt("More bitmaps found than specified in header extension"));
        }
        if entry.extra_len != 0 {
            return Err(Error::unsupported("Bitmap extra data is not supported").with_errno(errno::EINVAL));
        }
        let name = cursor.take(entry.name_len.into()).map_err(unreadable)?;
        cursor.align(ENTRY_ALIGN);
        bitmaps.push(entry.check(&name, header)?);
    }
    if bitmaps.len() < to_usize(pointer.count.into()) {
        return Err(Error::corrupt("Less bitmaps found than specified in header extension"));
    }
    Ok(bitmaps)
}

/// A directory entry as it stands, without its name.
struct RawEntry {
    table_offset: u64,
    table_size: u32,
    flags: u32,
    kind: u8,
    granularity_bits: u8,
    name_len: u16,
    extra_len: u32,
}

impl RawEntry {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        Some(Self {
            table_offset: fields.u64_be()?,
            table_size: fields.u32_be()?,
            flags: fields.u32_be()?,
            kind: fields.u8()?,
            granularity_bits: fields.u8()?,
            name_len: fields.u16_be()?,
            extra_len: fields.u32_be()?,
        })
    }

    /// Bytes of the whole entry.
    fn len(&self) -> u64 {
        (ENTRY_HEAD + u64::from(self.extra_len) + u64::from(self.name_len)).next_multiple_of(ENTRY_ALIGN)
    }

    fn check(&self, raw_name: &[u8], header: &Header) -> Result<Bitmap> {
        let name = String::from_utf8_lossy(raw_name);
        if !self.is_valid(header) {
            return Err(Error::corrupt(format!("Bitmap '{name}' doesn't satisfy the constraints")));
        }
        Ok(Bitmap {
            name: name.into_owned(),
            raw_name: raw_name.to_vec(),
            flags: self.flags,
            granularity_bits: self.granularity_bits,
            table_offset: self.table_offset,
            table_size: self.table_size,
        })
    }

    fn is_valid(&self, header: &Header) -> bool {
        let geo = header.geometry();
        let data_bytes = u64::from(self.table_size) << geo.cluster_bits;
        let known = self.kind == TYPE_DIRTY_TRACKING
            && self.flags & !(IN_USE | AUTO) == 0
            && GRANULARITY_BITS.contains(&self.granularity_bits)
            && self.name_len <= MAX_BITMAP_NAME;
        let placed = self.table_size != 0
            && self.table_offset != 0
            && geo.is_aligned(self.table_offset)
            && self.table_size <= MAX_BITMAP_TABLE_ENTRIES
            && data_bytes <= MAX_BITMAP_DATA_BYTES;
        // What is in use may be out of date; else there is a bit for each byte of the disk.
        known
            && placed
            && (self.flags & IN_USE != 0
                || data_bytes_for(header.disk_size(), self.granularity_bits) <= data_bytes)
    }
}

/// The contents of a directory of `bitmaps`.
pub(crate) fn encode<'a>(bitmaps: impl IntoIterator<Item = &'a Bitmap>) -> Vec<u8> {
    let mut out = Vec::new();
    for bitmap in bitmaps {
        out.extend_from_slice(&bitmap.table_offset.to_be_bytes());
        out.extend_from_slice(&bitmap.table_size.to_be_bytes());
        out.extend_from_slice(&bitmap.flags.to_be_bytes());
        out.push(TYPE_DIRTY_TRACKING);
        out.push(bitmap.granularity_bits);
        // Checked when it was read or made.
        out.extend_from_slice(&u16::try_from(bitmap.raw_name.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&bitmap.raw_name);
        out.resize(out.len().next_multiple_of(to_usize(ENTRY_ALIGN)), 0);
    }
    out
}

/// Where an entry of a bitmap table says that its data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataPlace {
    /// All bits are zeros.
    Zeros,
    /// All bits are ones.
    Ones,
    /// A cluster at this host offset (bytes).
    At(u64),
}

/// What an entry of a bitmap table says; `None` if it breaks the rules.
pub(crate) fn data_place(entry: u64, geo: &Geometry) -> Option<DataPlace> {
    let (offset, ones) = (entry & OFFSET_MASK, entry & ALL_ONES != 0);
    if entry & TABLE_RESERVED != 0 || !geo.is_aligned(offset) {
        return None;
    }
    match (offset, ones) {
        (0, false) => Some(DataPlace::Zeros),
        (0, true) => Some(DataPlace::Ones),
        (_, false) => Some(DataPlace::At(offset)),
        (_, true) => None,
    }
}

/// Bytes of a bitmap over a disk of `size` bytes.
pub(crate) fn data_bytes_for(size: u64, granularity_bits: u8) -> u64 {
    size.div_ceil(1 << granularity_bits).div_ceil(8)
}

/// Checks the table of a bitmap that can be used.
fn check_table(
    storage: &dyn BlockDevice,
    bitmap: &Bitmap,
    header: &Header,
    checked: &mut CheckedTables,
) -> Result<()> {
    if bitmap.is_in_use() {
        return Ok(());
    }
    let geo = header.geometry();
    checked.check(storage, &geo, bitmap.table_offset, bitmap.table_size).map_err(|error| {
        error.context(format!("Could not read bitmap_table table from image for bitmap '{}'", bitmap.name))
    })?;
    let needed = geo.clusters_for(data_bytes_for(header.disk_size(), bitmap.granularity_bits));
    if needed != u64::from(bitmap.table_size) {
        return Err(Error::from_errno(errno::EINVAL)
            .context(format!("Could not read bitmap '{}' from image", bitmap.name)));
    }
    Ok(())
}

/// Ranges of bitmap tables that were found good. Each byte is read once, however many bitmaps claim it.
#[derive(Default)]
struct CheckedTables(BTreeMap<u64, u64>);

impl CheckedTables {
    fn check(&mut self, storage: &dyn BlockDevice, geo: &Geometry, offset: u64, entries: u32) -> Result<()> {
        let len = u64::from(entries) * TABLE_ENTRY;
        check_reach(offset, len)?;
        // What lies behind the end of the file is zeros: good.
        let end = (offset + len).min(storage.len());
        let mut at = offset;
        while at < end {
            if let Some((_, known_end)) = self.0.range(..=at).next_back().filter(|(_, end)| **end > at) {
                at = *known_end;
                continue;
            }
            let next_known = self.0.range(at..).next().map_or(end, |(start, _)| (*start).min(end));
            let stop = next_known.min(at + TABLE_STEP);
            let mut bytes = vec![0; to_usize((stop - at).next_multiple_of(TABLE_ENTRY))];
            read_zero_padded(storage, at, &mut bytes)?;
            if !bytes.chunks_exact(8).all(|entry| is_valid_entry(entry, geo)) {
                return Err(Error::from_errno(errno::EINVAL));
            }
            self.0.insert(at, stop);
            at = stop;
        }
        Ok(())
    }
}

fn is_valid_entry(bytes: &[u8], geo: &Geometry) -> bool {
    data_place(Fields::new(bytes).u64_be().unwrap_or(0), geo).is_some()
}
