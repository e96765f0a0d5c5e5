//! [`ProtocolImage`]: a protocol's device where an image is expected (`-f file`): the bytes as they are, no format.

use std::sync::Arc;

use diskimg_core::driver::Caps;
use diskimg_core::{BlockDevice, Child, Error, FormatDriver, Image, ImageInfo, Limits, Result};

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
    diskimg_core::pass_on!(0: len is_read_only describe read_at write_at write_zeroes discard flush set_len extent_at reserve copy_from allocated_len);

    fn limits(&self) -> Limits {
        // No unit of copy-on-write: there is nothing below.
        Limits { write_unit: 1, ..self.0.limits() }
    }
}
