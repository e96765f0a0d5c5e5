//! `check`: looks for contradictions in an image's metadata and repairs them if asked to.

use std::ffi::OsString;
use std::io::IsTerminal as _;

use diskimg::chain::{Node, OpenOptions};
use diskimg::core::driver::Caps;
use diskimg::core::{CheckReport, ErrorKind, Repair, Task};
use diskimg::engine::check;

use crate::command::{Command, Key, value};
use crate::options::{FORCE_SHARE, FORMAT, HELP, IMAGE_OPTS, OBJECT, OUTPUT, QUIET, page};
use crate::source::Source;
use crate::ui::{Exit, Ui};
use crate::values::{self, OutputFormat};
use crate::{check_report, json};

/// The subcommand.
pub(crate) static COMMAND: Command = Command {
    name: "check",
    summary: "Check basic image integrity",
    synopsis: "[-f FMT | --image-opts] [-T CACHE_MODE] [-r] [-u]
        [--output human|json] [--object OBJDEF] FILENAME",
    options: &[
        HELP,
        QUIET,
        FORMAT,
        value(Key::Cache, "T", &["cache"]),
        value(Key::Repair, "r", &["repair"]),
        OUTPUT,
        OBJECT,
        IMAGE_OPTS,
        FORCE_SHARE,
    ],
    help: &[
        ("-q, --quiet", "quiet operations"),
        ("-f, --format FMT", "specifies format of the image explicitly"),
        page::IMAGE_OPTS,
        ("-T, --cache CACHE_MODE", "image cache mode (writeback)"),
        page::FORCE_SHARE,
        ("--output human|json", "output format"),
        (
            "-r, --repair leaks|all",
            "repair particular aspect of the image
     (image will be open in read-write mode, incompatible with --force-share)",
        ),
        page::OBJECT,
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
    let write = args.repair != Repair::Nothing;
    let node = args.source.open(ui, OpenOptions { write, check: true, ..OpenOptions::read() })?;
    let mut report = args.check(ui, &node, args.repair)?;
    if report.leaks_fixed > 0 || report.corruptions_fixed > 0 {
        let fixed = report;
        if args.output == OutputFormat::Human && !args.quiet {
            ui.print(&check_report::repairs(&fixed));
        }
        report = args.check(ui, &node, Repair::Nothing)?;
        report.leaks_fixed = fixed.leaks_fixed;
        report.corruptions_fixed = fixed.corruptions_fixed;
    }
    if !args.quiet {
        ui.print(&match args.output {
            OutputFormat::Human => check_report::human(&report),
            OutputFormat::Json => {
                let value = check_report::json(&report, &args.source.filename, node.format());
                format!("{}\n", json::pretty(&value))
            }
        });
    }
    verdict(ui, &report)
}

/// The format has no check.
const UNSUPPORTED: Exit = Exit(63);
/// Contradictions were found.
const CORRUPT: Exit = Exit(2);
/// Nothing worse than lost space was found.
const LEAKS: Exit = Exit(3);

/// Formats whose findings begin with the program's name, like errors.
const FINDINGS_ARE_ERRORS: &[&str] = &["vhdx"];

/// Bytes of findings that are written together.
const FINDINGS_AT_A_TIME: usize = 64 << 10;

impl Args {
    /// One check. Findings are printed as they are made.
    fn check(&self, ui: &Ui, node: &Node, repair: Repair) -> Result<CheckReport, Exit> {
        let named = FINDINGS_ARE_ERRORS.contains(&node.format());
        // A damaged image may give millions: a person sees each at once, a file or program gets many at a time.
        let at_once = std::io::stderr().is_terminal();
        let mut pending = Vec::new();
        let mut say = |text: &str| {
            if named {
                ui.error(text);
                return;
            }
            pending.extend_from_slice(text.as_bytes());
            pending.push(b'\n');
            if at_once || pending.len() >= FINDINGS_AT_A_TIME {
                ui.complain(&pending);
                pending.clear();
            }
        };
        let result = check(node, repair, &mut say, &Task::quiet());
        ui.complain(&pending);
        result.map_err(|error| match error.kind() {
            ErrorKind::Unsupported if !can_check(node, repair) => {
                ui.library_error(&error);
                UNSUPPORTED
            }
            _ => {
                // What ended the check is said first, where there is more to say than its error number.
                if error.joined() != error.strerror() {
                    ui.library_error(&error);
                }
                ui.fail(format!("Check failed: {}", error.strerror()))
            }
        })
    }
}

/// True if the format can do what is asked of a check.
fn can_check(node: &Node, repair: Repair) -> bool {
    let repairs = node.image().driver().caps.contains(Caps::REPAIR);
    node.image().as_check().is_some() && (repairs || repair == Repair::Nothing)
}

fn verdict(ui: &Ui, report: &CheckReport) -> Result<(), Exit> {
    match report {
        CheckReport { check_errors: 1.., .. } => Err(ui.fail("Check failed")),
        CheckReport { corruptions: 1.., .. } => Err(CORRUPT),
        CheckReport { leaks: 1.., .. } => Err(LEAKS),
        _ => Ok(()),
    }
}
