//! [`ReadOnly`]: the image around contents that can only be read, the same for all formats here.
//!
//! Invariant: contents never change while an image is open, so nothing needs a lock but the caches of the contents.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use diskimg_core::driver::OpenContext;
use diskimg_core::{
    BlockDevice, ByteRange, Child, Description, Error, ErrorKind, FormatDriver, Image, ImageInfo, Result,
    errno, len_u64,
};

/// How a format reads its disk.
pub(crate) trait Contents: Send + Sync + Debug + 'static {
    /// The format.
    fn driver(&self) -> &'static FormatDriver;

    /// What holds the image.
    fn storage(&self) -> &Arc<dyn BlockDevice>;

    /// Length of the disk in bytes.
    fn len(&self) -> u64;

    /// Fills `buf` from byte `offset` on; the range lies within the disk.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()>;
}

/// Refuses to open for writing.
pub(crate) fn check_mode(context: &OpenContext<'_>) -> Result<()> {
    if context.mode.write {
        return Err(Error::new(ErrorKind::ReadOnly, "Image is read-only").with_errno(errno::EACCES));
    }
    Ok(())
}

/// An open image.
#[derive(Debug)]
pub(crate) struct ReadOnly<C>(pub(crate) C);

impl<C: Contents> BlockDevice for ReadOnly<C> {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn describe(&self) -> Description<'_> {
        Description { driver: self.0.driver().name, filename: self.0.storage().describe().filename }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        ByteRange::new(offset, len_u64(buf)).check_within(self.0.len())?;
        self.0.read(offset, buf)
    }

    diskimg_core::refuse_changes!();

    fn allocated_len(&self) -> Result<Option<u64>> {
        self.0.storage().allocated_len()
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(&self.0)
    }
}

impl<C: Contents> Image for ReadOnly<C> {
    fn driver(&self) -> &'static FormatDriver {
        self.0.driver()
    }

    fn info(&self) -> Result<ImageInfo> {
        Ok(ImageInfo::default())
    }

    fn children(&self) -> Vec<Child> {
        vec![Child { role: "file", device: Arc::clone(self.0.storage()) }]
    }
}
