//! Changes what an image was created with: asks the top image for the [`Amend`](diskimg_core::Amend) capability.

use diskimg_chain::{Context, Node};
use diskimg_core::driver::Caps;
use diskimg_core::options::{OptUse, ParsedOptions};
use diskimg_core::{AmendInput, BlockDevice as _, Error, FormatDriver, Result, Task};

use crate::create::Maker;

/// What to change.
#[derive(Clone, Debug, Default)]
pub struct AmendOptions<'a> {
    /// Options as `name=value,…`.
    pub options: &'a str,
    /// Do what is refused because it can make the contents unreadable.
    pub force: bool,
}

/// The options with which images of format `name` can be amended.
///
/// # Errors
/// `InvalidArg` for an unknown format; `Unsupported` for one that can't be amended.
pub fn amend_options(ctx: &Context, name: &str) -> Result<ParsedOptions> {
    let maker = Maker::find(&ctx.registry, name)?;
    if maker.protocol().is_some() {
        return Err(unsupported(name));
    }
    table(maker.format())
}

/// An image whose options are understood, ready to be amended.
#[derive(Debug)]
pub struct AmendPlan<'a> {
    node: &'a Node,
    options: ParsedOptions,
    force: bool,
}

impl<'a> AmendPlan<'a> {
    /// Checks that `node`'s own layer can be amended, and that it has the options.
    ///
    /// # Errors
    /// `Unsupported` for the format; `InvalidArg` for the options.
    pub fn new(node: &'a Node, wanted: &AmendOptions<'_>) -> Result<Self> {
        let driver = node.image().driver();
        let mut options = table(driver).map_err(|_| unsupported(node.format()))?;
        options.parse(wanted.options).map_err(|error| explain(error, driver, wanted.options))?;
        Ok(Self { node, options, force: wanted.force })
    }

    /// Changes the image. Files that it refers to are opened as `ctx` allows.
    ///
    /// # Errors
    /// What the format refuses: what comes before it in the format's order of changes is done then; the host's;
    /// `Cancelled`.
    pub fn run(&self, ctx: &Context, task: &Task<'_>) -> Result<()> {
        let driver = self.node.image().driver();
        let amend = self.node.image().as_amend().ok_or_else(|| unsupported(driver.name))?;
        let opener = ctx.opener(self.node.filename());
        let (options, force) = (&self.options, self.force);
        amend.amend(&AmendInput { options, force, opener: &opener, task: task.clone() })?;
        self.node.device().flush()
    }
}

fn table(driver: &FormatDriver) -> Result<ParsedOptions> {
    if !driver.caps.contains(Caps::AMEND) {
        return Err(unsupported(driver.name));
    }
    Ok(ParsedOptions::for_usage(&[driver.options], OptUse::AMEND))
}

fn unsupported(name: &str) -> Error {
    Error::unsupported(format!("Format driver '{name}' does not support option amendment"))
}

/// Says of options that new images take, all of them, that they are such.
fn explain(error: Error, driver: &FormatDriver, text: &str) -> Error {
    let for_creation = ParsedOptions::for_usage(&[driver.options], OptUse::CREATE).parse(text).is_ok();
    if for_creation { error.with_hint("This option is only supported for image creation") } else { error }
}
