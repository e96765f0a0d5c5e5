//! `map`: lists the extents of an image and where their bytes are.

use std::ffi::OsString;
use std::fmt::Write as _;

use diskimg::chain::OpenOptions;
use diskimg::core::{ByteRange, Error, Task};
use diskimg::engine::{MapEntry, map};

use crate::command::{Command, Key, value};
use crate::options::{FORCE_SHARE, FORMAT, HELP, IMAGE_OPTS, OBJECT, OUTPUT, page};
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
        HELP,
        FORMAT,
        OUTPUT,
        OBJECT,
        IMAGE_OPTS,
        FORCE_SHARE,
        value(Key::StartOffset, "s", &["start-offset"]),
        value(Key::MaxLength, "l", &["max-length"]),
    ],
    help: &[
        ("-f, --format FMT", "specify FILENAME image format explicitly"),
        page::IMAGE_OPTS,
        ("--start-offset OFFSET", ""),
        ("--max-length LENGTH", ""),
        page::OUTPUT,
        page::FORCE_SHARE,
        page::OBJECT,
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
    let node = args.source.open(ui, OpenOptions::read())?;
    let length = args.length.unwrap_or(u64::MAX).min(u64::MAX - args.start);
    let range = ByteRange::new(args.start, length);
    let mut printer = Printer::new(args.output, args.start);
    let mapped = map(&node, range, &Task::quiet(), &mut |entry| printer.entry(ui, entry));
    printer.end(ui, mapped)
}

/// Prints entries as they come.
struct Printer {
    output: OutputFormat,
    text: String,
    start: u64,
    first: bool,
}

/// Text is passed on in pieces of about so many bytes.
const PIECE: usize = 1 << 16;

impl Printer {
    fn new(output: OutputFormat, start: u64) -> Self {
        let text = match output {
            OutputFormat::Human => {
                format!("{:<16}{:<16}{:<16}{}\n", "Offset", "Length", "Mapped to", "File")
            }
            OutputFormat::Json => "[".to_owned(),
        };
        Self { output, text, start, first: true }
    }

    fn entry(&mut self, ui: &Ui, entry: &MapEntry<'_>) -> diskimg::core::Result<()> {
        match self.output {
            OutputFormat::Human => self.human(entry)?,
            OutputFormat::Json => self.json(entry),
        }
        if self.text.len() > PIECE {
            ui.print(&std::mem::take(&mut self.text));
        }
        Ok(())
    }

    /// Only bytes that stand in a file as they are have a line.
    fn human(&mut self, entry: &MapEntry<'_>) -> diskimg::core::Result<()> {
        if !entry.data || entry.zero {
            return Ok(());
        }
        let (Some(offset), Some(filename)) = (entry.offset, entry.filename) else {
            return Err(Error::unsupported("File contains external, encrypted or compressed clusters."));
        };
        let hex = |value: u64| if value == 0 { "0".to_owned() } else { format!("{value:#x}") };
        let (start, length, offset) = (hex(entry.start), hex(entry.length), hex(offset));
        let _ = writeln!(self.text, "{start:<16}{length:<16}{offset:<16}{filename}");
        Ok(())
    }

    fn json(&mut self, entry: &MapEntry<'_>) {
        // Fragmented images have a hundred thousand entries: they are put together without the formatting machinery.
        let mut digits = itoa::Buffer::new();
        let text = &mut self.text;
        let mut number = |key: &str, value: u64| {
            text.push_str(key);
            text.push_str(digits.format(value));
        };
        number(if self.first { "{ \"start\": " } else { ",\n{ \"start\": " }, entry.start);
        number(", \"length\": ", entry.length);
        number(", \"depth\": ", entry.depth as u64);
        self.first = false;
        let answers = [
            (", \"present\": ", entry.present),
            (", \"zero\": ", entry.zero),
            (", \"data\": ", entry.data),
            (", \"compressed\": ", entry.compressed),
        ];
        for (key, answer) in answers {
            self.text.push_str(key);
            self.text.push_str(if answer { "true" } else { "false" });
        }
        if let Some(offset) = entry.offset {
            self.text.push_str(", \"offset\": ");
            self.text.push_str(digits.format(offset));
        }
        self.text.push('}');
    }

    /// Prints what is left. An empty range has one entry in JSON, as qemu-img prints it.
    fn end(mut self, ui: &Ui, result: diskimg::core::Result<()>) -> Result<(), Exit> {
        if self.output == OutputFormat::Json && result.is_ok() {
            if self.first {
                let start = self.start;
                let _ = write!(
                    self.text,
                    "{{ \"start\": {start}, \"length\": 0, \"depth\": 0, \"present\": false, \"zero\": false, \"data\": false, \"compressed\": false}}"
                );
            }
            self.text.push_str("]\n");
        }
        if self.output == OutputFormat::Json && result.is_err() && !self.first {
            // The entry that could not be found out was to follow.
            self.text.push_str(",\n");
        }
        ui.print(&self.text);
        result.map_err(|error| ui.library_error(&error))
    }
}
