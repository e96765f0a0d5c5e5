//! The walk that reports: all references in their traditional order, looking closely only where the counting found
//! something. It changes nothing and counts only what is to be reported.
//!
//! A damaged table that is used by many L1 entries is looked at again for each of them, up to a budget: a hostile image
//! must not keep anyone busy.

use std::collections::{BTreeMap, HashSet};

use diskimg_core::{BlockDevice, Error, Result, Task, errno};

use super::correction::Correction;
use super::counts::Counts;
use super::entry::{Target, entries_of, judge};
use super::finding::Finding;
use super::layout::{Layout, read_pieces};
use super::rebuild::Dangling;
use super::reporter::Reporter;
use super::stored::Stored;
use super::tables::{Found, TablePlace, bitmap_cluster, words};
use crate::entry::{COPIED, ClusterKind, L1_RESERVED, L1Entry, L2Entry, ZERO};

/// Entries that are looked at again because their table is used again.
const REPETITION_BUDGET: u64 = 1 << 28;
/// What a finding that was reported before costs of that budget.
const REPEATED_FINDING: u64 = 256;

/// What a walk needs to know.
pub(super) struct Walk<'a, 'r> {
    storage: &'a dyn BlockDevice,
    layout: &'a Layout,
    found: &'a Found,
    task: &'a Task<'a>,
    reporter: &'a mut Reporter<'r>,
    /// References so far of the clusters that get more than a refcount can hold.
    overflowing: BTreeMap<u64, u64>,
    seen: HashSet<u64>,
    budget: u64,
    buf: Vec<u8>,
    counts: &'a Counts,
    repair: Option<Correction<'a>>,
    dangling: Option<&'a mut Dangling>,
}

impl<'a, 'r> Walk<'a, 'r> {
    /// A walk over the image in `storage` after it was counted.
    pub(super) fn new(
        storage: &'a dyn BlockDevice,
        layout: &'a Layout,
        found: &'a Found,
        counts: &'a Counts,
        task: &'a Task<'a>,
        reporter: &'a mut Reporter<'r>,
    ) -> Self {
        let most = layout.geo.max_refcount();
        let overflowing = counts.above(most).into_iter().map(|cluster| (cluster, 0)).collect();
        Self {
            storage,
            layout,
            found,
            task,
            reporter,
            overflowing,
            seen: HashSet::new(),
            budget: REPETITION_BUDGET,
            buf: Vec::new(),
            counts,
            repair: None,
            dangling: None,
        }
    }

    /// Makes it correct what it can.
    pub(super) fn repair_with(&mut self, correction: Correction<'a>) {
        self.repair = Some(correction);
    }

    /// Makes it remember where references lead behind the end of the file.
    pub(super) fn note_dangling(&mut self, dangling: &'a mut Dangling) {
        self.dangling = Some(dangling);
    }

    /// Writes corrections; true if there were any.
    ///
    /// # Errors
    /// The storage's.
    pub(super) fn finish(self) -> Result<bool> {
        self.repair.map_or(Ok(false), |repair| repair.patcher.finish())
    }

    /// True if entries of the L2 table at `offset` may be corrected: nothing else stands in its cluster, or what
    /// stands there can't be anything but an L2 table.
    fn may_correct(&self, offset: u64) -> Result<bool> {
        let cluster = offset >> self.layout.geo.cluster_bits;
        let Some(repair) = &self.repair else { return Ok(false) };
        if !self.layout.geo.is_aligned(offset)
            || cluster >= self.layout.clusters
            || repair.is_metadata(cluster)
        {
            return Ok(false);
        }
        let uses = self.found.suspicious.get(&offset).copied().unwrap_or_default();
        let references = self.counts.get(cluster);
        if uses == references {
            return Ok(true);
        }
        let (plausible, own) = self.look_inside(offset)?;
        Ok(plausible || uses.saturating_mul(own.saturating_add(1)) == references)
    }

    /// Whether no entry of an L2 table has anything wrong with it but its flags (data does not look like that), and
    /// how many refer to the table's own cluster.
    fn look_inside(&self, table: u64) -> Result<(bool, u64)> {
        let (layout, mut plausible, mut own) = (self.layout, true, 0);
        let cluster = table >> layout.geo.cluster_bits;
        read_pieces(self.storage, table, layout.geo.cluster_size(), &mut Vec::new(), |piece| {
            for (at, entry) in entries_of(piece, layout.geo.extended_l2, 0) {
                let (offset, len) = match judge(layout, entry, at, &mut |_| plausible = false) {
                    Target::Cluster(offset) if !layout.data_file => (offset, layout.geo.cluster_size()),
                    Target::Compressed { offset, len } => (offset, len),
                    Target::Cluster(_) | Target::Nothing => continue,
                };
                match layout.region(offset, len) {
                    Ok(found) => own += u64::from(cluster.wrapping_sub(found.first) < found.count),
                    Err(_) => plausible = false,
                }
            }
            Ok(())
        })?;
        Ok((plausible, own))
    }

    /// True if there is anything to report.
    pub(super) fn is_worth_it(&self) -> bool {
        self.found.elsewhere || !self.found.suspicious.is_empty() || !self.overflowing.is_empty()
    }

    /// The layout it works with.
    pub(super) const fn layout(&self) -> &'a Layout {
        self.layout
    }

    /// Something found beside the references.
    pub(super) fn find(&mut self, finding: &Finding) {
        self.reporter.find(finding);
    }

    /// A region that is referenced.
    pub(super) fn region(&mut self, offset: u64, len: u64) {
        match self.layout.region(offset, len) {
            Err(_) => {
                self.reporter.find(&Finding::RegionBeyondEnd { offset, len });
                if let Some(dangling) = &mut self.dangling {
                    dangling.note(self.layout, offset, len);
                }
            }
            Ok(clusters) if !self.overflowing.is_empty() => {
                let most = self.layout.geo.max_refcount();
                let range = clusters.first..clusters.first.saturating_add(clusters.count);
                for (cluster, references) in self.overflowing.range_mut(range) {
                    if *references == most {
                        self.reporter.find(&Finding::Overflow { offset: self.layout.start_of(*cluster) });
                    } else {
                        *references += 1;
                    }
                }
            }
            Ok(_) => {}
        }
    }

    /// An L1 table in memory and all that it references.
    ///
    /// # Errors
    /// The storage's; `Cancelled`.
    pub(super) fn tree(&mut self, entries: impl Iterator<Item = u64>) -> Result<()> {
        for entry in entries.filter(|entry| *entry != 0) {
            self.task.check()?;
            if entry & L1_RESERVED != 0 {
                self.reporter.find(&Finding::L1Reserved { entry });
            }
            let offset = L1Entry(entry).offset();
            self.region(offset, self.layout.geo.cluster_size());
            if !self.layout.geo.is_aligned(offset) {
                self.reporter.find(&Finding::L2TableUnaligned { offset });
            }
            let worth_it = self.found.suspicious.contains_key(&offset) || !self.overflowing.is_empty();
            if worth_it && self.layout.may_say_anything(offset) {
                self.look(offset, |walk| walk.table(offset))?;
            }
        }
        Ok(())
    }

    /// An L1 table on the host.
    ///
    /// # Errors
    /// As [`Walk::tree`].
    pub(super) fn stored_tree(&mut self, place: TablePlace) -> Result<()> {
        self.region(place.offset, place.len());
        if place.is_unreadable() {
            self.reporter.find(&Finding::L1Unreadable);
            return Err(Error::from_errno(errno::EIO));
        }
        self.each_piece(place, |walk, piece| walk.tree(words(piece)))
    }

    /// A bitmap's table and its data.
    ///
    /// # Errors
    /// As [`Walk::tree`].
    pub(super) fn bitmap(&mut self, place: TablePlace) -> Result<()> {
        self.region(place.offset, place.len());
        self.each_piece(place, |walk, piece| {
            for entry in words(piece) {
                if let Some(offset) = bitmap_cluster(walk.layout, entry)? {
                    walk.region(offset, walk.layout.geo.cluster_size());
                }
            }
            Ok(())
        })
    }

    /// Reads a table as far as the file has it; what lies behind is zeros, which say nothing.
    fn each_piece(
        &mut self,
        place: TablePlace,
        mut each: impl FnMut(&mut Self, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let room = self.layout.file_len.saturating_sub(place.offset);
        let len = place.len().min(room);
        if !self.spend(len / 8) {
            return Ok(());
        }
        let (storage, mut buf) = (self.storage, Vec::new());
        read_pieces(storage, place.offset, len, &mut buf, |piece| each(self, piece))
    }

    /// Looks at a table: the first time always, then as long as the budget lasts.
    fn look(&mut self, offset: u64, at: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        if self.seen.insert(offset) {
            return at(self);
        }
        if !self.spend(self.layout.geo.l2_entries()) {
            return Ok(());
        }
        let before = self.reporter.report.corruptions;
        at(self)?;
        let repeated = self.reporter.report.corruptions.saturating_sub(before);
        self.spend(repeated.saturating_mul(REPEATED_FINDING));
        Ok(())
    }

    fn spend(&mut self, entries: u64) -> bool {
        match self.budget.checked_sub(entries) {
            Some(left) => {
                self.budget = left;
                true
            }
            None => {
                if self.budget != 0 {
                    self.budget = 0;
                    self.reporter.find(&Finding::Repetitive);
                }
                false
            }
        }
    }

    /// Hands each entry of the L2 table at `offset` to `each`, with its number and whether it may be corrected.
    fn each_entry(
        &mut self,
        offset: u64,
        mut each: impl FnMut(&mut Self, u64, L2Entry, bool) -> Result<()>,
    ) -> Result<()> {
        let (storage, layout) = (self.storage, self.layout);
        self.settle()?;
        let correct = self.may_correct(offset)?;
        let mut buf = std::mem::take(&mut self.buf);
        let mut index = 0;
        read_pieces(storage, offset, layout.geo.cluster_size(), &mut buf, |piece| {
            for (at, entry) in entries_of(piece, layout.geo.extended_l2, index) {
                index = at + 1;
                each(self, at, entry, correct)?;
            }
            Ok(())
        })?;
        self.buf = buf;
        Ok(())
    }

    fn table(&mut self, offset: u64) -> Result<()> {
        let layout = self.layout;
        self.each_entry(offset, |walk, at, entry, correct| {
            if entry.descriptor == 0 && entry.bitmap == 0 {
                return Ok(());
            }
            let mut misplaced = false;
            let target = judge(layout, entry, at, &mut |finding| {
                if correct && matches!(finding, Finding::PreallocatedUnaligned { .. }) {
                    walk.reporter.fix(&finding);
                    misplaced = true;
                } else {
                    walk.reporter.find(&finding);
                }
            });
            if misplaced {
                // Zeros that need no place; of an extended entry the bitmap says all there is to say.
                let zeros = if layout.geo.extended_l2 { 0 } else { ZERO };
                return walk.correct(offset + at * layout.geo.l2_entry_size(), zeros);
            }
            match target {
                Target::Compressed { offset, len } => walk.region(offset, len),
                Target::Cluster(offset) if !layout.data_file => {
                    walk.region(offset, layout.geo.cluster_size());
                }
                Target::Cluster(_) | Target::Nothing => {}
            }
            Ok(())
        })
    }

    /// The COPIED flags of the active tables: each must say whether the stored refcount is one.
    ///
    /// # Errors
    /// The storage's; `Cancelled`.
    pub(super) fn flags(&mut self, l1: &[u64], l1_offset: u64, stored: &Stored<'_>) -> Result<()> {
        self.seen.clear();
        let correct = self.repair.as_ref().is_some_and(|repair| repair.l1);
        for (index, entry) in l1.iter().enumerate() {
            let offset = L1Entry(*entry).offset();
            if offset == 0 {
                continue;
            }
            self.task.check()?;
            let Ok(refcount) = self.reporter.refcount(stored, offset >> self.layout.geo.cluster_bits) else {
                continue;
            };
            if (refcount == 1) != L1Entry(*entry).is_copied() {
                let finding = Finding::L1Copied { index, entry: *entry, refcount };
                if correct {
                    self.reporter.fix(&finding);
                    self.correct(l1_offset + 8 * index as u64, entry ^ COPIED)?;
                } else {
                    self.reporter.find(&finding);
                }
            }
            if self.found.suspicious.contains_key(&offset) {
                self.look(offset, |walk| walk.table_flags(offset, stored))?;
            }
        }
        Ok(())
    }

    fn table_flags(&mut self, offset: u64, stored: &Stored<'_>) -> Result<()> {
        let layout = self.layout;
        self.each_entry(offset, |walk, at, entry, correct| {
            let kind = entry.kind(&layout.geo, layout.data_file);
            if !matches!(kind, ClusterKind::Normal | ClusterKind::ZeroAllocated) {
                return Ok(());
            }
            let refcount = if layout.data_file {
                Ok(1)
            } else {
                walk.reporter.refcount(stored, entry.offset() >> layout.geo.cluster_bits)
            };
            let copied = entry.descriptor & COPIED != 0;
            let Some(refcount) = refcount.ok().filter(|refcount| (*refcount == 1) != copied) else {
                return Ok(());
            };
            let finding = Finding::L2Copied { entry: entry.descriptor, refcount };
            if correct {
                walk.reporter.fix(&finding);
                let place = offset + at * layout.geo.l2_entry_size();
                walk.correct(place, entry.descriptor ^ COPIED)?;
            } else {
                walk.reporter.find(&finding);
            }
            Ok(())
        })
    }

    /// Lets corrections of a table be seen when it is looked at again.
    fn settle(&mut self) -> Result<()> {
        self.repair.as_mut().map_or(Ok(()), |repair| repair.patcher.write())
    }

    fn correct(&mut self, place: u64, value: u64) -> Result<()> {
        self.repair.as_mut().map_or(Ok(()), |repair| repair.set(place, value))
    }
}
