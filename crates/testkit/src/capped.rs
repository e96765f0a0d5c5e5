//! [`CappedDevice`]: memory that is full at a given length, so that an image that lies about offsets costs an error and
//! not the machine's memory.

use diskimg_core::{
    BlockDevice, ByteRange, Description, Error, Extent, HostRef, MemDevice, Prealloc, Result, ZeroMode,
    errno, len_u64,
};

/// Memory with a greatest length.
#[derive(Debug)]
pub struct CappedDevice {
    memory: MemDevice,
    cap: u64,
}

impl CappedDevice {
    /// `bytes`, growing up to `cap` bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>, cap: u64) -> Self {
        let cap = cap.max(len_u64(&bytes));
        Self { memory: MemDevice::from(bytes), cap }
    }

    /// A copy of all bytes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.memory.to_vec()
    }

    fn room(&self, end: u64) -> Result<()> {
        if end <= self.cap { Ok(()) } else { Err(Error::from_errno(errno::ENOSPC)) }
    }
}

impl BlockDevice for CappedDevice {
    diskimg_core::pass_on!(memory: len limits read_at discard flush);

    fn describe(&self) -> Description<'_> {
        Description { driver: "capped", filename: "" }
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.room(ByteRange::new(offset, len_u64(buf)).end())?;
        self.memory.write_at(offset, buf)
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        self.room(range.end())?;
        self.memory.write_zeroes(range, how)
    }

    fn set_len(&self, len: u64, prealloc: Prealloc) -> Result<()> {
        self.room(len)?;
        self.memory.set_len(len, prealloc)
    }

    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        let inner = self.memory.extent_at(range)?;
        Ok(Extent { host: inner.host.map(|host| HostRef { device: self, ..host }), ..inner })
    }
}
