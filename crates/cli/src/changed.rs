//! An image that a command changes in place, with what all such commands do alike: the options `-f`, `-t`, `-p`, `-q` and
//! `--object`, opening it, and telling how far they are and that they are done. For `commit`, `stream`, `rebase` and `amend`.

use std::ffi::OsString;

use diskimg::chain::{Node, OpenOptions};

use crate::command::{Key, Value};
use crate::operation::Operation;
use crate::progress::ProgressBar;
use crate::source::Source;
use crate::ui::{Exit, Ui};
use crate::values;

/// Percent between two prints of progress.
const PROGRESS_STEP: u8 = 1;

/// The image, and how it is dealt with.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    /// The image.
    pub source: Source,
    /// Name of the cache mode; looked up only when the image is opened.
    cache: Option<String>,
    quiet: bool,
    progress: bool,
}

impl Changed {
    /// Takes one of these options.
    pub(crate) fn take(&mut self, ui: &Ui, key: Key, value: Value) -> Result<(), Exit> {
        match key {
            Key::Quiet => self.quiet = true,
            Key::Progress => self.progress = true,
            Key::Cache => self.cache = Some(value.text(ui)?),
            _ => self.source.take(ui, key, value)?,
        }
        Ok(())
    }

    /// The image is the only operand.
    pub(crate) fn name(&mut self, ui: &Ui, operands: Vec<OsString>) -> Result<(), Exit> {
        self.source.filename = values::one_image(ui, operands)?;
        Ok(())
    }

    /// Looks up the cache mode.
    pub(crate) fn find_cache(&mut self, ui: &Ui) -> Result<(), Exit> {
        self.source.cache = values::changed_cache(ui, self.cache.as_deref())?;
        Ok(())
    }

    /// Opens the image for writing, with its chain.
    pub(crate) fn open(&mut self, ui: &Ui) -> Result<Node, Exit> {
        self.find_cache(ui)?;
        self.source.open(ui, OpenOptions::write())
    }

    /// What shows how far the command is; nothing is shown yet.
    pub(crate) fn progress_bar(&self, ui: &Ui) -> ProgressBar {
        ProgressBar::new(ui, self.progress && !self.quiet, PROGRESS_STEP)
    }

    /// The command's long operation.
    pub(crate) fn operation<'a>(&self, ui: &'a Ui) -> Operation<'a> {
        Operation::new(ui, self.progress && !self.quiet, PROGRESS_STEP)
    }

    /// Says that it is done.
    pub(crate) fn say(&self, ui: &Ui, text: &str) {
        if !self.quiet {
            ui.print(text);
        }
    }
}
