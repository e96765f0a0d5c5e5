//! Refcounts beside references: the refcount blocks themselves, and then cluster by cluster.

use std::collections::BTreeSet;

use diskimg_core::{Result, Task};

use super::counts::{BLOCK, Counts};
use super::finding::Finding;
use super::layout::Layout;
use super::reporter::Reporter;
use super::stored::{RefblockPlace, Stored, place_of};
use crate::entry::REFTABLE_RESERVED;

/// Unreadable refcounts that are reported one by one; the rest is only counted.
const MAX_UNREADABLE: u64 = 1 << 20;

/// Counts the refcount blocks and reports those that can't be right.
pub(super) fn refblocks(layout: &Layout, reftable: &[u64], counts: &mut Counts, reporter: &mut Reporter<'_>) {
    let most = layout.geo.max_refcount();
    for (index, entry) in (0u64..).zip(reftable) {
        if entry & REFTABLE_RESERVED != 0 {
            reporter.find(&Finding::ReftableReserved { index });
            continue;
        }
        let offset = match place_of(layout, *entry) {
            RefblockPlace::Nowhere => continue,
            RefblockPlace::Unaligned(_) => {
                reporter.find(&Finding::RefblockUnaligned { index });
                continue;
            }
            RefblockPlace::At(_) | RefblockPlace::Unreachable => *entry,
        };
        let cluster = offset >> layout.geo.cluster_bits;
        if cluster >= clusters_in_use(layout, counts) {
            reporter.find(&Finding::RefblockOutside { index });
            continue;
        }
        if counts.get(cluster) >= most {
            reporter.find(&Finding::Overflow { offset });
        }
        counts.add(cluster, 1, 1);
        let references = counts.get(cluster).min(most);
        if references != 1 {
            reporter.find(&Finding::RefblockShared { index, references });
        }
    }
}

/// Clusters of the file, and the one behind it if that is referenced.
fn clusters_in_use(layout: &Layout, counts: &Counts) -> u64 {
    layout.clusters + u64::from(counts.get(layout.clusters) != 0)
}

/// Reports each cluster whose refcount is not its number of references, and finds where the image ends.
///
/// # Errors
/// `Cancelled`.
pub(super) fn clusters(
    layout: &Layout,
    stored: &Stored<'_>,
    counts: &Counts,
    reporter: &mut Reporter<'_>,
    task: &Task<'_>,
) -> Result<()> {
    let end = clusters_in_use(layout, counts);
    let (unreadable, unreported) = damaged_blocks(layout, stored, end);
    let mut blocks: Vec<u64> = stored.counts().used_blocks();
    blocks.extend(counts.used_blocks());
    blocks.extend(&unreadable);
    blocks.sort_unstable();
    blocks.dedup();
    let mut last = 0;
    for index in blocks {
        task.check()?;
        let whole = (index + 1).saturating_mul(BLOCK) <= end && !unreadable.contains(&index);
        let (mine, theirs) = (counts.block(index), stored.counts().block(index));
        let same = match (mine, theirs) {
            (Some(mine), Some(theirs)) => mine == theirs && !mine.contains(&u8::MAX),
            _ => false,
        };
        if whole && same {
            if let Some(at) = mine.and_then(|mine| last_used(mine)) {
                last = index * BLOCK + at;
            }
            continue;
        }
        for cluster in index * BLOCK..end.min((index + 1).saturating_mul(BLOCK)) {
            if compare(layout, stored, counts, cluster, reporter) {
                last = cluster;
            }
        }
    }
    reporter.report.check_errors = reporter.report.check_errors.saturating_add(unreported);
    reporter.report.image_end_offset = layout.start_of(last.saturating_add(1));
    Ok(())
}

/// Compares one cluster. True: it is in use.
fn compare(
    layout: &Layout,
    stored: &Stored<'_>,
    counts: &Counts,
    cluster: u64,
    reporter: &mut Reporter<'_>,
) -> bool {
    let references = counts.get(cluster).min(layout.geo.max_refcount());
    let refcount = match reporter.refcount(stored, cluster) {
        Ok(refcount) => refcount,
        Err(errno) => {
            reporter.find(&Finding::RefcountUnreadable { cluster, errno });
            return false;
        }
    };
    if refcount < references {
        reporter.find(&Finding::RefcountTooLow { cluster, refcount, references });
    } else if refcount > references {
        reporter.find(&Finding::Leaked { cluster, refcount, references });
    }
    refcount != 0 || references != 0
}

/// The blocks of [`Counts`] with unreadable refcounts below cluster `end`, and how many more clusters have such.
fn damaged_blocks(layout: &Layout, stored: &Stored<'_>, end: u64) -> (BTreeSet<u64>, u64) {
    let per_block = layout.geo.refblock_entries();
    let (mut blocks, mut listed, mut unreported) = (BTreeSet::new(), 0, 0u64);
    for index in stored.damaged_refblocks() {
        let first = index.saturating_mul(per_block);
        let stop = first.saturating_add(per_block).min(end);
        let count = stop.saturating_sub(first);
        if listed > MAX_UNREADABLE {
            unreported += count;
            continue;
        }
        let shown = count.min(MAX_UNREADABLE);
        listed += shown;
        unreported += count - shown;
        blocks.extend(first / BLOCK..(first + shown).div_ceil(BLOCK));
    }
    (blocks, unreported)
}

/// Where the last number of a block is that is not 0.
fn last_used(block: &[u8]) -> Option<u64> {
    (0u64..).zip(block).filter(|(_, count)| **count != 0).map(|(at, _)| at).last()
}
