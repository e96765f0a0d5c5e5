//! Creating images.

use diskimg_core::driver::CreateContext;
use diskimg_core::options::{OptKind, OptSpec, ParsedOptions};
use diskimg_core::{Error, Prealloc, Result, align_up, to_usize};

use crate::header::{Header, RawUuid, too_long};
use crate::limits::{BLOCK, MAX_DISK, SECTOR};

/// The create options.
pub(crate) const OPTIONS: &[OptSpec] =
    &[OptSpec::SIZE, OptSpec::create("static", OptKind::Bool, "VDI static (pre-allocated) image").or("off")];

/// How much of a table is made and written at a time, in bytes.
const STEP: u64 = 1 << 20;

/// Bytes of the disk.
fn size(options: &ParsedOptions) -> Result<u64> {
    let asked = options.get_number("size").unwrap_or(0);
    align_up(asked, SECTOR).filter(|size| *size <= MAX_DISK).ok_or_else(|| too_long(asked))
}

/// Checks what can be checked before a file is touched.
pub(crate) fn validate(options: &ParsedOptions) -> Result<()> {
    let mode = options.get_str("preallocation").unwrap_or_default();
    if Prealloc::from_name(&mode) == Some(Prealloc::Metadata) {
        return Err(Error::unsupported(format!("Unsupported preallocation mode: {mode}")));
    }
    size(options).map(|_| ())
}

/// A random UUID as it is stored: its first three groups byte-swapped.
fn new_uuid() -> RawUuid {
    uuid::Uuid::new_v4().to_bytes_le()
}

/// Makes the image in an empty storage.
pub(crate) fn create(context: &CreateContext<'_>) -> Result<()> {
    let is_static = context.options.get_bool("static");
    let header = Header::new(size(context.options)?, is_static, [new_uuid(), new_uuid()]);
    let storage = &context.storage;
    storage.write_at(0, &header.encode_new()).map_err(|error| error.told_as("Error writing header"))?;
    let (entries, len) = (u64::from(header.blocks), header.data_offset - header.table_offset);
    let mut at = 0;
    while at < len {
        let part = STEP.min(len - at);
        let mut bytes = Vec::with_capacity(to_usize(part));
        for index in at / 4..(at + part) / 4 {
            let number = u32::try_from(index).unwrap_or(u32::MAX);
            let entry = if index >= entries {
                0
            } else if is_static {
                number
            } else {
                u32::MAX
            };
            bytes.extend(entry.to_le_bytes());
        }
        storage.write_at(header.table_offset + at, &bytes)?;
        at += part;
    }
    if is_static {
        storage.set_len(header.data_offset + entries * BLOCK, Prealloc::Off)?;
    }
    storage.flush()
}
