//! [`Holes`]: what a repair frees gives its space back to the host.
//!
//! Only clusters come here that nothing durable refers to any more: whether a crash finds the hole made, or the count
//! gone, or both, the image reads the same. Whatever the options for other freed clusters say, qemu-img does it too.

use std::ops::Range;

use diskimg_core::{BlockDevice, ByteRange};

use crate::geometry::Geometry;
use crate::limits::HOLE_UNIT;

/// Freed clusters, one run at a time.
pub(super) struct Holes<'a> {
    storage: &'a dyn BlockDevice,
    geo: Geometry,
    run: Range<u64>,
}

impl<'a> Holes<'a> {
    /// None freed yet.
    pub(super) const fn new(storage: &'a dyn BlockDevice, geo: Geometry) -> Self {
        Self { storage, geo, run: 0..0 }
    }

    /// Nothing refers to this cluster, and from now on it is free. Neighbours, one after the other, make one hole.
    pub(super) fn freed(&mut self, cluster: u64) {
        if cluster != self.run.end || self.run.is_empty() {
            self.make();
            self.run = cluster..cluster;
        }
        self.run.end = cluster + 1;
    }

    /// Makes the hole that is due. Space that stays taken is no harm: failures are left.
    pub(super) fn make(&mut self) {
        let run = std::mem::take(&mut self.run);
        let bits = self.geo.cluster_bits;
        let bytes = ByteRange::from_bounds(run.start << bits, run.end << bits);
        let whole = bytes.intersect(ByteRange::new(0, self.storage.len())).align_inwards(HOLE_UNIT);
        let limits = self.storage.limits();
        let most = limits.max_transfer.max(limits.align).max(1);
        let mut at = whole.start;
        while at < whole.end() {
            let part = ByteRange::new(at, most.min(whole.end() - at));
            let _ = self.storage.discard(part);
            at = part.end();
        }
    }
}
