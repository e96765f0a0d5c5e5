//! `dd`: copies blocks of an image into a new one.
//!
//! What the library does: [`DdOptions::range`] says which bytes, [`CreatePlan`] makes the new image, [`dd`] copies.

use std::ffi::OsString;

use diskimg::chain::{Node, OpenOptions};
use diskimg::core::BlockDevice as _;
use diskimg::core::size::MAX_IMAGE_SIZE;
use diskimg::engine::dd::{DdOptions, DdRange, check_distinct, dd};
use diskimg::engine::{CreatePlan, CreateRequest, Maker};

use crate::command::{Command, Key, Value, value};
use crate::operation::Operation;
use crate::options::{FORCE_SHARE, FORMAT, HELP, IMAGE_OPTS, OBJECT, page};
use crate::source::{Source, context};
use crate::ui::{Exit, Ui};
use crate::values;

/// The subcommand.
pub(crate) static COMMAND: Command = Command {
    name: "dd",
    summary: "Copy input to output with optional format conversion",
    synopsis: "[-f FMT|--image-opts] [-O OUTPUT_FMT] [-U]
        [bs=BLOCK_SIZE] [count=BLOCKS] if=INPUT of=OUTPUT",
    options: &[
        HELP,
        OBJECT,
        FORMAT,
        value(Key::TargetFormat, "O", &["output-format"]),
        IMAGE_OPTS,
        FORCE_SHARE,
    ],
    help: &[
        ("-f, --format FMT", "specify format for INPUT explicitly"),
        (
            "--image-opts",
            "indicates that INPUT is a complete image specification
     instead of a file name (incompatible with --format)",
        ),
        ("-O, --output-format OUTPUT_FMT", "format of the OUTPUT (default raw)"),
        page::FORCE_SHARE_ALL,
        ("bs=BLOCK_SIZE[kKMGTP]", "size of I/O block (default 512)"),
        ("count=COUNT", "number of blocks to convert (default whole INPUT)"),
        ("if=INPUT", "input file name (or image specification with --image-opts)"),
        ("of=OUTPUT", "output file name to create"),
    ],
    run,
};

/// The greatest block, in bytes.
const MAX_BLOCK: u64 = i32::MAX.unsigned_abs() as u64;

#[derive(Debug)]
struct Args {
    source: Source,
    target: String,
    format: String,
    options: DdOptions,
}

impl Args {
    fn parse(ui: &Ui, args: &[OsString]) -> Result<Self, Exit> {
        let mut source = Source::default();
        let mut format = None;
        let operands = COMMAND.parse(ui, args, |key, value| match key {
            Key::TargetFormat => {
                format = Some(value.text(ui)?);
                Ok(())
            }
            _ => source.take(ui, key, value),
        })?;
        let (mut input, mut output, mut options) = (None, None, DdOptions::default());
        for operand in operands {
            let text = Value(Some(operand)).text(ui)?;
            let Some((name, value)) = text.split_once('=') else { return Err(unrecognized(ui, &text)) };
            match name {
                "if" => input = Some(value.to_owned()),
                "of" => output = Some(value.to_owned()),
                "bs" => options.block_size = values::size_within(ui, "bs", 1..=MAX_BLOCK, value)?,
                "count" => options.count = Some(values::number(ui, "count", 0..=MAX_IMAGE_SIZE, value)?),
                "skip" => options.skip = values::number(ui, "skip", 0..=MAX_IMAGE_SIZE, value)?,
                _ => return Err(unrecognized(ui, name)),
            }
        }
        let (Some(input), Some(target)) = (input, output) else {
            return Err(ui.fail("Must specify both input and output files"));
        };
        source.filename = input;
        Ok(Self { source, target, format: format.unwrap_or_else(|| "raw".to_owned()), options })
    }
}

fn unrecognized(ui: &Ui, operand: &str) -> Exit {
    ui.fail(format!("unrecognized operand {operand}"))
}

fn run(ui: &Ui, args: &[OsString]) -> Result<(), Exit> {
    let args = Args::parse(ui, args)?;
    let source = args.source.open(ui, OpenOptions::read())?;
    let wanted = args.options.range(source.device().len());
    let operation = Operation::quiet(ui);
    let (plan, target) = args.make_target(ui, &source, &wanted, &operation)?;
    operation.run(|task| dd(&source, wanted.range, &target, task), || plan.remove())?;
    Ok(())
}

impl Args {
    /// Makes the new image and opens it.
    fn make_target(
        &self,
        ui: &Ui,
        source: &Node,
        wanted: &DdRange,
        operation: &Operation<'_>,
    ) -> Result<(CreatePlan, Node), Exit> {
        let context = context(ui).with_cancel(operation.token());
        if Maker::find(&context.registry, &self.format).is_err() {
            return Err(ui.fail("Unknown file format"));
        }
        let request = CreateRequest {
            filename: &self.target,
            format: &self.format,
            size: Some(wanted.range.len),
            for_convert: true,
            ..CreateRequest::default()
        };
        let plan = CreatePlan::new(&context, &request).map_err(|error| ui.library_error(&error))?;
        let make = || {
            check_distinct(source, &self.target).and_then(|()| plan.run()).map_err(|error| {
                error.context("error while creating output image").context(self.target.clone())
            })
        };
        operation.prepare(make, || plan.remove())?;
        let format = Some(self.format.clone());
        let target = Source { filename: self.target.clone(), format, ..Source::default() };
        let node = target.open(ui, OpenOptions::write())?;
        if wanted.beyond_end {
            ui.error(format!("{}: cannot skip to specified offset", self.source.filename));
        }
        Ok((plan, node))
    }
}
