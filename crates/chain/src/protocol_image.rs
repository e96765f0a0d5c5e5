//! [`ProtocolImage`]: a protocol's device where an image is expected (`-f file`): the bytes as they are, no format.

use std::sync::Arc;

use diskimg_core::driver::Caps;
use diskimg_core::{
    BlockDevice, ByteRange, Child, Description, Error, Extent, FormatDriver, HostRef, Image, ImageInfo,
    Limits, Prealloc, Reservation, Result, ZeroMode,
};

/// Stands for "no format". It is never registered; its empty name says what it is.
static NO_FORMAT: FormatDriver = FormatDriver {
    name: "",
    extensions: &[],
    caps: Caps::WRITE.union(Caps::RESIZE),
    options: &[],
    strong_options: &[],
    probe: |_| 0,
    open: |_| Err(Error::unsupported("not a format")),
    creator: None,
    measure: None,
};

#[derive(Debug)]
pub(crate) struct ProtocolImage(pub(crate) Arc<dyn BlockDevice>);

impl Image for ProtocolImage {
    fn driver(&self) -> &'static FormatDriver {
        &NO_FORMAT
    }

    fn info(&self) -> Result<ImageInfo> {
        Ok(ImageInfo::default())
    }

    fn children(&self) -> Vec<Child> {
        Vec::new()
    }
}

impl BlockDevice for ProtocolImage {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn limits(&self) -> Limits {
        // No unit of copy-on-write: there is nothing below.
        Limits { write_unit: 1, ..self.0.limits() }
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
        self.0.write_zeroes(range, how)
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        self.0.discard(range)
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
}
