//! `map`: lists the extents of an image and where their bytes are.

use std::ffi::OsString;

use crate::command::{Command, Key, flag, value};
use crate::objects;
use crate::source::Source;
use crate::ui::{Exit, Ui};
use crate::values::{self, OutputFormat};

/// The subcommand.
pub(crate) static COMMAND: Command = Command {
    name: "map",
    summary: "Dump image metadata",
    synopsis: "[-f FMT | --image-opts] [--object OBJDEF] [--output human|json]
        [--start-offset OFFSET] [--max-length LENGTH] [-U] FILENAME",
    options: &[
        flag(Key::Help, "h", &["help"]),
        value(Key::Format, "f", &["format"]),
        value(Key::Output, "", &["output"]),
        value(Key::Object, "", &["object"]),
        flag(Key::ImageOpts, "", &["image-opts"]),
        flag(Key::ForceShare, "U", &["force-share"]),
        value(Key::StartOffset, "s", &["start-offset"]),
        value(Key::MaxLength, "l", &["max-length"]),
    ],
    help: &[
        ("-f, --format FMT", "specify FILENAME image format explicitly"),
        (
            "--image-opts",
            "indicates that FILENAME is a complete image specification
     instead of a file name (incompatible with --format)",
        ),
        ("--start-offset OFFSET", ""),
        ("--max-length LENGTH", ""),
        ("--output human|json", "specify output format name (default human)"),
        ("-U, --force-share", "open image in shared mode for concurrent access"),
        ("--object OBJDEF", "QEMU user-creatable object (eg encryption key)"),
        ("FILENAME", "image file name (or specification with --image-opts)"),
    ],
    run,
};

#[derive(Debug, Default)]
struct Args {
    source: Source,
    output: OutputFormat,
    start: u64,
    length: Option<u64>,
}

impl Args {
    fn parse(ui: &Ui, args: &[OsString]) -> Result<Self, Exit> {
        let mut parsed = Self::default();
        let operands = COMMAND.parse(ui, args, |key, value| {
            match key {
                Key::Output => parsed.output = OutputFormat::parse(ui, value)?,
                Key::StartOffset => parsed.start = values::size(ui, "start offset", &value.text(ui)?)?,
                Key::MaxLength => parsed.length = Some(values::size(ui, "max length", &value.text(ui)?)?),
                Key::Object => objects::check(ui, value)?,
                _ => parsed.source.take(ui, key, value)?,
            }
            Ok(())
        })?;
        parsed.source.filename = values::one_image(ui, operands)?;
        Ok(parsed)
    }
}
fn run(ui: &Ui, args: &[OsString]) -> Result<(), Exit> {
    let args = Args::parse(ui, args)?;
    Err(ui.fail(format!("{args:?}")))
}
