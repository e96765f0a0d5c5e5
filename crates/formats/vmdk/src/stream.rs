//! [`Stream`]: a stream-optimised extent whose tables come at the end, being written or recovered.
//!
//! # Layout
//!
//! ```text
//! header │ descriptor │ grains of table 0 │ marker, table 0 │ grains of table 1 │ … │ marker, directory │ marker, footer │ end
//! ```
//!
//! A table follows its grains as soon as grains of another one come, so that little is in memory: the directory, and the
//! tables that are being filled. A reader of the file from front to end sees each grain behind the one before; it is the
//! caller who brings them in order ([`CompressedClusters::only_encoded`](diskimg_core::CompressedClusters::only_encoded)).
//!
//! # Write order
//!
//! ```text
//! "being written" in the header │ grains, tables (over the old directory and footer) │
//! tables that are still filled, directory, footer, end │ "not being written" in the header
//! ```
//!
//! with a barrier at each `│`. While the header says "being written", what stands at the end of the file counts for
//! nothing: the next one who opens the file finds all grains by their markers, from the front on, up to the first one whose
//! checksum is wrong ([`recover`](crate::stream_file::recover)). What a flush acknowledged stands in front of that one.
//!
//! Holes are never left between grains: a place that is given up becomes a marker that tells readers to skip it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use diskimg_core::{BlockDevice, Error, Prealloc, Result, errno, read_table, to_usize};
use parking_lot::Mutex;

use crate::geometry::{Geometry, GrainEntry};
use crate::header::{Header, MarkerKind, UNCLEAN_AT, marker};
use crate::limits::{MAX_ENTRY_SECTOR, SECTOR};
use crate::sparse_write::{NewPayload, already_written};
use crate::tables::{Row, Tables};

/// A table that is being filled.
#[derive(Clone, Debug)]
pub(crate) struct OpenTable {
    /// Entries, as stored.
    pub entries: Vec<u32>,
    /// Numbers of entries whose grains have a place and are not written yet.
    pending: BTreeSet<u64>,
    /// Where it is going to stand, once nothing is pending.
    place: Option<u64>,
}

impl OpenTable {
    pub(crate) fn new(entries: Vec<u32>) -> Self {
        Self { entries, pending: BTreeSet::new(), place: None }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        bytes.resize(bytes.len().next_multiple_of(to_usize(SECTOR)), 0);
        bytes
    }
}

/// What changes.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// Sectors of the tables that are in the file; 0: none.
    pub directory: Vec<u32>,
    /// Tables that are being filled, by number.
    pub open: BTreeMap<u64, OpenTable>,
    /// Where the next grain goes: the first byte that counts for nothing.
    pub tail: u64,
    /// The header says that the image is being written.
    pub unclean: bool,
    /// The end of the file does not say all that is known.
    pub dirty: bool,
}

/// A stream. Its methods are called by the extent that it belongs to.
#[derive(Debug)]
pub(crate) struct Stream {
    io: Arc<dyn BlockDevice>,
    geo: Geometry,
    /// What the footer says, but for the place of the directory.
    footer: Header,
    state: Mutex<State>,
}

fn no_room() -> Error {
    Error::limit("The stream has no sector left that an entry could refer to").with_errno(errno::EINVAL)
}

impl Stream {
    pub(crate) fn new(io: Arc<dyn BlockDevice>, geo: Geometry, footer: Header, state: State) -> Self {
        Self { io, geo, footer, state: Mutex::new(state) }
    }

    /// Bytes of a table with its marker.
    fn table_room(&self) -> u64 {
        SECTOR + self.geo.table_len().next_multiple_of(SECTOR)
    }

    /// Entries from `grain` on, as far as is known without a second look.
    pub(crate) fn row(&self, tables: &Tables, grain: u64, count: u64) -> Result<Row> {
        let (table, index) = self.geo.entry_of(grain);
        let start = {
            let state = self.state.lock();
            if let Some(open) = state.open.get(&table) {
                let some = open.entries.iter().skip(to_usize(index)).take(to_usize(count.max(1)));
                let decode = |value: &u32| self.geo.decode((*value).into()).unwrap_or(GrainEntry::Absent);
                return Ok(Row::Entries(some.map(decode).collect()));
            }
            place_of(&state, table)
        };
        tables.row_at(&self.geo, start, grain, count)
    }

    /// A place for a grain with a zlib stream of `len` bytes.
    pub(crate) fn place(&self, tables: &Tables, grain: u64, len: u64) -> Result<u64> {
        let (table, index) = self.geo.entry_of(grain);
        let mut state = self.state.lock();
        self.begin(&mut state)?;
        if !state.open.contains_key(&table) {
            self.close_others(&mut state, tables)?;
            let entries = self.load(&state, table)?;
            state.open.insert(table, OpenTable::new(entries));
        }
        let tail = state.tail;
        let Some(open) = state.open.get_mut(&table) else { return Err(no_room()) };
        let taken = open.entries.get(to_usize(index)).is_none_or(|entry| *entry > 1);
        if taken || open.pending.contains(&index) {
            return Err(already_written());
        }
        if let Some(place) = open.place.take() {
            // It was to be written here; more is coming now, which will need another place.
            self.write_table(place, open)?;
        }
        let end = tail.checked_add(NewPayload::stored_len(len));
        let end = end.filter(|end| end / SECTOR <= MAX_ENTRY_SECTOR).ok_or_else(no_room)?;
        open.pending.insert(index);
        state.tail = end;
        state.dirty = true;
        Ok(tail)
    }

    /// Says in the header that the image is being written, before its end is overwritten.
    fn begin(&self, state: &mut State) -> Result<()> {
        if !state.unclean {
            self.io.write_at(UNCLEAN_AT, &[1])?;
            self.io.flush()?;
            state.unclean = true;
        }
        Ok(())
    }

    /// Gives the tables that are being filled their places: grains of another one come.
    fn close_others(&self, state: &mut State, tables: &Tables) -> Result<()> {
        let filled: Vec<u64> =
            state.open.iter().filter(|(_, open)| open.place.is_none()).map(|(table, _)| *table).collect();
        for table in filled {
            let place = state.tail + SECTOR;
            state.tail += self.table_room();
            if let Some(open) = state.open.get_mut(&table) {
                open.place = Some(place);
            }
            self.put_away(state, tables, table)?;
        }
        Ok(())
    }

    /// Writes a table that has its place and waits for nothing, and forgets it.
    fn put_away(&self, state: &mut State, tables: &Tables, table: u64) -> Result<()> {
        let Some(open) = state.open.get(&table).filter(|open| open.pending.is_empty()) else { return Ok(()) };
        let Some(place) = open.place else { return Ok(()) };
        self.write_table(place, open)?;
        tables.forget(place, self.geo.table_len());
        state.open.remove(&table);
        if let Some(entry) = state.directory.get_mut(to_usize(table)) {
            *entry = Geometry::encode(GrainEntry::At(place));
        }
        Ok(())
    }

    fn write_table(&self, place: u64, open: &OpenTable) -> Result<()> {
        let bytes = open.to_bytes();
        let mut all = marker(diskimg_core::len_u64(&bytes) / SECTOR, MarkerKind::Table);
        all.extend_from_slice(&bytes);
        self.io.write_at(place - SECTOR, &all)
    }

    /// The entries of a table that is in the file.
    fn load(&self, state: &State, table: u64) -> Result<Vec<u32>> {
        let Some(place) = place_of(state, table) else {
            return Ok(vec![0; to_usize(self.geo.table_entries)]);
        };
        let len = self.geo.table_len();
        let bytes = read_table(&*self.io, place, len, len, "grain table")?;
        Ok(entries_of(&bytes))
    }

    /// A grain is written: its entry may be seen.
    pub(crate) fn publish(&self, tables: &Tables, new: NewPayload) -> Result<()> {
        let (table, index) = self.geo.entry_of(new.grain);
        let mut state = self.state.lock();
        if let Some(open) = state.open.get_mut(&table) {
            open.pending.remove(&index);
            if let Some(entry) = open.entries.get_mut(to_usize(index)) {
                *entry = Geometry::encode(GrainEntry::At(new.place));
            }
        }
        state.dirty = true;
        self.put_away(&mut state, tables, table)
    }

    /// A grain is not going to be written: its place goes back, or is marked as nothing.
    pub(crate) fn abandon(&self, new: NewPayload) {
        let (table, index) = self.geo.entry_of(new.grain);
        let mut state = self.state.lock();
        let room = NewPayload::stored_len(new.len);
        if let Some(open) = state.open.get_mut(&table) {
            open.pending.remove(&index);
        }
        if new.place.checked_add(room) == Some(state.tail) {
            state.tail = new.place;
        } else {
            // A failure leaves a stream that ends here for whoever has to recover it.
            let _ = self.io.write_at(new.place, &marker(room / SECTOR - 1, MarkerKind::Table));
        }
    }

    /// Writes the end of the stream and makes all durable.
    pub(crate) fn finish(&self, tables: &Tables) -> Result<()> {
        let mut state = self.state.lock();
        if !state.dirty {
            return self.io.flush();
        }
        self.begin(&mut state)?;
        let mut directory = state.directory.clone();
        let mut at = state.tail;
        for (table, open) in &state.open {
            let place = open.place.unwrap_or(at + SECTOR);
            if open.place.is_none() {
                at += self.table_room();
            }
            self.write_table(place, open)?;
            tables.forget(place, self.geo.table_len());
            if let Some(entry) = directory.get_mut(to_usize(*table)) {
                *entry = Geometry::encode(GrainEntry::At(place));
            }
        }
        let end = trailer(&self.footer, &directory, at);
        self.io.write_at(at, &end)?;
        let len = at + diskimg_core::len_u64(&end);
        if self.io.len() > len {
            self.io.set_len(len, Prealloc::Off)?;
        }
        self.io.flush()?;
        self.io.write_at(UNCLEAN_AT, &[0])?;
        self.io.flush()?;
        state.unclean = false;
        state.dirty = false;
        Ok(())
    }
}

fn place_of(state: &State, table: u64) -> Option<u64> {
    let sector = state.directory.get(to_usize(table)).copied().unwrap_or(0);
    (sector != 0).then(|| u64::from(sector) * SECTOR)
}

/// 32-bit entries.
pub(crate) fn entries_of(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|entry| u32::from_le_bytes(*entry)).collect()
}

/// The end of a stream at byte `at`: directory, footer, end-of-stream marker.
pub(crate) fn trailer(header: &Header, directory: &[u32], at: u64) -> Vec<u8> {
    let mut entries: Vec<u8> = directory.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    entries.resize(entries.len().next_multiple_of(to_usize(SECTOR)), 0);
    let mut bytes = marker(diskimg_core::len_u64(&entries) / SECTOR, MarkerKind::Directory);
    let footer = Header { directory: (at + SECTOR) / SECTOR, unclean: false, ..header.clone() };
    bytes.extend_from_slice(&entries);
    bytes.extend_from_slice(&marker(1, MarkerKind::Footer));
    bytes.extend_from_slice(&footer.to_bytes());
    bytes.extend_from_slice(&marker(0, MarkerKind::EndOfStream));
    bytes
}
