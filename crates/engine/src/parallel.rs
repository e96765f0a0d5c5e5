//! What the engines that work on all processors share: how many threads, and the first failure of any of them.

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};

use diskimg_core::{Error, Result, most_threads, processors};
use parking_lot::Mutex;

/// The most threads an engine starts.
const MAX_WORKERS: usize = 64;

/// The threads that were `asked` for, or as many as there are processors; at most [`MAX_WORKERS`], no more than there
/// are `units` of work, and no more than the address space has room for.
pub(crate) fn workers(asked: Option<NonZero<usize>>, units: u64) -> usize {
    let count = asked.map_or_else(processors, NonZero::get);
    count.min(MAX_WORKERS).min(most_threads()).min(usize::try_from(units).unwrap_or(usize::MAX)).max(1)
}

/// Runs `work` on `count` threads, the caller's among them. Each is told its number.
pub(crate) fn on_threads(count: usize, work: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for number in 1..count {
            let work = &work;
            // A thread that can't be started is work for the others.
            let _ = std::thread::Builder::new()
                .name(format!("diskimg-{number}"))
                .spawn_scoped(scope, move || work(number));
        }
        work(0);
    });
}

/// The failure of the unit that comes first, whichever thread met it.
#[derive(Debug)]
pub(crate) struct Failure<E = Error> {
    failed: AtomicBool,
    first: Mutex<Option<(u64, E)>>,
}

impl<E> Default for Failure<E> {
    fn default() -> Self {
        Self { failed: AtomicBool::new(false), first: Mutex::new(None) }
    }
}

impl<E> Failure<E> {
    /// Remembers the error of unit `order`, unless an earlier unit has failed.
    pub(crate) fn record(&self, order: u64, error: E) {
        let mut first = self.first.lock();
        if first.as_ref().is_none_or(|(known, _)| order < *known) {
            *first = Some((order, error));
        }
        self.failed.store(true, Ordering::Release);
    }

    /// True once anything failed: no new work is begun.
    pub(crate) fn happened(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// The first failure as the result of the whole.
    pub(crate) fn into_result(self) -> Result<(), E> {
        self.first.into_inner().map_or(Ok(()), |(_, error)| Err(error))
    }

    /// The same with the unit, but a failure behind `order` does not count: it would not have been met.
    pub(crate) fn into_result_before(self, order: Option<u64>) -> Result<(), (u64, E)> {
        match self.first.into_inner() {
            Some((failed, error)) if order.is_none_or(|order| failed <= order) => Err((failed, error)),
            _ => Ok(()),
        }
    }
}
