//! Progress: `    (12.34/100%)` on standard output with `-p`, a line of JSON each time with `--progress=json`; without it, once on standard error
//! for each SIGUSR1.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use diskimg::core::Progress;

use crate::output::Output;
use crate::ui::Ui;

/// All is done, in percent.
const FULL: f32 = 100.0;

/// Shows progress from its making to its dropping.
#[derive(Debug)]
pub(crate) struct ProgressBar {
    shown: bool,
    /// In lines of JSON rather than for people.
    json: bool,
    /// On standard error, since an image goes to standard output.
    aside: bool,
    /// Standard output, of which what was printed before stands in front.
    output: Output,
    /// Percent between two prints.
    step: f32,
    /// What was printed last, in percent, as bits.
    last: AtomicU32,
    /// Held while a print is decided on and made, so that prints never go backwards.
    printing: Mutex<()>,
    asked: Arc<AtomicBool>,
    /// The line was ended.
    ended: AtomicBool,
}

impl ProgressBar {
    /// Prints if `shown`, every `step` percent; otherwise only when a signal asks.
    pub(crate) fn new(ui: &Ui, shown: bool, step: u8) -> Self {
        let json = ui.tells_progress_in_json();
        let mut bar = Self::with(shown || json, json, ui.is_output_taken(), step);
        bar.output = ui.output().clone();
        bar
    }

    fn with(shown: bool, json: bool, aside: bool, step: u8) -> Self {
        let asked = Arc::new(AtomicBool::new(false));
        // Where the signal can't be caught, progress is simply not asked for.
        let _ = signal_hook::flag::register(signal_hook::consts::SIGUSR1, Arc::clone(&asked));
        let (last, printing, ended) = (AtomicU32::new(0), Mutex::new(()), AtomicBool::new(false));
        let output = Output::default();
        Self { shown, json, aside, output, step: step.into(), last, printing, asked, ended }
    }

    /// Prints that nothing is done yet.
    pub(crate) fn start(&self) {
        self.print(0.0);
    }

    /// Prints once more that all is done.
    pub(crate) fn finish(&self) {
        self.print(FULL);
    }

    /// Ends the line that is shown, once.
    pub(crate) fn end_line(&self) {
        if self.shown && !self.json && !self.ended.swap(true, Ordering::Relaxed) {
            // Not flushed: what goes wrong now is told first.
            if self.aside {
                let _ = std::io::stderr().write_all(b"\n");
            } else {
                self.output.print("\n");
            }
        }
    }

    /// True a step after the last print, and at both ends.
    fn is_due(&self, percent: f32) -> bool {
        let last = f32::from_bits(self.last.load(Ordering::Relaxed));
        percent >= last + self.step || (percent <= 0.0 && last <= 0.0) || (percent >= FULL && last < FULL)
    }

    fn out(&self) -> Box<dyn std::io::Write> {
        if self.aside {
            return Box::new(std::io::stderr().lock());
        }
        self.output.flush();
        Box::new(std::io::stdout().lock())
    }

    fn print(&self, percent: f32) {
        if self.shown {
            let mut out = self.out();
            if self.json {
                let _ = writeln!(out, "{{ \"progress\": {percent:.2} }}").and_then(|()| out.flush());
                return;
            }
            let _ = write!(out, "    ({percent:.2}/100%)\r").and_then(|()| out.flush());
        }
    }
}

/// How much is done, in percent; `None`: there was nothing to do. Single precision, as everyone else rounds.
fn percent(done: u64, total: u64) -> Option<f32> {
    #[expect(clippy::cast_precision_loss, reason = "it is only shown")]
    (total != 0).then(|| (done as f32 / total as f32 * FULL).min(FULL))
}

impl Progress for ProgressBar {
    fn wants_exact(&self) -> bool {
        self.shown
    }

    fn update(&self, done: u64, total: u64) {
        let Some(percent) = percent(done, total) else { return };
        if !self.shown {
            if self.asked.swap(false, Ordering::Relaxed) {
                let _ = writeln!(std::io::stderr(), "    ({percent:.2}/100%)");
            }
            return;
        }
        if self.is_due(percent) {
            let _guard = self.printing.lock().unwrap_or_else(PoisonError::into_inner);
            if self.is_due(percent) {
                self.last.store(percent.to_bits(), Ordering::Relaxed);
                self.print(percent);
            }
        }
    }
}

impl Drop for ProgressBar {
    fn drop(&mut self) {
        self.end_line();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_are_a_step_apart_and_end_with_all() {
        let bar = ProgressBar::with(false, false, false, 2);
        assert!(bar.is_due(0.0));
        bar.last.store(4f32.to_bits(), Ordering::Relaxed);
        assert!(!bar.is_due(0.0) && !bar.is_due(3.99) && !bar.is_due(5.99) && bar.is_due(6.0));
        bar.last.store(99f32.to_bits(), Ordering::Relaxed);
        assert!(!bar.is_due(99.99) && bar.is_due(FULL));
        bar.last.store(FULL.to_bits(), Ordering::Relaxed);
        assert!(!bar.is_due(FULL));
    }

    #[test]
    fn percentages_are_rounded() {
        let shown = |done, total| percent(done, total).map(|percent| format!("{percent:.2}"));
        assert_eq!(shown(1, 24).as_deref(), Some("4.17"));
        assert_eq!(shown(0, 24).as_deref(), Some("0.00"));
        assert_eq!(shown(24, 24).as_deref(), Some("100.00"));
        assert_eq!(shown(0, 0), None);
    }
}
