//! [`Watched`]: a disk over a filter that wants to know which requests are its user's. What a format reads for itself, to
//! open an image or to check it, is none.
//!
//! Made by [`Node`](crate::Node) alone, and only over filters.

use std::sync::Arc;

use diskimg_core::filter::Opened;
use diskimg_core::{BlockDevice, ByteRange, HostRef, Reservation, Result, ZeroMode};

use crate::Stack;

#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) stack: Arc<Stack>,
    pub(crate) opened: Opened,
}

impl BlockDevice for Watched {
    diskimg_core::pass_on!(stack: len limits is_read_only describe set_len extent_at each_extent allocated_len);

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let _guest = self.opened.serve();
        self.stack.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let _guest = self.opened.serve();
        self.stack.write_at(offset, buf)
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        let _guest = self.opened.serve();
        self.stack.write_zeroes(range, how)
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        let _guest = self.opened.serve();
        self.stack.discard(range)
    }

    fn flush(&self) -> Result<()> {
        let _guest = self.opened.serve();
        self.stack.flush()
    }

    /// One phase, so that writes pass by the filter as writes of the user.
    fn reserve(&self, _: ByteRange) -> Result<Option<Reservation<'_>>> {
        Ok(None)
    }

    fn copy_from(&self, _: u64, _: HostRef<'_>, _: u64) -> Result<u64> {
        Ok(0)
    }
}
