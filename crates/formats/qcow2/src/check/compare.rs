//! Refcounts beside references: the refcount blocks themselves, and then cluster by cluster.

use std::collections::BTreeSet;

use diskimg_core::{Result, Task};

use super::counts::{BLOCK, Counts};
use super::finding::{Class, Finding};
use super::holes::Holes;
use super::layout::Layout;
use super::patch::Patcher;
use super::reporter::Reporter;
use super::stored::{RefblockPlace, Stored, place_of};
use crate::entry::REFTABLE_RESERVED;

/// Unreadable refcounts that are reported one by one; the rest is only counted.
const MAX_UNREADABLE: u64 = 1 << 20;

/// A file is made longer by no more than so many bytes.
const REACH: u64 = 256 << 20;

/// What is corrected while refcounts are compared.
pub(super) enum Fixing<'a> {
    /// Nothing.
    Nothing,
    /// Refcounts that are too high.
    Leaks(Patcher<'a>),
    /// Those that are too low, too.
    All(Patcher<'a>),
}

impl<'a> Fixing<'a> {
    /// What corrects `finding`, if it is to be corrected.
    fn of(&mut self, finding: &Finding) -> Option<&mut Patcher<'a>> {
        match self {
            Self::All(patcher) => Some(patcher),
            Self::Leaks(patcher) if finding.class() == Class::Leak => Some(patcher),
            _ => None,
        }
    }
}

/// What the refcount blocks themselves are like.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Refblocks {
    /// They can't be corrected one by one.
    pub must_rebuild: bool,
    /// Clusters that the file must have to hold those of them that are not far behind its end.
    pub reach: u64,
}

/// How a comparison ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Compared {
    /// Something that is used has a refcount of 0: it could be given to somebody else at any moment.
    pub uncounted: bool,
    /// Refcounts of what is used were corrected: COPIED flags may be wrong that were right before.
    pub changed_use: bool,
}

/// Counts the refcount blocks and reports those that can't be right. With `repair` those behind the end of the file
/// are to come into it, if they are not far, and else to be left out.
pub(super) fn refblocks(
    layout: &Layout,
    reftable: &[u64],
    counts: &mut Counts,
    repair: bool,
    reporter: &mut Reporter<'_>,
) -> Refblocks {
    let most = layout.geo.max_refcount();
    let mut told = Refblocks::default();
    for (index, entry) in (0u64..).zip(reftable) {
        if entry & REFTABLE_RESERVED != 0 {
            reporter.find(&Finding::ReftableReserved { index });
            told.must_rebuild = true;
            continue;
        }
        let offset = match place_of(layout, *entry) {
            RefblockPlace::Nowhere => continue,
            RefblockPlace::Unaligned(_) => {
                reporter.find(&Finding::RefblockUnaligned { index });
                told.must_rebuild = true;
                continue;
            }
            RefblockPlace::At(_) | RefblockPlace::Unreachable => *entry,
        };
        let cluster = offset >> layout.geo.cluster_bits;
        if cluster >= clusters_in_use(layout, counts) {
            let finding = Finding::RefblockOutside { index };
            if repair {
                reporter.fix(&finding);
                told.must_rebuild = true;
                if cluster - layout.clusters < REACH >> layout.geo.cluster_bits {
                    told.reach = told.reach.max(cluster + 1);
                } else if i64::try_from(offset.saturating_add(1 << layout.geo.cluster_bits)).is_err() {
                    reporter.say("ERROR could not resize image: Invalid argument");
                }
            } else {
                reporter.find(&finding);
            }
            continue;
        }
        if counts.get(cluster) >= most {
            reporter.find(&Finding::Overflow { offset });
        }
        counts.add(cluster, 1, 1);
        let references = counts.get(cluster).min(most);
        if references != 1 {
            reporter.find(&Finding::RefblockShared { index, references });
            told.must_rebuild = true;
        }
    }
    told
}

/// Clusters of the file, and the one behind it if that is referenced.
fn clusters_in_use(layout: &Layout, counts: &Counts) -> u64 {
    layout.clusters + u64::from(counts.get(layout.clusters) != 0)
}

/// Reports each cluster whose refcount is not its number of references, and finds where the image ends.
///
/// # Errors
/// The storage's, when correcting; `Cancelled`.
pub(super) fn clusters(
    layout: &Layout,
    stored: &mut Stored<'_>,
    counts: &Counts,
    fixing: Fixing<'_>,
    reporter: &mut Reporter<'_>,
    task: &Task<'_>,
) -> Result<Compared> {
    let end = clusters_in_use(layout, counts);
    let (unreadable, unreported) = damaged_blocks(layout, stored, end);
    let mut blocks: Vec<u64> = stored.counts().used_blocks();
    blocks.extend(counts.used_blocks());
    blocks.extend(&unreadable);
    blocks.sort_unstable();
    blocks.dedup();
    let mut last = 0;
    let holes = Holes::new(stored.storage(), layout.geo);
    let mut comparison =
        Comparison { layout, stored, counts, fixing, holes, reporter, compared: Compared::default() };
    for index in blocks {
        task.check()?;
        let whole = (index + 1).saturating_mul(BLOCK) <= end && !unreadable.contains(&index);
        let (mine, theirs) = (counts.block(index), comparison.stored.counts().block(index));
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
            if comparison.compare(cluster)? {
                last = cluster;
            }
        }
    }
    let Comparison { fixing, compared, mut holes, .. } = comparison;
    holes.make();
    if let Fixing::Leaks(patcher) | Fixing::All(patcher) = fixing {
        patcher.finish()?;
    }
    reporter.report.check_errors = reporter.report.check_errors.saturating_add(unreported);
    reporter.report.image_end_offset = layout.start_of(last.saturating_add(1));
    Ok(compared)
}

struct Comparison<'a, 's, 'r> {
    layout: &'a Layout,
    stored: &'a mut Stored<'s>,
    counts: &'a Counts,
    fixing: Fixing<'a>,
    holes: Holes<'s>,
    reporter: &'a mut Reporter<'r>,
    compared: Compared,
}

impl Comparison<'_, '_, '_> {
    /// Compares one cluster. True: it is in use.
    fn compare(&mut self, cluster: u64) -> Result<bool> {
        let references = self.counts.get(cluster).min(self.layout.geo.max_refcount());
        let refcount = match self.reporter.refcount(self.stored, cluster) {
            Ok(refcount) => refcount,
            Err(errno) => {
                self.reporter.find(&Finding::RefcountUnreadable { cluster, errno });
                return Ok(false);
            }
        };
        if refcount != references {
            let finding = if refcount < references {
                self.compared.uncounted |= refcount == 0;
                Finding::RefcountTooLow { cluster, refcount, references }
            } else {
                Finding::Leaked { cluster, refcount, references }
            };
            let fixed = match self.fixing.of(&finding) {
                Some(patcher) => self.stored.set(cluster, references, patcher)?,
                None => false,
            };
            if fixed {
                self.reporter.fix(&finding);
                if references == 0 {
                    self.holes.freed(cluster);
                } else {
                    self.compared.changed_use = true;
                }
            } else {
                self.reporter.find(&finding);
            }
        }
        Ok(refcount != 0 || references != 0)
    }
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
