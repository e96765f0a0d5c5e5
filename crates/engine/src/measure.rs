//! What an image would take on the host before it is made.

use diskimg_chain::Node;
use diskimg_core::driver::{Measure, MeasureInput};
use diskimg_core::options::ParsedOptions;
use diskimg_core::{BlockDevice, Error, ErrorKind, FormatDriver, Registry, Result};

use crate::create::find_creatable;
use crate::told::failed;

/// The greatest size that can be measured: above, the format's own limits have been exceeded long before.
pub use diskimg_core::size::MAX_IMAGE_SIZE;

/// The options of `format` for a measurement, from an `-o` string.
///
/// # Errors
/// `InvalidArg` with qemu-img's wording: an unknown format or option. Where an option is at fault the message
/// is followed by a second one that the caller prints on its own: see [`OPTIONS_REFUSED`].
pub fn options(
    registry: &Registry,
    format: &str,
    text: Option<&str>,
) -> Result<(&'static FormatDriver, ParsedOptions)> {
    let driver = find_creatable(registry, format)?;
    let protocol = crate::create::file_protocol_options(registry);
    let mut options = ParsedOptions::new(&[driver.options, protocol]);
    if let Some(text) = text {
        options.parse(text)?;
    }
    Ok((driver, options))
}

/// Says, after the error of an option, whose option it was.
#[must_use]
pub fn options_refused(format: &str) -> String {
    format!("Invalid options for file format '{format}'")
}

/// Measures an image of `driver` with `options` that would hold `source` (the whole chain, as its user sees it)
/// or, without a source, an empty disk of the option `size` (bytes).
///
/// # Errors
/// `Unsupported` if the format can't tell; options that contradict each other; those of reading `source`'s metadata.
pub fn measure(
    driver: &'static FormatDriver,
    options: &mut ParsedOptions,
    source: Option<&Node>,
) -> Result<Measure> {
    let unsupported =
        || Error::unsupported(format!("Block driver '{}' does not support size measurement", driver.name));
    let measure = driver.measure.ok_or_else(unsupported)?;
    if let Some(source) = source {
        options.set_number("size", source.device().len());
    }
    let source_image = source.map(|node| &**node.image());
    let source = source.map(|node| node.device() as &dyn BlockDevice);
    measure(&MeasureInput { options, source, source_image }).map_err(|error| match error.kind() {
        ErrorKind::Io | ErrorKind::Corrupt => failed("Unable to get block status", error),
        _ => error,
    })
}
