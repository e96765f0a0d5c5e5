//! `check`: looks for contradictions in an image's metadata and repairs them if asked to.

use std::ffi::OsString;

use diskimg_core::Repair;

use crate::command::{Command, Key, flag, value};
use crate::source::Source;
use crate::ui::{Exit, Ui};
use crate::values::{self, OutputFormat};
use crate::{json, objects};

/// The subcommand.
pub(crate) static COMMAND: Command = Command {
    name: "check",
    summary: "Check basic image integrity",
    synopsis: "[-f FMT | --image-opts] [-T CACHE_MODE] [-r] [-u]
        [--output human|json] [--object OBJDEF] FILENAME",
    options: &[
        flag(Key::Help, "h", &["help"]),
        flag(Key::Quiet, "q", &["quiet"]),
        value(Key::Format, "f", &["format"]),
        value(Key::Cache, "T", &["cache"]),
        value(Key::Repair, "r", &["repair"]),
        value(Key::Output, "", &["output"]),
        value(Key::Object, "", &["object"]),
        flag(Key::ImageOpts, "", &["image-opts"]),
        flag(Key::ForceShare, "U", &["force-share"]),
    ],
    help: &[
        ("-q, --quiet", "quiet operations"),
        ("-f, --format FMT", "specifies format of the image explicitly"),
        (
            "--image-opts",
            "indicates that FILENAME is a complete image specification
     instead of a file name (incompatible with --format)",
        ),
        ("-T, --cache CACHE_MODE", "image cache mode (writeback)"),
        ("-U, --force-share", "open image in shared mode for concurrent access"),
        ("--output human|json", "output format"),
        (
            "-r, --repair leaks|all",
            "repair particular aspect of the image
     (image will be open in read-write mode, incompatible with --force-share)",
        ),
        ("--object OBJDEF", "QEMU user-creatable object (eg encryption key)"),
        ("FILENAME", "the image file (or image specification) to operate on"),
    ],
    run,
};

#[derive(Debug, Default)]
struct Args {
    source: Source,
    quiet: bool,
    output: OutputFormat,
    repair: Repair,
}

impl Args {
    fn parse(ui: &Ui, args: &[OsString]) -> Result<Self, Exit> {
        let mut parsed = Self::default();
        let mut cache = None;
        let operands = COMMAND.parse(ui, args, |key, value| {
            match key {
                Key::Quiet => parsed.quiet = true,
                Key::Cache => cache = Some(value.text(ui)?),
                Key::Repair => parsed.repair = parse_repair(ui, &value.text(ui)?)?,
                Key::Output => parsed.output = OutputFormat::parse(ui, value)?,
                Key::Object => objects::check(ui, value)?,
                _ => parsed.source.take(ui, key, value)?,
            }
            Ok(())
        })?;
        parsed.source.filename = values::one_image(ui, operands)?;
        parsed.source.cache = values::source_cache(ui, cache.as_deref())?;
        Ok(parsed)
    }
}

fn parse_repair(ui: &Ui, text: &str) -> Result<Repair, Exit> {
    match text {
        "leaks" => Ok(Repair::Leaks),
        "all" => Ok(Repair::All),
        _ => Err(ui.usage(format!("--repair (-r) expects 'leaks' or 'all' not '{text}'"))),
    }
}
fn run(ui: &Ui, args: &[OsString]) -> Result<(), Exit> {
    let args = Args::parse(ui, args)?;
    Err(ui.fail(format!("{args:?}")))
}
