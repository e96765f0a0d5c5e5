//! Progress for people: `    (12.34/100%)` on standard output with `-p`; without it, once on standard error
//! for each SIGUSR1.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use diskimg::core::Progress;

/// Percent are counted in hundredths.
const FULL: u64 = 10_000;

/// Shows progress from its making to its dropping.
#[derive(Debug)]
pub(crate) struct ProgressBar {
    shown: bool,
    /// Hundredths of a percent between two prints.
    step: u64,
    last: AtomicU64,
    /// Held while a print is decided on and made, so that prints never go backwards.
    printing: Mutex<()>,
    asked: Arc<AtomicBool>,
}

impl ProgressBar {
    /// Prints if `shown`, every `step` percent; otherwise only when a signal asks.
    pub(crate) fn new(shown: bool, step: u64) -> Self {
        let asked = Arc::new(AtomicBool::new(false));
        // Where the signal can't be caught, progress is simply not asked for.
        let _ = signal_hook::flag::register(signal_hook::consts::SIGUSR1, Arc::clone(&asked));
        Self { shown, step: step * 100, last: AtomicU64::new(0), printing: Mutex::new(()), asked }
    }

    /// Prints that nothing is done yet.
    pub(crate) fn start(&self) {
        self.print(0);
    }

    /// Prints once more that all is done.
    pub(crate) fn finish(&self) {
        self.print(FULL);
    }

    /// True a step after the last print, and once at the end.
    fn is_due(&self, hundredths: u64) -> bool {
        let last = self.last.load(Ordering::Relaxed);
        hundredths >= last + self.step || (hundredths == FULL && last != FULL)
    }

    fn print(&self, hundredths: u64) {
        if self.shown {
            let mut out = std::io::stdout().lock();
            let _ = write!(out, "    ({}/100%)\r", percent(hundredths)).and_then(|()| out.flush());
        }
    }
}

fn percent(hundredths: u64) -> String {
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

impl Progress for ProgressBar {
    fn update(&self, done: u64, total: u64) {
        let hundredths = match u128::from(done) * u128::from(FULL) {
            0 if total == 0 => return,
            scaled => u64::try_from(scaled / u128::from(total.max(1))).unwrap_or(FULL).min(FULL),
        };
        if !self.shown {
            if self.asked.swap(false, Ordering::Relaxed) {
                let _ = writeln!(std::io::stderr(), "    ({}/100%)", percent(hundredths));
            }
            return;
        }
        if self.is_due(hundredths) {
            let _guard = self.printing.lock().unwrap_or_else(PoisonError::into_inner);
            if self.is_due(hundredths) {
                self.last.store(hundredths, Ordering::Relaxed);
                self.print(hundredths);
            }
        }
    }
}

impl Drop for ProgressBar {
    fn drop(&mut self) {
        if self.shown {
            let mut out = std::io::stdout().lock();
            let _ = out.write_all(b"\n").and_then(|()| out.flush());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_are_a_step_apart_and_end_with_all() {
        let bar = ProgressBar::new(false, 2);
        bar.last.store(400, Ordering::Relaxed);
        assert!(!bar.is_due(399) && !bar.is_due(599) && bar.is_due(600));
        bar.last.store(9900, Ordering::Relaxed);
        assert!(!bar.is_due(9999) && bar.is_due(FULL));
        bar.last.store(FULL, Ordering::Relaxed);
        assert!(!bar.is_due(FULL));
    }

    #[test]
    fn percentages_have_two_decimals() {
        assert_eq!([0, 1234, FULL].map(percent), ["0.00", "12.34", "100.00"]);
    }
}
