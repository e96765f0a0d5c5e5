//! Where all metadata is, so that damage can't make a write hit it: checked before guest data is written, before each
//! write of metadata (which may hit its own kind alone), and before a free cluster is given away.

use std::collections::HashSet;

use diskimg_core::ByteRange;

use super::write_back::Cut;
use super::{Miss, State};
use crate::entry::{L1Entry, REFTABLE_RESERVED};
use crate::geometry::Geometry;
use crate::settings::Overlap;

/// Metadata that is one run of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FixedArea {
    /// Its bytes on the host.
    pub range: ByteRange,
    /// What it is.
    pub kind: Overlap,
    /// Its name in messages.
    pub name: &'static str,
}

/// All [`FixedArea`]s, in the order of the host: an image may have tens of thousands of them.
#[derive(Debug, Default)]
pub(super) struct FixedAreas {
    areas: Vec<FixedArea>,
    /// The greatest end of each area and those before it.
    reach: Vec<u64>,
}

impl FixedAreas {
    pub(super) fn new(mut areas: Vec<FixedArea>) -> Self {
        areas.sort_by_key(|area| area.range.start);
        let ends = areas.iter().scan(0, |reach: &mut u64, area| {
            *reach = area.range.end().max(*reach);
            Some(*reach)
        });
        Self { reach: ends.collect(), areas }
    }

    pub(super) fn into_areas(self) -> Vec<FixedArea> {
        self.areas
    }

    /// Replaces the areas of `kinds`.
    pub(super) fn replace(&mut self, kinds: Overlap, new: impl IntoIterator<Item = FixedArea>) {
        let mut areas = std::mem::take(self).into_areas();
        areas.retain(|area| !kinds.contains(area.kind));
        areas.extend(new);
        *self = Self::new(areas);
    }

    /// The first, by kind, of the areas of `kinds` that `range` hits.
    fn hit(&self, kinds: Overlap, range: ByteRange) -> Option<&FixedArea> {
        let behind = self.areas.partition_point(|area| area.range.start < range.end());
        let known = self.areas.iter().zip(&self.reach).take(behind).rev();
        let near = known.take_while(|(_, reach)| **reach > range.start).map(|(area, _)| area);
        near.filter(|area| kinds.contains(area.kind) && area.range.overlaps(&range))
            .min_by_key(|area| area.kind.bits())
    }
}

/// Metadata that does not move while an image is open, and the sets of tables that come and go.
#[derive(Debug)]
pub(super) struct MetadataIndex {
    /// What writes are checked against.
    pub checked: Overlap,
    /// Snapshot table, inactive L1 tables, bitmap directory, LUKS header.
    pub fixed: FixedAreas,
    /// Clusters that hold an active L2 table.
    pub l2_tables: HashSet<u64>,
    /// Clusters that hold an L2 table of a snapshot; known only where they are checked for.
    pub inactive_l2: HashSet<u64>,
    /// Clusters that hold a refcount block.
    pub refblocks: HashSet<u64>,
}

impl MetadataIndex {
    /// Notes where these tables say that L2 tables and refcount blocks are.
    pub(super) fn take_tables(&mut self, geo: Geometry, l1: &[u64], reftable: &[u64]) {
        let cluster_of = |offset: u64| Some(offset >> geo.cluster_bits).filter(|cluster| *cluster != 0);
        self.l2_tables = l1.iter().filter_map(|entry| cluster_of(L1Entry(*entry).offset())).collect();
        self.refblocks = reftable.iter().filter_map(|entry| cluster_of(entry & !REFTABLE_RESERVED)).collect();
    }
}

/// What is wrong with a write that would hit the metadata of that name.
pub(super) fn overlap_text(name: &str) -> String {
    format!("Preventing invalid write on metadata (overlaps with {name})")
}

impl State {
    /// The name of the metadata, `own` kinds aside, that a write to `range` of the host would hit.
    pub(super) fn overlapped(&self, range: ByteRange, own: Overlap) -> Option<&'static str> {
        let (geo, index) = (&self.geo, &self.index);
        let checked = index.checked.difference(own);
        let on = |kind| checked.contains(kind);
        if on(Overlap::MAIN_HEADER) && !range.is_empty() && range.start < geo.cluster_size() {
            return Some("qcow2_header");
        }
        let wide = range.align_outwards(geo.cluster_size());
        let hits_table = |offset, entries: u64| {
            ByteRange::new(offset, entries * 8).align_outwards(geo.cluster_size()).overlaps(&wide)
        };
        if on(Overlap::ACTIVE_L1) && hits_table(self.l1.offset, self.l1.len()) {
            return Some("active L1 table");
        }
        let clusters = wide.start >> geo.cluster_bits..wide.end() >> geo.cluster_bits;
        let hits_one = |set: &HashSet<u64>| {
            // Whichever is less to look at.
            if clusters.end - clusters.start > set.len() as u64 {
                set.iter().any(|cluster| clusters.contains(cluster))
            } else {
                clusters.clone().any(|cluster| set.contains(&cluster))
            }
        };
        if on(Overlap::ACTIVE_L2) && hits_one(&index.l2_tables) {
            return Some("active L2 table");
        }
        if on(Overlap::REFCOUNT_TABLE) && hits_table(self.reftable.offset, self.reftable.len()) {
            return Some("refcount table");
        }
        if on(Overlap::REFCOUNT_BLOCK) && hits_one(&index.refblocks) {
            return Some("refcount block");
        }
        if on(Overlap::INACTIVE_L2) && hits_one(&index.inactive_l2) {
            return Some("inactive L2 table");
        }
        index.fixed.hit(checked, wide).map(|area| area.name)
    }

    /// The same as a reason to stop.
    pub(super) fn refuse_overlap(&self, range: ByteRange, own: Overlap) -> Result<(), Miss> {
        self.overlapped(range, own).map_or(Ok(()), |name| Err(Miss::Corrupt(overlap_text(name))))
    }

    /// The name of the metadata that writing `cut` would hit, other than what it is.
    pub(super) fn cut_overlaps(&self, cut: &Cut) -> Option<&'static str> {
        let all_l2 = Overlap::ACTIVE_L2 | Overlap::INACTIVE_L2;
        let slices = [(&cut.refs, Overlap::REFCOUNT_BLOCK), (&cut.l2, all_l2)];
        let of_slices = slices.into_iter().flat_map(|(slices, own)| {
            slices.iter().map(move |slice| {
                let len = (slice.part.end - slice.part.start) as u64;
                (ByteRange::new(slice.offset.saturating_add(slice.part.start as u64), len), own)
            })
        });
        let tables = [(&cut.reftable, Overlap::REFCOUNT_TABLE), (&cut.l1, Overlap::ACTIVE_L1)];
        let of_tables = tables.into_iter().filter_map(|(part, own)| {
            part.as_ref().map(|part| (ByteRange::new(part.offset, part.bytes.len() as u64), own))
        });
        of_slices.chain(of_tables).find_map(|(range, own)| self.overlapped(range, own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_found_also_within_others_and_by_the_order_of_their_kinds() {
        let area = |start, len, kind, name| FixedArea { range: ByteRange::new(start, len), kind, name };
        let mut areas = FixedAreas::new(vec![
            area(100, 10, Overlap::INACTIVE_L1, "small"),
            area(0, 1000, Overlap::BITMAP_DIRECTORY, "large"),
            area(500, 10, Overlap::SNAPSHOT_TABLE, "table"),
        ]);
        let name = |areas: &FixedAreas, kinds, start, len| {
            areas.hit(kinds, ByteRange::new(start, len)).map(|area| area.name)
        };
        assert_eq!(name(&areas, Overlap::all(), 105, 1), Some("small"));
        assert_eq!(name(&areas, Overlap::all(), 900, 1), Some("large"));
        assert_eq!(name(&areas, Overlap::all(), 0, 2000), Some("table"));
        assert_eq!(name(&areas, Overlap::INACTIVE_L1, 110, 390), None);
        assert_eq!(name(&areas, Overlap::all(), 1000, 1), None);
        areas.replace(Overlap::BITMAP_DIRECTORY, None);
        assert_eq!(name(&areas, Overlap::all(), 900, 1), None);
        assert_eq!(areas.into_areas().len(), 2);
    }
}
