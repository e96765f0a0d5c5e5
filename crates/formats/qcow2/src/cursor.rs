//! Reading along a table of entries of unknown length: few requests and little memory, whatever the entries claim.

use diskimg_core::{BlockDevice, Error, Result, errno, len_u64, read_zero_padded, to_usize};

use crate::limits::MAX_HOST_LENGTH;

/// How much is read at a time, in bytes.
const READ_AHEAD: u64 = 64 << 10;

/// A position in a table. What lies behind the end of the file is zeros.
#[derive(Debug)]
pub(crate) struct TableCursor<'a> {
    storage: &'a dyn BlockDevice,
    /// Host offset of the table.
    start: u64,
    /// Bytes taken so far.
    at: u64,
    /// Bytes of the table from `window_at` on.
    window: Vec<u8>,
    window_at: u64,
}

impl<'a> TableCursor<'a> {
    /// At the start of the table at host offset `start`.
    pub(crate) const fn new(storage: &'a dyn BlockDevice, start: u64) -> Self {
        Self { storage, start, at: 0, window: Vec::new(), window_at: 0 }
    }

    /// Bytes from the start of the table.
    pub(crate) const fn position(&self) -> u64 {
        self.at
    }

    /// On to the next multiple of `unit` bytes.
    pub(crate) fn align(&mut self, unit: u64) {
        self.at = self.at.next_multiple_of(unit);
    }

    /// `len` bytes further on.
    pub(crate) fn skip(&mut self, len: u64) {
        self.at = self.at.saturating_add(len);
    }

    /// The next `len` bytes, at most 64 KiB of them.
    ///
    /// # Errors
    /// The storage's; `Io` where no file can reach.
    pub(crate) fn take(&mut self, len: u64) -> Result<Vec<u8>> {
        let len = len.min(READ_AHEAD);
        let from = self.at.checked_sub(self.window_at);
        if from.is_none_or(|from| from.saturating_add(len) > len_u64(&self.window)) {
            let offset = self.start.saturating_add(self.at);
            check_reach(offset, len)?;
            self.window.resize(to_usize(READ_AHEAD), 0);
            self.window_at = self.at;
            read_zero_padded(self.storage, offset, &mut self.window)?;
        }
        let from = to_usize(self.at.saturating_sub(self.window_at));
        let bytes = self.window.get(from..).and_then(|rest| rest.get(..to_usize(len)));
        self.at = self.at.saturating_add(len);
        Ok(bytes.unwrap_or_default().to_vec())
    }
}

/// An input/output error for a range that no file can reach.
pub(crate) fn check_reach(offset: u64, len: u64) -> Result<()> {
    if offset.checked_add(len).is_some_and(|end| end <= MAX_HOST_LENGTH) {
        return Ok(());
    }
    Err(Error::from_errno(errno::EIO))
}
