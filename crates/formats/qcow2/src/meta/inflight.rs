//! [`InFlight`]: which guest clusters are being mapped anew, so that two writers never allocate for the same one.

use std::ops::Range;

use parking_lot::{Condvar, Mutex};

/// Ranges of guest clusters under change.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    ranges: Mutex<Vec<Range<u64>>>,
    ended: Condvar,
}

/// A range that its holder alone may map.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    all: &'a InFlight,
    range: Range<u64>,
}

impl InFlight {
    /// Waits until nobody else changes one of `clusters`, and claims them. A thread that holds a claim must not ask
    /// for clusters that another claim holder may be waiting with.
    pub(crate) fn claim(&self, clusters: Range<u64>) -> Claim<'_> {
        let mut ranges = self.ranges.lock();
        while ranges.iter().any(|held| held.start < clusters.end && clusters.start < held.end) {
            self.ended.wait(&mut ranges);
        }
        ranges.push(clusters.clone());
        Claim { all: self, range: clusters }
    }

    /// Claims all clusters if nobody holds a claim.
    pub(crate) fn try_claim_all(&self) -> Option<Claim<'_>> {
        let mut ranges = self.ranges.lock();
        ranges.is_empty().then(|| {
            ranges.push(0..u64::MAX);
            Claim { all: self, range: 0..u64::MAX }
        })
    }

    /// Waits until nobody holds a claim; somebody may have one again afterwards.
    pub(crate) fn wait_until_idle(&self) {
        let mut ranges = self.ranges.lock();
        while !ranges.is_empty() {
            self.ended.wait(&mut ranges);
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut ranges = self.all.ranges.lock();
        if let Some(at) = ranges.iter().position(|held| *held == self.range) {
            ranges.swap_remove(at);
        }
        self.all.ended.notify_all();
    }
}
