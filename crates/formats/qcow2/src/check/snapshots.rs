//! Writing a repaired snapshot table: elsewhere, then one write of the header, then the old one is given back.

use diskimg_core::{Error, Result, Task, errno, to_usize};

use super::counts::Counts;
use super::layout::{Clusters, Layout};
use super::patch::Patcher;
use super::rebuild::{Dangling, Free, rebuild};
use super::repair::Repairable;
use super::stored::{RefblockPlace, Stored, place_of};
use crate::snapshot_table::{Snapshot, SnapshotTable};
use crate::snapshots::table;

/// Header offset of `nb_snapshots` (4 bytes) and `snapshots_offset` (8).
const SNAPSHOT_FIELDS: u64 = 60;

/// Stores `table` in place of the one that the header names. Refcounts are what `counts` says before, and right again
/// afterwards.
///
/// # Errors
/// The storage's; `EFBIG` if there is no place for it.
pub(super) fn store(
    image: &mut Repairable<'_>,
    old: &SnapshotTable,
    layout: &Layout,
    counts: &Counts,
    dangling: &mut Dangling,
    task: &Task<'_>,
) -> Result<Vec<Snapshot>> {
    let mut snapshots = old.snapshots.clone();
    let mut bytes = table::encode(&mut snapshots)?;
    let count = layout.geo.clusters_for(diskimg_core::len_u64(&bytes));
    bytes.resize(to_usize(count << layout.geo.cluster_bits), 0);
    let first = if count == 0 { 0 } else { Free::new(counts, dangling).run(0, count) };
    let new = Clusters { first, count };
    let covered = |cluster: u64| {
        let index = to_usize(cluster / layout.geo.refblock_entries());
        let entry = image.reftable.get(index).copied().unwrap_or_default();
        matches!(place_of(layout, entry), RefblockPlace::At(_))
    };
    if (new.first..new.first + new.count).all(covered) {
        count_new(image, layout, new, task)?;
    } else {
        rebuild_around(image, layout, counts, dangling, new, task)?;
    }
    image.storage.write_at(layout.start_of(new.first), &bytes)?;
    image.storage.flush()?;
    let place = (image.header.snapshots_offset, old.len);
    switch(image, snapshots.len(), layout.start_of(new.first))?;
    let Ok(old) = layout.region(place.0, place.1) else { return Ok(snapshots) };
    drop_one(image, layout, counts, old.first..old.first + old.count, task)?;
    Ok(snapshots)
}

/// One write of the header, durable.
fn switch(image: &mut Repairable<'_>, count: usize, offset: u64) -> Result<()> {
    let count = u32::try_from(count).map_err(|_| Error::from_errno(errno::EFBIG))?;
    let offset = if count == 0 { 0 } else { offset };
    let mut fields = count.to_be_bytes().to_vec();
    fields.extend_from_slice(&offset.to_be_bytes());
    image.unsure = true;
    image.storage.write_at(SNAPSHOT_FIELDS, &fields)?;
    image.storage.flush()?;
    image.unsure = false;
    (image.header.snapshot_count, image.header.snapshots_offset) = (count, offset);
    Ok(())
}

/// Counts new clusters that the present refcount blocks have a place for, durably.
fn count_new(image: &Repairable<'_>, layout: &Layout, new: Clusters, task: &Task<'_>) -> Result<()> {
    let mut stored = Stored::load(image.storage, layout, image.reftable, task)?;
    let mut patcher = Patcher::new(image.storage);
    for cluster in new.first..new.first + new.count {
        stored.set(cluster, 1, &mut patcher)?;
    }
    patcher.finish().map(|_| ())
}

/// New refcount structures that count new clusters too; the old ones are given back.
fn rebuild_around(
    image: &mut Repairable<'_>,
    layout: &Layout,
    counts: &Counts,
    dangling: &mut Dangling,
    new: Clusters,
    task: &Task<'_>,
) -> Result<()> {
    let bits = layout.geo.cluster_bits;
    let table = image.header.reftable_offset >> bits;
    let mut old: Vec<u64> = (table..table + u64::from(image.header.reftable_clusters)).collect();
    old.extend(image.reftable.iter().filter(|entry| **entry != 0).map(|entry| entry >> bits));
    dangling.reserve(new.first..new.first + new.count);
    let (header, unsure) = (&mut *image.header, &mut image.unsure);
    *image.reftable = rebuild(image.storage, header, layout, counts, dangling, unsure)?;
    drop_one(image, layout, counts, old.into_iter(), task)
}

/// Takes one reference from clusters.
fn drop_one(
    image: &Repairable<'_>,
    layout: &Layout,
    counts: &Counts,
    clusters: impl Iterator<Item = u64>,
    task: &Task<'_>,
) -> Result<()> {
    let mut stored = Stored::load(image.storage, layout, image.reftable, task)?;
    let mut patcher = Patcher::new(image.storage);
    for cluster in clusters {
        if let Some(left) = counts.get(cluster).checked_sub(1) {
            stored.set(cluster, left.min(layout.geo.max_refcount()), &mut patcher)?;
        }
    }
    patcher.finish().map(|_| ())
}
