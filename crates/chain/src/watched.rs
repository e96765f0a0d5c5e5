//! [`Watched`]: a layer over a filter that wants to know which requests are its user's. What a format reads for itself, to
//! open an image, to check it or to find out where bytes stand, is none.
//!
//! Made by [`Node`](crate::Node) alone, and only over filters.

use std::sync::Arc;

use diskimg_core::filter::{Asked, Opened};
use diskimg_core::{BlockDevice, ByteRange, Result, Widened, ZeroMode, len_u64};

/// One layer, without what is below it.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) image: Arc<dyn BlockDevice>,
    pub(crate) opened: Opened,
}

impl Watched {
    /// Lets the format look up what it needs to know of `range`, so that the request itself meets nothing but the bytes.
    fn look_up(&self, range: ByteRange) -> Result<()> {
        let range = range.intersect(ByteRange::new(0, self.image.len()));
        let mut at = range.start;
        while at < range.end() {
            at += self.image.extent_at(ByteRange::from_bounds(at, range.end()))?.len.max(1);
        }
        Ok(())
    }

    fn change(&self, range: ByteRange, change: impl FnOnce() -> Result<()>) -> Result<()> {
        self.look_up(range)?;
        let _guest = self.opened.serve(Asked::Write);
        change()
    }
}

impl BlockDevice for Watched {
    diskimg_core::pass_on!(image: len limits is_read_only describe set_len extent_at each_extent allocated_len);

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.look_up(ByteRange::new(offset, len_u64(buf)))?;
        let _guest = self.opened.serve(Asked::Read);
        self.image.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.change(ByteRange::new(offset, len_u64(buf)), || self.image.write_at(offset, buf))
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        self.change(range, || self.image.write_zeroes(range, how))
    }

    fn write_widened(&self, write: Widened<'_>, asked: ByteRange) -> Result<()> {
        self.change(asked, || self.image.write_widened(write, asked))
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        self.change(range, || self.image.discard(range))
    }

    fn flush(&self) -> Result<()> {
        let _guest = self.opened.serve(Asked::Flush);
        self.image.flush()
    }

    // `reserve` and `copy_from` stay what they are by default: writes are made in one phase, so that they pass by the
    // filter as writes of the user.
}
