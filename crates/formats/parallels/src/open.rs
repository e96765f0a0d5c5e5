//! Opening: header, extension, table; the repair of an image that is to be written.

use std::sync::Arc;

use diskimg_core::driver::{NoticeLevel, OpenContext};
use diskimg_core::mapped::MappedImage;
use diskimg_core::options::RuntimeOptions;
use diskimg_core::{
    BlockDevice, Check, Error, Image, Repair, Result, Task, read_table, read_zero_padded, to_usize,
};

use crate::extension;
use crate::header::{HEADER_LEN, Header};
use crate::limits::{MAX_ENTRIES, SECTOR};
use crate::map::{BatMap, Entry};

/// Modes of preallocation that an image can be opened with.
const MODES: [&str; 2] = ["falloc", "truncate"];
/// How much of the table is read at a time, in bytes.
const TABLE_STEP: u64 = 1 << 20;

/// Nothing is allocated in advance: the options of preallocation are accepted and have no effect.
fn take_options(options: &mut RuntimeOptions) -> Result<()> {
    options.take_size("prealloc-size")?;
    match options.take_str("prealloc-mode")? {
        Some(mode) if !MODES.contains(&mode.as_str()) => {
            Err(Error::invalid(format!("invalid parameter value: {mode}")))
        }
        _ => Ok(()),
    }
}

/// Opens an image.
pub(crate) fn open(context: OpenContext<'_>) -> Result<Arc<dyn Image>> {
    let OpenContext { storage, filename, mode, options, notices, .. } = context;
    take_options(options)?;
    let mut head = [0; HEADER_LEN];
    read_zero_padded(&*storage, 0, &mut head)?;
    let header = Header::parse(&head)?;
    let len = header.disk_size;
    let entries = if mode.describe_only { Vec::new() } else { read_entries(&*storage, &header)? };
    let has_extension = header.extension > 0;
    if has_extension && mode.write {
        notices.warn("Format Extension ignored in RW mode");
    } else if has_extension {
        extension::check(&*storage, &header)?;
    }
    let used =
        if has_extension && !mode.describe_only { extension::used(&*storage, &header) } else { Vec::new() };
    let map = BatMap::new(storage, header, entries, filename, used);
    if mode.write && !mode.check && map.needs_repair() {
        let mut say = |text: &str| notices.say(NoticeLevel::Plain, text);
        let told = |error: Error| error.context("Could not repair corrupted image");
        map.check(Repair::All, &mut say, &Task::quiet()).map_err(told)?;
    }
    if mode.write {
        map.find_space();
    }
    Ok(Arc::new(MappedImage::new(map, len, mode.write)))
}

/// The table, which has to be there as a whole: no memory is taken for what a header only claims.
fn read_entries(storage: &dyn BlockDevice, header: &Header) -> Result<Vec<Entry>> {
    if header.table_end() > storage.len().next_multiple_of(SECTOR) {
        return Err(Error::corrupt("the block allocation table is cut short"));
    }
    let mut entries = Vec::new();
    let no_memory = |_| Error::limit("no memory for the block allocation table");
    entries.try_reserve_exact(to_usize(header.entries.into())).map_err(no_memory)?;
    let mut at = HEADER_LEN as u64;
    while at < header.table_end() {
        let part = TABLE_STEP.min(header.table_end() - at);
        let bytes = read_table(storage, at, part, u64::from(MAX_ENTRIES) * 4, "block allocation table")?;
        entries.extend(bytes.as_chunks().0.iter().map(|entry| Entry(u32::from_le_bytes(*entry))));
        at += part;
    }
    Ok(entries)
}
