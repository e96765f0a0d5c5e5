//! `bitmap`: changes the dirty bitmaps of an image.

use std::ffi::OsString;

use diskimg::chain::OpenOptions;
use diskimg::engine::bitmap::{BitmapAction, change_bitmap};

use crate::command::{Command, Key, Value, flag, value};
use crate::options::{HELP, IMAGE_OPTS, OBJECT, page};
use crate::source::Source;
use crate::ui::{Exit, Ui};
use crate::values;

/// The subcommand.
pub(crate) static COMMAND: Command = Command {
    name: "bitmap",
    summary: "Perform modifications of the persistent bitmap in the image",
    synopsis: "( --merge SOURCE | --add | --remove | --clear |
                --enable | --disable ).. [-f FMT | --image-opts]
        [ -b SRC_FILENAME [-F SOURCE_FMT]] [-g SIZE[KMGTPE]] [--object OBJDEF]
        FILENAME BITMAP",
    options: &[
        HELP,
        value(Key::Format, "f", &[]),
        IMAGE_OPTS,
        flag(Key::AddBitmap, "", &["add"]),
        value(Key::Granularity, "g", &["granularity"]),
        flag(Key::RemoveBitmap, "", &["remove"]),
        flag(Key::ClearBitmap, "", &["clear"]),
        flag(Key::EnableBitmap, "", &["enable"]),
        flag(Key::DisableBitmap, "", &["disable"]),
        value(Key::MergeBitmap, "", &["merge"]),
        value(Key::Backing, "b", &["source-file"]),
        value(Key::BackingFormat, "F", &["source-format"]),
        OBJECT,
    ],
    help: &[
        ("-f, --format FMT", "specify FILENAME format explicitly"),
        page::IMAGE_OPTS,
        ("--add", "creates BITMAP, enables to record future edits"),
        (" -g, --granularity SIZE[KMGTPE]", "sets non-default bitmap granularity for --add to this size"),
        ("--remove", "removes BITMAP"),
        ("--clear", "clears BITMAP"),
        ("--enable, --disable", "starts and stops recording future edits to BITMAP"),
        ("--merge SRC_FILENAME", "merges contents of SRC_FILENAME bitmap into BITMAP"),
        (" -b, --source-file SRC_FILENAME", "select alternative source file for --merge"),
        (" -F, --source-format SRC_FMT", "specify format for SRC_FILENAME explicitly"),
    ],
    run,
};

/// An action as the command line names it.
#[derive(Debug, PartialEq, Eq)]
enum Action {
    Add,
    Remove,
    Clear,
    Enable,
    Disable,
    /// With the bitmap `.0`.
    Merge(String),
}

#[derive(Debug, Default)]
struct Args {
    image: Source,
    bitmap: String,
    /// In their order.
    actions: Vec<Action>,
    granularity: Option<u64>,
    /// The image whose bitmaps are merged.
    source: Option<String>,
    source_format: Option<String>,
}

impl Args {
    fn parse(ui: &Ui, args: &[OsString]) -> Result<Self, Exit> {
        let mut parsed = Self::default();
        let operands = COMMAND.parse(ui, args, |key, value| parsed.take(ui, key, value))?;
        parsed.refuse_contradictions(ui)?;
        let Ok([image, bitmap]) = <[_; 2]>::try_from(operands) else {
            return Err(ui.fail("Expecting filename and bitmap name"));
        };
        (parsed.image.filename, parsed.bitmap) = (ui.text(image)?, ui.text(bitmap)?);
        Ok(parsed)
    }

    fn take(&mut self, ui: &Ui, key: Key, value: Value) -> Result<(), Exit> {
        match key {
            Key::AddBitmap => self.actions.push(Action::Add),
            Key::RemoveBitmap => self.actions.push(Action::Remove),
            Key::ClearBitmap => self.actions.push(Action::Clear),
            Key::EnableBitmap => self.actions.push(Action::Enable),
            Key::DisableBitmap => self.actions.push(Action::Disable),
            Key::MergeBitmap => self.actions.push(Action::Merge(value.text(ui)?)),
            Key::Granularity => {
                self.granularity = Some(values::size(ui, "granularity", &value.text(ui)?)?);
            }
            Key::Backing => self.source = Some(value.text(ui)?),
            Key::BackingFormat => self.source_format = Some(value.text(ui)?),
            key => self.image.take(ui, key, value)?,
        }
        Ok(())
    }

    fn refuse_contradictions(&self, ui: &Ui) -> Result<(), Exit> {
        let merges = self.actions.iter().any(|action| matches!(action, Action::Merge(_)));
        let granularity = self.granularity.is_some_and(|size| size > 0);
        let contradictions = [
            (
                self.actions.is_empty(),
                "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge",
            ),
            (granularity && !self.actions.contains(&Action::Add), "granularity only supported with --add"),
            (self.source_format.is_some() && self.source.is_none(), "-F only supported with -b"),
            (self.source.is_some() && !merges, "Merge bitmap source file only supported with --merge"),
        ];
        match contradictions.iter().find(|(wrong, _)| *wrong) {
            Some((_, text)) => Err(ui.fail(text)),
            None => Ok(()),
        }
    }
}

fn run(ui: &Ui, args: &[OsString]) -> Result<(), Exit> {
    let args = Args::parse(ui, args)?;
    let node = args.image.open(ui, OpenOptions { backing: false, ..OpenOptions::write() })?;
    let source = match &args.source {
        Some(name) => {
            let source =
                Source { filename: name.clone(), format: args.source_format.clone(), ..Source::default() };
            Some(source.open(ui, OpenOptions { backing: false, ..OpenOptions::read() })?)
        }
        None => None,
    };
    let action = |action| match action {
        &Action::Add => BitmapAction::Add { granularity: args.granularity.filter(|size| *size > 0) },
        Action::Remove => BitmapAction::Remove,
        Action::Clear => BitmapAction::Clear,
        Action::Enable => BitmapAction::Enable,
        Action::Disable => BitmapAction::Disable,
        Action::Merge(name) => BitmapAction::Merge { name, source: source.as_ref() },
    };
    let actions: Vec<_> = args.actions.iter().map(action).collect();
    change_bitmap(&node, &args.bitmap, &actions).map_err(|error| ui.library_error(&error))
}
