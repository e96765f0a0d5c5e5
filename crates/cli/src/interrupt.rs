//! Interrupts: the first SIGINT, SIGTERM or SIGHUP asks the running operation to stop, so that it leaves nothing half-made
//! behind; the next one ends the program at once. In the end the program dies of the signal, as its caller expects.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use diskimg::core::{CancelToken, Error, ErrorKind, Progress, Task};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use crate::ui::{Exit, Ui};

/// Listens to signals once it was started.
#[derive(Debug, Default)]
pub(crate) struct Interrupts {
    stop: Arc<AtomicBool>,
    /// The number of the last signal; 0: none came.
    came: Arc<AtomicUsize>,
    listening: OnceLock<()>,
}

impl Interrupts {
    /// Begins to listen, if it has not. A signal that can't be caught ends the program at once, as it does without us.
    pub(crate) fn start(&self) {
        self.listening.get_or_init(|| {
            for signal in [SIGINT, SIGTERM, SIGHUP] {
                let number = usize::try_from(signal).unwrap_or_default();
                // In this order: what the second signal does depends on what the first one set.
                let _ = flag::register_conditional_default(signal, Arc::clone(&self.stop));
                let _ = flag::register_usize(signal, Arc::clone(&self.came), number);
                let _ = flag::register(signal, Arc::clone(&self.stop));
            }
        });
    }

    /// Is set when a signal asks for a stop.
    pub(crate) fn token(&self) -> CancelToken {
        CancelToken::from(Arc::clone(&self.stop))
    }

    /// A task that reports to `progress` and stops when a signal asks for it.
    pub(crate) fn task<'a>(&self, progress: &'a dyn Progress) -> Task<'a> {
        Task { progress, cancel: self.token() }
    }

    /// True if `error` is that of an operation that a signal stopped.
    pub(crate) fn stopped(&self, error: &Error) -> bool {
        error.kind() == ErrorKind::Cancelled && self.came.load(Ordering::Relaxed) != 0
    }

    /// Prints the error. That of an operation which a signal stopped is no news: the program dies of the signal.
    pub(crate) fn report(&self, ui: &Ui, error: &Error) -> Exit {
        if self.stopped(error) {
            let signal = i32::try_from(self.came.load(Ordering::Relaxed)).unwrap_or(SIGINT);
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
        ui.library_error(error)
    }
}
