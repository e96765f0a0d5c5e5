//! [`LuksArea`]: the part of an image that holds its LUKS header and key material, as a device of its own.

use std::sync::Arc;

use diskimg_core::{
    BlockDevice, ByteRange, Error, MAX_DEVICE_LEN, Prealloc, Result, ZeroMode, errno, len_u64,
    read_zero_padded,
};

use crate::extensions::CryptoPointer;

/// The area that the header extension points to. Nothing outside of it is read or written, whatever the LUKS header
/// says.
#[derive(Clone, Debug)]
pub(crate) struct LuksArea {
    storage: Arc<dyn BlockDevice>,
    place: CryptoPointer,
}

impl LuksArea {
    /// The area at `place` of `storage`.
    pub(crate) fn new(storage: Arc<dyn BlockDevice>, place: CryptoPointer) -> Self {
        Self { storage, place }
    }

    /// Its bytes on the host.
    pub(crate) const fn range(&self) -> ByteRange {
        ByteRange::new(self.place.offset, self.place.len)
    }

    /// Reads the LUKS header.
    pub(crate) fn read_header(&self, bytes: &mut [u8]) -> Result<()> {
        let host = self.locate(0, bytes)?;
        read_zero_padded(&*self.storage, host, bytes)
            .map_err(|error| error.context("Could not read encryption header"))
    }

    /// The host offset of bytes of the area.
    fn locate(&self, offset: u64, bytes: &[u8]) -> Result<u64> {
        let range = ByteRange::new(offset, len_u64(bytes));
        if offset.checked_add(range.len).is_none_or(|end| end > self.place.len) {
            return Err(Error::corrupt("Request for data outside of extension header"));
        }
        let host = self.place.offset.checked_add(offset);
        host.filter(|host| host.checked_add(range.len).is_some_and(|end| end <= MAX_DEVICE_LEN))
            .ok_or_else(|| Error::from_errno(errno::EIO).context("Could not read encryption header"))
    }
}

impl BlockDevice for LuksArea {
    /// Longer than it is: what lies outside is an error, and no zeros.
    fn len(&self) -> u64 {
        MAX_DEVICE_LEN
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        read_zero_padded(&*self.storage, self.locate(offset, buf)?, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.storage.write_at(self.locate(offset, buf)?, buf)
    }

    fn write_zeroes(&self, _: ByteRange, _: ZeroMode) -> Result<()> {
        Err(Error::unsupported("Operation not supported"))
    }

    fn discard(&self, _: ByteRange) -> Result<()> {
        Err(Error::unsupported("Operation not supported"))
    }

    fn flush(&self) -> Result<()> {
        self.storage.flush()
    }

    fn set_len(&self, _: u64, _: Prealloc) -> Result<()> {
        Err(Error::unsupported("Operation not supported"))
    }
}
