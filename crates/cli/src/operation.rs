//! A long operation of a command: it shows how far it is, and a signal stops it.

use diskimg::core::{Result, Task};

use crate::interrupt::Interrupts;
use crate::progress::ProgressBar;
use crate::ui::{Exit, Ui};

/// From before the images are opened to the end of the command.
#[derive(Debug)]
pub(crate) struct Operation<'a> {
    ui: &'a Ui,
    progress: ProgressBar,
}

impl<'a> Operation<'a> {
    /// Shows that nothing is done yet, if progress is to be `shown`: every `step` percent.
    pub(crate) fn new(ui: &'a Ui, shown: bool, step: u8) -> Self {
        let progress = ProgressBar::new(ui, shown, step);
        progress.start();
        Self { ui, progress }
    }

    /// Shows no progress unless it is asked for.
    pub(crate) fn quiet(ui: &'a Ui) -> Self {
        Self::new(ui, false, 1)
    }

    /// Does `work`. Its failure is told; if a signal stopped it, `undo` is called and the program ends.
    pub(crate) fn run<T>(
        &self,
        work: impl FnOnce(&Task<'_>) -> Result<T>,
        undo: impl FnOnce(),
    ) -> Result<T, Exit> {
        let interrupts = Interrupts::listen();
        work(&interrupts.task(&self.progress)).map_err(|error| {
            if interrupts.stopped(&error) {
                undo();
            }
            self.progress.end_line();
            interrupts.report(self.ui, &error)
        })
    }

    /// Shows once more that all is done.
    pub(crate) fn finish(&self) {
        self.progress.finish();
    }
}
