//! `commit`: puts what an overlay holds into its backing file, or into an image further down its chain.

use std::ffi::OsString;
use std::num::NonZero;

use diskimg::core::Task;
use diskimg::engine::commit::{CommitOptions, commit, find_layer};

use crate::changed::Changed;
use crate::command::{Command, Key, Value, flag, value};
use crate::options::{CACHE, FORMAT, HELP, IMAGE_OPTS, OBJECT, PROGRESS, QUIET, RATE, page};
use crate::source::context;
use crate::ui::{Exit, Ui};
use crate::values;

/// The subcommand.
pub(crate) static COMMAND: Command = Command {
    name: "commit",
    summary: "Commit image to its backing file",
    synopsis: "[-f FMT | --image-opts] [-t CACHE_MODE] [-b BASE_IMG] [-d]
        [-r RATE] [--object OBJDEF] FILENAME",
    options: &[
        HELP,
        QUIET,
        OBJECT,
        FORMAT,
        IMAGE_OPTS,
        CACHE,
        flag(Key::Keep, "d", &["drop"]),
        value(Key::Backing, "b", &["base"]),
        RATE,
        PROGRESS,
    ],
    help: &[
        ("-q, --quiet", "quiet operations"),
        ("-p, --progress", "show operation progress"),
        ("-f, --format FMT", "specify FILENAME image format explicitly"),
        page::IMAGE_OPTS,
        ("-t, --cache CACHE_MODE image cache mode (writeback)", ""),
        ("-d, --drop", "skip emptying FILENAME on completion"),
        (
            "-b, --base BASE_IMG",
            "image in the backing chain to which to commit changes
     instead of the previous one (implies --drop)",
        ),
        ("-r, --rate RATE", "I/O rate limit"),
        page::OBJECT,
        ("FILENAME", "name of the image file to operate on"),
    ],
    run,
};

#[derive(Debug, Default)]
struct Args {
    image: Changed,
    base: Option<String>,
    keep: bool,
    rate: u64,
}

impl Args {
    fn take(&mut self, ui: &Ui, key: Key, value: Value) -> Result<(), Exit> {
        match key {
            Key::Keep => self.keep = true,
            Key::Backing => {
                self.base = Some(value.text(ui)?);
                self.keep = true;
            }
            Key::Rate => self.rate = values::size(ui, "rate limit", &value.text(ui)?)?,
            _ => self.image.take(ui, key, value)?,
        }
        Ok(())
    }
}

fn run(ui: &Ui, args: &[OsString]) -> Result<(), Exit> {
    let mut wanted = Args::default();
    let operands = COMMAND.parse(ui, args, |key, value| wanted.take(ui, key, value))?;
    let Args { mut image, base, keep, rate } = wanted;
    image.name(ui, operands)?;
    let top = image.open(ui)?;
    let operation = image.operation(ui);
    let committing = |task: &Task<'_>| {
        let depth = base.as_deref().map(|base| find_layer(&top, base)).transpose()?;
        let options = CommitOptions { depth, keep, rate_limit: NonZero::new(rate) };
        commit(&context(ui), top, &options, task)
    };
    operation.run(committing, || ())?;
    drop(operation);
    image.say(ui, "Image committed.\n");
    Ok(())
}
