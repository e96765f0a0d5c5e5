//! [`Fresh`]: a device of fixed length (an export, a device node) as the empty file that a format expects to be made in:
//! it grows as it is written, up to the length that the device has, and what it grows over reads as zeros.
//!
//! Invariant: bytes below the length are those that were written through here, or zeros; older contents of the device
//! are never seen. Made by [`NewFile`](crate::create::NewFile) alone.

use std::sync::Arc;

use parking_lot::Mutex;

use diskimg_core::protocol::ProtocolDriver;
use diskimg_core::{
    BlockDevice, ByteRange, Device, Error, ErrorKind, Extent, Limits, Prealloc, Result, ZeroMode, errno,
    len_u64,
};

#[derive(Debug)]
pub(crate) struct Fresh {
    device: Device,
    len: Mutex<u64>,
    /// What is told about growing beyond the device.
    grow_error: &'static str,
    /// The error number of writes beyond it.
    full_errno: i32,
}

impl Fresh {
    pub(crate) fn new(device: Arc<dyn BlockDevice>, protocol: &ProtocolDriver) -> Self {
        let (grow_error, full_errno) = (protocol.grow_error, protocol.full_errno);
        Self { device: Device::new(device), len: Mutex::new(0), grow_error, full_errno }
    }

    /// Grows up to `end` for a write of all bytes from `written` on.
    fn grow_for(&self, written: u64, end: u64) -> Result<()> {
        self.grow(written, end).map_err(|error| match error.kind() {
            ErrorKind::Unsupported if self.full_errno == errno::ENOSPC => Error::from_errno(errno::ENOSPC),
            ErrorKind::Unsupported => error.with_errno(self.full_errno),
            _ => error,
        })
    }

    /// Grows up to `end`; bytes from `written` on are about to be written.
    fn grow(&self, written: u64, end: u64) -> Result<()> {
        let mut len = self.len.lock();
        if end <= *len {
            return Ok(());
        }
        if end > self.device.len() {
            return Err(Error::unsupported(self.grow_error));
        }
        let gap = ByteRange::from_bounds(*len, written);
        if !gap.is_empty() {
            self.device.write_zeroes(gap, ZeroMode::MayUnmap)?;
        }
        *len = end;
        Ok(())
    }
}

impl BlockDevice for Fresh {
    diskimg_core::pass_on!(device: describe flush);

    fn len(&self) -> u64 {
        *self.len.lock()
    }

    fn limits(&self) -> Limits {
        Limits { growable: true, ..self.device.limits() }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        ByteRange::new(offset, len_u64(buf)).check_within(self.len())?;
        self.device.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.grow_for(offset, ByteRange::new(offset, len_u64(buf)).end())?;
        self.device.write_at(offset, buf)
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        self.grow_for(range.start, range.end())?;
        self.device.write_zeroes(range, how)
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        range.check_within(self.len())?;
        self.device.discard(range)
    }

    fn set_len(&self, len: u64, prealloc: Prealloc) -> Result<()> {
        if prealloc != Prealloc::Off {
            let text = format!("Unsupported preallocation mode '{}'", prealloc.name());
            return Err(Error::unsupported(text));
        }
        self.grow(len, len)?;
        *self.len.lock() = len;
        Ok(())
    }

    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        range.check_within(self.len())?;
        self.device.extent_at(range)
    }
}

#[cfg(test)]
mod tests {
    use diskimg_core::MemDevice;

    use super::*;

    #[test]
    fn old_contents_are_never_seen() {
        let old = Arc::new(MemDevice::from(vec![7; 4096]));
        let protocol =
            ProtocolDriver { grow_error: "no room", full_errno: errno::EINVAL, ..diskimg_file::NULL_CO };
        let fresh = Fresh::new(old.clone(), &protocol);
        assert!(fresh.is_empty() && fresh.read_at(0, &mut [0]).is_err());
        fresh.write_at(100, &[1; 10]).unwrap();
        fresh.set_len(200, Prealloc::Off).unwrap();
        let mut wanted = vec![0; 200];
        wanted[100..110].fill(1);
        assert_eq!(&old.to_vec()[..200], &wanted);
        assert_eq!(old.to_vec()[200..], [7; 3896]);
        fresh.set_len(50, Prealloc::Off).unwrap();
        fresh.set_len(120, Prealloc::Off).unwrap();
        assert_eq!(old.to_vec()[100..120], [0; 20]);
        assert_eq!(fresh.set_len(5000, Prealloc::Off).unwrap_err().joined(), "no room");
        assert_eq!(fresh.write_at(4090, &[0; 10]).unwrap_err().errno(), errno::EINVAL);
    }
}
