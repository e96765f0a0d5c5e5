//! [`Device`]: the front end that engines and chains call.
//!
//! It checks bounds and permission, brings requests into the alignment and size the device wants, emulates zeroing and
//! discarding, flushes after each write in write-through mode, and refuses writes after a failed flush: nothing is known
//! then of what is durable. Implementations below it see valid requests only.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::device::{
    BlockDevice, Description, EachExtent, Forward, Limits, Prealloc, Widened, ZeroMode, read_only_error,
};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, HostRef};
use crate::range::{ByteRange, len_u64, to_usize};
use crate::reserve::Reservation;

/// The size of the zero buffer that emulates zeroing, and of bounce buffers: what a request holds at most.
const CHUNK: u64 = 1 << 20;

/// The front end of a device. Clones are cheap and share it.
#[derive(Clone, Debug)]
pub struct Device(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    device: Arc<dyn BlockDevice>,
    read_only: bool,
    write_through: bool,
    poisoned: AtomicBool,
    /// Held by read-modify-write of unaligned ends, so that two of them do not lose each other's bytes.
    unaligned: Mutex<()>,
}

impl Device {
    /// The front end of `device`, for all that it can do.
    #[must_use]
    pub fn new(device: Arc<dyn BlockDevice>) -> Self {
        Self::with_mode(device, false, false)
    }

    /// The front end of `device`: perhaps refusing writes, perhaps flushing after each.
    #[must_use]
    pub fn with_mode(device: Arc<dyn BlockDevice>, read_only: bool, write_through: bool) -> Self {
        let read_only = read_only || device.is_read_only();
        let (poisoned, unaligned) = (AtomicBool::new(false), Mutex::new(()));
        Self(Arc::new(Inner { device, read_only, write_through, poisoned, unaligned }))
    }

    /// What is behind the front end.
    #[must_use]
    pub fn inner(&self) -> &Arc<dyn BlockDevice> {
        &self.0.device
    }

    fn check_write(&self, range: ByteRange) -> Result<()> {
        if self.0.read_only {
            return Err(read_only_error());
        }
        if self.0.poisoned.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Poisoned, "an earlier flush failed: writes are refused"));
        }
        self.0.device.check_room(range)
    }

    fn after_write(&self) -> Result<()> {
        if self.0.write_through { self.flush() } else { Ok(()) }
    }

    /// Calls `each` with the parts of `range` that respect the greatest transfer.
    fn split(&self, range: ByteRange, mut each: impl FnMut(ByteRange) -> Result<()>) -> Result<()> {
        let limits = self.0.device.limits();
        let most = limits.max_transfer.max(limits.align).max(1);
        let mut at = range.start;
        while at < range.end() {
            let part = ByteRange::new(at, most.min(range.end() - at));
            each(part)?;
            at = part.end();
        }
        Ok(())
    }

    fn read_unaligned(&self, offset: u64, buf: &mut [u8], align: u64) -> Result<()> {
        let range = ByteRange::new(offset, len_u64(buf));
        let step = CHUNK.max(align);
        let mut at = range.start;
        while at < range.end() {
            let part = ByteRange::from_bounds(at, range.end().min(at.saturating_add(step)));
            let outer = part.align_outwards(align).intersect(ByteRange::new(0, self.len().max(part.end())));
            let mut bounce = vec![0; to_usize(outer.len)];
            self.0.device.read_at(outer.start, &mut bounce)?;
            let (from, to) = (to_usize(part.start - outer.start), to_usize(part.start - range.start));
            let len = to_usize(part.len);
            if let (Some(source), Some(target)) = (bounce.get(from..from + len), buf.get_mut(to..to + len)) {
                target.copy_from_slice(source);
            }
            at = part.end();
        }
        Ok(())
    }

    fn write_unaligned(&self, offset: u64, buf: &[u8], align: u64) -> Result<()> {
        let range = ByteRange::new(offset, len_u64(buf));
        let _alone = self.0.unaligned.lock();
        let step = CHUNK.max(align);
        let mut at = range.start;
        while at < range.end() {
            let part = ByteRange::from_bounds(at, range.end().min(at.saturating_add(step)));
            let outer = part.align_outwards(align);
            let mut bounce = vec![0; to_usize(outer.len)];
            crate::read::read_zero_padded(&*self.0.device, outer.start, &mut bounce)?;
            let (to, from) = (to_usize(part.start - outer.start), to_usize(part.start - range.start));
            let len = to_usize(part.len);
            if let (Some(target), Some(source)) = (bounce.get_mut(to..to + len), buf.get(from..from + len)) {
                target.copy_from_slice(source);
            }
            self.0.device.write_at(outer.start, &bounce)?;
            at = part.end();
        }
        Ok(())
    }

    fn write_zero_bytes(&self, range: ByteRange) -> Result<()> {
        let zeros = vec![0; to_usize(CHUNK.min(range.len))];
        let mut at = range.start;
        while at < range.end() {
            let len = CHUNK.min(range.end() - at);
            self.write_parts(at, zeros.get(..to_usize(len)).unwrap_or(&zeros))?;
            at += len;
        }
        Ok(())
    }

    fn write_parts(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let align = self.0.device.limits().align.max(1);
        if !offset.is_multiple_of(align) || !len_u64(buf).is_multiple_of(align) {
            return self.write_unaligned(offset, buf, align);
        }
        self.split(ByteRange::new(offset, len_u64(buf)), |part| {
            let from = to_usize(part.start - offset);
            let bytes = buf.get(from..from + to_usize(part.len)).unwrap_or_default();
            self.0.device.write_at(part.start, bytes)
        })
    }
}

/// The greatest length of a device, in bytes.
pub const MAX_DEVICE_LEN: u64 = (1 << 63) - (1 << 30);

/// Refuses a length that no device can have.
///
/// # Errors
/// `InvalidArg` with qemu-img's wording.
pub fn check_len(len: u64) -> Result<()> {
    if len > MAX_DEVICE_LEN {
        return Err(Error::invalid(format!("offset({len}) exceeds maximum({MAX_DEVICE_LEN})")));
    }
    Ok(())
}

impl BlockDevice for Device {
    fn len(&self) -> u64 {
        self.0.device.len()
    }

    fn limits(&self) -> Limits {
        Limits { align: 1, max_transfer: u64::MAX, ..self.0.device.limits() }
    }

    fn check_room(&self, range: ByteRange) -> Result<()> {
        self.0.device.check_room(range)
    }

    fn is_read_only(&self) -> bool {
        self.0.read_only
    }

    fn describe(&self) -> Description<'_> {
        self.0.device.describe()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let range = ByteRange::new(offset, len_u64(buf));
        range.check_within(self.len())?;
        let align = self.0.device.limits().align.max(1);
        if !offset.is_multiple_of(align) || !range.len.is_multiple_of(align) {
            return self.read_unaligned(offset, buf, align);
        }
        self.split(range, |part| {
            let from = to_usize(part.start - offset);
            match buf.get_mut(from..from + to_usize(part.len)) {
                Some(bytes) => self.0.device.read_at(part.start, bytes),
                None => Ok(()),
            }
        })
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.check_write(ByteRange::new(offset, len_u64(buf)))?;
        self.write_parts(offset, buf)?;
        self.after_write()
    }

    fn write_widened(&self, write: Widened<'_>, asked: ByteRange) -> Result<()> {
        let limits = self.0.device.limits();
        let fits = |range: ByteRange| {
            let align = limits.align.max(1);
            range.len <= limits.max_transfer
                && range.start.is_multiple_of(align)
                && range.len.is_multiple_of(align)
        };
        match write {
            Widened::Bytes(offset, buf) if fits(ByteRange::new(offset, len_u64(buf))) => {
                self.check_write(ByteRange::new(offset, len_u64(buf)))?;
                self.0.device.write_widened(write, asked)?;
                self.after_write()
            }
            Widened::Bytes(offset, buf) => self.write_at(offset, buf),
            Widened::Zeroes(range, how) => {
                self.check_write(range)?;
                match self.0.device.write_widened(write, asked) {
                    Err(error) if error.kind() == ErrorKind::Unsupported => self.write_zeroes(range, how),
                    other => other.and_then(|()| self.after_write()),
                }
            }
        }
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        self.check_write(range)?;
        let done = self.split(range, |part| match self.0.device.write_zeroes(part, how) {
            Err(error) if error.kind() == ErrorKind::Unsupported && how != ZeroMode::FastOnly => {
                self.write_zero_bytes(part)
            }
            other => other,
        });
        done.and_then(|()| self.after_write())
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        self.check_write(range)?;
        let done = self.split(range, |part| match self.0.device.discard(part) {
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(()),
            other => other,
        });
        done.and_then(|()| self.after_write())
    }

    fn flush(&self) -> Result<()> {
        if self.0.poisoned.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Poisoned, "an earlier flush failed"));
        }
        self.0.device.flush().inspect_err(|_| self.0.poisoned.store(true, Ordering::Release))
    }

    fn set_len(&self, len: u64, prealloc: Prealloc) -> Result<()> {
        self.check_write(ByteRange::default())?;
        check_len(len)?;
        self.0.device.set_len(len, prealloc)?;
        self.after_write()
    }

    fn as_forward(&self) -> Option<&dyn Forward> {
        self.0.device.as_forward()
    }

    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        range.check_within(self.len())?;
        if range.is_empty() {
            return Err(Error::invalid("an empty range has no extent"));
        }
        let extent = self.0.device.extent_at(range)?;
        debug_assert!(extent.len > 0 && extent.len <= range.len, "{extent:?} for {range:?}");
        Ok(extent.clipped(range.len))
    }

    fn each_extent(&self, range: ByteRange, each: &mut EachExtent<'_>) -> Result<()> {
        range.check_within(self.len())?;
        self.0.device.each_extent(range, each)
    }

    fn reserve(&self, range: ByteRange) -> Result<Option<Reservation<'_>>> {
        self.check_write(range)?;
        if self.0.write_through {
            // Each write has to be durable when it returns: no second phase.
            return Ok(None);
        }
        self.0.device.reserve(range)
    }

    fn copy_from(&self, offset: u64, source: HostRef<'_>, len: u64) -> Result<u64> {
        self.check_write(ByteRange::new(offset, len))?;
        let copied = self.0.device.copy_from(offset, source, len)?;
        self.after_write()?;
        Ok(copied)
    }

    fn allocated_len(&self) -> Result<Option<u64>> {
        self.0.device.allocated_len()
    }
}
