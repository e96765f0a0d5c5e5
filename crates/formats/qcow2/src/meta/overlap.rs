//! Where all metadata is, so that a damaged table can't make a write hit it (checked before every write).

use std::collections::HashSet;

use diskimg_core::ByteRange;

use super::State;
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

/// Metadata that does not move while an image is open, and the sets of tables that come and go.
#[derive(Debug)]
pub(super) struct MetadataIndex {
    /// What writes are checked against.
    pub checked: Overlap,
    /// Snapshot table, inactive L1 tables, bitmap directory.
    pub fixed: Vec<FixedArea>,
    /// Clusters that hold an active L2 table.
    pub l2_tables: HashSet<u64>,
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

impl State {
    /// The name of the metadata that a write of guest data to `range` of the host would hit.
    pub(super) fn overlapped(&self, range: ByteRange) -> Option<&'static str> {
        let (geo, index) = (&self.geo, &self.index);
        let on = |kind| index.checked.contains(kind);
        if on(Overlap::MAIN_HEADER) && range.start < geo.cluster_size() {
            return Some("qcow2_header");
        }
        let wide = range.align_outwards(geo.cluster_size());
        let hits_table = |offset, entries: u64| {
            ByteRange::new(offset, entries * 8).align_outwards(geo.cluster_size()).overlaps(&wide)
        };
        if on(Overlap::ACTIVE_L1) && hits_table(self.l1.offset, self.l1.len()) {
            return Some("active L1 table");
        }
        let mut clusters = wide.start >> geo.cluster_bits..wide.end() >> geo.cluster_bits;
        if on(Overlap::ACTIVE_L2) && clusters.clone().any(|cluster| index.l2_tables.contains(&cluster)) {
            return Some("active L2 table");
        }
        if on(Overlap::REFCOUNT_TABLE) && hits_table(self.reftable.offset, self.reftable.len()) {
            return Some("refcount table");
        }
        if on(Overlap::REFCOUNT_BLOCK) && clusters.any(|cluster| index.refblocks.contains(&cluster)) {
            return Some("refcount block");
        }
        index.fixed.iter().find(|area| on(area.kind) && area.range.overlaps(&wide)).map(|area| area.name)
    }
}
