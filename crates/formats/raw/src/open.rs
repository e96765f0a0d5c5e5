//! Opening raw images: the runtime options `offset` and `size` and their rules.

use std::sync::Arc;

use diskimg_core::driver::OpenContext;
use diskimg_core::{BlockDevice, Device, Error, Image, Result, align_up};

use crate::SECTOR;
use crate::guard::Guard;
use crate::image::RawImage;

/// Which part of the file is the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Window {
    /// First byte.
    pub(crate) offset: u64,
    /// Bytes; `None`: up to the end of the file, wherever that is.
    pub(crate) size: Option<u64>,
}

impl Window {
    /// Checks what was asked for against a file of `file_len` bytes.
    fn checked(offset: u64, size: Option<u64>, file_len: u64) -> Result<Self> {
        // Sizes are told in whole sectors.
        let told = align_up(file_len, SECTOR).unwrap_or(file_len);
        if offset > file_len {
            let text =
                format!("Offset ({offset}) cannot be greater than size of the containing file ({told})");
            return Err(Error::invalid(text));
        }
        if let Some(size) = size {
            if !size.is_multiple_of(SECTOR) {
                return Err(Error::invalid(format!("Specified size is not multiple of {SECTOR}")));
            }
            if size > file_len - offset {
                // Two spaces, as qemu-img has it.
                let text = format!(
                    "The sum of offset ({offset}) and size ({size}) has to be smaller or equal to the  \
                     actual size of the containing file ({told})"
                );
                return Err(Error::invalid(text));
            }
        }
        Ok(Self { offset, size })
    }
}

/// Opens a raw image: any content will do.
pub(crate) fn open(context: OpenContext<'_>) -> Result<Arc<dyn Image>> {
    let offset = context.options.take_size("offset")?.unwrap_or(0);
    let size = context.options.take_size("size")?;
    let window = Window::checked(offset, size, context.storage.len())?;
    let guarded = context.mode.guessed && context.mode.write;
    let guard = guarded.then(|| Guard::new(context.filename, context.opener.registry()));
    Ok(Arc::new(RawImage::new(context.storage, window, guard)))
}

/// Where requests go: the storage itself, or its front end if the window is not aligned as the storage wants it.
pub(crate) fn aligned(storage: &Arc<dyn BlockDevice>, window: Window) -> Arc<dyn BlockDevice> {
    let align = storage.limits().align.max(1);
    if window.offset.is_multiple_of(align) && align <= SECTOR {
        return Arc::clone(storage);
    }
    Arc::new(Device::new(Arc::clone(storage)))
}
