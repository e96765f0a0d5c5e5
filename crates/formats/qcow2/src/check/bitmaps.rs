//! Bitmaps that don't stand alone on the host, or not at all: what a repair has to tell of them. They are stored anew by
//! whoever holds them ([`crate::bitmaps`]); nothing is changed here.

use std::collections::HashSet;

use diskimg_core::{Result, Task};

use super::CheckInput;
use super::counts::Counts;
use super::layout::{Layout, read_pieces};
use super::tables::{TablePlace, bitmap_cluster, words};
use crate::bitmap_directory::Bitmap;

/// Most entries of bitmap tables that are looked at, over all bitmaps.
const MAX_ENTRIES: u64 = 1 << 22;

/// A bitmap with clusters behind the end of the file, or with clusters that something else has too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DamagedBitmap {
    /// Its place in the directory.
    pub index: usize,
    /// Nothing of it can be trusted: something else stands in its table.
    pub table_shared: bool,
    /// Host offsets (bytes) of the data that something else has too.
    pub shared: HashSet<u64>,
}

impl DamagedBitmap {
    /// Something else has clusters of it.
    pub(crate) fn shares(&self) -> bool {
        self.table_shared || !self.shared.is_empty()
    }
}

/// Those of the image's bitmaps that are damaged, by the number of references to each cluster.
///
/// # Errors
/// An entry that is no entry; the storage's; `Cancelled`.
pub(super) fn damaged(
    input: &CheckInput<'_>,
    layout: &Layout,
    counts: &Counts,
    task: &Task<'_>,
) -> Result<Vec<DamagedBitmap>> {
    let mut found = Vec::new();
    let mut left = MAX_ENTRIES;
    for (index, bitmap) in input.bitmaps.iter().enumerate() {
        let Some(rest) = left.checked_sub(bitmap.table_size.into()) else { break };
        left = rest;
        if let Some((table_shared, shared)) = damage(input, bitmap, layout, counts, task)? {
            found.push(DamagedBitmap { index, table_shared, shared });
        }
    }
    Ok(found)
}

/// Whether a bitmap's table is shared, and which of its data; `None` for one that is sound.
fn damage(
    input: &CheckInput<'_>,
    bitmap: &Bitmap,
    layout: &Layout,
    counts: &Counts,
    task: &Task<'_>,
) -> Result<Option<(bool, HashSet<u64>)>> {
    let place = TablePlace { offset: bitmap.table_offset, entries: bitmap.table_size.into() };
    let there = layout.file_len.saturating_sub(place.offset).min(place.len());
    let mut lost = there < place.len();
    let is_shared = |cluster: u64| counts.get(cluster) > 1;
    let table_shared = layout
        .region(place.offset, place.len())
        .is_ok_and(|table| (table.first..table.first.saturating_add(table.count)).any(is_shared));
    let mut shared = HashSet::new();
    read_pieces(input.storage, place.offset, there / 8 * 8, &mut Vec::new(), |piece| {
        task.check()?;
        for entry in words(piece) {
            let Some(offset) = bitmap_cluster(layout, entry)? else { continue };
            let end = offset.saturating_add(layout.geo.cluster_size());
            lost |= end > layout.clusters.saturating_mul(layout.geo.cluster_size());
            if is_shared(offset >> layout.geo.cluster_bits) {
                shared.insert(offset);
            }
        }
        Ok(())
    })?;
    Ok((lost || table_shared || !shared.is_empty()).then_some((table_shared, shared)))
}
