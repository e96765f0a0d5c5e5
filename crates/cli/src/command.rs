//! What a subcommand is for the command line: its name, option table and help page, and the common loop over
//! its arguments. One `static COMMAND` stands in each file of `commands`.
//!
//! The table is in the order in which ambiguous abbreviations are listed; the help page has an order and words
//! of its own, and names a few options that qemu-img does not know.

use std::ffi::OsString;
use std::fmt::Write as _;

use crate::getopt::{Getopt, Item, Opt, Order};
use crate::ui::{Exit, Ui};

/// The meanings of options, over all subcommands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// Print the help page.
    Help,
    /// Print the version.
    Version,
    /// Trace events.
    Trace,
    /// Which files that an image names may be opened.
    References,
    /// No output.
    Quiet,
    /// Show progress.
    Progress,
    /// Format of the (first) image.
    Format,
    /// Format of the second image.
    SecondFormat,
    /// The (source) name is a set of options.
    ImageOpts,
    /// The target's name is a set of options.
    TargetImageOpts,
    /// Human or JSON.
    Output,
    /// A user-creatable object.
    Object,
    /// Share with writers.
    ForceShare,
    /// All images of the chain.
    BackingChain,
    /// Format-specific options.
    Options,
    /// A backing file.
    Backing,
    /// Its format.
    BackingFormat,
    /// The backing file is not looked at.
    BackingUnsafe,
    /// What to repair.
    Repair,
    /// Cache mode of the source.
    Cache,
    /// Cache mode of the target.
    TargetCache,
    /// Cache mode of the backing file.
    BackingCache,
    /// Sizes have to be equal too.
    Strict,
    /// A snapshot of the source.
    Snapshot,
    /// Format of the target.
    TargetFormat,
    /// Write compressed clusters.
    Compress,
    /// The target exists.
    NoCreate,
    /// The target reads as zeros.
    TargetIsZero,
    /// How long a run of zeros has to be.
    SparseSize,
    /// Copy bitmaps too.
    Bitmaps,
    /// Not those that are broken.
    SkipBrokenBitmaps,
    /// Bytes a second.
    Rate,
    /// How many requests at once.
    Parallel,
    /// Copy within the host.
    CopyRange,
    /// Go on after read errors.
    Salvage,
    /// Write in any order.
    OutOfOrder,
    /// First byte.
    StartOffset,
    /// Most bytes.
    MaxLength,
    /// A size in place of an image.
    Size,
    /// The overlay keeps what was committed.
    Keep,
    /// May become smaller.
    Shrink,
    /// What is refused for safety is done.
    Force,
    /// Preallocation of new space.
    Preallocation,
    /// Make a bitmap.
    AddBitmap,
    /// Remove a bitmap.
    RemoveBitmap,
    /// Clear a bitmap.
    ClearBitmap,
    /// Let a bitmap record.
    EnableBitmap,
    /// Let it record no more.
    DisableBitmap,
    /// Merge another bitmap into it.
    MergeBitmap,
    /// Bytes that a bit stands for.
    Granularity,
    /// List snapshots.
    List,
    /// Create a snapshot.
    Create,
    /// Apply a snapshot.
    Apply,
    /// Delete a snapshot.
    Delete,
    /// How many requests.
    Count,
    /// How many at once.
    Depth,
    /// Where the first starts.
    Offset,
    /// Bytes of each.
    BufferSize,
    /// From one to the next.
    StepSize,
    /// How requests reach the kernel.
    Aio,
    /// The same, `native`.
    Native,
    /// Write rather than read.
    Write,
    /// The byte that is written.
    Pattern,
    /// Requests between flushes.
    FlushInterval,
    /// Flush while requests run.
    NoDrain,
    /// How progress is shown.
    ProgressFormat,
    /// Tell the SHA-256 of the contents.
    Digest,
    /// Completions and manual pages.
    Generate,
}

/// An option without a value.
pub(crate) const fn flag(key: Key, short: &str, long: &'static [&'static str]) -> Opt<Key> {
    Opt { key, short: short.as_bytes().first().copied(), long, value: false }
}

/// An option with a value.
pub(crate) const fn value(key: Key, short: &str, long: &'static [&'static str]) -> Opt<Key> {
    Opt { key, short: short.as_bytes().first().copied(), long, value: true }
}

/// Options that qemu-img does not have.
pub(crate) const OWN: &[Opt<Key>] =
    &[value(Key::ProgressFormat, "", &["progress"]), flag(Key::Digest, "", &["digest"])];

/// A subcommand.
pub(crate) struct Command {
    /// Its name.
    pub name: &'static str,
    /// What it does, one line.
    pub summary: &'static str,
    /// Its arguments, one or more lines.
    pub synopsis: &'static str,
    /// Its options.
    pub options: &'static [Opt<Key>],
    /// The help page's entries after `--help`: the option as written, and the text with its line breaks.
    pub help: &'static [(&'static str, &'static str)],
    /// Does it.
    pub run: fn(&Ui, &[OsString]) -> Result<(), Exit>,
}

impl Command {
    /// The help page.
    pub(crate) fn help_page(&self) -> String {
        let mut page = format!("Usage:\n{}.  Usage:\n\n", self.summary);
        let _ = write!(page, "  qemu-img {} {}\n\nArguments:\n", self.name, self.synopsis);
        for (shown, text) in std::iter::once(&("-h, --help", "print this help and exit")).chain(self.help) {
            let _ = writeln!(page, "  {shown}");
            if !text.is_empty() {
                let _ = writeln!(page, "     {text}");
            }
        }
        page.push('\n');
        page
    }

    /// Hands each option to `take`, in their order; then returns the operands. `--help` ends the program.
    pub(crate) fn parse(
        &self,
        ui: &Ui,
        args: &[OsString],
        mut take: impl FnMut(Key, Value) -> Result<(), Exit>,
    ) -> Result<Vec<OsString>, Exit> {
        let mut getopt = Getopt::new(args, self.options, Order::permute());
        if OWN.iter().any(|opt| self.has_own(opt.key)) {
            getopt = getopt.with_own(OWN);
        }
        while let Some(item) = getopt.next().map_err(|error| ui.option_error(&error))? {
            match item {
                Item::Option(Key::Help, _) => return Err(self.print_help(ui)),
                Item::Option(Key::ProgressFormat, value) => ui.set_progress(&Value(value).text(ui)?)?,
                Item::Option(Key::Digest, _) if !self.has_own(Key::Digest) => {
                    return Err(ui.usage("--digest is an option of convert"));
                }
                Item::Option(key, value) => take(key, Value(value))?,
                Item::Operand(_) => {}
            }
        }
        Ok(getopt.operands())
    }

    /// True if it has this one of the program's own options.
    pub(crate) fn has_own(&self, key: Key) -> bool {
        match key {
            Key::Digest => self.name == "convert",
            Key::ProgressFormat => self.options.iter().any(|opt| opt.key == Key::Progress),
            _ => false,
        }
    }

    /// Prints the help page; the program then ends well.
    pub(crate) fn print_help(&self, ui: &Ui) -> Exit {
        ui.print(&self.help_page());
        Exit::OK
    }
}

/// The value of an option; options without one have an empty value.
pub(crate) struct Value(pub(crate) Option<OsString>);

impl Value {
    /// Its text.
    pub(crate) fn text(self, ui: &Ui) -> Result<String, Exit> {
        ui.text(self.0.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{COMMANDS, MORE_COMMANDS};

    fn all() -> impl Iterator<Item = &'static &'static Command> {
        COMMANDS.iter().chain(MORE_COMMANDS)
    }

    #[test]
    fn each_command_has_help_and_no_letter_twice() {
        for command in all() {
            let letters: Vec<u8> = command.options.iter().filter_map(|opt| opt.short).collect();
            let mut unique = letters.clone();
            unique.sort_unstable();
            unique.dedup();
            assert_eq!(letters.len(), unique.len(), "{}", command.name);
            assert!(command.options.iter().any(|opt| opt.key == Key::Help), "{}", command.name);
        }
    }

    #[test]
    fn pages_end_with_an_empty_line() {
        assert!(all().all(|command| command.help_page().ends_with("\n\n")));
    }
}
