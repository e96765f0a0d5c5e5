//! `amend`: changes what an image was created with.

use std::ffi::OsString;

use diskimg::chain::OpenOptions;
use diskimg::core::Task;
use diskimg::core::options::OptUse;
use diskimg::engine::amend::{AmendOptions, AmendPlan, amend_options};

use crate::command::{Command, Key, flag, value};
use crate::progress::ProgressBar;
use crate::source::{Source, context};
use crate::ui::{Exit, Ui};
use crate::{objects, values};

/// The subcommand.
pub(crate) static COMMAND: Command = Command {
    name: "amend",
    summary: "Update format-specific options of the image",
    synopsis: "[-f FMT | --image-opts] [t CACHE] [--force] [-p] [-q]
        [--object OBJDEF -o OPTIONS FILENAME",
    options: &[
        flag(Key::Help, "h", &["help"]),
        flag(Key::Quiet, "q", &["quiet"]),
        value(Key::Object, "", &["object"]),
        value(Key::Options, "o", &["options"]),
        flag(Key::Progress, "p", &["progress"]),
        value(Key::Format, "f", &["format"]),
        value(Key::Cache, "t", &["cache"]),
        flag(Key::ImageOpts, "", &["image-opts"]),
        flag(Key::Force, "", &["force"]),
    ],
    help: &[
        ("-q, --quiet", "quiet operation"),
        ("-p, --progres", "show progress"),
        ("-f, --format FMT", "specify FILENAME format explicitly"),
        (
            "--image-opts",
            "indicates that FILENAME is a complete image specification
   instead of a file name (incompatible with --format)",
        ),
        ("-t, --cache CACHE", "cache mode for FILENAME (writeback)"),
        ("--force", "allow certain unsafe operations"),
    ],
    run,
};

/// Percent between two prints of progress.
const PROGRESS_STEP: u8 = 1;

#[derive(Debug, Default)]
struct Args {
    source: Source,
    options: Option<String>,
    progress: bool,
    quiet: bool,
    force: bool,
    cache: Option<String>,
}

impl Args {
    fn take(&mut self, ui: &Ui, key: Key, value: crate::command::Value) -> Result<(), Exit> {
        match key {
            Key::Quiet => self.quiet = true,
            Key::Progress => self.progress = true,
            Key::Force => self.force = true,
            Key::Options => values::add_options(ui, &mut self.options, value)?,
            Key::Cache => self.cache = Some(value.text(ui)?),
            Key::Object => objects::add(ui, value)?,
            _ => self.source.take(ui, key, value)?,
        }
        Ok(())
    }
}

fn run(ui: &Ui, args: &[OsString]) -> Result<(), Exit> {
    let mut args_found = Args::default();
    let operands = COMMAND.parse(ui, args, |key, value| args_found.take(ui, key, value))?;
    let mut args = args_found;
    let Some(options) = args.options.take() else { return Err(ui.usage("Must specify options (-o)")) };
    // Only the line's end, whatever comes.
    let progress = ProgressBar::new(ui, args.progress && !args.quiet, PROGRESS_STEP);
    let wants_help = values::asks_for_help(Some(&options));
    if wants_help && let Some(format) = &args.source.format {
        return print_options(ui, format);
    }
    args.source.filename = one_name(ui, operands)?;
    args.source.cache = values::changed_cache(ui, args.cache.as_deref())?;
    let node = args.source.open(ui, OpenOptions::write())?;
    if wants_help {
        return print_options(ui, node.format());
    }
    let wanted = AmendOptions { options: &options, force: args.force };
    let plan = AmendPlan::new(&node, &wanted).map_err(|error| ui.library_error(&error))?;
    progress.start();
    let result = plan.run(&context(ui), &Task::reporting(&progress));
    progress.finish();
    result.map_err(|error| ui.library_error(&error))
}

/// The only operand; where there is another number of them, no help is offered.
fn one_name(ui: &Ui, operands: Vec<OsString>) -> Result<String, Exit> {
    match <[_; 1]>::try_from(operands) {
        Ok([name]) => ui.text(name),
        Err(_) => Err(ui.fail("Expecting one image file name")),
    }
}

fn print_options(ui: &Ui, format: &str) -> Result<(), Exit> {
    let options = amend_options(&context(ui), format).map_err(|error| ui.library_error(&error))?;
    ui.print(&format!("Amend options for '{format}':\n{}", options.help(OptUse::AMEND)));
    Ok(())
}
