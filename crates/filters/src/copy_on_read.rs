//! `copy-on-read`: what is read from a backing file is stored in the image.
//!
//! Invariant: whole write units are copied, under a lock on them, and only those that the image does not hold itself;
//! a write passes the same lock, so that a copy never covers newer bytes.

use std::sync::Arc;

use diskimg_core::filter::{FilterDriver, FilterOpen};
use diskimg_core::{
    BlockDevice, ByteRange, Error, ErrorKind, ExtentFlags, FormatDriver, Image, RangeLock, Result, ZeroMode,
    align_down, align_up, len_u64, to_usize,
};

use crate::node::{CHANGES, in_front, node, over};

static NODE: FormatDriver = node("copy-on-read", CHANGES);

/// The filter.
pub static COPY_ON_READ: FilterDriver = in_front(&NODE, open);

fn open(request: FilterOpen<'_>) -> Result<Arc<dyn Image>> {
    let bottom = request.options.take_str("bottom")?;
    if !request.write {
        return Err(Error::new(ErrorKind::ReadOnly, "Block node is read-only"));
    }
    if let Some(bottom) = bottom {
        return Err(Error::invalid(format!("Bottom node '{bottom}' not found")));
    }
    let child = request.only_child()?;
    Ok(Arc::new(CopyOnRead { device: child.device, image: child.image, copying: RangeLock::default() }))
}

#[derive(Debug)]
struct CopyOnRead {
    device: Arc<dyn BlockDevice>,
    image: Arc<dyn Image>,
    copying: RangeLock,
}

impl CopyOnRead {
    /// The write units that `range` touches.
    fn units(&self, range: ByteRange) -> ByteRange {
        let unit = self.image.limits().write_unit.max(1);
        let end = align_up(range.end(), unit).unwrap_or(u64::MAX).min(self.device.len());
        ByteRange::from_bounds(align_down(range.start, unit), end.max(range.end()))
    }

    /// Stores what of `range` only the backing file holds.
    fn copy(&self, range: ByteRange) -> Result<()> {
        let mut at = range.start;
        while at < range.end() {
            let extent = self.image.extent_at(ByteRange::from_bounds(at, range.end()))?;
            let len = extent.len.clamp(1, range.end() - at);
            if !extent.flags.contains(ExtentFlags::PRESENT) {
                let mut bytes = vec![0; to_usize(len)];
                self.device.read_at(at, &mut bytes)?;
                self.device.write_at(at, &bytes)?;
            }
            at += len;
        }
        Ok(())
    }
}

impl Image for CopyOnRead {
    over!("file");
}

impl BlockDevice for CopyOnRead {
    diskimg_core::pass_on!(device: len limits is_read_only flush set_len extent_at allocated_len);

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let units = self.units(ByteRange::new(offset, len_u64(buf)));
        {
            let _alone = self.copying.lock(units);
            self.copy(units)?;
        }
        self.device.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let _alone = self.copying.lock(self.units(ByteRange::new(offset, len_u64(buf))));
        self.device.write_at(offset, buf)
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        let _alone = self.copying.lock(self.units(range));
        self.device.write_zeroes(range, how)
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        let _alone = self.copying.lock(self.units(range));
        self.device.discard(range)
    }
}
