//! [`Kept`]: a file whose node is not to give space back (`discard=ignore`). The images in it may ask for it all the same.
//!
//! Made by [`storage`](crate::storage) alone.

use std::any::Any;
use std::sync::Arc;

use diskimg_core::{
    BlockDevice, ByteRange, Description, Extent, HostRef, Limits, Prealloc, Reservation, Result, Widened,
    ZeroMode,
};

/// A device that keeps its space.
#[derive(Debug)]
pub(crate) struct Kept(pub(crate) Arc<dyn BlockDevice>);

const fn kept(how: ZeroMode) -> ZeroMode {
    match how {
        ZeroMode::MayUnmap => ZeroMode::KeepAllocated,
        other => other,
    }
}

impl BlockDevice for Kept {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn check_room(&self, range: ByteRange) -> Result<()> {
        self.0.check_room(range)
    }

    fn is_read_only(&self) -> bool {
        self.0.is_read_only()
    }

    fn describe(&self) -> Description<'_> {
        self.0.describe()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.0.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.0.write_at(offset, buf)
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        self.0.write_zeroes(range, kept(how))
    }

    fn write_widened(&self, write: Widened<'_>, asked: ByteRange) -> Result<()> {
        let write = match write {
            Widened::Zeroes(range, how) => Widened::Zeroes(range, kept(how)),
            bytes @ Widened::Bytes(..) => bytes,
        };
        self.0.write_widened(write, asked)
    }

    fn discard(&self, _: ByteRange) -> Result<()> {
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.0.flush()
    }

    fn set_len(&self, len: u64, prealloc: Prealloc) -> Result<()> {
        self.0.set_len(len, prealloc)
    }

    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        self.0.extent_at(range)
    }

    fn reserve(&self, range: ByteRange) -> Result<Option<Reservation<'_>>> {
        self.0.reserve(range)
    }

    fn copy_from(&self, offset: u64, source: HostRef<'_>, len: u64) -> Result<u64> {
        self.0.copy_from(offset, source, len)
    }

    fn allocated_len(&self) -> Result<Option<u64>> {
        self.0.allocated_len()
    }

    fn as_any(&self) -> Option<&dyn Any> {
        self.0.as_any()
    }
}

#[cfg(test)]
mod tests {
    use diskimg_core::MemDevice;

    use super::*;

    #[test]
    fn nothing_is_given_back() {
        let device = Kept(Arc::new(MemDevice::from(vec![1; 8192])));
        device.discard(ByteRange::new(0, 8192)).unwrap();
        let mut found = [0; 8192];
        device.read_at(0, &mut found).unwrap();
        assert_eq!(found, [1; 8192]);
        device.write_zeroes(ByteRange::new(0, 4096), ZeroMode::MayUnmap).unwrap();
        device.read_at(0, &mut found).unwrap();
        assert!(found[..4096] == [0; 4096] && found[4096..] == [1; 4096]);
    }
}
