//! Finding free host clusters.
//!
//! First fit from the lowest place that may be free. Missing refcount blocks are made behind the run that needs them; a
//! full refcount table is made longer by the caller (see `grow`). Clusters that were freed stay counted until no stored
//! table refers to them and no running request uses them (see `write_back`).

use diskimg_core::{ByteRange, Error, ErrorKind, to_usize};

use super::overlap::overlap_text;
use super::{Freed, HoleRules, Miss, State};
use crate::geometry::Geometry;
use crate::limits::HOST_OFFSET_END;
use crate::settings::Overlap;

/// A run of host clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clusters {
    /// Index of the first.
    pub first: u64,
    /// How many.
    pub count: u64,
}

impl Clusters {
    /// The clusters that hold `range` (not empty).
    pub(crate) fn holding(geo: &Geometry, range: ByteRange) -> Self {
        let first = range.start >> geo.cluster_bits;
        let last = range.end().saturating_sub(1) >> geo.cluster_bits;
        Self { first, count: last - first + 1 }
    }

    /// Their bytes on the host.
    pub(crate) const fn bytes(self, geo: &Geometry) -> ByteRange {
        geo.cluster_run(self.first, self.count)
    }
}

/// A run that lost a reference, and whether it leaves a hole on the host when it has none left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dropped {
    pub clusters: Clusters,
    pub hole: bool,
}

/// What allocation remembers while an image is open.
#[derive(Debug)]
pub(super) struct Allocator {
    /// No cluster below is free.
    pub free_index: u64,
    /// Where the next compressed payload may go on; 0: in a new cluster.
    pub byte_free: u64,
    /// References dropped by tables that are not written yet.
    pub dropped: Vec<Dropped>,
    /// Which freed clusters leave holes.
    pub hole_rules: HoleRules,
}

impl Allocator {
    pub(super) const fn new(hole_rules: HoleRules) -> Self {
        Self { free_index: 0, byte_free: 0, dropped: Vec::new(), hole_rules }
    }

    pub(super) fn became_free(&mut self, cluster: u64, geo: &Geometry) {
        self.free_index = self.free_index.min(cluster);
        self.forget_payload(cluster, geo);
    }

    /// The next payload does not go on in `cluster`.
    pub(super) const fn forget_payload(&mut self, cluster: u64, geo: &Geometry) {
        if self.byte_free >> geo.cluster_bits == cluster {
            self.byte_free = 0;
        }
    }

    /// Notes that `clusters`, whose place others took, have one reference less once the tables as they are now have
    /// been written.
    pub(super) fn drop_later(&mut self, clusters: Clusters) {
        self.drop_later_as(clusters, Freed::Other);
    }

    /// The same for another reason.
    pub(super) fn drop_later_as(&mut self, clusters: Clusters, freed: Freed) {
        let hole = self.hole_rules.leave_hole(freed);
        match self.dropped.last_mut().map(|last| (last.hole, &mut last.clusters)) {
            Some((same, last)) if same == hole && last.first + last.count == clusters.first => {
                last.count += clusters.count;
            }
            _ => self.dropped.push(Dropped { clusters, hole }),
        }
    }
}

impl State {
    /// Allocates the first free clusters: as many as follow each other, at least one and at most `most`.
    pub(super) fn allocate(&mut self, most: u64) -> Result<Clusters, Miss> {
        self.allocate_for("", most)
    }

    /// The same for what is not to be at host offset 0, whatever the refcounts say.
    pub(super) fn allocate_for(&mut self, what: &str, most: u64) -> Result<Clusters, Miss> {
        let mut from = self.alloc.free_index;
        let first = self.next_free(&mut from);
        // Kept also over a miss: what was passed is in use.
        self.alloc.free_index = from;
        let first = first?;
        let count = self.free_run(first, most.max(1))?;
        self.take_counted(Clusters { first, count }, what)
    }

    /// Allocates exactly `count` clusters that follow each other, looking from `from` on; what was found to be in use
    /// is passed for good.
    pub(super) fn allocate_exactly(&mut self, count: u64, from: &mut u64) -> Result<Clusters, Miss> {
        loop {
            *from = (*from).max(self.alloc.free_index);
            let first = self.next_free(from)?;
            let free = self.free_run(first, count)?;
            if free < count {
                *from = first + free + 1;
                continue;
            }
            return self.take_counted(Clusters { first, count }, "");
        }
    }

    /// The first free cluster at or behind `from`, which moves on to it, or as far as is known.
    fn next_free(&self, from: &mut u64) -> Result<u64, Miss> {
        while !self.skip_used(from)? {}
        Ok(*from)
    }

    /// Takes a free run, behind which missing refblocks are made first; none of it may hold metadata.
    fn take_counted(&mut self, found: Clusters, what: &str) -> Result<Clusters, Miss> {
        let end = found.first + found.count;
        let (mut at, mut spare) = (found.first, end);
        while at < end {
            self.ensure_refblock_behind(at, &mut spare)?;
            at = (self.refblock_index(at) + 1) * self.geo.refblock_entries();
        }
        self.take(found, what)
    }

    fn take(&mut self, found: Clusters, what: &str) -> Result<Clusters, Miss> {
        if found.first == 0 {
            return Err(Miss::Corrupt(if what.is_empty() {
                overlap_text("qcow2_header")
            } else {
                format!("Preventing invalid allocation of {what} at offset 0")
            }));
        }
        // Its refcount is 0, but something says that it is there.
        self.refuse_overlap(found.bytes(&self.geo), Overlap::empty())?;
        if found.first + found.count > HOST_OFFSET_END >> self.geo.cluster_bits {
            return Err(Miss::Error(Error::new(ErrorKind::Limit, "File too large")));
        }
        self.count_new(found)?;
        if self.alloc.free_index == found.first {
            self.alloc.free_index = found.first + found.count;
        }
        Ok(found)
    }

    /// Makes sure that something counts `cluster`, which belongs to a run that must not be split: its refcount block is
    /// made in the first free cluster at or behind `spare`, which moves on.
    fn ensure_refblock_behind(&mut self, cluster: u64, spare: &mut u64) -> Result<(), Miss> {
        let block = self.refblock_index(cluster);
        if block < self.reftable.len() && self.refblock_offset(block)? != 0 {
            return Ok(());
        }
        let place = self.next_free(spare)?;
        *spare = place + 1;
        if block >= self.reftable.len() {
            // A longer table must not take clusters of the run, nor the place that was found.
            return Err(Miss::Reftable(self.refblock_index(place) + 1));
        }
        if self.refblock_index(place) != block {
            self.ensure_refblock_behind(place, spare)?;
        }
        let offset = place << self.geo.cluster_bits;
        self.refuse_overlap(self.geo.cluster_run(place, 1), Overlap::empty())?;
        self.insert_zero_slices(super::Which::Refcounts, offset);
        self.reftable.set(block, offset);
        self.index.refblocks.insert(place);
        self.set_refcount(place, 1)
    }

    /// A place for a compressed payload of `len` bytes (less than a cluster): right behind the one before where it fits.
    pub(super) fn allocate_payload(&mut self, len: u64) -> Result<u64, Miss> {
        let geo = self.geo;
        let at = self.alloc.byte_free;
        let shared = at >> geo.cluster_bits;
        let can_share = !geo.is_aligned(at) && self.refcount(shared)? < geo.max_refcount();
        let room = geo.cluster_size() - geo.in_cluster(at);
        let (offset, goes_on) = if can_share && len <= room {
            (at, true)
        } else {
            let new = self.allocate_for("compressed cluster", 1)?;
            let goes_on = can_share && new.first == shared + 1;
            (if goes_on { at } else { new.first << geo.cluster_bits }, goes_on)
        };
        if goes_on {
            self.add_reference(shared)?;
        }
        self.alloc.byte_free = offset + len;
        Ok(offset)
    }

    /// Adds a zeroed cluster of tables to a cache, to be written.
    pub(super) fn insert_zero_slices(&mut self, which: super::Which, offset: u64) {
        let (slice, cluster) = (self.geo.slice_size(), self.geo.cluster_size());
        for at in (offset..offset + cluster).step_by(to_usize(slice)) {
            self.cache(which).insert_new(at, vec![0; to_usize(slice)]);
        }
    }
}
