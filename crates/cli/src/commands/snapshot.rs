//! `snapshot`: lists, creates, applies and deletes snapshots inside an image.

use std::error::Error as _;
use std::ffi::OsString;

use diskimg::chain::OpenOptions;
use diskimg::core::{Error, ErrorKind};
use diskimg::engine::snapshot;

use crate::command::{Command, Key, flag, value};
use crate::options::{FORCE_SHARE, FORMAT, HELP, IMAGE_OPTS, OBJECT, QUIET};
use crate::source::Source;
use crate::ui::{Exit, Ui};
use crate::{human, values};

/// The subcommand.
pub(crate) static COMMAND: Command = Command {
    name: "snapshot",
    summary: "List or manipulate snapshots within image",
    synopsis: "[-f FMT | --image-opts] [-l | -a|-c|-d SNAPSHOT]
        [-U] [--object OBJDEF] FILENAME",
    options: &[
        HELP,
        QUIET,
        OBJECT,
        FORMAT,
        IMAGE_OPTS,
        FORCE_SHARE,
        flag(Key::List, "l", &["list"]),
        value(Key::Apply, "a", &["apply"]),
        value(Key::Create, "c", &["create"]),
        value(Key::Delete, "d", &["delete"]),
    ],
    help: &[
        ("-q, --quiet", " quiet operations"),
        ("-f, --format FMT", " specify FILENAME format explicitly"),
        (
            "--image-opts",
            " indicates that FILENAME is a complete image specification
   instead of a file name (incompatible with --format)",
        ),
        ("-U, --force-share", " open image in shared mode for concurrent access"),
        ("--object OBJDEF", " QEMU user-creatable object (eg encryption key)"),
        (
            "Operation, one of:
    -l, --list",
            "  list snapshots in FILENAME (the default)
    -c, --create SNAPSHOT
       create named snapshot
    -a, --apply SNAPSHOT
       apply named snapshot to the base
    -d, --delete SNAPSHOT
       delete named snapshot",
        ),
        ("FILENAME - image file name (or specification with --image-opts)", ""),
    ],
    run,
};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    List,
    Create(String),
    Apply(String),
    Delete(String),
}

#[derive(Debug)]
struct Args {
    source: Source,
    action: Action,
}

impl Args {
    fn parse(ui: &Ui, args: &[OsString]) -> Result<Self, Exit> {
        let (mut source, mut action) = (Source::default(), None);
        let operands = COMMAND.parse(ui, args, |key, value| {
            match key {
                Key::List => set(ui, &mut action, Action::List)?,
                Key::Create => set(ui, &mut action, Action::Create(value.text(ui)?))?,
                Key::Apply => set(ui, &mut action, Action::Apply(value.text(ui)?))?,
                Key::Delete => set(ui, &mut action, Action::Delete(value.text(ui)?))?,
                _ => source.take(ui, key, value)?,
            }
            Ok(())
        })?;
        source.filename = values::one_image(ui, operands)?;
        Ok(Self { source, action: action.unwrap_or(Action::List) })
    }
}

/// One action only.
fn set(ui: &Ui, action: &mut Option<Action>, new: Action) -> Result<(), Exit> {
    match action.replace(new) {
        None => Ok(()),
        Some(_) => Err(ui.usage("Cannot mix '-l', '-a', '-c', '-d'")),
    }
}

fn run(ui: &Ui, args: &[OsString]) -> Result<(), Exit> {
    let Args { source, action } = Args::parse(ui, args)?;
    let mode = if action == Action::List { OpenOptions::read() } else { OpenOptions::write() };
    let node = source.open(ui, mode)?;
    match action {
        Action::List => snapshot::list(&node).map(|all| {
            if !all.is_empty() {
                ui.print(&human::snapshot_table(&all));
            }
        }),
        Action::Create(name) => snapshot::create(&node, &name).map(|_| ()),
        Action::Apply(name) => snapshot::apply(&node, &name).inspect_err(|error| name_cause(ui, error)),
        Action::Delete(name) => snapshot::delete(&node, &name),
    }
    .map_err(|error| ui.library_error(&error))
}

/// A snapshot that is damaged is told of before what could not be done with it.
fn name_cause(ui: &Ui, error: &Error) {
    let summary = error.source().and_then(|cause| cause.downcast_ref::<Error>());
    let cause = summary.and_then(|summary| summary.source()?.downcast_ref::<Error>());
    if let Some(cause) = cause
        && matches!(cause.kind(), ErrorKind::InvalidArg | ErrorKind::Limit)
        && cause.to_string() != cause.strerror()
    {
        ui.error(cause.to_string());
    }
}
