//! A long operation of a command: it shows how far it is, and a signal stops it.

use diskimg::core::{CancelToken, Result, Task};

use crate::interrupt::Interrupts;
use crate::progress::ProgressBar;
use crate::ui::{Exit, Ui};

/// From before the images are opened to the end of the command.
#[derive(Debug)]
pub(crate) struct Operation<'a> {
    ui: &'a Ui,
    progress: ProgressBar,
    interrupts: Interrupts,
}

impl<'a> Operation<'a> {
    /// Shows that nothing is done yet, if progress is to be `shown`: every `step` percent.
    pub(crate) fn new(ui: &'a Ui, shown: bool, step: u8) -> Self {
        let progress = ProgressBar::new(ui, shown, step);
        progress.start();
        Self { ui, progress, interrupts: Interrupts::default() }
    }

    /// Shows no progress unless it is asked for.
    pub(crate) fn quiet(ui: &'a Ui) -> Self {
        Self::new(ui, false, 1)
    }

    /// Is set when a signal asks for a stop.
    pub(crate) fn token(&self) -> CancelToken {
        self.interrupts.token()
    }

    /// Makes what the operation will fill: from here on a signal is no longer the end of the program at once, but is
    /// looked at by `make` and by [`run`](Self::run). Its failure is told; if a signal stopped it, `undo` is called.
    pub(crate) fn prepare(&self, make: impl FnOnce() -> Result<()>, undo: impl FnOnce()) -> Result<(), Exit> {
        self.run(|_| make(), undo)
    }

    /// Does `work`. Its failure is told; if a signal stopped it, `undo` is called and the program ends.
    pub(crate) fn run<T>(
        &self,
        work: impl FnOnce(&Task<'_>) -> Result<T>,
        undo: impl FnOnce(),
    ) -> Result<T, Exit> {
        let interrupts = &self.interrupts;
        interrupts.start();
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
