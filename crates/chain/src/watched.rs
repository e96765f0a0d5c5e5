//! [`Watched`]: a disk over a filter that wants to know which requests are its user's. What a format reads for itself, to
//! open an image or to check it, is none.
//!
//! Made by [`Node`](crate::Node) alone, and only over filters.

use std::sync::Arc;

use diskimg_core::filter::Opened;
use diskimg_core::{
    BlockDevice, ByteRange, Description, EachExtent, Extent, HostRef, Limits, Prealloc, Reservation, Result,
    ZeroMode,
};

use crate::Stack;

#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) stack: Arc<Stack>,
    pub(crate) opened: Opened,
}

impl BlockDevice for Watched {
    fn len(&self) -> u64 {
        self.stack.len()
    }

    fn limits(&self) -> Limits {
        self.stack.limits()
    }

    fn is_read_only(&self) -> bool {
        self.stack.is_read_only()
    }

    fn describe(&self) -> Description<'_> {
        self.stack.describe()
    }

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

    fn set_len(&self, len: u64, prealloc: Prealloc) -> Result<()> {
        self.stack.set_len(len, prealloc)
    }

    fn each_extent(&self, range: ByteRange, each: &mut EachExtent<'_>) -> Result<()> {
        self.stack.each_extent(range, each)
    }

    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        self.stack.extent_at(range)
    }

    /// One phase, so that writes pass by the filter as writes of the user.
    fn reserve(&self, _: ByteRange) -> Result<Option<Reservation<'_>>> {
        Ok(None)
    }

    fn copy_from(&self, _: u64, _: HostRef<'_>, _: u64) -> Result<u64> {
        Ok(0)
    }

    fn allocated_len(&self) -> Result<Option<u64>> {
        self.stack.allocated_len()
    }
}
