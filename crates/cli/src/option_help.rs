//! `-o help`: the create options of a format, and of the protocol where a file name is given.

use diskimg::chain::{Context, NewFile};
use diskimg::core::Result;
use diskimg::core::options::{OptUse, ParsedOptions};
use diskimg::engine::Maker;

/// The page for `format`.
///
/// # Errors
/// `InvalidArg` or `Unsupported` for a format or protocol that is unknown or makes no images.
pub(crate) fn page(ctx: &Context, format: &str, filename: Option<&str>) -> Result<String> {
    let maker = Maker::find_creatable(&ctx.registry, format)?;
    let Some(filename) = filename else {
        let help = ParsedOptions::new(&[maker.options()]).help(OptUse::CREATE);
        return Ok(format!(
            "Supported {format} options:\n{help}\nThe protocol level may support further options.\nSpecify the target filename to include those options.\n"
        ));
    };
    let file = NewFile::locate(ctx, filename)?;
    file.check()?;
    let help = ParsedOptions::new(&[maker.options(), file.create_options()]).help(OptUse::CREATE);
    Ok(format!("Supported options:\n{help}"))
}
