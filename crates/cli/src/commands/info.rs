//! `info`: tells about an image and its backing chain.

use std::ffi::OsString;

use diskimg::chain::{Node, OpenOptions};
use diskimg::engine::{ImageReport, describe, describe_chain};

use crate::command::{Command, Key, flag};
use crate::options::{FORCE_SHARE, FORMAT, HELP, IMAGE_OPTS, OBJECT, OUTPUT, page};
use crate::source::{Source, context};
use crate::ui::{Exit, Ui};
use crate::values::{self, OutputFormat};
use crate::{image_report, json};

/// The subcommand.
pub(crate) static COMMAND: Command = Command {
    name: "info",
    summary: "Display information about image",
    synopsis: "[-f FMT | --image-opts] [-b] [-U] [--object OBJDEF]
        [--output human|json] FILENAME",
    options: &[
        HELP,
        FORMAT,
        OUTPUT,
        flag(Key::BackingChain, "b", &["backing-chain"]),
        OBJECT,
        IMAGE_OPTS,
        FORCE_SHARE,
    ],
    help: &[
        ("-f, --format FMT", "specify FILENAME image format explicitly"),
        page::IMAGE_OPTS,
        ("-b, --backing-chain", "display information about backing chaing\n  (in case the image is stacked"),
        page::FORCE_SHARE,
        page::OBJECT,
        page::OUTPUT,
        ("FILENAME", "image file name (or specification with --image-opts)"),
    ],
    run,
};

#[derive(Debug, Default)]
struct Args {
    source: Source,
    output: OutputFormat,
    backing_chain: bool,
}

impl Args {
    fn parse(ui: &Ui, args: &[OsString]) -> Result<Self, Exit> {
        let mut parsed = Self::default();
        let operands = COMMAND.parse(ui, args, |key, value| {
            match key {
                Key::Output => parsed.output = OutputFormat::parse(ui, value)?,
                Key::BackingChain => parsed.backing_chain = true,
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
    let reports = args.reports(ui)?;
    match (args.output, args.backing_chain) {
        (OutputFormat::Human, _) => {
            let texts: Vec<String> = reports.iter().map(image_report::human).collect();
            ui.print(&texts.join("\n"));
        }
        (OutputFormat::Json, true) => {
            let all = reports.iter().map(image_report::json).collect();
            ui.print(&format!("{}\n", json::pretty(&all)));
        }
        (OutputFormat::Json, false) => {
            for report in &reports {
                ui.print(&format!("{}\n", json::pretty(&image_report::json(report))));
            }
        }
    }
    Ok(())
}

impl Args {
    /// The image's report, and with `--backing-chain` those of the images below it.
    fn reports(&self, ui: &Ui) -> Result<Vec<ImageReport>, Exit> {
        let options = self.source.options(OpenOptions::describe());
        let spec = self.source.spec(ui)?;
        let context = context(ui);
        let reports = if self.backing_chain {
            describe_chain(&context, &spec, &options)
        } else {
            Node::open(&context, &spec, &options).and_then(|node| Ok(vec![describe(&node)?]))
        };
        reports.map_err(|error| ui.library_error(&error))
    }
}
