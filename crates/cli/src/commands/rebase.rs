//! `rebase`: puts an image on another backing file.

use std::ffi::OsString;

use diskimg::chain::{Node, OpenOptions};
use diskimg::core::{BackingRef, Task};
use diskimg::engine::rebase::{RebaseOptions, can_rebase, check_format, open_backing, rebase, set_backing};

use crate::changed::Changed;
use crate::command::{Command, Key, Value, flag, value};
use crate::options::{CACHE, FORCE_SHARE, FORMAT, HELP, IMAGE_OPTS, OBJECT, PROGRESS, QUIET, page};
use crate::source::context;
use crate::ui::{Exit, Ui};
use crate::values;

/// The subcommand.
pub(crate) static COMMAND: Command = Command {
    name: "rebase",
    summary: "Change backing file of the image",
    synopsis: "[-f FMT | --image-opts] [-t CACHE] [-q] [-U] [-p]
        [-b BACKING_FILENAME [-F BACKING_FMT] [-T BACKING_CACHE]] [-u]
        [--object OBJDEF] [-c] FILENAME
Rebases FILENAME on top of BACKING_FILENAME or no backing file",
    options: &[
        HELP,
        QUIET,
        PROGRESS,
        // In this order they are told where an abbreviation fits both.
        FORCE_SHARE,
        FORMAT,
        IMAGE_OPTS,
        CACHE,
        value(Key::Backing, "b", &["backing"]),
        value(Key::BackingFormat, "F", &["backing-format"]),
        value(Key::BackingCache, "T", &["backing-cache"]),
        flag(Key::BackingUnsafe, "u", &["backing-unsafe"]),
        OBJECT,
        flag(Key::Compress, "c", &["compress"]),
    ],
    help: &[
        ("-q, --quiet", "quiet operation"),
        ("-p, --progress", "show progress indicator"),
        ("-f, --format FMT", "specify FILENAME format explicitly"),
        page::IMAGE_OPTS,
        ("-t, --cache CACHE", "cache mode for FILENAME (writeback)"),
        ("-b, --backing BACKING_FILENAME|\"\"", "rebase onto this file (or no backing file)"),
        ("-F, --backing-format BACKING_FMT", "specify format for BACKING_FILENAME"),
        ("-T, --backing-cache CACHE", "BACKING_FILENAME cache mode (writeback)"),
        ("-u, --backing-unsafe", "do not fail if BACKING_FILENAME can not be read"),
        ("-c, --compress", "compress image (when image supports this)"),
        page::FORCE_SHARE,
        page::OBJECT,
        ("FILENAME", "image file name (or specification with --image-opts)"),
    ],
    run,
};

#[derive(Debug, Default)]
struct Args {
    image: Changed,
    backing: Option<String>,
    backing_format: Option<String>,
    backing_cache: Option<String>,
    only_name: bool,
    compress: bool,
    force_share: bool,
}

impl Args {
    fn take(&mut self, ui: &Ui, key: Key, value: Value) -> Result<(), Exit> {
        match key {
            Key::BackingUnsafe => self.only_name = true,
            Key::Compress => self.compress = true,
            Key::ForceShare => self.force_share = true,
            Key::BackingCache => self.backing_cache = Some(value.text(ui)?),
            Key::Backing => self.backing = Some(value.text(ui)?),
            Key::BackingFormat => self.backing_format = Some(value.text(ui)?),
            _ => self.image.take(ui, key, value)?,
        }
        Ok(())
    }
}

fn run(ui: &Ui, args: &[OsString]) -> Result<(), Exit> {
    let mut wanted = Args::default();
    let operands = COMMAND.parse(ui, args, |key, value| wanted.take(ui, key, value))?;
    let mut args = wanted;
    args.image.name(ui, operands)?;
    if !args.only_name && args.backing.is_none() {
        return Err(ui.usage("Must specify backing file (-b) or use unsafe mode (-u)"));
    }
    let operation = args.image.operation(ui);
    args.image.find_cache(ui)?;
    let backing_cache = values::source_cache(ui, args.backing_cache.as_deref())?;
    let top = args.image.source.open(ui, OpenOptions { backing: !args.only_name, ..OpenOptions::write() })?;
    let options = RebaseOptions { compress: args.compress, ..RebaseOptions::default() };
    let read = OpenOptions { force_share: args.force_share, ..OpenOptions::read().with_cache(backing_cache) };
    operation.run(|task| args.change(ui, &top, &options, &read, task), || ())?;
    operation.finish();
    Ok(())
}

impl Args {
    fn change(
        &self,
        ui: &Ui,
        top: &Node,
        options: &RebaseOptions,
        read: &OpenOptions,
        task: &Task<'_>,
    ) -> diskimg::core::Result<()> {
        let context = context(ui);
        can_rebase(top, options)?;
        check_format(&context, self.backing_format.as_deref())?;
        let format = self.backing_format.clone();
        let backing = self.backing.clone().filter(|name| !name.is_empty());
        let backing = backing.map(|name| BackingRef { name, format });
        if self.only_name {
            return set_backing(top, backing.as_ref());
        }
        let disk = backing.as_ref().map(|name| open_backing(&context, top, name, read)).transpose()?;
        rebase(top, backing.as_ref().zip(disk.as_ref()), options, task).map(|_| ())
    }
}
