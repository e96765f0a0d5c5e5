//! The consistency check: every grain's entry can be read, and no grain begins behind the end of its file.
//!
//! As in qemu-img, what is found ends the check with an error. Linear in the tables, in bounded memory.

use diskimg_core::{CheckReport, Error, Repair, Result, Task, errno};

use crate::geometry::GrainEntry;
use crate::image::Vmdk;
use crate::limits::SECTOR;
use crate::parts::Part;
use crate::sparse::SparseExtent;

/// Walks all tables.
pub(crate) fn check(
    image: &Vmdk,
    repair: Repair,
    say: &mut dyn FnMut(&str),
    task: &Task<'_>,
) -> Result<CheckReport> {
    if repair != Repair::Nothing {
        return Err(Error::unsupported("This image format does not support checks"));
    }
    for part in image.parts.iter() {
        if let Some(extent) = part.sparse() {
            check_part(part, extent, image.parts.len(), say, task)?;
        }
    }
    Ok(CheckReport::default())
}

fn check_part(
    part: &Part,
    extent: &SparseExtent,
    total: u64,
    say: &mut dyn FnMut(&str),
    task: &Task<'_>,
) -> Result<()> {
    let failed = || Error::from_errno(errno::EINVAL);
    let file_len = extent.storage.len();
    let sector = |grain: u64| (part.range.start + grain.saturating_mul(extent.geo.grain)) / SECTOR;
    let mut grain = 0;
    while grain < extent.geo.grains() {
        task.check()?;
        task.progress.update(part.range.start + grain.saturating_mul(extent.geo.grain), total);
        let Ok(row) = extent.row(grain, extent.geo.grains() - grain) else {
            say(&format!("ERROR: could not get cluster_offset for sector {}", sector(grain)));
            return Err(failed());
        };
        for (grain, entry) in (grain..).zip(row.entries()) {
            if matches!(entry, GrainEntry::At(place) if *place >= file_len) {
                say(&format!("ERROR: cluster offset for sector {} points after EOF", sector(grain)));
                return Err(failed());
            }
        }
        grain += row.len();
    }
    Ok(())
}
