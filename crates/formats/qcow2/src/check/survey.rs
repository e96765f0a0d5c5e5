//! [`Survey`]: the image as it was counted at one moment, and what can be asked of it.

use diskimg_core::{CheckReport, Result, Task};

use super::CheckInput;
use super::bitmaps::{self, DamagedBitmap};
use super::compare::{self, Compared, Fixing, Refblocks};
use super::correction::Correction;
use super::counts::Counts;
use super::layout::Layout;
use super::patch::Patcher;
use super::places::{Places, report_references};
use super::rebuild::Dangling;
use super::reporter::Reporter;
use super::stored::Stored;
use super::tables::{self, Found};
use super::walk::Walk;
use crate::snapshot_table::SnapshotTable;

/// All references and all refcounts.
pub(super) struct Survey<'a> {
    input: CheckInput<'a>,
    task: &'a Task<'a>,
    layout: Layout,
    places: Places,
    stored: Stored<'a>,
    counts: Counts,
    found: Found,
}

impl<'a> Survey<'a> {
    /// Counts everything.
    ///
    /// # Errors
    /// The storage's; a bitmap's table; `Cancelled`.
    pub(super) fn take(input: CheckInput<'a>, snapshots: &SnapshotTable, task: &'a Task<'a>) -> Result<Self> {
        let storage = input.storage;
        let layout = Layout::new(storage, input.geo, input.data_file);
        let places = Places::of(&input, &layout, snapshots);
        let stored = Stored::load(storage, &layout, input.reftable, task)?;
        let mut counts = Counts::new(layout.countable());
        let trees = &places.snapshot_l1;
        let mut found = tables::count_trees(storage, &stored, &layout, input.l1, trees, &mut counts, task)?;
        found.elsewhere |= places.needs_words;
        found.elsewhere |= tables::count_regions(&layout, &places.regions(), &mut counts);
        found.elsewhere |= tables::count_bitmaps(storage, &layout, &places.bitmap_tables, &mut counts, task)?;
        Ok(Self { input, task, layout, places, stored, counts, found })
    }

    /// Reports what is wrong with the references. With a `patcher`, preallocated clusters that stand nowhere become
    /// plain zeros. True: something was changed, and this survey is out of date.
    ///
    /// # Errors
    /// The storage's; `Cancelled`.
    pub(super) fn references(
        &self,
        snapshots: &SnapshotTable,
        patcher: Option<Patcher<'_>>,
        reporter: &mut Reporter<'_>,
    ) -> Result<bool> {
        let mut walk =
            Walk::new(self.input.storage, &self.layout, &self.found, &self.counts, self.task, reporter);
        if !walk.is_worth_it() {
            return Ok(false);
        }
        if let Some(patcher) = patcher {
            walk.repair_with(self.correction(patcher));
        }
        report_references(&mut walk, &self.input, &self.places, snapshots)?;
        walk.finish()
    }

    fn correction<'p>(&self, patcher: Patcher<'p>) -> Correction<'p> {
        Correction::new(patcher, &self.layout, &self.places, self.input.reftable)
    }

    /// Counts and reports the refcount blocks.
    pub(super) fn refblocks(&mut self, repair: bool, reporter: &mut Reporter<'_>) -> Refblocks {
        compare::refblocks(&self.layout, self.input.reftable, &mut self.counts, repair, reporter)
    }

    /// The bitmaps that are damaged. The refcount blocks must be counted.
    ///
    /// # Errors
    /// The storage's; `Cancelled`.
    pub(super) fn damaged_bitmaps(&self) -> Result<Vec<DamagedBitmap>> {
        bitmaps::damaged(&self.input, &self.layout, &self.counts, self.task)
    }

    /// Compares refcounts with references.
    ///
    /// # Errors
    /// The storage's; `Cancelled`.
    pub(super) fn clusters(&mut self, fixing: Fixing<'_>, reporter: &mut Reporter<'_>) -> Result<Compared> {
        compare::clusters(&self.layout, &mut self.stored, &self.counts, fixing, reporter, self.task)
    }

    /// Compares the COPIED flags with the refcounts; with a `patcher` they are corrected. True: an L1 entry was.
    ///
    /// # Errors
    /// The storage's; `Cancelled`.
    pub(super) fn flags(&self, patcher: Option<Patcher<'_>>, reporter: &mut Reporter<'_>) -> Result<bool> {
        let mut walk =
            Walk::new(self.input.storage, &self.layout, &self.found, &self.counts, self.task, reporter);
        if let Some(patcher) = patcher {
            walk.repair_with(self.correction(patcher));
        }
        walk.flags(self.input.l1, self.input.header.l1_offset, &self.stored)?;
        walk.finish()
    }

    /// The report with the numbers that are no findings.
    pub(super) fn complete(&self, report: CheckReport) -> CheckReport {
        CheckReport {
            total_clusters: self.input.geo.clusters_for(self.input.header.disk_size()),
            allocated_clusters: self.found.stats.allocated,
            fragmented_clusters: self.found.stats.fragmented,
            compressed_clusters: self.found.stats.compressed,
            ..report
        }
    }

    /// What a rebuild works with: the counts, and where references point that lead behind the end of the file.
    ///
    /// # Errors
    /// The storage's; `Cancelled`.
    pub(super) fn into_rebuild(self, snapshots: &SnapshotTable) -> Result<(Layout, Counts, Dangling)> {
        let mut quiet = |_: &str| {};
        let mut reporter = Reporter::new(&mut quiet);
        let mut dangling = Dangling::default();
        let mut walk =
            Walk::new(self.input.storage, &self.layout, &self.found, &self.counts, self.task, &mut reporter);
        if walk.is_worth_it() {
            walk.note_dangling(&mut dangling);
            report_references(&mut walk, &self.input, &self.places, snapshots)?;
        }
        Ok((self.layout, self.counts, dangling))
    }
}
