//! `stream`: an image takes over what lies below it. Not in qemu-img: the reverse of `commit`, for offline use.

use std::ffi::OsString;
use std::num::NonZero;

use diskimg::chain::OpenOptions;
use diskimg::core::Task;
use diskimg::engine::commit::find_layer;
use diskimg::engine::stream::{StreamOptions, stream};

use crate::command::{Command, Key, Value, flag, value};
use crate::operation::Operation;
use crate::source::Source;
use crate::ui::{Exit, Ui};
use crate::{objects, values};

/// The subcommand.
pub(crate) static COMMAND: Command = Command {
    name: "stream",
    summary: "Pull data from the backing chain into the image, and drop it from the chain",
    synopsis: "[-f FMT | --image-opts] [-t CACHE] [-b BASE_IMG] [-c] [-r RATE] [-p] [-q]
        [--object OBJDEF] FILENAME",
    options: &[
        flag(Key::Help, "h", &["help"]),
        flag(Key::Quiet, "q", &["quiet"]),
        flag(Key::Progress, "p", &["progress"]),
        value(Key::Format, "f", &["format"]),
        flag(Key::ImageOpts, "", &["image-opts"]),
        value(Key::Cache, "t", &["cache"]),
        value(Key::Backing, "b", &["base"]),
        flag(Key::Compress, "c", &["compress"]),
        value(Key::Rate, "r", &["rate"]),
        value(Key::Object, "", &["object"]),
    ],
    help: &[
        ("-q, --quiet", "quiet operation"),
        ("-p, --progress", "show operation progress"),
        ("-f, --format FMT", "specify FILENAME format explicitly"),
        (
            "--image-opts",
            "indicates that FILENAME is a complete image specification
     instead of a file name (incompatible with --format)",
        ),
        ("-t, --cache CACHE", "cache mode for FILENAME (writeback)"),
        (
            "-b, --base BASE_IMG",
            "image in the backing chain that becomes the backing file
     (without it there is none afterwards)",
        ),
        ("-c, --compress", "write compressed clusters"),
        ("-r, --rate RATE", "I/O rate limit"),
        ("--object OBJDEF", "QEMU user-creatable object (eg encryption key)"),
        ("FILENAME", "image to stream into; there may be overlays over it"),
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
    compress: bool,
    rate: u64,
    quiet: bool,
    progress: bool,
}

impl Args {
    fn take(&mut self, ui: &Ui, key: Key, value: Value) -> Result<(), Exit> {
        match key {
            Key::Quiet => self.quiet = true,
            Key::Progress => self.progress = true,
            Key::Compress => self.compress = true,
            Key::Cache => self.cache = Some(value.text(ui)?),
            Key::Backing => self.base = Some(value.text(ui)?),
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
    let image = args.source.open(ui, OpenOptions::write())?;
    let operation = Operation::new(ui, args.progress && !args.quiet, PROGRESS_STEP);
    let streaming = |task: &Task<'_>| {
        let depth = args.base.as_deref().map(|base| find_layer(&image, base)).transpose()?;
        let options = StreamOptions { depth, compress: args.compress, rate_limit: NonZero::new(args.rate) };
        stream(&image, &options, task)
    };
    operation.run(streaming, || ())?;
    drop(operation);
    if !args.quiet {
        ui.print("Image streamed.\n");
    }
    Ok(())
}
