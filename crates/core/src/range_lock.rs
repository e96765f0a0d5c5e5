//! [`RangeLock`]: exclusive use of byte ranges. Writers to different ranges run at the same time.

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
    /// Waits until nobody uses a byte of `range`, then takes it. An empty range waits for nobody.
    #[must_use]
    pub fn lock(&self, range: ByteRange) -> RangeGuard<'_> {
        let mut held = self.held.lock();
        while held.iter().any(|other| other.overlaps(&range)) {
            self.freed.wait(&mut held);
        }
        held.push(range);
        RangeGuard { lock: self, range }
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
