//! What an image consists of besides L2 tables and their data, and the walk over all of it in the traditional order.

use diskimg_core::{Error, Result, errno};

use super::CheckInput;
use super::finding::Finding;
use super::layout::Layout;
use super::reporter::Reporter;
use super::tables::TablePlace;
use super::walk::Walk;
use crate::bitmap_directory::Bitmap;
use crate::extensions::until_nul;
use crate::features;
use crate::limits::{MAX_L1_ENTRIES, MAX_SNAPSHOTS};
use crate::snapshot_table::{self, SnapshotTable, V3_EXTRA};

/// The snapshot table as stored; an open for checking does not insist on it. To `repair` it is to drop what exceeds a
/// limit and to complete what lacks something. True: it is to be written anew.
pub(super) fn read_snapshots(
    input: &CheckInput<'_>,
    repair: bool,
    reporter: &mut Reporter<'_>,
) -> Result<(SnapshotTable, bool)> {
    let overhanging = input.header.snapshot_count.saturating_sub(MAX_SNAPSHOTS);
    if overhanging > 0 && !repair {
        let error = Error::limit("ERROR snapshot table too large").with_errno(errno::EFBIG);
        return Err(error.with_hint(snapshot_table::removal_hint(overhanging)));
    }
    if !input.header.is_snapshot_table_placed() {
        return Err(Error::corrupt("ERROR snapshot table offset invalid").with_errno(errno::EINVAL));
    }
    let read = if repair { snapshot_table::read_leniently } else { snapshot_table::read };
    let table = read(input.storage, input.header)
        .map_err(|error| error.context("ERROR failed to read the snapshot table"))?;
    let before = reporter.report.corruptions_fixed;
    report_dropped(&table, reporter);
    for (index, snapshot) in table.snapshots.iter().enumerate() {
        if input.header.is_v3() && snapshot.extra_len < V3_EXTRA {
            let finding = Finding::IncompleteSnapshot { index };
            if repair { reporter.fix(&finding) } else { reporter.find(&finding) }
        }
    }
    let changed = reporter.report.corruptions_fixed != before;
    Ok((table, changed))
}

/// What a lenient reading left out.
fn report_dropped(table: &SnapshotTable, reporter: &mut Reporter<'_>) {
    if table.overhanging > 0 {
        reporter.fix(&Finding::OverhangingSnapshots { count: table.overhanging });
    }
    for (index, len) in &table.cut_extra {
        reporter.fix(&Finding::SnapshotExtra { index: *index, len: *len });
    }
    if table.too_long > 0 {
        reporter.fix(&Finding::SnapshotsTooLong { count: table.too_long });
    }
}

/// What is wrong with a snapshot's L1 table, if anything is.
fn snapshot_damage(layout: &Layout, snapshot: &snapshot_table::Snapshot) -> Option<Finding> {
    let (id, name) = (c_text(&snapshot.id), c_text(&snapshot.name));
    if !layout.geo.is_aligned(snapshot.l1_offset) {
        return Some(Finding::SnapshotL1Unaligned { id, name, offset: snapshot.l1_offset });
    }
    if u64::from(snapshot.l1_size) > MAX_L1_ENTRIES {
        return Some(Finding::SnapshotL1TooLarge { id, name, entries: snapshot.l1_size });
    }
    None
}

/// Text as C programs print it: up to the first NUL.
fn c_text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(until_nul(bytes)).into_owned()
}

fn l1_place(snapshot: &snapshot_table::Snapshot) -> TablePlace {
    TablePlace { offset: snapshot.l1_offset, entries: snapshot.l1_size.into() }
}

/// A region: host offset and length in bytes.
type Region = (u64, u64);

/// Where everything but the L2 tables and their data is, in the order in which it is counted.
pub(super) struct Places {
    header_and_l1: [Region; 2],
    pub snapshot_l1: Vec<TablePlace>,
    /// Snapshot table, refcount table, LUKS header, bitmap directory.
    tables: Vec<Region>,
    pub bitmap_tables: Vec<TablePlace>,
    /// A snapshot's L1 table is to be reported as a whole.
    pub needs_words: bool,
}

impl Places {
    pub(super) fn of(input: &CheckInput<'_>, layout: &Layout, snapshots: &SnapshotTable) -> Self {
        let header = input.header;
        let cluster_size = input.geo.cluster_size();
        let sound = snapshots.snapshots.iter().filter(|snapshot| snapshot_damage(layout, snapshot).is_none());
        let snapshot_l1: Vec<_> = sound.map(l1_place).collect();
        let mut tables = vec![
            (header.snapshots_offset, snapshots.len),
            (header.reftable_offset, u64::from(header.reftable_clusters).saturating_mul(cluster_size)),
        ];
        tables.extend(header.extensions.crypto.map(|crypto| (crypto.offset, crypto.len)));
        let pointer = header.extensions.bitmaps.filter(|_| header.autoclear & features::BITMAPS != 0);
        tables.extend(pointer.map(|pointer| (pointer.directory_offset, pointer.directory_size)));
        let bitmaps = if pointer.is_some() { input.bitmaps } else { &[] };
        let bitmap_table =
            |bitmap: &Bitmap| TablePlace { offset: bitmap.table_offset, entries: bitmap.table_size.into() };
        Self {
            header_and_l1: [(0, cluster_size), (header.l1_offset, u64::from(header.l1_size) * 8)],
            needs_words: snapshot_l1.len() != snapshots.snapshots.len()
                || snapshot_l1.iter().any(TablePlace::is_unreadable),
            snapshot_l1,
            tables,
            bitmap_tables: bitmaps.iter().map(bitmap_table).collect(),
        }
    }

    /// The active L1 table.
    pub(super) const fn active_l1(&self) -> Region {
        let [_, l1] = self.header_and_l1;
        l1
    }

    pub(super) fn regions(&self) -> Vec<Region> {
        let tables =
            self.snapshot_l1.iter().chain(&self.bitmap_tables).map(|table| (table.offset, table.len()));
        self.header_and_l1.iter().chain(&self.tables).copied().chain(tables).collect()
    }
}

/// Walks all references in the order in which they have always been reported.
pub(super) fn report_references(
    walk: &mut Walk<'_, '_>,
    input: &CheckInput<'_>,
    places: &Places,
    snapshots: &SnapshotTable,
) -> Result<()> {
    places.header_and_l1.iter().for_each(|(offset, len)| walk.region(*offset, *len));
    walk.tree(input.l1.iter().copied())?;
    for snapshot in &snapshots.snapshots {
        match snapshot_damage(walk.layout(), snapshot) {
            Some(damage) => walk.find(&damage),
            None => walk.stored_tree(l1_place(snapshot))?,
        }
    }
    places.tables.iter().for_each(|(offset, len)| walk.region(*offset, *len));
    places.bitmap_tables.iter().try_for_each(|table| walk.bitmap(*table))
}
