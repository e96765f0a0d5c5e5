//! `amend`: changes what an image was created with.

use std::ffi::OsString;

use diskimg::core::Task;
use diskimg::core::options::OptUse;
use diskimg::engine::amend::{AmendOptions, AmendPlan, amend_options};

use crate::changed::Changed;
use crate::command::{Command, Key, Value, flag};
use crate::options::{CACHE, FORMAT, HELP, IMAGE_OPTS, OBJECT, OPTIONS, PROGRESS, QUIET};
use crate::source::context;
use crate::ui::{Exit, Ui};
use crate::values;

/// The subcommand.
pub(crate) static COMMAND: Command = Command {
    name: "amend",
    summary: "Update format-specific options of the image",
    synopsis: "[-f FMT | --image-opts] [t CACHE] [--force] [-p] [-q]
        [--object OBJDEF -o OPTIONS FILENAME",
    options: &[
        HELP,
        QUIET,
        OBJECT,
        OPTIONS,
        PROGRESS,
        FORMAT,
        CACHE,
        IMAGE_OPTS,
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

#[derive(Debug, Default)]
struct Args {
    image: Changed,
    options: Option<String>,
    force: bool,
}

impl Args {
    fn take(&mut self, ui: &Ui, key: Key, value: Value) -> Result<(), Exit> {
        match key {
            Key::Force => self.force = true,
            Key::Options => values::add_options(ui, &mut self.options, value)?,
            _ => self.image.take(ui, key, value)?,
        }
        Ok(())
    }
}

fn run(ui: &Ui, args: &[OsString]) -> Result<(), Exit> {
    let mut wanted = Args::default();
    let operands = COMMAND.parse(ui, args, |key, value| wanted.take(ui, key, value))?;
    let Args { mut image, options, force } = wanted;
    let Some(options) = options else { return Err(ui.usage("Must specify options (-o)")) };
    // Only the line's end, whatever comes.
    let progress = image.progress_bar(ui);
    let wants_help = values::asks_for_help(Some(&options));
    if wants_help && let Some(format) = &image.source.format {
        return print_options(ui, format);
    }
    image.source.filename = one_name(ui, operands)?;
    let node = image.open(ui)?;
    if wants_help {
        return print_options(ui, node.format());
    }
    let wanted = AmendOptions { options: &options, force };
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
