//! [`FileDevice`]: a host file or block device as a [`BlockDevice`].
//!
//! Invariants: all I/O is positional, so that any number of threads share the device; the length is cached and follows
//! the device's own changes, so that requests cost no extra system call. `shape` is held shared by writes that may make
//! the file longer, and exclusively by what sets its length or rewrites whole blocks (see [`crate::direct`]); no lock is
//! held over any other I/O. Opened by [`crate::open`], used by everyone.

use std::any::Any;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use diskimg_core::protocol::CacheMode;
use diskimg_core::{
    BlockDevice, ByteRange, CancelToken, Description, Error, ErrorKind, Extent, ExtentFlags, HostRef, Limits,
    Prealloc, Result, ZeroMode, len_u64, read_only_error, to_usize,
};
use parking_lot::{RwLock, RwLockReadGuard};

use crate::direct::Direct;
use crate::errors::{ended_early, from_os, too_far};
use crate::extents::ExtentCache;
use crate::lock::Held;
use crate::{copy, resize, zero};

/// The greatest request that is passed to the kernel in one call: 2 GiB less a page is where it stops by itself.
const MAX_TRANSFER: u64 = 1 << 30;

/// The kernel's limit of file offsets.
const MAX_OFFSET: u64 = i64::MAX.unsigned_abs();

/// Which sort of file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Regular,
    Block,
    Char,
}

/// A host file or block device.
///
/// ```
/// use diskimg_core::BlockDevice;
/// use diskimg_file::FileOptions;
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("disk.raw");
/// std::fs::write(&path, [7; 1000])?;
/// let device = FileOptions::new().write(true).open(path.to_str().unwrap())?;
/// device.write_at(1000, b"grows")?;
/// assert_eq!(device.len(), 1005);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FileDevice {
    pub(crate) file: Held,
    pub(crate) filename: String,
    pub(crate) driver: &'static str,
    pub(crate) kind: FileKind,
    pub(crate) read_only: bool,
    pub(crate) cache: CacheMode,
    pub(crate) len: AtomicU64,
    pub(crate) direct: Option<Direct>,
    pub(crate) shape: RwLock<()>,
    pub(crate) extents: ExtentCache,
    pub(crate) zeroing: zero::Support,
    pub(crate) sync: SyncState,
    /// Set when reserving space is to end.
    pub(crate) cancel: CancelToken,
}

/// What has to be made durable.
#[derive(Debug)]
pub(crate) struct SyncState {
    /// Changes that have ended so far, plus one for what happened before the file was opened.
    changes: AtomicU64,
    /// Changes that a successful sync covers.
    synced: AtomicU64,
    failed: AtomicBool,
}

impl Default for SyncState {
    fn default() -> Self {
        Self { changes: AtomicU64::new(1), synced: AtomicU64::new(0), failed: AtomicBool::new(false) }
    }
}

impl FileDevice {
    fn check_write(&self, range: ByteRange) -> Result<()> {
        if self.read_only {
            return Err(read_only_error());
        }
        if range.end() > MAX_OFFSET {
            return Err(too_far());
        }
        self.check_room(range)
    }

    /// The lock that a change up to byte `end` has to hold, if any.
    pub(crate) fn share_shape(&self, end: u64) -> Option<RwLockReadGuard<'_, ()>> {
        (self.direct.is_some() || end > self.len()).then(|| self.shape.read())
    }

    /// After bytes up to `end` were written.
    pub(crate) fn after_fill(&self, end: u64) {
        if end > self.len.load(Ordering::Acquire) {
            self.len.fetch_max(end, Ordering::AcqRel);
            self.extents.punched();
        }
        self.extents.filled();
        self.sync.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// After a write that failed: some of it may be there, and have made the file longer.
    pub(crate) fn after_failed_fill(&self) {
        let regular = self.kind == FileKind::Regular;
        self.after_fill(self.file.metadata().map_or(0, |found| if regular { found.len() } else { 0 }));
    }

    /// After space may have been given back.
    pub(crate) fn after_punch(&self) {
        self.extents.punched();
        self.sync.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// After the length became `len`.
    pub(crate) fn after_reshape(&self, len: u64) {
        self.len.store(len, Ordering::Release);
        self.extents.reshaped();
        self.sync.changes.fetch_add(1, Ordering::AcqRel);
    }
}

/// Fills `buf` from a file that is as long as the request, or was.
pub(crate) fn read_full(file: &File, offset: u64, buf: &mut [u8]) -> Result<()> {
    let (mut at, mut rest) = (offset, buf);
    while !rest.is_empty() {
        match file.read_at(rest, at) {
            Ok(0) => return Err(ended_early(at)),
            Ok(count) => {
                rest = rest.get_mut(count..).unwrap_or_default();
                at = at.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

impl BlockDevice for FileDevice {
    fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    fn limits(&self) -> Limits {
        let write_unit = self.direct.as_ref().map_or(1, Direct::block);
        Limits {
            write_unit,
            max_transfer: MAX_TRANSFER,
            growable: self.kind == FileKind::Regular,
            one_writer: self.kind == FileKind::Regular && self.direct.is_none(),
            ..Limits::default()
        }
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn describe(&self) -> Description<'_> {
        Description { driver: self.driver, filename: &self.filename }
    }

    fn check_room(&self, range: ByteRange) -> Result<()> {
        if self.kind == FileKind::Regular || range.end() <= self.len() {
            return Ok(());
        }
        let code = diskimg_core::errno::ENOSPC;
        Err(Error::new(ErrorKind::OutOfRange, diskimg_core::strerror(code)).with_errno(code))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        ByteRange::new(offset, len_u64(buf)).check_within(self.len())?;
        match &self.direct {
            Some(direct) => direct.read(&self.file, offset, buf),
            None => read_full(&self.file, offset, buf),
        }
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let range = ByteRange::new(offset, len_u64(buf));
        if len_u64(buf) > MAX_OFFSET - offset.min(MAX_OFFSET) {
            return Err(too_far());
        }
        self.check_write(range)?;
        if buf.is_empty() {
            return Ok(());
        }
        if let Some(direct) = self.direct.as_ref().filter(|direct| !direct.takes(offset, range.len)) {
            return direct.rewrite(self, offset, buf);
        }
        let _shape = self.share_shape(range.end());
        let done = match &self.direct {
            Some(direct) => direct.write(&self.file, offset, buf),
            None => self.file.write_all_at(buf, offset).map_err(Error::from),
        };
        match done {
            Ok(()) => self.after_fill(range.end()),
            Err(_) => self.after_failed_fill(),
        }
        done
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        self.check_write(range)?;
        if range.is_empty() { Ok(()) } else { zero::write_zeroes(self, range, how) }
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        self.check_write(range)?;
        let range = range.intersect(ByteRange::new(0, self.len()));
        if range.is_empty() { Ok(()) } else { zero::discard(self, range) }
    }

    fn flush(&self) -> Result<()> {
        if self.read_only || self.cache.ignores_flush() {
            return Ok(());
        }
        if self.sync.failed.load(Ordering::Acquire) {
            // The kernel reports a lost write once; what it lost is lost for good.
            return Err(Error::from_errno(diskimg_core::errno::EIO));
        }
        let changes = self.sync.changes.load(Ordering::Acquire);
        if self.sync.synced.load(Ordering::Acquire) >= changes {
            return Ok(());
        }
        match rustix::fs::fdatasync(&self.file) {
            // Something like a pipe or a pseudo file has nothing to sync.
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::ROFS) => {
                self.sync.synced.fetch_max(changes, Ordering::AcqRel);
                Ok(())
            }
            Err(error) => {
                self.sync.failed.store(true, Ordering::Release);
                Err(from_os(error))
            }
        }
    }

    fn set_len(&self, len: u64, prealloc: Prealloc) -> Result<()> {
        if self.read_only {
            return Err(read_only_error());
        }
        resize::set_len(self, len, prealloc)
    }

    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        range.check_within(self.len())?;
        let host = Some(HostRef { device: self, offset: range.start });
        if range.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArg, "an empty range has no extent"));
        }
        if self.kind != FileKind::Regular {
            return Ok(Extent::data(range.len, host));
        }
        let run = self.extents.run_at(&self.file, range)?;
        let len = run.end.min(range.end()).saturating_sub(range.start).max(1);
        let kind = if run.data { ExtentFlags::DATA } else { ExtentFlags::ZERO };
        Ok(Extent { len, flags: ExtentFlags::PRESENT | kind, host })
    }

    fn copy_from(&self, offset: u64, source: HostRef<'_>, len: u64) -> Result<u64> {
        self.check_write(ByteRange::new(offset, len))?;
        copy::copy_from(self, offset, source, len)
    }

    fn allocated_len(&self) -> Result<Option<u64>> {
        /// The unit of `st_blocks`, in bytes.
        const BLOCK: u64 = 512;
        Ok(Some(self.file.metadata()?.blocks().saturating_mul(BLOCK)))
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

/// As many bytes of `buf` as `len` says from byte `from` on.
pub(crate) fn part(buf: &[u8], from: u64, len: u64) -> &[u8] {
    let from = to_usize(from);
    buf.get(from..from.saturating_add(to_usize(len))).unwrap_or_default()
}
