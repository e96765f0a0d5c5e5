//! The consistency check: every reference to a host cluster is counted and compared with the refcounts.
//!
//! Two passes make it fast and its output exact. The first counts everything in parallel, each table once, and only
//! remembers where something is wrong. The second, if there is anything, walks the references in their traditional
//! order and reports. Both work in time linear in the metadata, whatever the tables claim; memory is at most two
//! bytes per cluster of the host file (see [`counts`]), and nothing is allocated for what lies behind its end.
//!
//! Repairs are in [`repair`]; they change the host through [`patch`] and [`rebuild`] alone.

mod bitmaps;
mod compare;
mod correction;
mod counts;
mod entry;
mod finding;
mod holes;
mod layout;
mod patch;
mod places;
mod pool;
mod rebuild;
mod repair;
mod reporter;
mod scan;
mod snapshots;

mod stored;
mod survey;
mod sweep;
mod tables;
mod walk;

use diskimg_core::{BlockDevice, CheckReport, Result, Task};

use crate::bitmap_directory::Bitmap;
use crate::geometry::Geometry;
use crate::header::Header;
pub(crate) use bitmaps::DamagedBitmap;
use compare::Fixing;
pub(crate) use repair::{Repairable, repair, repair_dirty};
use reporter::Reporter;
use survey::Survey;

/// What is checked.
#[derive(Clone, Copy)]
pub(crate) struct CheckInput<'a> {
    /// What holds the image; nothing is cached above it.
    pub storage: &'a dyn BlockDevice,
    /// Its header.
    pub header: &'a Header,
    /// The layout that follows from it.
    pub geo: Geometry,
    /// The active L1 table.
    pub l1: &'a [u64],
    /// The refcount table.
    pub reftable: &'a [u64],
    /// The bitmaps of the directory.
    pub bitmaps: &'a [Bitmap],
    /// Guest data stands in another file.
    pub data_file: bool,
}

/// Checks the image and changes nothing. `say` gets each finding; they are counted in the report.
///
/// # Errors
/// A snapshot table or a bitmap that can't be read; the storage's; `Cancelled`.
pub(crate) fn check(
    input: CheckInput<'_>,
    say: &mut dyn FnMut(&str),
    task: &Task<'_>,
) -> Result<CheckReport> {
    let mut reporter = Reporter::new(say);
    let (snapshots, _) = places::read_snapshots(&input, false, &mut reporter)?;
    let mut survey = Survey::take(input, &snapshots, task)?;
    survey.references(&snapshots, None, &mut reporter)?;
    survey.refblocks(false, &mut reporter);
    survey.clusters(Fixing::Nothing, &mut reporter)?;
    survey.flags(None, &mut reporter)?;
    Ok(survey.complete(reporter.report))
}

#[cfg(test)]
mod tests;
