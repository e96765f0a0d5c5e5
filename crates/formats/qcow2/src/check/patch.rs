//! [`Patcher`]: small changes of tables on the host, gathered so that neighbours are written together.
//!
//! Changes reach the host in no promised order, but all of them with [`Patcher::finish`]. Each lies within 8 aligned
//! bytes, so that a write that is cut short leaves every entry old or new.

use std::ops::Range;

use diskimg_core::{BlockDevice, Error, Result, errno, read_zero_padded, to_usize};

/// Bytes that are held at a time.
const WINDOW: u64 = 64 << 10;

/// Entries on their way to the host.
pub(super) struct Patcher<'a> {
    storage: &'a dyn BlockDevice,
    start: u64,
    window: Vec<u8>,
    dirty: Option<Range<usize>>,
    changed: bool,
}

impl<'a> Patcher<'a> {
    /// Nothing changed yet.
    pub(super) const fn new(storage: &'a dyn BlockDevice) -> Self {
        Self { storage, start: 0, window: Vec::new(), dirty: None, changed: false }
    }

    /// The `len` bytes at host offset `offset` to be changed; `offset` is a multiple of `len`, a power of two up to 8.
    ///
    /// # Errors
    /// The storage's.
    pub(super) fn bytes(&mut self, offset: u64, len: u64) -> Result<&mut [u8]> {
        let start = offset / WINDOW * WINDOW;
        if self.window.is_empty() || start != self.start {
            self.write()?;
            self.window.resize(to_usize(WINDOW), 0);
            read_zero_padded(self.storage, start, &mut self.window)?;
            self.start = start;
        }
        let part = to_usize(offset - start)..to_usize(offset - start + len);
        self.dirty = Some(match self.dirty.take() {
            Some(old) => old.start.min(part.start)..old.end.max(part.end),
            None => part.clone(),
        });
        self.changed = true;
        self.window.get_mut(part).ok_or_else(|| Error::from_errno(errno::EINVAL))
    }

    /// Sets a big-endian word.
    ///
    /// # Errors
    /// The storage's.
    pub(super) fn set(&mut self, offset: u64, value: u64) -> Result<()> {
        self.bytes(offset, 8).map(|bytes| bytes.copy_from_slice(&value.to_be_bytes()))
    }

    /// Writes what is held.
    ///
    /// # Errors
    /// The storage's.
    pub(super) fn write(&mut self) -> Result<()> {
        let Some(part) = self.dirty.take() else { return Ok(()) };
        let offset = self.start + part.start as u64;
        self.storage.write_at(offset, self.window.get(part).unwrap_or_default())
    }

    /// Writes the rest and makes all of it durable; true if there was anything.
    ///
    /// # Errors
    /// The storage's.
    pub(super) fn finish(mut self) -> Result<bool> {
        self.write()?;
        if self.changed {
            self.storage.flush()?;
        }
        Ok(self.changed)
    }
}
