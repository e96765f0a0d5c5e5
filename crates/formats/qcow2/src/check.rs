//! The consistency check: every reference to a host cluster is counted and compared with the refcounts.
//!
//! Two passes make it fast and its output exact. The first counts everything in parallel, each table once, and only
//! remembers where something is wrong. The second, if there is anything, walks the references in their traditional
//! order and reports. Both work in time linear in the metadata, whatever the tables claim; memory is at most two
//! bytes per cluster of the host file (see [`counts`]), and nothing is allocated for what lies behind its end.

mod compare;
mod counts;
mod entry;
mod finding;
mod layout;
mod pool;
mod reporter;
mod scan;
mod stored;
mod sweep;
mod tables;
mod walk;

use diskimg_core::{BlockDevice, CheckReport, Error, Repair, Result, Task, errno};

use crate::bitmap_directory::Bitmap;
use crate::extensions::until_nul;
use crate::features;
use crate::geometry::Geometry;
use crate::header::Header;
use crate::limits::{MAX_L1_ENTRIES, MAX_SNAPSHOTS};
use crate::snapshot_table::{self, SnapshotTable, V3_EXTRA};
use counts::Counts;
use finding::Finding;
use layout::Layout;
use reporter::Reporter;
use stored::Stored;
use tables::TablePlace;
use walk::Walk;

/// What is checked.
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

/// Checks the image. `say` gets each finding; they are counted in the report.
///
/// # Errors
/// `Unsupported` for a repair; a snapshot table or a bitmap that can't be read; the storage's; `Cancelled`.
pub(crate) fn check(
    input: CheckInput<'_>,
    repair: Repair,
    say: &mut dyn FnMut(&str),
    task: &Task<'_>,
) -> Result<CheckReport> {
    if repair != Repair::Nothing {
        return Err(Error::unsupported("Repairing qcow2 images is not supported yet"));
    }
    let mut reporter = Reporter::new(say);
    let snapshots = read_snapshots(&input, &mut reporter)?;
    let layout = Layout::new(input.storage, input.geo, input.data_file);
    let places = Places::of(&input, &layout, &snapshots);
    let stored = Stored::load(input.storage, &layout, input.reftable, task)?;
    let mut counts = Counts::new(layout.countable());
    let trees = places.snapshot_l1.clone();
    let mut found =
        tables::count_trees(input.storage, &stored, &layout, input.l1, &trees, &mut counts, task)?;
    found.elsewhere |= places.needs_words;
    found.elsewhere |= tables::count_regions(&layout, &places.regions(), &mut counts);
    found.elsewhere |=
        tables::count_bitmaps(input.storage, &layout, &places.bitmap_tables, &mut counts, task)?;
    let mut walk = Walk::new(input.storage, &layout, &found, &counts, task, &mut reporter);
    if walk.is_worth_it() {
        report_references(&mut walk, &input, &places, &snapshots)?;
    }
    compare::refblocks(&layout, input.reftable, &mut counts, &mut reporter);
    compare::clusters(&layout, &stored, &counts, &mut reporter, task)?;
    Walk::new(input.storage, &layout, &found, &counts, task, &mut reporter).flags(input.l1, &stored)?;
    let mut report = reporter.report;
    report.total_clusters = input.geo.clusters_for(input.header.disk_size());
    report.allocated_clusters = found.stats.allocated;
    report.fragmented_clusters = found.stats.fragmented;
    report.compressed_clusters = found.stats.compressed;
    Ok(report)
}

/// The snapshot table as stored; an open for checking does not insist on it.
fn read_snapshots(input: &CheckInput<'_>, reporter: &mut Reporter<'_>) -> Result<SnapshotTable> {
    let overhanging = input.header.snapshot_count.saturating_sub(MAX_SNAPSHOTS);
    if overhanging > 0 {
        let error = Error::limit("ERROR snapshot table too large").with_errno(errno::EFBIG);
        return Err(error.with_hint(snapshot_table::removal_hint(overhanging)));
    }
    if !input.header.is_snapshot_table_placed() {
        return Err(Error::corrupt("ERROR snapshot table offset invalid").with_errno(errno::EINVAL));
    }
    let table = snapshot_table::read(input.storage, input.header)
        .map_err(|error| error.context("ERROR failed to read the snapshot table"))?;
    for (index, snapshot) in table.snapshots.iter().enumerate() {
        if input.header.is_v3() && snapshot.extra_len < V3_EXTRA {
            reporter.find(&Finding::IncompleteSnapshot { index });
        }
    }
    Ok(table)
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
struct Places {
    header_and_l1: [Region; 2],
    snapshot_l1: Vec<TablePlace>,
    /// Snapshot table, refcount table, LUKS header, bitmap directory.
    tables: Vec<Region>,
    bitmap_tables: Vec<TablePlace>,
    /// A snapshot's L1 table is to be reported as a whole.
    needs_words: bool,
}

impl Places {
    fn of(input: &CheckInput<'_>, layout: &Layout, snapshots: &SnapshotTable) -> Self {
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

    fn regions(&self) -> Vec<Region> {
        let tables =
            self.snapshot_l1.iter().chain(&self.bitmap_tables).map(|table| (table.offset, table.len()));
        self.header_and_l1.iter().chain(&self.tables).copied().chain(tables).collect()
    }
}

/// Walks all references in the order in which they have always been reported.
fn report_references(
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

#[cfg(test)]
mod tests;
