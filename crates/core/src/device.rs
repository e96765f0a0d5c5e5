//! [`BlockDevice`]: the trait that everything with bytes at offsets implements.

use std::any::Any;
use std::fmt;

use crate::error::{Error, Result};
use crate::extent::{Extent, HostRef};
use crate::range::ByteRange;
use crate::reserve::Reservation;

/// How a device likes its requests. All values are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Offsets and lengths of reads and writes must be multiples of it (1: any).
    pub align: u64,
    /// A write of less than this unit (or across its border) costs a read and more; for an image
    /// the (sub)cluster, which is also the unit of `reserve`, `write_zeroes` and `discard`.
    pub write_unit: u64,
    /// The best size of a large transfer.
    pub best_transfer: u64,
    /// The greatest size of one request.
    pub max_transfer: u64,
    /// Writes beyond the end make the device longer (a host file, a memory device).
    pub growable: bool,
    /// Writes go one at a time, however many threads ask (a host file behind the page cache), and cost the processor no
    /// more than the copying.
    pub one_writer: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            align: 1,
            write_unit: 1,
            best_transfer: 1 << 20,
            max_transfer: 1 << 30,
            growable: false,
            one_writer: false,
        }
    }
}

/// What `write_zeroes` may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroMode {
    /// The space may be given back.
    MayUnmap,
    /// Allocated space stays allocated.
    KeepAllocated,
    /// Like `MayUnmap`, but only where it is faster than writing zeros; else an error of kind `Unsupported`.
    FastOnly,
}

/// How much is allocated in advance when an image is made or grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prealloc {
    /// Nothing.
    #[default]
    Off,
    /// The format's tables only.
    Metadata,
    /// Space is reserved on the host; it reads as zeros.
    Falloc,
    /// Zeros are written.
    Full,
}

impl Prealloc {
    /// All modes with their names, as options spell them.
    pub const NAMES: [(&'static str, Self); 4] =
        [("off", Self::Off), ("metadata", Self::Metadata), ("falloc", Self::Falloc), ("full", Self::Full)];

    /// The mode of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, mode)| *mode)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, mode)| *mode == self).map_or("off", |(name, _)| name)
    }
}

/// A write that covers more than was asked for, so that it is made of whole units: beside what was asked for it holds
/// what the disk showed there before.
#[derive(Clone, Copy, Debug)]
pub enum Widened<'a> {
    /// These bytes at this offset.
    Bytes(u64, &'a [u8]),
    /// Zeros.
    Zeroes(ByteRange, ZeroMode),
}

/// What a device is and the name it was opened by, for messages and `info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Description<'a> {
    /// `file`, `host_device`, `null-co`, `nbd`, or a format's name.
    pub driver: &'a str,
    /// The name as given; empty if it has none.
    pub filename: &'a str,
}

/// What is called with an extent and where it starts, in bytes.
pub type EachExtent<'a> = dyn FnMut(u64, &Extent<'_>) -> Result<()> + 'a;

/// A run of bytes that can be read and written at any offset: a host file, an image, a filter, a chain.
///
/// All calls take `&self` and may run on many threads at once. The front end (`Device`) checks bounds,
/// alignment and permission, so that implementations see valid requests only; they must still never
/// panic on invalid ones.
pub trait BlockDevice: Send + Sync + fmt::Debug {
    /// Length in bytes.
    fn len(&self) -> u64;

    /// True if it holds no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How it likes its requests.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// True if writes are refused.
    fn is_read_only(&self) -> bool {
        false
    }

    /// What it is and its name.
    fn describe(&self) -> Description<'_> {
        Description::default()
    }

    /// Whether there is a place for a write of `range`.
    ///
    /// # Errors
    /// `OutOfRange` behind the end of a device that does not grow; of a device node with the number that its kernel gives.
    fn check_room(&self, range: ByteRange) -> Result<()> {
        if self.limits().growable { Ok(()) } else { range.check_within(self.len()) }
    }

    /// Fills `buf` from byte `offset` on.
    ///
    /// # Errors
    /// The whole buffer is filled, or it is an error: beyond the end (`OutOfRange`), or the host's.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// Writes all of `buf` at byte `offset`.
    ///
    /// # Errors
    /// The host's, `ReadOnly`, or `OutOfRange` where the device does not grow.
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()>;

    /// Makes the range read as zeros.
    ///
    /// # Errors
    /// `Unsupported` if the device can't do it better than a write of zeros would.
    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()>;

    /// Writes what `write` says. Only `asked` (within it) is new: a device that records what was written to it records that
    /// alone.
    ///
    /// # Errors
    /// As `write_at` or `write_zeroes`.
    fn write_widened(&self, write: Widened<'_>, asked: ByteRange) -> Result<()> {
        let _ = asked;
        match write {
            Widened::Bytes(offset, buf) => self.write_at(offset, buf),
            Widened::Zeroes(range, how) => self.write_zeroes(range, how),
        }
    }

    /// Tells that the contents of the range are no longer needed.
    ///
    /// # Errors
    /// `Unsupported` if it can't be done; the caller may ignore that.
    fn discard(&self, range: ByteRange) -> Result<()>;

    /// Writes caches back and makes everything written before the call durable.
    ///
    /// # Errors
    /// The host's. After a failed flush nothing is known of what is durable.
    fn flush(&self) -> Result<()>;

    /// Changes the length in bytes.
    ///
    /// # Errors
    /// `Unsupported` if the device has a fixed length, or does not know the preallocation mode.
    fn set_len(&self, len: u64, prealloc: Prealloc) -> Result<()>;

    /// The first extent of `range` (not empty, within the device): never longer than `range`, never empty.
    ///
    /// # Errors
    /// The host's or `Corrupt`.
    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        Ok(Extent::data(range.len, None))
    }

    /// Calls `each` with the extents of `range` (within the device) and where they start, in order and without gaps: all
    /// that [`extent_at`](Self::extent_at) tells, in one go.
    ///
    /// # Errors
    /// As `extent_at`; those of `each`.
    fn each_extent(&self, range: ByteRange, each: &mut EachExtent<'_>) -> Result<()> {
        let mut at = range.start;
        while at < range.end() {
            let extent = self.extent_at(ByteRange::from_bounds(at, range.end()))?;
            each(at, &extent)?;
            at = at.saturating_add(extent.len.max(1));
        }
        Ok(())
    }

    /// Says where the bytes of `range` are to be stored, without making them visible.
    ///
    /// `range` is made of whole write units (its end may be that of the device), all of which the caller is
    /// going to write. `None`: the device has no two phases; use `write_at`.
    ///
    /// # Errors
    /// As `write_at`.
    fn reserve(&self, range: ByteRange) -> Result<Option<Reservation<'_>>> {
        let _ = range;
        Ok(None)
    }

    /// Copies `len` bytes of `source` to byte `offset` of this device within the host, without passing them
    /// through this process. Returns how many bytes were copied; 0 says that it can't be done.
    ///
    /// # Errors
    /// The host's.
    fn copy_from(&self, offset: u64, source: HostRef<'_>, len: u64) -> Result<u64> {
        let _ = (offset, source, len);
        Ok(0)
    }

    /// The bytes that it takes on the host, where that is known.
    ///
    /// # Errors
    /// The host's.
    fn allocated_len(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    /// The device as one that is read from front to end, if it is such.
    fn as_forward(&self) -> Option<&dyn Forward> {
        None
    }

    /// The concrete type, for devices that know how to work with their own kind (copies within the host).
    fn as_any(&self) -> Option<&dyn Any> {
        None
    }
}

/// The length, in bytes, of a [`Forward`] device whose end is not known.
pub const ENDLESS: u64 = 1 << 62;

/// A device that is read from front to end, such as a pipe. What was read as a whole it may forget; what was passed over it
/// keeps, so that the less is passed over, the less it takes.
pub trait Forward {
    /// Fills `buf` from byte `offset` on up to the end of the device, if that comes first: so many bytes were there.
    ///
    /// # Errors
    /// The host's; `Unsupported` for what has been read and forgotten.
    fn read_some(&self, offset: u64, buf: &mut [u8]) -> Result<usize>;

    /// Where the device ended, in bytes, once that was seen.
    fn seen_end(&self) -> Option<u64>;
}

/// The error of a write to a device that was opened read-only.
#[must_use]
pub fn read_only_error() -> Error {
    Error::new(crate::error::ErrorKind::ReadOnly, "Operation not permitted")
        .with_errno(crate::error::errno::EPERM)
}
