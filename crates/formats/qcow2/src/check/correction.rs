//! [`Correction`]: which tables a repair may write to. A damaged entry may say of anything that it is a table: what
//! else stands there must not be changed.

use std::ops::Range;

use diskimg_core::Result;

use super::layout::Layout;
use super::patch::Patcher;
use super::places::Places;
use crate::entry::REFTABLE_RESERVED;

/// Corrections of entries, and the clusters in which none may be made.
pub(super) struct Correction<'a> {
    /// What makes them.
    pub patcher: Patcher<'a>,
    /// Entries of the active L1 table may be corrected: it stands by itself.
    pub l1: bool,
    /// Clusters of all metadata but L2 tables, disjoint and ascending.
    metadata: Vec<Range<u64>>,
}

impl<'a> Correction<'a> {
    /// For an image with this metadata.
    pub(super) fn new(patcher: Patcher<'a>, layout: &Layout, places: &Places, reftable: &[u64]) -> Self {
        let clusters = |(offset, len): &(u64, u64)| match layout.region(*offset, *len) {
            Ok(found) => found.first..found.first + found.count,
            Err(_) => 0..0,
        };
        let active_l1 = clusters(&places.active_l1());
        let others: Vec<_> =
            places.regions().into_iter().filter(|region| *region != places.active_l1()).collect();
        let mut ranges: Vec<Range<u64>> = others.iter().map(clusters).collect();
        ranges.extend(reftable.iter().filter(|entry| **entry & !REFTABLE_RESERVED != 0).map(|entry| {
            let cluster = (entry & !REFTABLE_RESERVED) >> layout.geo.cluster_bits;
            cluster..cluster + 1
        }));
        let others = united(ranges.clone());
        let l1 = !active_l1.is_empty()
            && active_l1.end <= layout.clusters
            && !active_l1.clone().any(|cluster| contains(&others, cluster));
        ranges.push(active_l1);
        Self { patcher, l1, metadata: united(ranges) }
    }

    /// True if something other than an L2 table or guest data stands in `cluster`.
    pub(super) fn is_metadata(&self, cluster: u64) -> bool {
        contains(&self.metadata, cluster)
    }

    /// Sets a word on the host.
    ///
    /// # Errors
    /// The storage's.
    pub(super) fn set(&mut self, place: u64, value: u64) -> Result<()> {
        self.patcher.set(place, value)
    }
}

fn contains(ranges: &[Range<u64>], cluster: u64) -> bool {
    let behind = ranges.partition_point(|range| range.start <= cluster);
    behind.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|range| cluster < range.end)
}

/// The same clusters as disjoint ranges in ascending order.
fn united(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, kept| {
        let touches = next.start <= kept.end;
        if touches {
            kept.end = kept.end.max(next.end);
        }
        touches
    });
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_united_and_found() {
        let ranges = united(vec![8..9, 0..1, 3..3, 4..6, 5..8]);
        assert_eq!(ranges, [0..1, 4..9]);
        let inside: Vec<u64> = (0..11).filter(|cluster| contains(&ranges, *cluster)).collect();
        assert_eq!(inside, [0, 4, 5, 6, 7, 8]);
    }
}
