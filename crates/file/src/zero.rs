//! Zeroing and giving space back without writing bytes: `FALLOC_FL_ZERO_RANGE` and `FALLOC_FL_PUNCH_HOLE`.
//!
//! Invariants: what a file system lacks is found out once and then refused with `Unsupported`, so that the front end
//! writes zeros. A range behind the end makes the file longer. Used by [`crate::FileDevice`] alone.

use std::sync::atomic::{AtomicBool, Ordering};

use diskimg_core::{BlockDevice, ByteRange, Error, Result, ZeroMode};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::device::{FileDevice, FileKind};
use crate::errors::from_os;

/// What the file system turned out to lack.
#[derive(Debug, Default)]
pub(crate) struct Support {
    no_punch: AtomicBool,
    no_zero_range: AtomicBool,
}

fn unsupported() -> Error {
    Error::unsupported("the file system can't do that").with_errno(diskimg_core::errno::ENOTSUP)
}

/// Runs a `fallocate` unless it is known to be missing; `false`: it is.
fn try_fallocate(
    device: &FileDevice,
    missing: &AtomicBool,
    mode: FallocateFlags,
    range: ByteRange,
) -> Result<bool> {
    if missing.load(Ordering::Relaxed) {
        return Ok(false);
    }
    loop {
        match rustix::fs::fallocate(&device.file, mode, range.start, range.len) {
            Ok(()) => return Ok(true),
            Err(Errno::INTR) => {}
            // A device refuses what is not made of whole sectors.
            Err(Errno::INVAL) if device.kind != FileKind::Regular => return Ok(false),
            Err(Errno::NOTSUP | Errno::NOSYS | Errno::INVAL | Errno::NOTTY | Errno::NODEV) => {
                missing.store(true, Ordering::Relaxed);
                return Ok(false);
            }
            // Overwriting fallocated space can be refused on its own (swap files, block devices in use).
            Err(Errno::PERM | Errno::BUSY | Errno::TXTBSY) => return Ok(false),
            Err(error) => return Err(from_os(error)),
        }
    }
}

fn punch(device: &FileDevice, range: ByteRange) -> Result<bool> {
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let done = try_fallocate(device, &device.zeroing.no_punch, mode, range)?;
    if done {
        device.after_punch();
    }
    Ok(done)
}

/// Zeroes `range`, which is not empty.
pub(crate) fn write_zeroes(device: &FileDevice, range: ByteRange, how: ZeroMode) -> Result<()> {
    if device.kind == FileKind::Char {
        return Err(unsupported());
    }
    if how == ZeroMode::KeepAllocated {
        return if zero_range(device, range)? { Ok(()) } else { Err(unsupported()) };
    }
    if !punch_inside(device, range)? {
        return if zero_range(device, range)? { Ok(()) } else { Err(unsupported()) };
    }
    if range.end() > device.len() { extend(device, range.end()) } else { Ok(()) }
}

/// Gives back what of `range` lies within the file; `false`: the file system can't.
fn punch_inside(device: &FileDevice, range: ByteRange) -> Result<bool> {
    let inside = range.intersect(ByteRange::new(0, device.len()));
    let _shape = device.share_shape(inside.end());
    Ok(inside.is_empty() || punch(device, inside)?)
}

/// Zeroes with the space kept or taken; a file becomes longer if need be.
fn zero_range(device: &FileDevice, range: ByteRange) -> Result<bool> {
    let _shape = device.share_shape(range.end());
    let mode = FallocateFlags::ZERO_RANGE;
    let done = try_fallocate(device, &device.zeroing.no_zero_range, mode, range)?;
    if done {
        // Unwritten space is a hole to SEEK_HOLE.
        device.extents.punched();
        device.after_fill(range.end());
    }
    Ok(done)
}

/// Makes the file `len` bytes long unless it already is longer.
fn extend(device: &FileDevice, len: u64) -> Result<()> {
    let _alone = device.shape.write();
    if device.len() < len {
        rustix::fs::ftruncate(&device.file, len).map_err(from_os)?;
        device.after_reshape(len);
    }
    Ok(())
}

/// Gives the space of `range` (not empty, within the file) back.
pub(crate) fn discard(device: &FileDevice, range: ByteRange) -> Result<()> {
    if device.kind == FileKind::Char {
        return Err(unsupported());
    }
    let _shape = device.share_shape(range.end());
    if punch(device, range)? { Ok(()) } else { Err(unsupported()) }
}
