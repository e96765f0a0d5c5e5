//! [`RawImage`]: requests pass straight to the storage, shifted by the offset.
//!
//! Invariants: the disk is a whole number of sectors long; behind the end of the file it reads as zeros. There is no
//! metadata, so nothing has to be written in any order. Made by [`crate::DRIVER`]'s `open`.

use std::any::Any;
use std::sync::Arc;

use diskimg_core::driver::PROBE_LEN;
use diskimg_core::{
    BlockDevice, ByteRange, Child, Description, Error, ErrorKind, Extent, ExtentFlags, FormatDriver, HostRef,
    Image, ImageInfo, Limits, Prealloc, Result, ZeroMode, align_up, len_u64, read_zero_padded, to_usize,
};

use crate::SECTOR;
use crate::guard::Guard;
use crate::open::{Window, aligned};

/// An open raw image.
#[derive(Debug)]
pub struct RawImage {
    storage: Arc<dyn BlockDevice>,
    /// The storage, or its front end.
    io: Arc<dyn BlockDevice>,
    window: Window,
    guard: Option<Guard>,
}

impl RawImage {
    pub(crate) fn new(storage: Arc<dyn BlockDevice>, window: Window, guard: Option<Guard>) -> Self {
        let io = aligned(&storage, window);
        Self { storage, io, window, guard }
    }

    /// `range` of the disk as bytes of the storage.
    fn shifted(&self, range: ByteRange) -> ByteRange {
        ByteRange::new(range.start.saturating_add(self.window.offset), range.len)
    }

    /// Bytes of the disk that the file really has.
    fn stored_len(&self) -> u64 {
        let there = self.storage.len().saturating_sub(self.window.offset);
        self.window.size.map_or(there, |size| size.min(there))
    }

    /// Lets the guard see what the first sector would become; `bytes`: what is written, `None` for zeros.
    fn check_guard(&self, range: ByteRange, bytes: Option<&[u8]>) -> Result<()> {
        let Some(guard) = &self.guard else { return Ok(()) };
        if range.start >= SECTOR || range.is_empty() {
            return Ok(());
        }
        let mut head = [0; PROBE_LEN];
        if range.start > 0 || range.len < SECTOR {
            read_zero_padded(&*self.io, self.window.offset, &mut head)?;
        }
        let target = head.iter_mut().skip(to_usize(range.start)).take(to_usize(range.len));
        match bytes {
            Some(bytes) => target.zip(bytes).for_each(|(to, from)| *to = *from),
            None => target.for_each(|to| *to = 0),
        }
        guard.admit(&head)
    }
}

impl BlockDevice for RawImage {
    fn len(&self) -> u64 {
        match self.window.size {
            Some(size) => size,
            None => align_up(self.stored_len(), SECTOR).unwrap_or(u64::MAX),
        }
    }

    fn limits(&self) -> Limits {
        let below = self.io.limits();
        let align = if self.guard.is_some() { below.align.max(SECTOR) } else { below.align };
        // Nothing is below it that a part of a unit could come from.
        Limits { align, growable: false, write_unit: 1, ..below }
    }

    fn is_read_only(&self) -> bool {
        self.io.is_read_only()
    }

    fn describe(&self) -> Description<'_> {
        Description { driver: crate::DRIVER.name, filename: self.storage.describe().filename }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let range = ByteRange::new(offset, len_u64(buf));
        range.check_within(self.len())?;
        read_zero_padded(&*self.io, self.shifted(range).start, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let range = ByteRange::new(offset, len_u64(buf));
        range.check_within(self.len())?;
        self.check_guard(range, Some(buf))?;
        self.io.write_at(self.shifted(range).start, buf)
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        range.check_within(self.len())?;
        self.check_guard(range, None)?;
        self.io.write_zeroes(self.shifted(range), how)
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        range.check_within(self.len())?;
        self.check_guard(range, None)?;
        let stored = range.intersect(ByteRange::new(0, self.stored_len()));
        if stored.is_empty() { Ok(()) } else { self.io.discard(self.shifted(stored)) }
    }

    fn flush(&self) -> Result<()> {
        self.io.flush()
    }

    fn set_len(&self, len: u64, prealloc: Prealloc) -> Result<()> {
        if self.window.size.is_some() {
            return Err(Error::unsupported("Cannot resize fixed-size raw disks"));
        }
        let Some(file_len) = self.window.offset.checked_add(len) else {
            return Err(Error::invalid("Disk size too large for the chosen offset"));
        };
        self.io.set_len(file_len, prealloc)
    }

    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        range.check_within(self.len())?;
        if range.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArg, "an empty range has no extent"));
        }
        let place = self.shifted(range);
        let here = HostRef { device: &*self.storage, offset: place.start };
        let stored = range.intersect(ByteRange::new(0, self.stored_len()));
        if stored.is_empty() {
            return Ok(Extent { host: Some(here), ..Extent::zero(range.len) });
        }
        let below = self.storage.extent_at(self.shifted(stored))?;
        let len = below.len.min(stored.len);
        if !below.is_present() {
            // Nothing holds it: neither does this layer.
            return Ok(Extent { len, flags: below.flags & ExtentFlags::UNSPECIFIED, host: below.host });
        }
        let nature = below.flags & (ExtentFlags::DATA | ExtentFlags::ZERO);
        Ok(Extent { len, flags: ExtentFlags::PRESENT | nature, host: below.host })
    }

    fn copy_from(&self, offset: u64, source: HostRef<'_>, len: u64) -> Result<u64> {
        let range = ByteRange::new(offset, len);
        range.check_within(self.len())?;
        if self.guard.is_some() && offset < SECTOR {
            return Ok(0);
        }
        self.io.copy_from(self.shifted(range).start, source, len)
    }

    fn allocated_len(&self) -> Result<Option<u64>> {
        self.io.allocated_len()
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl Image for RawImage {
    fn driver(&self) -> &'static FormatDriver {
        &crate::DRIVER
    }

    fn info(&self) -> Result<ImageInfo> {
        Ok(ImageInfo::default())
    }

    fn children(&self) -> Vec<Child> {
        vec![Child { role: "file", device: Arc::clone(&self.storage) }]
    }
}
