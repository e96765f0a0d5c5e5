//! Progress reports and cancellation for everything that takes long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// Is told how far a task is. Called from any thread, often: it must be cheap.
pub trait Progress: Send + Sync {
    /// `done` of `total` units (usually bytes) are done.
    fn update(&self, done: u64, total: u64);

    /// True if it is worth the time to count beforehand what there really is to do. Otherwise a task may count
    /// in what turns out to need no work.
    fn wants_exact(&self) -> bool {
        false
    }
}

impl Progress for () {
    fn update(&self, _done: u64, _total: u64) {}
}

/// Asks a task to stop; clones share one flag.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl From<Arc<AtomicBool>> for CancelToken {
    /// The stop is asked for by setting the flag, which a signal's handler can do.
    fn from(flag: Arc<AtomicBool>) -> Self {
        Self(flag)
    }
}

impl CancelToken {
    /// Asks for the stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// True once a stop was asked for.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error of kind `Cancelled` once a stop was asked for.
    ///
    /// # Errors
    /// As said.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::new(ErrorKind::Cancelled, "Operation canceled")) } else { Ok(()) }
    }
}

/// What a long task reports to and looks at.
#[derive(Clone)]
pub struct Task<'a> {
    /// Where progress goes.
    pub progress: &'a dyn Progress,
    /// Set when it shall stop.
    pub cancel: CancelToken,
}

impl<'a> Task<'a> {
    /// A task that nobody watches or stops.
    #[must_use]
    pub fn quiet() -> Self {
        Task { progress: &(), cancel: CancelToken::default() }
    }

    /// A task that reports to `progress`.
    #[must_use]
    pub fn reporting(progress: &'a dyn Progress) -> Self {
        Task { progress, cancel: CancelToken::default() }
    }

    /// An error of kind `Cancelled` once a stop was asked for.
    ///
    /// # Errors
    /// As said.
    pub fn check(&self) -> Result<()> {
        self.cancel.check()
    }
}

impl std::fmt::Debug for Task<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("cancel", &self.cancel).finish_non_exhaustive()
    }
}
