//! Creating and measuring raw images.

use diskimg_core::driver::{CreateContext, Measure, MeasureInput};
use diskimg_core::options::{OptSpec, ParsedOptions};
use diskimg_core::{Error, Prealloc, Result, align_up, to_usize};

use crate::SECTOR;

/// Raw has only a size of its own; how the space is provided is the protocol's matter.
pub(crate) const OPTIONS: &[OptSpec] = &[OptSpec::SIZE];

/// The preallocation mode that was asked for.
fn prealloc(options: &ParsedOptions) -> Result<Prealloc> {
    let Some(name) = options.get_str("preallocation") else { return Ok(Prealloc::Off) };
    Prealloc::from_name(&name).ok_or_else(|| Error::invalid(format!("invalid parameter value: {name}")))
}

/// Checks what can be checked before a file is touched.
pub(crate) fn validate(options: &ParsedOptions) -> Result<()> {
    prealloc(options).map(|_| ())
}

fn size(options: &ParsedOptions) -> Result<u64> {
    let size = options.get_number("size").unwrap_or(0);
    align_up(size, SECTOR).ok_or_else(|| Error::limit("File too large"))
}

/// Gives the empty storage its length. One of fixed length has to be long enough, and loses its first sector, so that
/// no old header is found there.
pub(crate) fn create(context: &CreateContext<'_>) -> Result<()> {
    let (size, prealloc) = (size(context.options)?, prealloc(context.options)?);
    if context.storage.limits().growable {
        return context.storage.set_len(size, prealloc);
    }
    if prealloc != Prealloc::Off {
        return Err(Error::unsupported(format!("Unsupported preallocation mode '{}'", prealloc.name())));
    }
    if size > context.storage.len() {
        return Err(Error::unsupported("Cannot grow device files"));
    }
    let head = to_usize(SECTOR.min(context.storage.len()));
    context.storage.write_at(0, &vec![0; head])
}

/// An image takes as much as it is long: holes are the file system's matter.
pub(crate) fn measure(input: &MeasureInput<'_>) -> Result<Measure> {
    let size = match input.source {
        Some(source) => align_up(source.len(), SECTOR).unwrap_or(u64::MAX),
        None => size(input.options)?,
    };
    Ok(Measure { required: size, fully_allocated: size, bitmaps: None })
}
