//! `preallocate`: asks its file for space behind the end in large steps. Space is a matter of speed alone, and a file
//! here allocates as it sees fit, so that the options are checked and have no effect.

use std::sync::Arc;

use diskimg_core::filter::{FilterDriver, FilterOpen};
use diskimg_core::{BlockDevice, Error, FormatDriver, Image, Result};

use crate::node::{CHANGES, in_front, node, over};

static NODE: FormatDriver = node("preallocate", CHANGES);

/// The filter.
pub static PREALLOCATE: FilterDriver = in_front(&NODE, open);

/// Steps are multiples of a sector.
const SECTOR: u64 = 512;

fn open(request: FilterOpen<'_>) -> Result<Arc<dyn Image>> {
    let align = request.options.take_size("prealloc-align")?.unwrap_or(SECTOR);
    if align == 0 || !align.is_multiple_of(SECTOR) {
        let text = "prealloc-align parameter of preallocate filter is not aligned to 512";
        return Err(Error::invalid(text));
    }
    request.options.take_size("prealloc-size")?;
    let child = request.only_child()?;
    Ok(Arc::new(Preallocate { device: child.device, image: child.image }))
}

#[derive(Debug)]
struct Preallocate {
    device: Arc<dyn BlockDevice>,
    image: Arc<dyn Image>,
}

impl Image for Preallocate {
    over!("file");
}

impl BlockDevice for Preallocate {
    diskimg_core::pass_on!(device: len limits is_read_only read_at write_at write_zeroes discard flush set_len extent_at allocated_len);
}
