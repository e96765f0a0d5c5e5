//! Creating images.

use std::time::{SystemTime, UNIX_EPOCH};

use diskimg_core::driver::CreateContext;
use diskimg_core::opener::{Mode, ReferenceKind};
use diskimg_core::options::{OptKind, OptSpec, ParsedOptions, RuntimeOptions};
use diskimg_core::parent_path::to_windows;
use diskimg_core::{BlockDevice, Error, Prealloc, Result, errno, to_usize};

use crate::footer::{DIFFERENCING, DYNAMIC, FIXED, NewFooter};
use crate::geometry::{Geometry, round};
use crate::header::{HEADER_OFFSET, Header, NewParent, TABLE_OFFSET};
use crate::limits::{BLOCK, MAX_PATH, SECTOR};
use crate::open::find_footer;

/// The create options, in the order in which a summary shows them.
pub(crate) const OPTIONS: &[OptSpec] = &[
    OptSpec::SIZE,
    OptSpec::create(
        "subformat",
        OptKind::Str,
        "Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed} ",
    ),
    OptSpec::create(
        "force_size",
        OptKind::Bool,
        "Force disk size calculation to use the actual size specified, rather than using the nearest \
               CHS-based calculation",
    ),
    OptSpec::hidden(BACKING_FILE),
    OptSpec::hidden(BACKING_FMT),
];

const BACKING_FILE: &str = "backing_file";
const BACKING_FMT: &str = "backing_fmt";

/// How much of a table is written at a time, in bytes.
const STEP: u64 = 1 << 20;

/// What the options ask for.
struct NewImage {
    fixed: bool,
    has_parent: bool,
    exact: bool,
    geometry: Geometry,
    len: u64,
}

impl NewImage {
    fn from_options(options: &ParsedOptions) -> Result<Self> {
        let has_parent = options.get_str(BACKING_FILE).is_some();
        if options.get_str(BACKING_FMT).is_some_and(|format| format != crate::DRIVER.name) {
            return Err(Error::invalid("the parent of a VHD image is a VHD image"));
        }
        let fixed = match options.get_str("subformat").as_deref() {
            None | Some("dynamic") => false,
            Some("differencing") if has_parent => false,
            Some("fixed") if has_parent => {
                return Err(Error::invalid("A fixed disk can't have a backing file"));
            }
            Some("fixed") => true,
            Some(other) => {
                let text = format!("Parameter 'subformat' does not accept value '{other}'");
                return Err(Error::invalid(text));
            }
        };
        // A child is as long as its parent, to the byte.
        let exact = has_parent || options.get_bool("force_size");
        let (geometry, len) = round(options.get_number("size").unwrap_or(0), exact).ok_or_else(|| {
            Error::limit("Disk size is too large, max size is 2040 GiB").with_errno(errno::EFBIG)
        })?;
        Ok(Self { fixed, has_parent, exact, geometry, len })
    }

    fn footer(&self) -> Vec<u8> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        NewFooter {
            kind: match (self.fixed, self.has_parent) {
                (true, _) => FIXED,
                (_, true) => DIFFERENCING,
                _ => DYNAMIC,
            },
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

/// Looks at the file that is to be the parent; its path will stand at host offset `offset`.
fn parent_of(context: &CreateContext<'_>, name: String, offset: u64) -> Result<NewParent> {
    let mode = Mode { write: false, create: false };
    let file = context.opener.open(ReferenceKind::Backing, &name, mode, RuntimeOptions::new())?;
    let uuid = find_footer(&*file)?.footer.uuid;
    let (platform, path) = match to_windows(&name) {
        Some(path) => (*b"W2ru", path),
        None => (*b"W2ku", name.clone()),
    };
    let path: Vec<u8> = path.encode_utf16().flat_map(u16::to_le_bytes).collect();
    if path.len() > to_usize(MAX_PATH.into()) {
        return Err(Error::invalid("Backing file name too long"));
    }
    Ok(NewParent { uuid, name, platform, path, offset })
}

/// Makes the image in an empty storage.
pub(crate) fn create(context: &CreateContext<'_>) -> Result<()> {
    let new = NewImage::from_options(context.options)?;
    if new.fixed {
        return write_fixed(&*context.storage, &new);
    }
    write_dynamic(context, &new)
}

fn write_fixed(storage: &dyn BlockDevice, new: &NewImage) -> Result<()> {
    storage.set_len(new.len + SECTOR, Prealloc::Off)?;
    storage.write_at(new.len, &new.footer())?;
    storage.flush()
}

fn write_dynamic(context: &CreateContext<'_>, new: &NewImage) -> Result<()> {
    let failed = |error: Error| error.told_as("Unable to create or write VHD header");
    let (storage, footer) = (&context.storage, new.footer());
    let entries = u32::try_from(new.len.div_ceil(BLOCK)).unwrap_or(u32::MAX);
    let table = (u64::from(entries) * 4).next_multiple_of(SECTOR);
    let mut at = 0;
    while at < table {
        let part = STEP.min(table - at);
        storage.write_at(TABLE_OFFSET + at, &vec![0xff; to_usize(part)]).map_err(failed)?;
        at += part;
    }
    let mut end = TABLE_OFFSET + table;
    let name = context.options.get_str(BACKING_FILE);
    let parent = name.map(|name| parent_of(context, name, end)).transpose()?;
    if let Some(parent) = &parent {
        storage.write_at(parent.offset, &parent.path).map_err(failed)?;
        end += (parent.path.len() as u64).next_multiple_of(SECTOR);
    }
    storage.write_at(end, &footer).map_err(failed)?;
    storage.write_at(HEADER_OFFSET, &Header::encode_new(entries, parent.as_ref())).map_err(failed)?;
    storage.write_at(0, &footer).map_err(failed)?;
    storage.flush()
}
