//! [`HostSpace`]: where new blocks go, and what became of those that the table dropped.
//!
//! A block is given a place when its first cluster is written, and stands in the table once that is published; other
//! clusters may be on their way to it meanwhile. These are *outstanding*: for readers they are what they were.

use std::collections::HashMap;

use diskimg_core::ByteRange;

/// A block with clusters that are on their way.
#[derive(Debug)]
struct Filling {
    host: u64,
    /// Clusters of the disk.
    outstanding: Vec<ByteRange>,
    /// It had its place before, or got it in the table meanwhile.
    published: bool,
}

/// Host space of blocks.
#[derive(Debug)]
pub(crate) struct HostSpace {
    block_size: u64,
    /// Behind the last block.
    next: u64,
    /// Places that read as zeros and that nothing refers to.
    free: Vec<u64>,
    filling: HashMap<u64, Filling>,
    /// The table without them is not written yet.
    dropped: Vec<u64>,
    /// It is being written.
    cut: Vec<u64>,
    /// It is durable: the epoch at that moment, and the places.
    waiting: Vec<(u64, Vec<u64>)>,
}

impl HostSpace {
    /// Space from `next` on.
    pub(crate) fn new(block_size: u64, next: u64) -> Self {
        Self {
            block_size,
            next,
            free: Vec::new(),
            filling: HashMap::new(),
            dropped: Vec::new(),
            cut: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// Clusters are on their way into `block`, which has its place at `stored` or gets one: the place, if it is below
    /// `limit`.
    pub(crate) fn enter(
        &mut self,
        block: u64,
        clusters: ByteRange,
        stored: Option<u64>,
        limit: u64,
    ) -> Option<u64> {
        if let Some(filling) = self.filling.get_mut(&block) {
            filling.outstanding.push(clusters);
            return Some(filling.host);
        }
        let host = match stored.or_else(|| self.free.pop()) {
            Some(host) => host,
            None => self.append(self.block_size, limit)?,
        };
        let outstanding = vec![clusters];
        self.filling.insert(block, Filling { host, outstanding, published: stored.is_some() });
        Some(host)
    }

    /// `len` bytes, a multiple of a MiB, that are never given back, below `limit`.
    pub(crate) fn append(&mut self, len: u64, limit: u64) -> Option<u64> {
        let host = self.next;
        self.next = host.checked_add(len).filter(|next| *next <= limit)?;
        Some(host)
    }

    /// The clusters have come to `block`, or will not come any more.
    pub(crate) fn leave(&mut self, block: u64, clusters: ByteRange, published: bool) {
        let Some(filling) = self.filling.get_mut(&block) else { return };
        filling.published |= published;
        if let Some(at) = filling.outstanding.iter().position(|range| *range == clusters) {
            filling.outstanding.swap_remove(at);
        }
        if filling.outstanding.is_empty() {
            let unused = (!filling.published).then_some(filling.host);
            self.filling.remove(&block);
            self.free.extend(unused);
        }
    }

    /// A place that may hold anything is not used again.
    pub(crate) fn lose(&mut self, block: u64, clusters: ByteRange) {
        if let Some(filling) = self.filling.get_mut(&block) {
            // As if it were in use: nobody takes it for free.
            filling.published = true;
        }
        self.leave(block, clusters, false);
    }

    /// If `cluster` of `block` is outstanding, the clusters up to which that is so; else those up to which it is not.
    pub(crate) fn outstanding(&self, block: u64, cluster: u64) -> Option<(bool, u64)> {
        let filling = self.filling.get(&block)?;
        let inside = filling.outstanding.iter().find(|range| range.start <= cluster && cluster < range.end());
        if let Some(range) = inside {
            return Some((true, range.end()));
        }
        let next = filling.outstanding.iter().map(|range| range.start).filter(|start| *start > cluster).min();
        Some((false, next?))
    }

    /// The block that is being filled at host offset `offset`, and its place.
    pub(crate) fn block_at(&self, offset: u64) -> Option<(u64, u64)> {
        let holds = |host: u64| host <= offset && offset - host < self.block_size;
        self.filling
            .iter()
            .find(|(_, filling)| holds(filling.host))
            .map(|(block, filling)| (*block, filling.host))
    }

    /// True if the block is being filled.
    pub(crate) fn is_filling(&self, block: u64) -> bool {
        self.filling.contains_key(&block)
    }

    /// The table dropped the place.
    pub(crate) fn drop_place(&mut self, host: u64) {
        self.dropped.push(host);
    }

    /// The table is taken to be written.
    pub(crate) fn taken(&mut self) {
        self.cut.append(&mut self.dropped);
    }

    /// It was not written.
    pub(crate) fn not_written(&mut self) {
        self.dropped.append(&mut self.cut);
    }

    /// It is durable since `epoch`: the places that nobody uses any more.
    pub(crate) fn written(&mut self, epoch: u64) -> Vec<u64> {
        let cut = std::mem::take(&mut self.cut);
        let (unused, mut waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(since, _)| since + 2 <= epoch);
        waiting.extend((!cut.is_empty()).then_some((epoch, cut)));
        self.waiting = waiting;
        unused.into_iter().flat_map(|(_, places)| places).collect()
    }

    /// All that the table dropped, which is durable without them; there are no more requests.
    pub(crate) fn rest(&mut self) -> Vec<u64> {
        self.waiting.push((0, std::mem::take(&mut self.cut)));
        std::mem::take(&mut self.waiting).into_iter().flat_map(|(_, places)| places).collect()
    }

    /// A place that reads as zeros may be used again.
    pub(crate) fn set_free(&mut self, host: u64) {
        self.free.push(host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_on_their_way_share_a_place() {
        let mut space = HostSpace::new(100, 1000);
        let (a, b) = (ByteRange::new(0, 2), ByteRange::new(4, 2));
        assert_eq!(space.enter(0, a, None, 5000), Some(1000));
        assert_eq!(space.enter(0, b, None, 5000), Some(1000));
        assert_eq!(space.enter(1, ByteRange::new(10, 1), None, 5000), Some(1100));
        assert_eq!((space.outstanding(0, 1), space.outstanding(0, 2)), (Some((true, 2)), Some((false, 4))));
        assert_eq!((space.outstanding(0, 6), space.outstanding(7, 0)), (None, None));
        space.leave(0, a, false);
        space.leave(0, b, true);
        assert!(!space.is_filling(0));
        space.leave(1, ByteRange::new(10, 1), false);
        assert_eq!(space.enter(2, a, None, 5000), Some(1100), "given back");
        assert_eq!(space.enter(3, a, None, 1250), None, "no room");
        space.lose(2, a);
        assert_eq!(space.enter(3, a, None, 5000), Some(1200));
    }

    #[test]
    fn dropped_places_wait_for_the_table_and_for_readers() {
        let mut space = HostSpace::new(100, 1000);
        space.drop_place(300);
        assert!(space.written(1).is_empty());
        space.taken();
        space.not_written();
        space.taken();
        assert!(space.written(2).is_empty());
        assert!(space.written(3).is_empty());
        assert_eq!(space.written(4), [300]);
    }
}
