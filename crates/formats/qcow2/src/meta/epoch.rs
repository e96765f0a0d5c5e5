//! [`Epochs`]: who may still use a host cluster that was freed.
//!
//! Requests look a mapping up, leave the lock and then do their I/O. A cluster that is freed meanwhile must not be
//! given to somebody else before those requests have ended. Each request holds a [`Guard`]; freed space waits until
//! all guards from before have gone.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long a thread sleeps before it looks again.
const WAIT: Duration = Duration::from_micros(50);

/// Counts running requests in two alternating groups.
#[derive(Debug, Default)]
pub(crate) struct Epochs {
    epoch: AtomicUsize,
    active: [AtomicUsize; 2],
}

/// A running request.
#[derive(Debug)]
pub(crate) struct Guard<'a> {
    count: &'a AtomicUsize,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Epochs {
    fn group(&self, epoch: usize) -> &AtomicUsize {
        let [even, odd] = &self.active;
        if epoch.is_multiple_of(2) { even } else { odd }
    }

    /// Begins a request. To be called before the mapping is looked up.
    pub(crate) fn enter(&self) -> Guard<'_> {
        loop {
            let epoch = self.epoch.load(Ordering::SeqCst);
            let count = self.group(epoch);
            count.fetch_add(1, Ordering::SeqCst);
            if self.epoch.load(Ordering::SeqCst) == epoch {
                return Guard { count };
            }
            count.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// The present epoch.
    pub(crate) fn now(&self) -> usize {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Goes on to the next epoch if nobody is left of the one before the present.
    pub(crate) fn advance(&self) {
        let now = self.now();
        let next = now.wrapping_add(1);
        if self.group(next).load(Ordering::SeqCst) == 0 {
            // Whoever else advances at the same time goes to the same epoch, once.
            let _ = self.epoch.compare_exchange(now, next, Ordering::SeqCst, Ordering::SeqCst);
        }
    }

    /// Waits until every request that runs now has ended. The caller must not be one of them.
    pub(crate) fn wait_for_all(&self) {
        let then = self.now();
        loop {
            self.advance();
            if self.is_past(then) {
                return;
            }
            std::thread::sleep(WAIT);
        }
    }

    /// True if every request that began in epoch `then` or before has ended: space freed then is free of users.
    pub(crate) fn is_past(&self, then: usize) -> bool {
        match self.now().wrapping_sub(then) {
            0 => false,
            1 => self.group(then).load(Ordering::SeqCst) == 0,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_past_only_when_its_requests_have_ended() {
        let epochs = Epochs::default();
        let old = epochs.enter();
        let then = epochs.now();
        epochs.advance();
        let young = epochs.enter();
        assert!(!epochs.is_past(then));
        epochs.advance();
        assert_eq!(epochs.now(), then + 1, "the old request holds the next epoch back");
        drop(old);
        assert!(epochs.is_past(then));
        drop(young);
    }
}
