//! [`RangeLock`]: exclusive use of ranges, of bytes or of clusters. Writers to different ranges run at the same time.

use crate::range::ByteRange;
use parking_lot::{Condvar, Mutex};

/// The ranges in use. Few at a time: one for each thread that writes.
#[derive(Debug, Default)]
pub struct RangeLock {
    held: Mutex<Vec<ByteRange>>,
    freed: Condvar,
}

/// A range in use; dropping it frees the range.
#[derive(Debug)]
pub struct RangeGuard<'a> {
    lock: &'a RangeLock,
    range: ByteRange,
}

impl RangeLock {
    /// Waits until nobody uses a byte of `range`, then takes it. An empty range waits for nobody. A thread that uses a
    /// range must not ask for another that the user of a third one may be waiting with.
    #[must_use]
    pub fn lock(&self, range: impl Into<ByteRange>) -> RangeGuard<'_> {
        let range = range.into();
        let mut held = self.held.lock();
        while held.iter().any(|other| other.overlaps(&range)) {
            self.freed.wait(&mut held);
        }
        held.push(range);
        RangeGuard { lock: self, range }
    }

    /// Takes everything, if nobody uses anything.
    #[must_use]
    pub fn try_lock_all(&self) -> Option<RangeGuard<'_>> {
        let range = ByteRange::new(0, u64::MAX);
        let mut held = self.held.lock();
        held.is_empty().then(|| {
            held.push(range);
            RangeGuard { lock: self, range }
        })
    }

    /// Waits until nobody uses anything; somebody may again afterwards.
    pub fn wait_until_idle(&self) {
        let mut held = self.held.lock();
        while !held.is_empty() {
            self.freed.wait(&mut held);
        }
    }
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        let mut held = self.lock.held.lock();
        if let Some(at) = held.iter().position(|other| *other == self.range) {
            held.swap_remove(at);
        }
        drop(held);
        self.lock.freed.notify_all();
    }
}
