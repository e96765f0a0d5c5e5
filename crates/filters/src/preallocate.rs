//! `preallocate`: asks its file for space behind the end in large steps. Space is a matter of speed alone, and a file
//! here allocates as it sees fit, so that the options are checked and have no effect.

use std::sync::Arc;

use diskimg_core::filter::{FilterDriver, FilterOpen};
use diskimg_core::{BlockDevice, Child, Error, FormatDriver, Image, ImageInfo, Result};

use crate::node::{CHANGES, FILE, never_plain, no_name, node, pass};

static NODE: FormatDriver = node("preallocate", CHANGES);

/// The filter.
pub static PREALLOCATE: FilterDriver = FilterDriver {
    node: &NODE,
    prefix: None,
    is_protocol: false,
    roles: FILE,
    is_transparent: true,
    has_folder: true,
    parse_name: no_name,
    files: &[],
    is_strong: |_| false,
    plain_name: never_plain,
    open,
};

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
    fn driver(&self) -> &'static FormatDriver {
        &NODE
    }
    fn info(&self) -> Result<ImageInfo> {
        Ok(ImageInfo {
            cluster_size: self.image.info()?.cluster_size,
            dirty: Some(false),
            ..ImageInfo::default()
        })
    }
    fn children(&self) -> Vec<Child> {
        vec![Child { role: "file", device: Arc::clone(&self.device) }]
    }
}

impl BlockDevice for Preallocate {
    pass!(device: len limits is_read_only read_at write_at write_zeroes discard flush set_len extent_at allocated_len);
}
