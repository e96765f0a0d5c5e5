//! Opening: the header, the name of the backing file, and the repair of an image that was not closed.

use std::sync::Arc;

use diskimg_core::driver::OpenContext;
use diskimg_core::mapped::MappedImage;
use diskimg_core::{BackingRef, Image, Result, Task};

use crate::create::RAW;
use crate::header::{BACKING_IS_RAW, Header, NEED_CHECK};
use crate::map::QedMap;

/// Opens an image.
pub(crate) fn open(context: OpenContext<'_>) -> Result<Arc<dyn Image>> {
    let OpenContext { storage, filename, mode, .. } = context;
    let mut header = Header::read(&*storage)?;
    let is_raw = header.features & BACKING_IS_RAW != 0;
    let backing = header
        .read_backing(&*storage)?
        .map(|name| BackingRef { name, format: is_raw.then(|| RAW.to_owned()) });
    if mode.write && header.autoclear_features != 0 {
        // Nobody that this build knows sets one: whoever did has to find out that the image was written to.
        header.autoclear_features = 0;
        storage.write_at(0, &header.encode())?;
        storage.flush()?;
    }
    let (len, needs_check) = (header.image_size, header.features & NEED_CHECK != 0);
    let map = QedMap::new(storage, filename, header, backing);
    if mode.write && !mode.check && needs_check {
        map.check_tables(true, &Task::quiet())?;
    }
    Ok(Arc::new(MappedImage::new(map, len, mode.write)))
}
