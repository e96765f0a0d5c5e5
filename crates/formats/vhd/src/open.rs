//! Opening: footer, header, block table, the names of a parent.

use std::sync::Arc;

use diskimg_core::driver::OpenContext;
use diskimg_core::mapped::MappedImage;
use diskimg_core::options::RuntimeOptions;
use diskimg_core::{BackingRef, BlockDevice, Error, ErrorKind, Image, Result, read_zero_padded, to_usize};

use crate::fixed::FixedMap;
use crate::footer::{DIFFERENCING, DYNAMIC, FIXED, FOOTER_LEN, Footer, SizeFrom};
use crate::header::{HEADER_LEN, Header};
use crate::limits::SECTOR;
use crate::map::{BlockMap, Entry, Layout};
use crate::parent;

/// The runtime option that says which size counts.
pub(crate) const FORCE_SIZE_CALC: &str = "force_size_calc";
/// How much of the table is read at a time, in bytes.
const TABLE_STEP: u64 = 1 << 20;

/// The footer that counts.
pub(crate) struct Found {
    pub footer: Footer,
    /// It stands at the end of the file.
    pub at_end: bool,
}

/// Reads the footer: the copy at the start; if there is none, the one at the end. That of a dynamic image counts there
/// too, if it is whole, so that such an image opens whose start is damaged.
pub(crate) fn find_footer(storage: &dyn BlockDevice) -> Result<Found> {
    let len = storage.len();
    if len == 0 {
        return Err(Error::new(ErrorKind::NotThisFormat, "File too small for a VHD header"));
    }
    let read = |offset| {
        let mut bytes = [0; FOOTER_LEN];
        read_zero_padded(storage, offset, &mut bytes)
            .map(|()| Footer::parse(&bytes))
            .map_err(|error| error.told_as("Unable to read VHD header"))
    };
    let head = match read(0)? {
        Ok(footer) => return Ok(Found { footer, at_end: false }),
        Err(error) => error,
    };
    let no_cookie = head.kind() == ErrorKind::NotThisFormat;
    let end = len.div_ceil(SECTOR).saturating_sub(1).saturating_mul(SECTOR);
    match read(end)? {
        Ok(footer) if footer.kind == FIXED && no_cookie => Ok(Found { footer, at_end: true }),
        Ok(footer) if matches!(footer.kind, DYNAMIC | DIFFERENCING) && footer.header_offset < end => {
            Ok(Found { footer, at_end: true })
        }
        Err(error) if no_cookie && is_fixed(storage, end)? => Err(error),
        _ => Err(head),
    }
}

/// The sector at `offset` says that it is a fixed image's footer, right or wrong as it may be.
fn is_fixed(storage: &dyn BlockDevice, offset: u64) -> Result<bool> {
    let mut kind = [0; 4];
    read_zero_padded(storage, offset + 60, &mut kind)?;
    Ok(u32::from_be_bytes(kind) == FIXED)
}

fn size_from(options: &mut RuntimeOptions) -> Result<SizeFrom> {
    match options.take_str(FORCE_SIZE_CALC)?.as_deref() {
        None => Ok(SizeFrom::Creator),
        Some("current_size") => Ok(SizeFrom::CurrentSize),
        Some("chs") => Ok(SizeFrom::Geometry),
        Some(other) => Err(Error::invalid(format!("Invalid size calculation mode: '{other}'"))),
    }
}

/// Opens an image.
pub(crate) fn open(context: OpenContext<'_>) -> Result<Arc<dyn Image>> {
    let OpenContext { storage, filename, mode, options, .. } = context;
    let from = size_from(options)?;
    let Found { footer, at_end } = find_footer(&*storage)?;
    let len = footer.disk_len(from, filename)?;
    // The footer of a fixed image of an empty disk is all of the file.
    let alone = len == 0 && storage.len() <= SECTOR;
    if footer.kind == FIXED && (at_end || alone) {
        let map = FixedMap::new(storage, filename, len);
        return Ok(Arc::new(MappedImage::new(map, len, mode.write)));
    }
    let mut bytes = [0; HEADER_LEN];
    let unreadable = || Error::corrupt("Error reading dynamic VHD header");
    if i64::try_from(footer.header_offset.saturating_add(HEADER_LEN as u64)).is_err() {
        return Err(unreadable());
    }
    read_zero_padded(&*storage, footer.header_offset, &mut bytes)?;
    let header = Header::parse(&bytes, len)?;
    let parent = if footer.kind == DIFFERENCING {
        let name = parent::name(&*storage, &header)?;
        Some(BackingRef { name, format: Some(crate::DRIVER.name.to_owned()) })
    } else {
        None
    };
    let entries = read_table(&*storage, &header)?;
    let layout = Layout { footer, header, at_end, parent };
    let map = BlockMap::new(storage, filename, layout, entries)?;
    Ok(Arc::new(MappedImage::new(map, len, mode.write)))
}

/// The error for a table or a block that the end of the file cuts short.
pub(crate) fn truncated() -> Error {
    Error::corrupt(
        "block-vpc: free_data_block_offset points after the end of file. The image has been truncated.",
    )
    .with_errno(diskimg_core::errno::EINVAL)
}

/// The table, which has to be there as a whole: no memory is taken for what a header only claims.
fn read_table(storage: &dyn BlockDevice, header: &Header) -> Result<Vec<Entry>> {
    let len = u64::from(header.entries) * 4;
    let end = header.table_offset.checked_add(len).filter(|end| i64::try_from(*end).is_ok());
    let end = end.ok_or_else(|| Error::corrupt("Error reading pagetable"))?;
    if end > storage.len().next_multiple_of(SECTOR) {
        return Err(truncated());
    }
    let mut entries = Vec::new();
    let no_memory = |_| Error::limit("Unable to allocate memory for page table");
    entries.try_reserve_exact(to_usize(header.entries.into())).map_err(no_memory)?;
    let mut at = 0;
    while at < len {
        let mut bytes = vec![0; to_usize(TABLE_STEP.min(len - at))];
        read_zero_padded(storage, header.table_offset + at, &mut bytes)?;
        entries.extend(bytes.as_chunks().0.iter().map(|entry| Entry(u32::from_be_bytes(*entry))));
        at += bytes.len() as u64;
    }
    Ok(entries)
}
