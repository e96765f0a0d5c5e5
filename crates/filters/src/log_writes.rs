//! `blklogwrites`: every write is told to a log, in the format of Linux's dm-log-writes.
//!
//! The log: a superblock in its first sector, then entries of a sector each, followed by what was written. All numbers
//! are little-endian, in sectors of the log's own size: magic, version, entries (64 bits each), sector size (32 bits);
//! an entry has its sector, the number of sectors, flags and 64 bits of nothing. Invariant: a place in the log is given
//! away once, under the lock; the superblock counts what a flush has found, and is written at a flush alone.

use std::sync::Arc;

use diskimg_core::filter::{ChildRole, FilterDriver, FilterOpen};
use diskimg_core::options::{RuntimeOptions, parse_bool};
use diskimg_core::{
    BlockDevice, ByteRange, Child, Error, ErrorKind, Extent, FormatDriver, Image, ImageInfo, Limits,
    Prealloc, Result, ZeroMode, len_u64, read_zero_padded, to_usize,
};
use parking_lot::Mutex;

use crate::node::{CHANGES, in_front, node};

static NODE: FormatDriver = node("blklogwrites", CHANGES);

/// The filter.
pub static BLKLOGWRITES: FilterDriver = FilterDriver {
    roles: &[
        ChildRole { name: "file", is_image: false, many: false },
        ChildRole { name: "log", is_image: false, many: false },
    ],
    is_strong: |name| matches!(name, "log-append" | "log-sector-size"),
    ..in_front(&NODE, open)
};

/// `jfswshr`, as eight bytes.
const MAGIC: u64 = 0x6a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;
const MIN_SECTOR: u64 = 512;
/// Sectors are smaller than this, in bytes.
const MAX_SECTOR: u64 = 8 << 20;
/// Zeros are written to the log in pieces of so many bytes.
const ZEROS: u64 = 1 << 20;

fn open(request: FilterOpen<'_>) -> Result<Arc<dyn Image>> {
    let append = match request.options.take_str("log-append")? {
        Some(text) => parse_bool("log-append", &text)?,
        None => false,
    };
    let asked = request.options.take_size("log-sector-size")?;
    take_interval(request.options)?;
    let [file, log] = request.children.as_slice() else {
        return Err(Error::invalid("the filter needs a file and a log"));
    };
    let (sector, entries) = match (append, asked) {
        (true, Some(_)) => {
            return Err(Error::invalid("log-append and log-sector-size are mutually exclusive"));
        }
        (true, None) => superblock(&*log.device)?,
        (false, asked) => (checked_sector(asked.unwrap_or(MIN_SECTOR))?, 0),
    };
    let next = if append { end_of_log(&*log.device, sector, entries)? } else { sector };
    Ok(Arc::new(LogWrites {
        device: Arc::clone(&file.device),
        image: Arc::clone(&file.image),
        log: Arc::clone(&log.device),
        sector,
        place: Mutex::new(Place { next, entries }),
    }))
}

/// Without effect: the superblock is up to date after each flush.
fn take_interval(options: &mut RuntimeOptions) -> Result<()> {
    const NAME: &str = "log-super-update-interval";
    let Some(text) = options.take_str(NAME)? else { return Ok(()) };
    match text.parse::<u64>() {
        Ok(0) => Err(Error::invalid("Invalid log superblock update interval 0")),
        Ok(_) => Ok(()),
        Err(_) => Err(Error::invalid(format!("Parameter '{NAME}' expects a number"))),
    }
}

fn checked_sector(size: u64) -> Result<u64> {
    let fits = (MIN_SECTOR..=MAX_SECTOR).contains(&size) && size.is_power_of_two();
    if fits { Ok(size) } else { Err(Error::invalid(format!("Invalid log sector size {size}"))) }
}

/// The sector size and the number of entries of a log that is there.
fn superblock(log: &dyn BlockDevice) -> Result<(u64, u64)> {
    let mut bytes = [0; 32];
    read_zero_padded(log, 0, &mut bytes)?;
    if number(&bytes, 0) != MAGIC {
        return Err(Error::invalid("Invalid log superblock magic"));
    }
    let (version, entries, sector) = (number(&bytes, 8), number(&bytes, 16), number(&bytes, 24));
    if version != VERSION {
        return Err(Error::unsupported(format!("Unsupported log version {version}")));
    }
    Ok((checked_sector(sector & u64::from(u32::MAX))?, entries))
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    field.map_or(0, |field| u64::from_le_bytes(*field))
}

/// Where the entry after the last one begins.
fn end_of_log(log: &dyn BlockDevice, sector: u64, entries: u64) -> Result<u64> {
    let mut at = sector;
    for _ in 0..entries {
        if at >= log.len() {
            return Err(Error::corrupt("Log file has fewer entries than its superblock says"));
        }
        let mut bytes = [0; 32];
        read_zero_padded(log, at, &mut bytes)?;
        let data = if number(&bytes, 16) & DISCARD == 0 { number(&bytes, 8) } else { 0 };
        let len = data.checked_add(1).and_then(|sectors| sectors.checked_mul(sector));
        at = len.and_then(|len| at.checked_add(len)).ok_or_else(|| Error::corrupt("Invalid log entry"))?;
    }
    Ok(at)
}

/// Where the log goes on.
#[derive(Debug)]
struct Place {
    next: u64,
    entries: u64,
}

#[derive(Debug)]
struct LogWrites {
    device: Arc<dyn BlockDevice>,
    image: Arc<dyn Image>,
    log: Arc<dyn BlockDevice>,
    sector: u64,
    place: Mutex<Place>,
}

impl LogWrites {
    /// Adds an entry with room for `stored` bytes behind it. Where that room is.
    fn entry(&self, range: ByteRange, flags: u64, stored: u64) -> Result<u64> {
        let sectors = range.len.div_ceil(self.sector);
        let too_long = || Error::new(ErrorKind::NoSpace, "the log is too long");
        let len = stored.checked_next_multiple_of(self.sector).and_then(|len| len.checked_add(self.sector));
        let at = {
            let mut place = self.place.lock();
            let at = place.next;
            place.next = len.and_then(|len| at.checked_add(len)).ok_or_else(too_long)?;
            place.entries += 1;
            if place.next > self.log.len() {
                self.log.set_len(place.next, Prealloc::Off)?;
            }
            at
        };
        let mut bytes = vec![0; to_usize(self.sector)];
        put(&mut bytes, 0, &(range.start / self.sector).to_le_bytes());
        put(&mut bytes, 8, &sectors.to_le_bytes());
        put(&mut bytes, 16, &flags.to_le_bytes());
        self.log.write_at(at, &bytes)?;
        Ok(at + self.sector)
    }

    fn write_superblock(&self) -> Result<()> {
        let entries = self.place.lock().entries;
        let mut bytes = vec![0; to_usize(self.sector)];
        put(&mut bytes, 0, &MAGIC.to_le_bytes());
        put(&mut bytes, 8, &VERSION.to_le_bytes());
        put(&mut bytes, 16, &entries.to_le_bytes());
        put(&mut bytes, 24, &u32::try_from(self.sector).unwrap_or(u32::MAX).to_le_bytes());
        self.log.write_at(0, &bytes)
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(field) = bytes.get_mut(at..at.saturating_add(value.len())) {
        field.copy_from_slice(value);
    }
}

impl Image for LogWrites {
    fn driver(&self) -> &'static FormatDriver {
        &NODE
    }
    fn info(&self) -> Result<ImageInfo> {
        Ok(ImageInfo {
            cluster_size: self.image.info()?.cluster_size,
            dirty: Some(false),
            ..ImageInfo::default()
        })
    }
    fn children(&self) -> Vec<Child> {
        let child = |role, device| Child { role, device: Arc::clone(device) };
        vec![child("file", &self.device), child("log", &self.log)]
    }
}

impl BlockDevice for LogWrites {
    diskimg_core::pass_on!(device: len is_read_only read_at set_len allocated_len);

    fn limits(&self) -> Limits {
        let limits = self.device.limits();
        Limits { align: limits.align.max(self.sector), ..limits }
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let data = self.entry(ByteRange::new(offset, len_u64(buf)), 0, len_u64(buf))?;
        self.log.write_at(data, buf)?;
        self.device.write_at(offset, buf)
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        let data = self.entry(range, 0, range.len)?;
        let zeros = vec![0; to_usize(range.len.min(ZEROS))];
        let mut at = 0;
        while at < range.len {
            let part = zeros.get(..to_usize((range.len - at).min(ZEROS))).unwrap_or_default();
            self.log.write_at(data + at, part)?;
            at += len_u64(part).max(1);
        }
        self.device.write_zeroes(range, how)
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        self.entry(range, DISCARD, 0)?;
        self.device.discard(range)
    }

    fn flush(&self) -> Result<()> {
        self.device.flush()?;
        self.entry(ByteRange::default(), FLUSH, 0)?;
        self.write_superblock()?;
        self.log.flush()
    }

    /// Nothing is said of where bytes stand on the host: whoever changed them there would pass by the log.
    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        let extent = self.device.extent_at(range)?;
        Ok(if self.is_read_only() { extent } else { Extent { host: None, ..extent } })
    }
}
