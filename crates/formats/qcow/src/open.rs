//! Opening: the header, the key, the name of the backing file.

use std::sync::Arc;

use diskimg_core::driver::OpenContext;
use diskimg_core::mapped::MappedImage;
use diskimg_core::{BackingRef, Image, Result, errno};

use crate::crypt;
use crate::header::Header;
use crate::map::QcowMap;

/// Opens an image.
pub(crate) fn open(context: OpenContext<'_>) -> Result<Arc<dyn Image>> {
    let OpenContext { storage, filename, mode, options, opener, .. } = context;
    let header = Header::read(&*storage)?;
    let crypt = crypt::unlock(&header, mode, options.take_child("encrypt"), opener)?;
    header.check_size()?;
    let named =
        header.check_l1().and_then(|()| header.read_backing(&*storage)).map_err(|error| {
            match error.errno() {
                errno::EIO => error.context(format!("Could not open '{filename}'")),
                _ => error,
            }
        })?;
    let backing = named.map(|name| BackingRef { name, format: None });
    let len = header.disk_len();
    let map = QcowMap::new(storage, filename, header, backing, crypt);
    Ok(Arc::new(MappedImage::new(map, len, mode.write)))
}
