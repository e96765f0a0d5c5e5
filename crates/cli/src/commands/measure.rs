//! `measure`: tells how much space a new image would take.

use std::ffi::OsString;

use diskimg::chain::OpenOptions;
use diskimg::core::ErrorKind;
use diskimg::core::driver::Measure;
use diskimg::core::options::ParsedOptions;
use diskimg::engine::measure::{self, measure};
use diskimg::engine::{Maker, SnapshotName};
use serde_json::{Map, Value};

use crate::command::{Command, Key, value};
use crate::json;
use crate::options::{FORCE_SHARE, FORMAT, HELP, IMAGE_OPTS, OBJECT, OPTIONS, OUTPUT, page};
use crate::snapshot;
use crate::source::{Source, context};
use crate::ui::{Exit, Ui};
use crate::values::{self, OutputFormat};

/// The subcommand.
pub(crate) static COMMAND: Command = Command {
    name: "measure",
    summary: "Calculate file size requred for a new image",
    synopsis: "[-f FMT|--image-opts] [-o OPTIONS] [-O OUTPUT_FMT]
       [--output OFMT] [--object OBJDEF] [-l SNAPSHOT_PARAM]
       (--size SIZE | FILENAME)",
    options: &[
        HELP,
        value(Key::TargetFormat, "O", &["target-format"]),
        FORMAT,
        IMAGE_OPTS,
        OPTIONS,
        value(Key::Snapshot, "l", &["snapshot"]),
        OBJECT,
        OUTPUT,
        value(Key::Size, "", &["size"]),
        FORCE_SHARE,
    ],
    help: &[
        ("-O, --target-format FMT", "desired target/output image format (default raw)"),
        ("-s, --size SIZE", "measure file size for given image size"),
        ("FILENAME", "measure file size required to convert from FILENAME"),
        ("-f, --format", "specify format of FILENAME explicitly"),
        page::IMAGE_OPTS,
        ("-l, --snapshot SNAPSHOT", "use this snapshot in FILENAME as source"),
        ("--output human|json", "output format"),
        page::FORCE_SHARE_ALL,
    ],
    run,
};

/// What is measured.
#[derive(Debug)]
enum Subject {
    /// An empty disk of this size.
    Size(u64),
    /// An image.
    Image(Source, Option<SnapshotName>),
}

#[derive(Debug)]
struct Args {
    subject: Subject,
    target_format: String,
    options: Option<String>,
    output: OutputFormat,
}

impl Args {
    fn parse(ui: &Ui, args: &[OsString]) -> Result<Self, Exit> {
        let (mut target_format, mut options) = ("raw".to_owned(), None);
        let (mut output, mut source) = (OutputFormat::Human, Source::default());
        let (mut size, mut snapshot) = (None, None);
        let operands = COMMAND.parse(ui, args, |key, value| {
            match key {
                Key::TargetFormat => target_format = value.text(ui)?,
                Key::Options => values::add_options(ui, &mut options, value)?,
                Key::Output => output = OutputFormat::parse(ui, value)?,
                Key::Size => size = Some(values::size(ui, "image size", &value.text(ui)?)?),
                Key::Snapshot => snapshot = Some(snapshot::parse(ui, value)?),
                _ => source.take(ui, key, value)?,
            }
            Ok(())
        })?;
        let mut operands = operands.into_iter();
        let (name, extra) = (operands.next(), operands.next());
        if extra.is_some() {
            return Err(ui.fail("At most one filename argument is allowed."));
        }
        let about_image = source.image_opts || source.format.is_some() || snapshot.is_some();
        let subject = match (name, size) {
            (None, _) if about_image => {
                return Err(ui.fail("--image-opts, -f, and -l require a filename argument."));
            }
            (None, None) => return Err(ui.fail("Either --size N or one filename must be specified.")),
            (Some(_), Some(_)) => {
                return Err(ui.fail("--size N cannot be used together with a filename."));
            }
            (None, Some(size)) => Subject::Size(size),
            (Some(name), None) => {
                source.filename = ui.text(name)?;
                Subject::Image(source, snapshot)
            }
        };
        Ok(Self { subject, target_format, options, output })
    }
}

fn run(ui: &Ui, args: &[OsString]) -> Result<(), Exit> {
    let args = Args::parse(ui, args)?;
    let (node, size) = match &args.subject {
        Subject::Size(size) => (None, Some(*size)),
        Subject::Image(source, snapshot) => {
            let node = source.open(ui, OpenOptions::read())?;
            let node = match snapshot {
                Some(which) => snapshot::load(ui, &node, which)?,
                None => node,
            };
            (Some(node), None)
        }
    };
    let (maker, mut options) = args.target_options(ui)?;
    if let Some(size) = size {
        options.set_number("size", size);
    }
    let secrets = context(ui).secrets;
    let measured = measure(maker, &mut options, node.as_ref(), &secrets);
    let measured = measured.map_err(|error| ui.library_error(&error))?;
    ui.print(&match args.output {
        OutputFormat::Human => human(&measured),
        OutputFormat::Json => format!("{}\n", json::pretty(&to_json(&measured))),
    });
    Ok(())
}

impl Args {
    fn target_options(&self, ui: &Ui) -> Result<(Maker, ParsedOptions), Exit> {
        let registry = &context(ui).registry;
        measure::options(registry, &self.target_format, self.options.as_deref()).map_err(|error| {
            let exit = ui.library_error(&error);
            if self.options.is_some() && error.kind() == ErrorKind::InvalidArg {
                ui.error(measure::options_refused(&self.target_format));
            }
            exit
        })
    }
}

fn human(measured: &Measure) -> String {
    let mut text =
        format!("required size: {}\nfully allocated size: {}\n", measured.required, measured.fully_allocated);
    if let Some(bitmaps) = measured.bitmaps {
        text.push_str(&format!("bitmaps size: {bitmaps}\n"));
    }
    text
}

fn to_json(measured: &Measure) -> Value {
    let mut object = Map::new();
    if let Some(bitmaps) = measured.bitmaps {
        object.insert("bitmaps".to_owned(), bitmaps.into());
    }
    object.insert("required".to_owned(), measured.required.into());
    object.insert("fully-allocated".to_owned(), measured.fully_allocated.into());
    Value::Object(object)
}
