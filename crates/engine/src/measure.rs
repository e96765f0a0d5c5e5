//! What an image would take on the host before it is made.

use diskimg_chain::Node;
use diskimg_core::driver::{Measure, MeasureInput};
use diskimg_core::options::ParsedOptions;
use diskimg_core::{BlockDevice, Error, ErrorKind, Registry, Result, Secrets};

use crate::create::Maker;
use crate::told::failed;

/// The greatest size that can be measured: above, the format's own limits have been exceeded long before.
pub use diskimg_core::size::MAX_IMAGE_SIZE;

/// The options of `format` for a measurement, from an `-o` string.
///
/// # Errors
/// `InvalidArg` with qemu-img's wording: an unknown format or option. Where an option is at fault the message
/// is followed by a second one that the caller prints on its own: [`options_refused`].
pub fn options(registry: &Registry, format: &str, text: Option<&str>) -> Result<(Maker, ParsedOptions)> {
    let maker = Maker::find_creatable(registry, format)?;
    let protocol = crate::create::file_protocol_options(registry);
    let mut options = ParsedOptions::new(&[maker.options(), protocol]);
    if let Some(text) = text {
        options.parse(text)?;
    }
    Ok((maker, options))
}

/// Says, after the error of an option, whose option it was.
#[must_use]
pub fn options_refused(format: &str) -> String {
    format!("Invalid options for file format '{format}'")
}

/// Measures an image of `maker` with `options` that would hold `source` (the whole chain, as its user sees it)
/// or, without a source, an empty disk of the option `size` (bytes). `secrets` are those that the options may name.
///
/// # Errors
/// `Unsupported` if the format can't tell; options that contradict each other; those of reading `source`'s metadata.
pub fn measure(
    maker: Maker,
    options: &mut ParsedOptions,
    source: Option<&Node>,
    secrets: &Secrets,
) -> Result<Measure> {
    let unsupported =
        || Error::unsupported(format!("Block driver '{}' does not support size measurement", maker.name()));
    let measure = maker.format().measure.filter(|_| maker.protocol().is_none()).ok_or_else(unsupported)?;
    if let Some(source) = source {
        options.set_number("size", source.device().len());
    }
    let source_image = source.map(|node| &**node.image());
    let source = source.map(|node| node.device() as &dyn BlockDevice);
    measure(&MeasureInput { options, source, source_image, secrets }).map_err(|error| match error.kind() {
        ErrorKind::Io | ErrorKind::Corrupt => failed("Unable to get block status", error),
        // The host's own words: nobody else had any.
        _ if error.joined() == error.strerror() => failed("Unable to get block status", error),
        _ => error,
    })
}
