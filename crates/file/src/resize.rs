//! Changing a file's length, with space reserved in advance where that is asked for.
//!
//! Invariants: the file's `shape` is held exclusively; a failure leaves the file as long as it was. A file that was
//! empty gets its first block written, as QEMU does: some file systems tell the alignment of direct I/O only then.

use std::fs::File;
use std::os::unix::fs::FileExt;

use diskimg_core::size::MAX_IMAGE_SIZE;
use diskimg_core::{BlockDevice, Error, Prealloc, Result, errno, to_usize};
use rustix::fs::{FallocateFlags, fallocate, ftruncate};
use rustix::io::Errno;

use crate::device::{FileDevice, FileKind};
use crate::errors::from_os;

/// Bytes of zeros that are written at once: they stay in the processor's own cache.
const CHUNK: u64 = 128 << 10;

/// What is written at the start of a file that was empty.
const FIRST_BLOCK: u64 = 4096;

/// What is written there if the file is shorter than that.
const FIRST_SECTOR: u64 = 512;

/// Sets the length of the device.
pub(crate) fn set_len(device: &FileDevice, len: u64, prealloc: Prealloc) -> Result<()> {
    match device.kind {
        FileKind::Regular => set_file_len(device, len, prealloc),
        FileKind::Block | FileKind::Char => check_device_len(device, len, prealloc),
    }
}

/// A device node has the length it has.
fn check_device_len(device: &FileDevice, len: u64, prealloc: Prealloc) -> Result<()> {
    if prealloc != Prealloc::Off {
        return Err(Error::unsupported(format!("Unsupported preallocation mode '{}'", prealloc.name())));
    }
    if len == device.len() { Ok(()) } else { Err(Error::unsupported("Cannot resize device files")) }
}

fn set_file_len(device: &FileDevice, len: u64, prealloc: Prealloc) -> Result<()> {
    let _alone = device.shape.write();
    let old = device.file.metadata()?.len();
    // A length that the host takes for a negative one counts as less.
    if prealloc != Prealloc::Off && (len < old || len > MAX_IMAGE_SIZE) {
        return Err(Error::unsupported("Cannot use preallocation for shrinking files"));
    }
    let file = &device.file;
    let done = match prealloc {
        Prealloc::Off => truncate(file, len),
        Prealloc::Falloc => reserve(device, old, len),
        Prealloc::Full => write_zeros(device, old, len).and_then(|()| Ok(file.sync_all()?)),
        Prealloc::Metadata => Err(Error::unsupported("Unsupported preallocation mode: metadata")),
    };
    match done {
        Ok(()) => {
            if old == 0 && prealloc != Prealloc::Full {
                write_first_block(device, len);
            }
            device.after_reshape(len);
            Ok(())
        }
        Err(error) => {
            // The length as it was; if even that fails, the first error tells more.
            let _ = ftruncate(file, old);
            device.after_reshape(file.metadata().map_or(old, |now| now.len()));
            Err(error)
        }
    }
}

fn truncate(file: &File, len: u64) -> Result<()> {
    if i64::try_from(len).is_err() {
        return Err(Error::from_errno(errno::EINVAL).context("Could not resize file"));
    }
    ftruncate(file, len).map_err(|error| from_os(error).context("Could not resize file"))
}

fn reserve(device: &FileDevice, old: u64, len: u64) -> Result<()> {
    if len == old {
        return Ok(());
    }
    loop {
        match fallocate(&device.file, FallocateFlags::empty(), old, len - old) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => device.cancel.check()?,
            Err(Errno::NOTSUP | Errno::NOSYS) => return write_zeros(device, old, len),
            Err(error) => return Err(from_os(error).context("Could not preallocate new data")),
        }
    }
}

/// Writes zeros from `old` to `len`.
fn write_zeros(device: &FileDevice, old: u64, len: u64) -> Result<()> {
    truncate(&device.file, len)?;
    let zeros = vec![0; to_usize(CHUNK.min(len - old))];
    let mut at = old;
    while at < len {
        device.cancel.check()?;
        let count = CHUNK.min(len - at);
        write_plain(device, at, zeros.get(..to_usize(count)).unwrap_or_default(), len)
            .map_err(|error| error.context("Could not write zeros for preallocation"))?;
        at += count;
    }
    Ok(())
}

/// A write of zeros by a holder of `shape`, to a file of `len` bytes.
fn write_plain(device: &FileDevice, at: u64, zeros: &[u8], len: u64) -> Result<()> {
    match &device.direct {
        None => Ok(device.file.write_all_at(zeros, at)?),
        Some(direct) => direct.rewrite_alone(device, at, zeros, len),
    }
}

/// Best effort: without it the file is as good.
fn write_first_block(device: &FileDevice, len: u64) {
    let count = if len >= FIRST_BLOCK { FIRST_BLOCK } else { FIRST_SECTOR.min(len) };
    if count > 0 {
        let _ = write_plain(device, 0, &vec![0; to_usize(count)], len);
    }
}
