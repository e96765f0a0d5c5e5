//! `stream`: an image takes over what lies below it. Not in qemu-img: the reverse of `commit`, for offline use.

use std::ffi::OsString;
use std::num::NonZero;

use diskimg::core::Task;
use diskimg::engine::commit::find_layer;
use diskimg::engine::stream::{StreamOptions, stream};

use crate::changed::Changed;
use crate::command::{Command, Key, Value, flag, value};
use crate::options::{CACHE, FORMAT, HELP, IMAGE_OPTS, OBJECT, PROGRESS, QUIET, RATE, page};
use crate::ui::{Exit, Ui};
use crate::values;

/// The subcommand.
pub(crate) static COMMAND: Command = Command {
    name: "stream",
    summary: "Pull data from the backing chain into the image, and drop it from the chain",
    synopsis: "[-f FMT | --image-opts] [-t CACHE] [-b BASE_IMG] [-c] [-r RATE] [-p] [-q]
        [--object OBJDEF] FILENAME",
    options: &[
        HELP,
        QUIET,
        PROGRESS,
        FORMAT,
        IMAGE_OPTS,
        CACHE,
        value(Key::Backing, "b", &["base"]),
        flag(Key::Compress, "c", &["compress"]),
        RATE,
        OBJECT,
    ],
    help: &[
        ("-q, --quiet", "quiet operation"),
        ("-p, --progress", "show operation progress"),
        ("-f, --format FMT", "specify FILENAME format explicitly"),
        page::IMAGE_OPTS,
        ("-t, --cache CACHE", "cache mode for FILENAME (writeback)"),
        (
            "-b, --base BASE_IMG",
            "image in the backing chain that becomes the backing file
     (without it there is none afterwards)",
        ),
        ("-c, --compress", "write compressed clusters"),
        ("-r, --rate RATE", "I/O rate limit"),
        page::OBJECT,
        ("FILENAME", "image to stream into; there may be overlays over it"),
    ],
    run,
};

#[derive(Debug, Default)]
struct Args {
    image: Changed,
    base: Option<String>,
    compress: bool,
    rate: u64,
}

impl Args {
    fn take(&mut self, ui: &Ui, key: Key, value: Value) -> Result<(), Exit> {
        match key {
            Key::Compress => self.compress = true,
            Key::Backing => self.base = Some(value.text(ui)?),
            Key::Rate => self.rate = values::size(ui, "rate limit", &value.text(ui)?)?,
            _ => self.image.take(ui, key, value)?,
        }
        Ok(())
    }
}

fn run(ui: &Ui, args: &[OsString]) -> Result<(), Exit> {
    let mut wanted = Args::default();
    let operands = COMMAND.parse(ui, args, |key, value| wanted.take(ui, key, value))?;
    let Args { mut image, base, compress, rate } = wanted;
    image.name(ui, operands)?;
    let top = image.open(ui)?;
    let operation = image.operation(ui);
    let streaming = |task: &Task<'_>| {
        let depth = base.as_deref().map(|base| find_layer(&top, base)).transpose()?;
        let options = StreamOptions { depth, compress, rate_limit: NonZero::new(rate) };
        stream(&top, &options, task)
    };
    operation.run(streaming, || ())?;
    drop(operation);
    image.say(ui, "Image streamed.\n");
    Ok(())
}
