//! `compare`: tells whether two images have the same contents. Its exit code is 0 (yes), 1 (no), above 1 (failure).

use std::ffi::OsString;

use diskimg::chain::OpenOptions;
use diskimg::core::Task;
use diskimg::engine::{CompareOptions, CompareReport, CompareStage, Difference, compare};

use crate::command::{Command, Key, flag, value};
use crate::options::{FORCE_SHARE, HELP, IMAGE_OPTS, OBJECT, PROGRESS, QUIET, page};
use crate::progress::ProgressBar;
use crate::source::Source;
use crate::ui::{Exit, Ui};
use crate::{objects, values};

/// The subcommand.
pub(crate) static COMMAND: Command = Command {
    name: "compare",
    summary: "Check if two images have the same contents",
    synopsis: "[--image-opts | [-f FMT] [-F FMT]] [-s]
        [-T CACHE] [-U] [--object OBJDEF] FILENAME1 FILENAME2",
    options: &[
        HELP,
        QUIET,
        PROGRESS,
        value(Key::Format, "f", &["a-format", "left-format"]),
        value(Key::SecondFormat, "F", &["b-format", "right-format"]),
        flag(Key::Strict, "s", &["strict"]),
        value(Key::Cache, "T", &["cache"]),
        OBJECT,
        IMAGE_OPTS,
        FORCE_SHARE,
    ],
    help: &[
        ("-q, --quiet", "quiet operation"),
        ("-p, --progress", "show operation progress"),
        ("-f, --a-format FMT", "specify FILENAME1 image format explicitly"),
        ("-F, --b-format FMT", "specify FILENAME2 image format explicitly"),
        (
            "--image-opts",
            "indicates that FILENAMEs are complete image specifications
     instead of file names (incompatible with --a-format and --b-format)",
        ),
        ("-s, --strict", "strict mode, also check if sizes are equal"),
        ("-T, --cache CACHE_MODE", "images caching mode (writeback)"),
        page::FORCE_SHARE_ALL,
        page::OBJECT,
        ("FILENAME1, FILENAME2", "image files (or specifications) to compare"),
    ],
    run,
};

/// The images could not be compared.
const FAILED: Exit = Exit(2);

/// What is allocated could not be told.
const NO_STATUS: Exit = Exit(3);

/// Contents could not be read.
const UNREADABLE: Exit = Exit(4);

#[derive(Debug, Default)]
struct Args {
    quiet: bool,
    progress: bool,
    strict: bool,
    left: Source,
    right: Source,
}

impl Args {
    fn parse(ui: &Ui, args: &[OsString]) -> Result<Self, Exit> {
        let mut parsed = Self::default();
        let (mut cache, mut second_format) = (None, None);
        let operands = COMMAND.parse(ui, args, |key, value| {
            match key {
                Key::Quiet => parsed.quiet = true,
                Key::Progress => parsed.progress = true,
                Key::Strict => parsed.strict = true,
                Key::Cache => cache = Some(value.text(ui)?),
                Key::SecondFormat => second_format = Some(value.text(ui)?),
                Key::Object => objects::add(ui, value).map_err(failed)?,
                _ => parsed.left.take(ui, key, value)?,
            }
            Ok(())
        })?;
        let Ok([left, right]) = <[_; 2]>::try_from(operands) else {
            return Err(ui.usage("Expecting two image file names"));
        };
        parsed.left.cache = values::source_cache(ui, cache.as_deref()).map_err(failed)?;
        parsed.right = Source { filename: ui.text(right)?, format: second_format, ..parsed.left.clone() };
        parsed.left.filename = ui.text(left)?;
        Ok(parsed)
    }
}

/// An end for whatever reason, with this subcommand's exit code for failures.
fn failed(exit: Exit) -> Exit {
    if exit == Exit::OK { exit } else { FAILED }
}

fn run(ui: &Ui, args: &[OsString]) -> Result<(), Exit> {
    let args = Args::parse(ui, args)?;
    let progress = ProgressBar::new(ui, args.progress && !args.quiet, PROGRESS_STEP);
    let left = args.left.open(ui, OpenOptions::read()).map_err(failed)?;
    let right = args.right.open(ui, OpenOptions::read()).map_err(failed)?;
    progress.start();
    let options = CompareOptions { strict: args.strict, ..CompareOptions::default() };
    let report = compare(&left, &right, &options, &Task::reporting(&progress));
    let report = report.map_err(|error| {
        ui.library_error(error.error());
        if error.size_mismatch() && !args.quiet {
            ui.print(SIZE_WARNING);
        }
        match error.stage() {
            CompareStage::Allocation => NO_STATUS,
            CompareStage::Read => UNREADABLE,
            _ => FAILED,
        }
    })?;
    if !args.quiet {
        ui.print(&verdict(&report));
    }
    if report.difference.is_some() { Err(DIFFERENT) } else { Ok(()) }
}

/// Said of disks of different lengths once their common part was found equal.
const SIZE_WARNING: &str = "Warning: Image size mismatch!\n";

/// The images differ.
const DIFFERENT: Exit = Exit(1);

/// Percent between two prints of progress.
const PROGRESS_STEP: u8 = 2;

fn verdict(report: &CompareReport) -> String {
    let difference = match report.difference {
        Some(Difference::Size) => return "Strict mode: Image size mismatch!\n".to_owned(),
        Some(Difference::Status { offset }) => {
            format!("Strict mode: Offset {offset} block status mismatch!\n")
        }
        Some(Difference::Content { offset }) => format!("Content mismatch at offset {offset}!\n"),
        None => "Images are identical.\n".to_owned(),
    };
    let warning = if report.size_mismatch { SIZE_WARNING } else { "" };
    format!("{warning}{difference}")
}
