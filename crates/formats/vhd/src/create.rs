//! Creating images.

use std::time::{SystemTime, UNIX_EPOCH};

use diskimg_core::driver::CreateContext;
use diskimg_core::options::{OptKind, OptSpec, OptUse, ParsedOptions};
use diskimg_core::{Error, Prealloc, Result, errno, to_usize};

use crate::footer::{DYNAMIC, FIXED, NewFooter};
use crate::geometry::{Geometry, round};
use crate::header::{HEADER_OFFSET, Header, TABLE_OFFSET};
use crate::limits::{BLOCK, SECTOR};

/// The create options, in the order in which a summary shows them.
pub(crate) const OPTIONS: &[OptSpec] = &[
    OptSpec {
        name: "size",
        kind: OptKind::Size,
        help: "Virtual disk size",
        default: None,
        usage: OptUse::CREATE,
    },
    OptSpec {
        name: "subformat",
        kind: OptKind::Str,
        help: "Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed} ",
        default: None,
        usage: OptUse::CREATE,
    },
    OptSpec {
        name: "force_size",
        kind: OptKind::Bool,
        help: "Force disk size calculation to use the actual size specified, rather than using the nearest \
               CHS-based calculation",
        default: None,
        usage: OptUse::CREATE,
    },
];

/// How much of a table is written at a time, in bytes.
const STEP: u64 = 1 << 20;

/// What the options ask for.
struct NewImage {
    fixed: bool,
    exact: bool,
    geometry: Geometry,
    len: u64,
}

impl NewImage {
    fn from_options(options: &ParsedOptions) -> Result<Self> {
        let fixed = match options.get_str("subformat").as_deref() {
            None | Some("dynamic") => false,
            Some("fixed") => true,
            Some(other) => {
                let text = format!("Parameter 'subformat' does not accept value '{other}'");
                return Err(Error::invalid(text));
            }
        };
        let exact = options.get_bool("force_size");
        let (geometry, len) = round(options.get_number("size").unwrap_or(0), exact).ok_or_else(|| {
            Error::limit("Disk size is too large, max size is 2040 GiB").with_errno(errno::EFBIG)
        })?;
        Ok(Self { fixed, exact, geometry, len })
    }

    fn footer(&self) -> Vec<u8> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        NewFooter {
            kind: if self.fixed { FIXED } else { DYNAMIC },
            header_offset: if self.fixed { u64::MAX } else { HEADER_OFFSET },
            size: self.len,
            geometry: self.geometry,
            exact: self.exact,
            uuid: uuid::Uuid::new_v4().into_bytes(),
            time,
        }
        .encode()
    }
}

/// Checks what can be checked before a file is touched.
pub(crate) fn validate(options: &ParsedOptions) -> Result<()> {
    NewImage::from_options(options).map(|_| ())
}

/// Makes the image in an empty storage.
pub(crate) fn create(context: &CreateContext<'_>) -> Result<()> {
    let new = NewImage::from_options(context.options)?;
    let (storage, footer) = (&context.storage, new.footer());
    if new.fixed {
        storage.set_len(new.len + SECTOR, Prealloc::Off)?;
        storage.write_at(new.len, &footer)?;
        return storage.flush();
    }
    let entries = u32::try_from(new.len.div_ceil(BLOCK)).unwrap_or(u32::MAX);
    let table = (u64::from(entries) * 4).next_multiple_of(SECTOR);
    let mut at = 0;
    while at < table {
        let part = STEP.min(table - at);
        storage.write_at(TABLE_OFFSET + at, &vec![0xff; to_usize(part)])?;
        at += part;
    }
    storage.write_at(TABLE_OFFSET + table, &footer)?;
    storage.write_at(HEADER_OFFSET, &Header::encode_new(entries))?;
    storage.write_at(0, &footer)?;
    storage.flush()
}
