//! `commit`: puts what an overlay holds into its backing file, or into an image further down its chain.

use std::ffi::OsString;
use std::num::NonZero;

use diskimg::chain::OpenOptions;
use diskimg::core::Task;
use diskimg::engine::commit::{CommitOptions, commit, find_layer};

use crate::command::{Command, Key, Value, flag, value};
use crate::operation::Operation;
use crate::source::{Source, context};
use crate::ui::{Exit, Ui};
use crate::{objects, values};

/// The subcommand.
pub(crate) static COMMAND: Command = Command {
    name: "commit",
    summary: "Commit image to its backing file",
    synopsis: "[-f FMT | --image-opts] [-t CACHE_MODE] [-b BASE_IMG] [-d]
        [-r RATE] [--object OBJDEF] FILENAME",
    options: &[
        flag(Key::Help, "h", &["help"]),
        flag(Key::Quiet, "q", &["quiet"]),
        value(Key::Object, "", &["object"]),
        value(Key::Format, "f", &["format"]),
        flag(Key::ImageOpts, "", &["image-opts"]),
        value(Key::Cache, "t", &["cache"]),
        flag(Key::Keep, "d", &["drop"]),
        value(Key::Backing, "b", &["base"]),
        value(Key::Rate, "r", &["rate"]),
        flag(Key::Progress, "p", &["progress"]),
    ],
    help: &[
        ("-q, --quiet", "quiet operations"),
        ("-p, --progress", "show operation progress"),
        ("-f, --format FMT", "specify FILENAME image format explicitly"),
        (
            "--image-opts",
            "indicates that FILENAME is a complete image specification
     instead of a file name (incompatible with --format)",
        ),
        ("-t, --cache CACHE_MODE image cache mode (writeback)", ""),
        ("-d, --drop", "skip emptying FILENAME on completion"),
        (
            "-b, --base BASE_IMG",
            "image in the backing chain to which to commit changes
     instead of the previous one (implies --drop)",
        ),
        ("-r, --rate RATE", "I/O rate limit"),
        ("--object OBJDEF", "QEMU user-creatable object (eg encryption key)"),
        ("FILENAME", "name of the image file to operate on"),
    ],
    run,
};

/// Percent between two prints of progress.
const PROGRESS_STEP: u8 = 1;

#[derive(Debug, Default)]
struct Args {
    source: Source,
    cache: Option<String>,
    base: Option<String>,
    keep: bool,
    rate: u64,
    quiet: bool,
    progress: bool,
}

impl Args {
    fn take(&mut self, ui: &Ui, key: Key, value: Value) -> Result<(), Exit> {
        match key {
            Key::Quiet => self.quiet = true,
            Key::Progress => self.progress = true,
            Key::Keep => self.keep = true,
            Key::Cache => self.cache = Some(value.text(ui)?),
            Key::Backing => {
                self.base = Some(value.text(ui)?);
                self.keep = true;
            }
            Key::Rate => self.rate = values::size(ui, "rate limit", &value.text(ui)?)?,
            Key::Object => objects::add(ui, value)?,
            _ => self.source.take(ui, key, value)?,
        }
        Ok(())
    }
}

fn run(ui: &Ui, args: &[OsString]) -> Result<(), Exit> {
    let mut parsed = Args::default();
    let operands = COMMAND.parse(ui, args, |key, value| parsed.take(ui, key, value))?;
    let mut args = parsed;
    args.source.filename = values::one_image(ui, operands)?;
    args.source.cache = values::changed_cache(ui, args.cache.as_deref())?;
    let top = args.source.open(ui, OpenOptions::write())?;
    let operation = Operation::new(ui, args.progress && !args.quiet, PROGRESS_STEP);
    let committing = |task: &Task<'_>| {
        let depth = args.base.as_deref().map(|base| find_layer(&top, base)).transpose()?;
        let options = CommitOptions { depth, keep: args.keep, rate_limit: NonZero::new(args.rate) };
        commit(&context(ui), top, &options, task)
    };
    operation.run(committing, || ())?;
    drop(operation);
    if !args.quiet {
        ui.print("Image committed.\n");
    }
    Ok(())
}
