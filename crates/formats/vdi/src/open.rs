//! Opening: header, parent, table.
//!
//! A differencing image names its parent by UUID alone, so the caller has to say which file it is: runtime option
//! `parent`, a file name relative to the image like that of a backing file. It is opened through the gate.

use std::sync::Arc;

use diskimg_core::driver::OpenContext;
use diskimg_core::mapped::MappedImage;
use diskimg_core::opener::{Mode, ReferenceKind};
use diskimg_core::options::RuntimeOptions;
use diskimg_core::{BackingRef, BlockDevice, Error, Image, Result, read_zero_padded, to_usize};

use crate::header::{HEADER_LEN, Header};
use crate::map::{BlockMap, Entry};

/// The runtime option that names the parent.
const PARENT: &str = "parent";
/// How much of the table is read at a time, in bytes.
const TABLE_STEP: u64 = 1 << 20;

fn read_header(storage: &dyn BlockDevice) -> Result<Header> {
    let mut bytes = [0; HEADER_LEN];
    read_zero_padded(storage, 0, &mut bytes)?;
    Header::parse(&bytes)
}

/// Opens an image.
pub(crate) fn open(context: OpenContext<'_>) -> Result<Arc<dyn Image>> {
    let OpenContext { storage, filename, mode, options, opener, .. } = context;
    let header = read_header(&*storage)?;
    let given = options.take_str(PARENT)?;
    let parent = match given {
        Some(name) if header.has_parent() => {
            if mode.write {
                return Err(Error::unsupported("differencing VDI images are only read"));
            }
            let access = Mode { write: false, create: false };
            let file = opener.open(ReferenceKind::Backing, &name, access, RuntimeOptions::new())?;
            check_parent(&header, &read_header(&*file)?)?;
            Some(BackingRef { name, format: Some(crate::DRIVER.name.to_owned()) })
        }
        Some(_) => return Err(Error::invalid("'parent' is for differencing VDI images")),
        None => {
            header.refuse_parent()?;
            None
        }
    };
    let entries = if mode.describe_only { Vec::new() } else { read_table(&*storage, &header)? };
    let len = header.disk_size;
    let map = BlockMap::new(storage, header, entries, filename, parent);
    Ok(Arc::new(MappedImage::new(map, len, mode.write)))
}

/// The parent has to be the one that the image was made for, as it was then.
fn check_parent(header: &Header, parent: &Header) -> Result<()> {
    if parent.uuid != header.link || parent.modification_uuid != header.parent {
        return Err(Error::corrupt("the parent is not the one that the VDI image was made for"));
    }
    if parent.disk_size > header.disk_size {
        return Err(Error::corrupt("the parent of the VDI image is longer than the image"));
    }
    Ok(())
}

/// The table, which has to be there as a whole: no memory is taken for what a header only claims.
fn read_table(storage: &dyn BlockDevice, header: &Header) -> Result<Vec<Entry>> {
    let len = u64::from(header.blocks) * 4;
    if header.table_offset + len > storage.len() {
        return Err(Error::corrupt("the block map is cut short"));
    }
    let mut entries = Vec::new();
    let no_memory = |_| Error::limit("no memory for the block table");
    entries.try_reserve_exact(to_usize(header.blocks.into())).map_err(no_memory)?;
    let mut at = 0;
    while at < len {
        let mut bytes = vec![0; to_usize(TABLE_STEP.min(len - at))];
        read_zero_padded(storage, header.table_offset + at, &mut bytes)?;
        entries.extend(bytes.as_chunks().0.iter().map(|entry| Entry(u32::from_le_bytes(*entry))));
        at += bytes.len() as u64;
    }
    Ok(entries)
}
