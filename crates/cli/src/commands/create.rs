//! `create`: makes a new image.

use std::ffi::OsString;

use diskimg::core::Error;
use diskimg::engine::{CreatePlan, CreateRequest};

use crate::command::{Command, Key, flag, value};
use crate::options::{FORMAT, HELP, OBJECT, OPTIONS, QUIET, page};
use crate::source::context;
use crate::ui::{Exit, Ui};
use crate::{objects, option_help, values};

/// The subcommand.
pub(crate) static COMMAND: Command = Command {
    name: "create",
    summary: "Create and format new image file",
    synopsis: "[-f FMT] [-o FMT_OPTS] [-b BACKING_FILENAME [-F BACKING_FMT]]
        [--object OBJDEF] [-u] FILENAME [SIZE[bkKMGTPE]]",
    options: &[
        HELP,
        QUIET,
        OBJECT,
        FORMAT,
        OPTIONS,
        value(Key::Backing, "b", &["backing"]),
        value(Key::BackingFormat, "F", &["backing-format"]),
        flag(Key::BackingUnsafe, "u", &["backing-unsafe"]),
    ],
    help: &[
        ("-q, --quiet", "quiet operations"),
        ("-f, --format FMT", "specifies format of the new image, default is raw"),
        ("-o, --options FMT_OPTS", "format-specific options ('-o list' for list)"),
        (
            "-b, --backing BACKING_FILENAME",
            "stack new image on top of BACKING_FILENAME\n     (for formats which support stacking)",
        ),
        ("-F, --backing-format BACKING_FMT", "specify format of BACKING_FILENAME"),
        ("-u, --backing-unsafe", "do not fail if BACKING_FMT can not be read"),
        page::OBJECT,
        ("FILENAME", "image file to create.  It will be overridden if exists"),
        (
            "SIZE",
            "image size with optional suffix (multiplies in 1024)
     SIZE is required unless BACKING_IMG is specified,
     in which case it will be the same as size of BACKING_IMG",
        ),
    ],
    run,
};

#[derive(Debug)]
struct Args {
    quiet: bool,
    format: String,
    options: Option<String>,
    backing: Option<String>,
    backing_format: Option<String>,
    backing_unsafe: bool,
    filename: Option<String>,
    size: Option<u64>,
}

impl Args {
    fn parse(ui: &Ui, args: &[OsString]) -> Result<Self, Exit> {
        let mut parsed = Self {
            quiet: false,
            format: "raw".to_owned(),
            options: None,
            backing: None,
            backing_format: None,
            backing_unsafe: false,
            filename: None,
            size: None,
        };
        let operands = COMMAND.parse(ui, args, |key, value| {
            match key {
                Key::Quiet => parsed.quiet = true,
                Key::Format => parsed.format = value.text(ui)?,
                Key::Options => values::add_options(ui, &mut parsed.options, value)?,
                Key::Backing => parsed.backing = Some(value.text(ui)?),
                Key::BackingFormat => parsed.backing_format = Some(value.text(ui)?),
                Key::BackingUnsafe => parsed.backing_unsafe = true,
                Key::Object => objects::add(ui, value)?,
                _ => {}
            }
            Ok(())
        })?;
        let mut operands = operands.into_iter();
        parsed.filename = operands.next().map(|name| ui.text(name)).transpose()?;
        if values::asks_for_help(parsed.options.as_deref()) {
            return Ok(parsed);
        }
        if parsed.filename.is_none() {
            return Err(ui.usage("Expecting image file name"));
        }
        if let Some(size) = operands.next() {
            parsed.size = Some(values::size(ui, "image size", &ui.text(size)?)?);
        }
        match operands.next() {
            Some(extra) => Err(ui.usage(format!("Unexpected argument: {}", ui.text(extra)?))),
            None => Ok(parsed),
        }
    }
}

fn run(ui: &Ui, args: &[OsString]) -> Result<(), Exit> {
    let args = Args::parse(ui, args)?;
    let context = context(ui);
    let filename = match args.filename.as_deref() {
        Some(filename) if !values::asks_for_help(args.options.as_deref()) => filename,
        filename => {
            let page = option_help::page(&context, &args.format, filename);
            ui.print(&page.map_err(|error| ui.library_error(&error))?);
            return Ok(());
        }
    };
    let request = args.request(filename);
    let fail = |error: Error| ui.library_error(&error.context(filename.to_owned()));
    let plan = CreatePlan::new(&context, &request).map_err(fail)?;
    if !args.quiet {
        let summary: String = plan.summary().iter().map(|(name, value)| format!(" {name}={value}")).collect();
        ui.print(&format!("Formatting '{filename}', fmt={}{summary}\n", args.format));
        ui.output().flush();
    }
    plan.run().map_err(fail)
}

impl Args {
    fn request<'a>(&'a self, filename: &'a str) -> CreateRequest<'a> {
        CreateRequest {
            filename,
            format: &self.format,
            size: self.size,
            options: self.options.as_deref().unwrap_or_default(),
            backing: self.backing.as_deref(),
            backing_format: self.backing_format.as_deref(),
            unchecked: self.backing_unsafe,
            for_convert: false,
        }
    }
}
