//! New refcount structures from the counted references, for when those of the image are beyond use.
//!
//! They go to clusters that nothing refers to, and count the old ones still. Order: blocks and table | barrier | the
//! header | barrier. Until the header changes the image is what it was; from then on the old structures are leaks,
//! which the comparison that follows gives back.

use std::collections::BTreeSet;

use diskimg_core::{BlockDevice, Error, Result, errno, to_usize};

use super::counts::{BLOCK, Counts};
use super::layout::Layout;
use crate::header::Header;
use crate::limits::{HOST_OFFSET_END, MAX_REFTABLE_BYTES};
use crate::meta::refcounts::write_packed;

/// Header offset of `refcount_table_offset` (8 bytes) and `refcount_table_clusters` (4).
const REFTABLE_FIELDS: u64 = 48;
/// Bytes of a refcount table entry.
const ENTRY: u64 = 8;
/// Clusters behind the end of the file of which it is known whether something refers to them.
const WINDOW: u64 = 1 << 20;

/// Clusters behind the end of the file that something refers to all the same: nothing may be put there, or it would
/// become guest data.
#[derive(Debug, Default)]
pub(super) struct Dangling(BTreeSet<u64>);

impl Dangling {
    /// Notes a region behind the end, as far as new structures could come there.
    pub(super) fn note(&mut self, layout: &Layout, offset: u64, len: u64) {
        let first = offset >> layout.geo.cluster_bits;
        let last = offset.saturating_add(len.saturating_sub(1)) >> layout.geo.cluster_bits;
        let end = layout.clusters.saturating_add(WINDOW);
        let first = first.max(layout.clusters);
        self.0.extend(first..last.saturating_add(1).min(end));
    }

    fn contains(&self, cluster: u64) -> bool {
        self.0.contains(&cluster)
    }
}

/// Where the new structures go.
struct Plan {
    /// Index and host cluster of each refcount block.
    blocks: Vec<(u64, u64)>,
    table: u64,
    table_clusters: u64,
}

/// Finds clusters that nothing refers to.
struct Free<'a> {
    counts: &'a Counts,
    dangling: &'a Dangling,
}

impl Free<'_> {
    /// The first at or behind `at`.
    fn next(&self, mut at: u64) -> u64 {
        loop {
            let found = match self.counts.block(at / BLOCK) {
                None => Some(at),
                Some(block) => {
                    let rest = block.get(to_usize(at % BLOCK)..).unwrap_or_default();
                    rest.iter().position(|count| *count == 0).map(|skipped| at + skipped as u64)
                }
            };
            match found {
                Some(free) if !self.dangling.contains(free) => return free,
                Some(taken) => at = taken + 1,
                None => at = (at / BLOCK + 1) * BLOCK,
            }
        }
    }

    /// The first run of `count` at or behind `at`.
    fn run(&self, mut at: u64, count: u64) -> u64 {
        loop {
            let first = self.next(at);
            let mut end = first + 1;
            while end < first + count && self.next(end) == end {
                end += 1;
            }
            if end == first + count {
                return first;
            }
            at = end;
        }
    }
}

/// The refcount blocks that count anything.
fn used_indices(layout: &Layout, counts: &Counts) -> BTreeSet<u64> {
    let per_block = layout.geo.refblock_entries();
    let mut indices = BTreeSet::new();
    for index in counts.used_blocks() {
        let block = counts.block(index).map(|block| &block[..]).unwrap_or_default();
        let step = BLOCK.min(per_block);
        for (at, part) in (index * BLOCK..).step_by(to_usize(step)).zip(block.chunks(to_usize(step))) {
            if !diskimg_core::is_zero(part) {
                indices.insert(at / per_block);
            }
        }
    }
    indices
}

impl Plan {
    fn make(layout: &Layout, counts: &Counts, dangling: &Dangling) -> Result<Self> {
        let geo = &layout.geo;
        let per_block = geo.refblock_entries();
        let free = Free { counts, dangling };
        let mut indices = used_indices(layout, counts);
        let mut table_clusters = 1;
        // New blocks and a longer table need to be counted themselves: more of each until all fits.
        loop {
            let mut at = 0;
            let mut blocks = Vec::with_capacity(indices.len());
            for index in &indices {
                let cluster = free.next(at);
                blocks.push((*index, cluster));
                at = cluster + 1;
            }
            let table = free.run(at, table_clusters);
            let known = indices.len();
            indices.extend(blocks.iter().map(|(_, cluster)| cluster / per_block));
            indices.extend((table..table + table_clusters).map(|cluster| cluster / per_block));
            let bytes = indices.last().map_or(0, |last| (last + 1).saturating_mul(ENTRY));
            if bytes > MAX_REFTABLE_BYTES || table + table_clusters > HOST_OFFSET_END >> geo.cluster_bits {
                return Err(Error::from_errno(errno::EFBIG));
            }
            let needed = geo.clusters_for(bytes);
            if indices.len() == known && needed <= table_clusters {
                return Ok(Self { blocks, table, table_clusters });
            }
            table_clusters = table_clusters.max(needed);
        }
    }

    /// The clusters of the new structures.
    fn clusters(&self) -> BTreeSet<u64> {
        let table = self.table..self.table + self.table_clusters;
        self.blocks.iter().map(|(_, cluster)| *cluster).chain(table).collect()
    }
}

/// The contents of refcount block `index`.
fn encode(layout: &Layout, counts: &Counts, new: &BTreeSet<u64>, index: u64) -> Vec<u8> {
    let geo = &layout.geo;
    let (order, most) = (geo.refcount_order, geo.max_refcount());
    let mut bytes = vec![0; to_usize(geo.cluster_size())];
    let first = index * geo.refblock_entries();
    let end = first + geo.refblock_entries();
    let mut at = first;
    while at < end {
        let stop = end.min((at / BLOCK + 1) * BLOCK);
        if counts.block(at / BLOCK).is_some() {
            for cluster in at..stop {
                let count = counts.get(cluster);
                if count != 0 {
                    write_packed(&mut bytes, order, to_usize(cluster - first), count.min(most));
                }
            }
        }
        at = stop;
    }
    for cluster in new.range(first..end) {
        write_packed(&mut bytes, order, to_usize(cluster - first), 1);
    }
    bytes
}

/// Writes new structures and switches to them. `switching` is true while it is not known which ones count.
/// Returns the new table.
///
/// # Errors
/// The storage's; `EFBIG` if the table would be too large.
pub(super) fn rebuild(
    storage: &dyn BlockDevice,
    header: &mut Header,
    layout: &Layout,
    counts: &Counts,
    dangling: &Dangling,
    switching: &mut bool,
) -> Result<Vec<u64>> {
    let bits = layout.geo.cluster_bits;
    let plan = Plan::make(layout, counts, dangling)?;
    let new = plan.clusters();
    let entries = plan.table_clusters * layout.geo.cluster_size() / ENTRY;
    let mut table = vec![0; to_usize(entries)];
    for (index, cluster) in &plan.blocks {
        storage.write_at(cluster << bits, &encode(layout, counts, &new, *index))?;
        if let Some(entry) = table.get_mut(to_usize(*index)) {
            *entry = cluster << bits;
        }
    }
    let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
    storage.write_at(plan.table << bits, &bytes)?;
    storage.flush()?;
    let clusters = u32::try_from(plan.table_clusters).map_err(|_| Error::from_errno(errno::EFBIG))?;
    let mut fields = (plan.table << bits).to_be_bytes().to_vec();
    fields.extend_from_slice(&clusters.to_be_bytes());
    *switching = true;
    storage.write_at(REFTABLE_FIELDS, &fields)?;
    storage.flush()?;
    *switching = false;
    (header.reftable_offset, header.reftable_clusters) = (plan.table << bits, clusters);
    Ok(table)
}
