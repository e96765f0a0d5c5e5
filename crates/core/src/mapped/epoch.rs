//! [`Epoch`]: tells when every request that was running at some moment has ended, without a lock over its I/O.

use std::sync::atomic::{AtomicU64, Ordering};

/// Requests are counted in one of two counters by the parity of the epoch that they began in. A new epoch begins only
/// when nobody of the one before the present is left; so two epochs later all requests of an epoch have ended.
#[derive(Debug, Default)]
pub(super) struct Epoch {
    now: AtomicU64,
    even: AtomicU64,
    odd: AtomicU64,
}

/// A running request.
#[derive(Debug)]
pub(super) struct Request<'a>(&'a AtomicU64);

impl Drop for Request<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Epoch {
    fn users(&self, epoch: u64) -> &AtomicU64 {
        if epoch.is_multiple_of(2) { &self.even } else { &self.odd }
    }

    /// A request begins.
    pub(super) fn enter(&self) -> Request<'_> {
        loop {
            let now = self.now.load(Ordering::SeqCst);
            let request = Request(self.users(now));
            request.0.fetch_add(1, Ordering::SeqCst);
            if self.now.load(Ordering::SeqCst) == now {
                return request;
            }
        }
    }

    /// Begins up to two new epochs; the present one. One caller at a time.
    pub(super) fn advance(&self) -> u64 {
        for _ in 0..2 {
            let next = self.now.load(Ordering::SeqCst) + 1;
            if self.users(next).load(Ordering::SeqCst) == 0 {
                self.now.store(next, Ordering::SeqCst);
            }
        }
        self.now.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_epochs_pass_when_nobody_is_left() {
        let epoch = Epoch::default();
        assert_eq!(epoch.advance(), 2);
        let request = epoch.enter();
        assert_eq!((epoch.advance(), epoch.advance()), (3, 3));
        let other = epoch.enter();
        drop(request);
        assert_eq!((epoch.advance(), epoch.advance()), (4, 4));
        drop(other);
        assert_eq!(epoch.advance(), 6);
    }
}
