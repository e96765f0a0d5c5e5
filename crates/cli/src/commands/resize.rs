//! `resize`: makes an image larger or smaller.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use diskimg::chain::OpenOptions;
use diskimg::core::size::parse_option_size;
use diskimg::core::{Prealloc, Task};
use diskimg::engine::resize::{NewSize, ResizeOptions, SHRINK_REFUSED, SHRINK_WARNING, resize};

use crate::command::{Command, Key, Value, flag, value};
use crate::getopt::{Getopt, Item, Order};
use crate::options::{FORMAT, HELP, IMAGE_OPTS, OBJECT, QUIET, page};
use crate::source::Source;
use crate::ui::{Exit, Ui};

/// The subcommand.
pub(crate) static COMMAND: Command = Command {
    name: "resize",
    summary: "Resize the image to the new size",
    synopsis: "[-f FMT | --image-opts] [--preallocation PREALLOC] [--shrink]
        [--object OBJECTDEF] [-q] FILENAME [+-]SIZE[bkKMGTPE]",
    options: &[
        HELP,
        QUIET,
        FORMAT,
        IMAGE_OPTS,
        value(Key::Preallocation, "", &["preallocation"]),
        flag(Key::Shrink, "", &["shrink"]),
        OBJECT,
    ],
    help: &[
        ("-q, --quiet", "quiet operation"),
        ("-f, --format FMT", "specify FILENAME format explicitly"),
        (
            "--image-opts",
            "indicates that FILENAME is a complete image specification
   instead of a file name (incompatible with --format)",
        ),
        ("--shrink", "allow operation when new size is smaller than original"),
        ("--preallocation PREALLOC", "specify preallocation type for the new areas"),
        page::OBJECT,
        ("FILENAME", "image file (specification) to resize"),
        (
            "[+-]SIZE[bkKMGTPE]",
            "new image size or amount by which to shrink/grow,
     with optional suffix (1024-based multiplies)",
        ),
    ],
    run,
};

#[derive(Debug)]
struct Args {
    source: Source,
    quiet: bool,
    shrink: bool,
    prealloc: Prealloc,
    size: NewSize,
}

impl Args {
    /// A size such as `-1M` right behind the file name is no option, hence a loop of its own.
    fn parse(ui: &Ui, args: &[OsString]) -> Result<Self, Exit> {
        let (mut source, mut quiet, mut shrink) = (Source::default(), false, false);
        let mut prealloc = Prealloc::Off;
        let (mut name, mut size) = (None, None);
        let mut getopt = Getopt::new(args, COMMAND.options, Order::InPlace);
        while let Some(item) = getopt.next().map_err(|error| ui.option_error(&error))? {
            match item {
                Item::Option(Key::Help, _) => return Err(COMMAND.print_help(ui)),
                Item::Option(Key::Quiet, _) => quiet = true,
                Item::Option(Key::Shrink, _) => shrink = true,
                Item::Option(Key::Preallocation, mode) => prealloc = parse_prealloc(ui, Value(mode))?,
                Item::Option(key, value) => source.take(ui, key, Value(value))?,
                Item::Operand(operand) if name.is_none() => {
                    name = Some(operand);
                    size = getopt.take_if(is_negative);
                }
                Item::Operand(operand) if size.is_none() => size = Some(operand),
                Item::Operand(_) => return Err(ui.usage("Extra argument(s) in command line")),
            }
        }
        let mut rest = getopt.operands().into_iter();
        let (name, size) = (name.or_else(|| rest.next()), size.or_else(|| rest.next()));
        let (Some(name), Some(size), None) = (name, size, rest.next()) else {
            return Err(ui.usage("Expecting image file name and size"));
        };
        source.filename = ui.text(name)?;
        Ok(Self { source, quiet, shrink, prealloc, size: parse_size(ui, &ui.text(size)?)? })
    }
}

fn is_negative(arg: &OsStr) -> bool {
    matches!(arg.as_bytes(), [b'-', digit, ..] if digit.is_ascii_digit())
}

fn parse_prealloc(ui: &Ui, value: Value) -> Result<Prealloc, Exit> {
    let name = value.text(ui)?;
    Prealloc::from_name(&name).ok_or_else(|| ui.fail(format!("Invalid preallocation mode '{name}'")))
}

fn parse_size(ui: &Ui, text: &str) -> Result<NewSize, Exit> {
    let (make, digits): (fn(u64) -> NewSize, &str) = match text.split_at_checked(1) {
        Some(("+", digits)) => (NewSize::Grow, digits),
        Some(("-", digits)) => (NewSize::Shrink, digits),
        _ => (NewSize::Exact, text),
    };
    parse_option_size("size", digits).map(make).map_err(|error| ui.library_error(&error))
}

fn run(ui: &Ui, args: &[OsString]) -> Result<(), Exit> {
    let args = Args::parse(ui, args)?;
    let node = args.source.open(ui, OpenOptions::write())?;
    let options = ResizeOptions { size: args.size, shrink: args.shrink, prealloc: args.prealloc };
    if let Err(error) = resize(&node, &options, &Task::quiet()) {
        let exit = ui.library_error(&error);
        if error.to_string() == SHRINK_REFUSED {
            ui.warn(SHRINK_WARNING);
        }
        return Err(exit);
    }
    if !args.quiet {
        ui.print("Image resized.\n");
    }
    Ok(())
}
