//! Counting what the tables reference: every L2 table of every L1 table once, in parallel, weighted by how often it
//! is used; likewise the bitmaps. Nothing is reported here; what needs a closer look is remembered.

use std::collections::HashMap;

use parking_lot::Mutex;

use diskimg_core::{BlockDevice, Error, Result, Task, errno, len_u64, to_usize};

use super::counts::Counts;
use super::layout::{Layout, PIECE, is_readable, read_pieces};
use super::pool;
use super::scan::{Scanner, Statistics, Use};
use super::stored::Stored;
use super::sweep::{Sweep, Weighted};
use crate::entry::{L1_RESERVED, L1Entry, OFFSET_MASK};

/// Bytes of an entry of L1 and bitmap tables.
const ENTRY: u64 = 8;
/// Uses of tables from which on equal ones are united on the way.
const FIRST_LIMIT: usize = 64 << 10;
/// Runs that a worker keeps before it counts them.
const MAX_RUNS: usize = 32 << 10;
/// Reserved bits of a bitmap table entry: bit 0 has a meaning only without an offset.
const BITMAP_RESERVED: u64 = !(OFFSET_MASK | 1);

/// An L2 table and how often it is used, in all L1 tables and in the active one.
#[derive(Clone, Copy, Debug)]
struct TableUse {
    offset: u64,
    total: u32,
    active: u32,
}

impl TableUse {
    fn usage(&self) -> Use {
        Use { total: self.total.into(), active: self.active.into() }
    }
}

/// L2 tables, each once; named again and again, they take no more memory.
#[derive(Debug, Default)]
struct TableUses {
    uses: Vec<TableUse>,
    /// The number of uses at which equal ones are united.
    limit: usize,
}

impl TableUses {
    fn add(&mut self, offset: u64, total: u64, active: u32) {
        if self.uses.len() >= self.limit {
            self.unite();
            self.limit = FIRST_LIMIT.max(self.uses.len().saturating_mul(2));
        }
        let total = u32::try_from(total).unwrap_or(u32::MAX);
        self.uses.push(TableUse { offset, total, active });
    }

    /// Puts them in the order of the host file, equal ones together.
    fn unite(&mut self) {
        self.uses.sort_unstable_by_key(|table| table.offset);
        self.uses.dedup_by(|next, kept| {
            let same = next.offset == kept.offset;
            if same {
                kept.total = kept.total.saturating_add(next.total);
                kept.active = kept.active.saturating_add(next.active);
            }
            same
        });
    }
}

/// What was found on the way, beside the counts.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Statistics of the active tables.
    pub stats: Statistics,
    /// Host offsets of the L2 tables that need a closer look, with the number of their uses.
    pub suspicious: HashMap<u64, u64>,
    /// Something else needs a closer look: a region or an L1 entry.
    pub elsewhere: bool,
}

/// A table of 8-byte entries on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TablePlace {
    /// Host offset in bytes.
    pub offset: u64,
    /// Entries.
    pub entries: u64,
}

impl TablePlace {
    /// Bytes of it.
    pub(super) const fn len(&self) -> u64 {
        self.entries.saturating_mul(ENTRY)
    }

    /// It has entries, but where no file has anything.
    pub(super) fn is_unreadable(&self) -> bool {
        self.entries != 0 && !is_readable(self.offset, self.len())
    }
}

/// The parts of it that lie within the host file, each with the number of tables that have it.
fn weigh(layout: &Layout, places: &[TablePlace]) -> Vec<Weighted> {
    let mut sweep = Sweep::default();
    for place in places {
        let room = layout.file_len.saturating_sub(place.offset);
        sweep.add(place.offset, place.len().min(room));
    }
    sweep.finish()
}

/// Calls `each` with every entry that is not 0, and how often it counts.
fn each_entry(
    storage: &dyn BlockDevice,
    parts: &[Weighted],
    task: &Task<'_>,
    mut each: impl FnMut(u64, u64) -> Result<()>,
) -> Result<()> {
    let mut buf = Vec::new();
    for part in parts {
        read_pieces(storage, part.start, part.len, &mut buf, |piece| {
            task.check()?;
            let (entries, _) = piece.as_chunks::<8>();
            let mut entries = entries.iter().map(|entry| u64::from_be_bytes(*entry));
            entries.by_ref().filter(|entry| *entry != 0).try_for_each(|entry| each(entry, part.weight))
        })?;
    }
    Ok(())
}

/// Counts all that is reachable from the active L1 table (`l1`, its entries) and from those of snapshots.
///
/// # Errors
/// The storage's; `Cancelled`.
pub(super) fn count_trees(
    storage: &dyn BlockDevice,
    stored: &Stored<'_>,
    layout: &Layout,
    l1: &[u64],
    snapshots: &[TablePlace],
    counts: &mut Counts,
    task: &Task<'_>,
) -> Result<Found> {
    let mut found = Found::default();
    let mut tables = TableUses::default();
    let mut note = |entry: u64, total: u64, active: u32| {
        let offset = L1Entry(entry).offset();
        found.elsewhere |= entry & L1_RESERVED != 0
            || !layout.geo.is_aligned(offset)
            || layout.region(offset, layout.geo.cluster_size()).is_err();
        if layout.may_say_anything(offset) {
            tables.add(offset, total, active);
        }
    };
    l1.iter().filter(|entry| **entry != 0).for_each(|entry| note(*entry, 1, 1));
    each_entry(storage, &weigh(layout, snapshots), task, |entry, weight| {
        note(entry, weight, 0);
        Ok(())
    })?;
    tables.unite();
    scan_tables(storage, stored, layout, &tables.uses, counts, &mut found, task)?;
    Ok(found)
}

struct Shared<'a> {
    counts: &'a mut Counts,
    found: &'a mut Found,
}

fn scan_tables(
    storage: &dyn BlockDevice,
    stored: &Stored<'_>,
    layout: &Layout,
    tables: &[TableUse],
    counts: &mut Counts,
    found: &mut Found,
    task: &Task<'_>,
) -> Result<()> {
    let table_len = layout.geo.cluster_size();
    let batch = to_usize((PIECE / table_len).max(1));
    let batches: Vec<&[TableUse]> = tables.chunks(batch).collect();
    let bytes = table_len.saturating_mul(u64::try_from(tables.len()).unwrap_or(u64::MAX));
    let shared = Mutex::new(Shared { counts, found });
    pool::run(batches.len(), bytes, task, |claims| {
        let mut worker = Worker::new(storage, layout, stored);
        while let Some(unit) = claims.next()? {
            let mut rest = batches.get(unit).copied().unwrap_or_default();
            while !rest.is_empty() {
                rest = worker.scan_neighbours(rest)?;
                if worker.scanner.pending() >= MAX_RUNS {
                    worker.scanner.count_into(shared.lock().counts);
                }
            }
        }
        let mut shared = shared.lock();
        worker.scanner.count_into(shared.counts);
        shared.found.stats.add(&worker.stats, 1);
        shared.found.suspicious.extend(worker.suspicious);
        Ok(())
    })
}

/// What a thread has for itself.
struct Worker<'a> {
    storage: &'a dyn BlockDevice,
    table_len: u64,
    scanner: Scanner<'a>,
    stats: Statistics,
    suspicious: Vec<(u64, u64)>,
    buf: Vec<u8>,
}

impl<'a> Worker<'a> {
    fn new(storage: &'a dyn BlockDevice, layout: &'a Layout, stored: &'a Stored<'a>) -> Self {
        Self {
            storage,
            table_len: layout.geo.cluster_size(),
            scanner: Scanner::new(layout, stored),
            stats: Statistics::default(),
            suspicious: Vec::new(),
            buf: Vec::new(),
        }
    }

    /// Scans the first of `tables` and those that follow it directly on the host: small tables are read together.
    /// Returns the others.
    fn scan_neighbours<'t>(&mut self, tables: &'t [TableUse]) -> Result<&'t [TableUse]> {
        let follows = |pair: &[TableUse]| match pair {
            [one, next] => one.offset.checked_add(self.table_len) == Some(next.offset),
            _ => false,
        };
        let run = 1 + tables.windows(2).take_while(|pair| follows(pair)).count();
        let (together, rest) = tables.split_at_checked(run).unwrap_or((tables, &[]));
        let Some(start) = together.first().map(|table| table.offset) else { return Ok(rest) };
        let len = self.table_len.saturating_mul(u64::try_from(together.len()).unwrap_or(1));
        let mut tables = together.iter();
        let (table_len, mut left) = (self.table_len, 0);
        let mut current = None;
        let mut buf = std::mem::take(&mut self.buf);
        read_pieces(self.storage, start, len, &mut buf, |piece| {
            // A piece is many whole tables or a part of one: both are powers of two.
            for part in piece.chunks(to_usize(table_len)) {
                if left == 0 {
                    current = tables.next();
                    left = table_len;
                    if let Some(table) = current {
                        self.scanner.begin(table.offset, table.usage());
                    }
                }
                self.scanner.feed(part);
                left = left.saturating_sub(len_u64(part));
                if let Some(table) = current.filter(|_| left == 0) {
                    self.end(table);
                }
            }
            Ok(())
        })?;
        self.buf = buf;
        Ok(rest)
    }

    fn end(&mut self, table: &TableUse) {
        let (of_table, look_closer) = self.scanner.end();
        self.stats.add(&of_table, table.active.into());
        if look_closer {
            self.suspicious.push((table.offset, table.total.into()));
        }
    }
}

/// Counts the data clusters of bitmaps, given their tables. True: something needs a closer look.
///
/// # Errors
/// `InvalidArg` for an entry that is no entry; the storage's.
pub(super) fn count_bitmaps(
    storage: &dyn BlockDevice,
    layout: &Layout,
    tables: &[TablePlace],
    counts: &mut Counts,
    task: &Task<'_>,
) -> Result<bool> {
    let mut look_closer = false;
    each_entry(storage, &weigh(layout, tables), task, |entry, weight| {
        let Some(offset) = bitmap_cluster(layout, entry)? else { return Ok(()) };
        match layout.region(offset, layout.geo.cluster_size()) {
            Ok(clusters) => counts.add(clusters.first, clusters.count, weight),
            Err(_) => look_closer = true,
        }
        Ok(())
    })?;
    Ok(look_closer)
}

/// Where the data of a bitmap table entry stands, if it has any.
///
/// # Errors
/// `InvalidArg` for an entry that is no entry.
pub(super) fn bitmap_cluster(layout: &Layout, entry: u64) -> Result<Option<u64>> {
    let offset = entry & OFFSET_MASK;
    let valid =
        entry & BITMAP_RESERVED == 0 && (offset == 0 || entry & 1 == 0) && layout.geo.is_aligned(offset);
    if !valid {
        return Err(Error::from_errno(errno::EINVAL));
    }
    Ok(Some(offset).filter(|offset| *offset != 0))
}

/// Counts regions; each may be named many times. True: something needs a closer look.
pub(super) fn count_regions(layout: &Layout, regions: &[(u64, u64)], counts: &mut Counts) -> bool {
    let (mut sweep, mut look_closer) = (Sweep::default(), false);
    for (offset, len) in regions {
        match layout.region(*offset, *len) {
            Ok(clusters) => sweep.add(clusters.first, clusters.count),
            Err(_) => look_closer = true,
        }
    }
    sweep.finish().iter().for_each(|part| counts.add(part.start, part.len, part.weight));
    look_closer
}

/// The entries of a table in memory, as a piece of it.
pub(super) fn words(piece: &[u8]) -> impl Iterator<Item = u64> + '_ {
    debug_assert!(len_u64(piece).is_multiple_of(ENTRY));
    piece.as_chunks::<8>().0.iter().map(|entry| u64::from_be_bytes(*entry))
}
