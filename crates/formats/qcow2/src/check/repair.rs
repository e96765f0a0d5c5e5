//! Repairing: what a check finds is corrected on the host, as far as that is allowed and can be done without guessing.
//!
//! Order, each step durable before the next: entries that stand for nothing become plain zeros | refcounts become the
//! numbers of references (in place, or in new structures that the header is switched to) | COPIED flags | a new
//! snapshot table, which the header is switched to | the dirty and corrupt bits. A crash in between leaves an image that
//! the same repair can go on with: no step takes a reference away from data, nor writes to a cluster that anything refers
//! to for another purpose.
//!
//! The caller sees to it that nobody else uses the image meanwhile.

use diskimg_core::{
    BlockDevice, CheckReport, Error, Prealloc, Repair, Result, Task, errno, read_zero_padded,
};

use super::bitmaps::DamagedBitmap;
use super::compare::{Fixing, Refblocks};
use super::counts::Counts;
use super::layout::Layout;
use super::patch::Patcher;
use super::rebuild::Dangling;
use super::reporter::Reporter;
use super::survey::Survey;
use super::{CheckInput, places, rebuild, snapshots};
use crate::bitmap_directory::Bitmap;
use crate::features;
use crate::header::Header;
use crate::snapshot_table::{Snapshot, SnapshotTable};

/// Repairs an image that was not closed cleanly, before it is written to.
///
/// # Errors
/// `Could not repair dirty image`, and why.
pub(crate) fn repair_dirty(image: &mut Repairable<'_>, say: &mut dyn FnMut(&str)) -> Result<()> {
    let failed = |error: Error| error.context("Could not repair dirty image");
    let report = repair(image, Repair::All, say, &Task::quiet()).map_err(failed)?;
    if report.check_errors > 0 {
        return Err(failed(Error::from_errno(errno::EIO)));
    }
    // What is left is not what that bit warns of.
    image.declare(features::DIRTY).map_err(failed)
}

/// Header offset of `incompatible_features` (8 bytes).
const INCOMPATIBLE_FIELD: u64 = 72;

/// An image under repair. What is here is what the host has, also after an error.
#[derive(Debug)]
pub(crate) struct Repairable<'a> {
    /// What holds the image; nothing is cached above it.
    pub storage: &'a dyn BlockDevice,
    /// Its header.
    pub header: &'a mut Header,
    /// The active L1 table.
    pub l1: &'a mut Vec<u64>,
    /// The refcount table.
    pub reftable: &'a mut Vec<u64>,
    /// The bitmaps of the directory.
    pub bitmaps: &'a [Bitmap],
    /// Guest data stands in another file.
    pub data_file: bool,
    /// The snapshots, once their table was written anew.
    pub snapshots: Option<Vec<Snapshot>>,
    /// The bitmaps that a complete repair found damaged. It leaves them to their holder.
    pub damaged_bitmaps: Vec<DamagedBitmap>,
    /// Set when a header may or may not have reached the host: the image must not be used any more.
    pub unsure: bool,
}

/// Checks the image and repairs what `what` allows. `say` gets each finding; they are counted in the report, those
/// that were corrected as such.
///
/// # Errors
/// As [`super::check`]; an input/output error if only new refcount structures would help but `what` does not allow
/// them.
pub(crate) fn repair(
    image: &mut Repairable<'_>,
    what: Repair,
    say: &mut dyn FnMut(&str),
    task: &Task<'_>,
) -> Result<CheckReport> {
    let mut reporter = Reporter::new(say);
    image.header.forget_what_is_stale(image.storage)?;
    let (snapshots, store_snapshots) =
        places::read_snapshots(&image.input(), what == Repair::All, &mut reporter)?;
    let (mut survey, blocks) = image.survey(&snapshots, what == Repair::All, &mut reporter, task)?;
    let damaged_bitmaps = if what == Repair::All { survey.damaged_bitmaps()? } else { Vec::new() };
    let before = reporter.report.clone();
    let compared = survey.clusters(Fixing::Nothing, &mut reporter)?;
    let mut out_of_date = false;
    if blocks.must_rebuild || compared.uncounted {
        if what != Repair::All {
            reporter.say("ERROR need to rebuild refcount structures");
            return Err(Error::from_errno(errno::EIO));
        }
        reporter.say("Rebuilding refcount structure");
        let (layout, counts, dangling) = survey.into_rebuild(&snapshots)?;
        let found = std::mem::take(&mut reporter.report);
        image.rebuild(&layout, &counts, &dangling)?;
        drop(counts);
        survey = Survey::take(image.input(), &snapshots, task)?;
        survey.references(&snapshots, None, &mut reporter)?;
        survey.refblocks(false, &mut reporter);
        out_of_date = survey.clusters(image.fixing(what), &mut reporter)?.changed_use;
        count_fixed(&mut reporter.report, &found);
    } else if reporter.report != before {
        reporter.report = before;
        out_of_date = survey.clusters(image.fixing(what), &mut reporter)?.changed_use;
    }
    if out_of_date {
        survey = Survey::take(image.input(), &snapshots, task)?;
    }
    let left = &reporter.report;
    let all_well = left.corruptions == 0 && left.check_errors == 0 && left.leaks == 0;
    let flags_changed = survey.flags(image.patcher_for(what == Repair::All || all_well), &mut reporter)?;
    let report = survey.complete(std::mem::take(&mut reporter.report));
    if store_snapshots {
        image.store_snapshots(&snapshots, task)?;
    }
    if flags_changed {
        image.reload_l1()?;
    }
    if report.corruptions == 0 && report.check_errors == 0 {
        image.declare(features::DIRTY | features::CORRUPT)?;
    }
    image.damaged_bitmaps = damaged_bitmaps;
    Ok(report)
}

/// Counts as corrected what was `found` and is not `left`.
fn count_fixed(left: &mut CheckReport, found: &CheckReport) {
    left.corruptions_fixed = found.corruptions_fixed + found.corruptions.saturating_sub(left.corruptions);
    left.leaks_fixed = found.leaks_fixed + found.leaks.saturating_sub(left.leaks);
}

impl<'a> Repairable<'a> {
    /// What is in the image once entries that stand for nothing are corrected, if `all` may be, and once the file reaches as
    /// far as its refcount blocks do.
    fn survey<'s>(
        &'s self,
        snapshots: &SnapshotTable,
        all: bool,
        reporter: &mut Reporter<'_>,
        task: &'s Task<'s>,
    ) -> Result<(Survey<'s>, Refblocks)> {
        let mut survey = Survey::take(self.input(), snapshots, task)?;
        if survey.references(snapshots, self.patcher_for(all), reporter)? {
            survey = Survey::take(self.input(), snapshots, task)?;
        }
        let blocks = survey.refblocks(all, reporter);
        if self.extend(blocks.reach) {
            survey = Survey::take(self.input(), snapshots, task)?;
            survey.refblocks(true, &mut Reporter::new(&mut |_| {}));
        }
        Ok((survey, blocks))
    }

    /// Writes the snapshot table anew, with these snapshots.
    fn store_snapshots(&mut self, table: &SnapshotTable, task: &Task<'_>) -> Result<()> {
        let mut survey = Survey::take(self.input(), table, task)?;
        survey.refblocks(false, &mut Reporter::new(&mut |_| {}));
        let (layout, counts, mut dangling) = survey.into_rebuild(table)?;
        let stored = snapshots::store(self, table, &layout, &counts, &mut dangling, task);
        self.snapshots =
            Some(stored.map_err(|error| error.context("ERROR failed to update snapshot table"))?);
        Ok(())
    }

    fn input(&self) -> CheckInput<'_> {
        CheckInput {
            storage: self.storage,
            header: self.header,
            geo: self.header.geometry(),
            l1: self.l1,
            reftable: self.reftable,
            bitmaps: self.bitmaps,
            data_file: self.data_file,
        }
    }

    fn fixing(&self, what: Repair) -> Fixing<'a> {
        let patcher = Patcher::new(self.storage);
        if what == Repair::All { Fixing::All(patcher) } else { Fixing::Leaks(patcher) }
    }

    fn patcher_for(&self, allowed: bool) -> Option<Patcher<'a>> {
        allowed.then(|| Patcher::new(self.storage))
    }

    /// Makes the file `clusters` long if it is shorter; what a truncated file lost reads as zeros in any case.
    fn extend(&self, clusters: u64) -> bool {
        let len = clusters << self.header.cluster_bits;
        if len <= self.storage.len() {
            return false;
        }
        // Where it can't be, what lies behind its end is left out.
        self.storage.set_len(len, Prealloc::Off).is_ok()
    }

    fn rebuild(&mut self, layout: &Layout, counts: &Counts, dangling: &Dangling) -> Result<()> {
        let (header, unsure) = (&mut *self.header, &mut self.unsure);
        *self.reftable = rebuild::rebuild(self.storage, header, layout, counts, dangling, unsure)?;
        Ok(())
    }

    /// Reads the active L1 table again, whose flags were corrected on the host.
    fn reload_l1(&mut self) -> Result<()> {
        let mut bytes = vec![0; self.l1.len() * 8];
        read_zero_padded(self.storage, self.header.l1_offset, &mut bytes)?;
        for (entry, bytes) in self.l1.iter_mut().zip(bytes.as_chunks().0) {
            *entry = u64::from_be_bytes(*bytes);
        }
        Ok(())
    }

    /// Clears these incompatible bits: what they warn of is over.
    ///
    /// # Errors
    /// The storage's.
    pub(crate) fn declare(&mut self, bits: u64) -> Result<()> {
        if self.header.incompatible & bits == 0 || !self.header.is_v3() {
            return Ok(());
        }
        let cleared = self.header.incompatible & !bits;
        self.storage.flush()?;
        self.storage.write_at(INCOMPATIBLE_FIELD, &cleared.to_be_bytes())?;
        self.storage.flush()?;
        self.header.incompatible = cleared;
        Ok(())
    }
}
