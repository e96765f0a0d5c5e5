//! [`Tables`]: the grain directory and the grain tables of a sparse extent, in slices of bounded memory.
//!
//! A lookup that misses loads the slice without a lock and is repeated: there is no I/O under the lock of the slices.
//!
//! # Write order
//!
//! ```text
//! guest data │ entries of grain tables, and their redundant copies
//! ```
//!
//! with a barrier at `│`: an entry never refers to a grain whose bytes are not durable. Entries are collected in memory
//! and written by [`Tables::write_back`], at a flush or when many are dirty. A grain that a table refers to is never given to
//! anybody else, so a crash at any write leaves space that nothing refers to at worst.
//!
//! A missing table is made at once: both copies full of zeros │ entry of the redundant directory │ entry of the directory.
//!
//! Only this module writes tables (streams, whose tables come at the end, have their own order: [`crate::stream`]).

use std::sync::Arc;

use diskimg_core::{
    BlockDevice, Error, ErrorKind, Result, SliceCache, errno, len_u64, read_zero_padded, to_usize,
};
use parking_lot::{Mutex, RwLock};

use crate::geometry::{Geometry, GrainEntry};
use crate::limits::{CACHED_SLICES, SECTOR, SLICE};

/// The tables of one extent.
#[derive(Debug)]
pub(crate) struct Tables {
    io: Arc<dyn BlockDevice>,
    slices: RwLock<SliceCache>,
    /// Held while dirty slices are written, so that an older one never overtakes a newer one.
    writing: Mutex<()>,
    /// Held while a missing table is made.
    growing: Mutex<()>,
}

/// Byte `at` of the table of `len` bytes at `start`.
#[derive(Clone, Copy)]
struct Place {
    start: u64,
    len: u64,
    at: u64,
}

/// Times that a slice is loaded for a change before something must be wrong with it.
const MOST_LOADS: u32 = 64;

/// What one slice tells of grains from the one that was asked for on.
#[derive(Clone, Debug)]
pub(crate) enum Row {
    /// Their entries; not empty.
    Entries(Vec<GrainEntry>),
    /// So many grains have no table, hence no place.
    NoTable(u64),
}

impl Row {
    /// How many grains it tells of.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Entries(entries) => u64::try_from(entries.len()).unwrap_or(1).max(1),
            Self::NoTable(count) => *count,
        }
    }

    /// The entries; none where there is no table.
    pub(crate) fn entries(&self) -> &[GrainEntry] {
        match self {
            Self::Entries(entries) => entries,
            Self::NoTable(_) => &[],
        }
    }
}

fn bad_entry() -> Error {
    Error::new(ErrorKind::Corrupt, "Input/output error").with_errno(errno::EIO)
}

impl Tables {
    pub(crate) fn new(io: Arc<dyn BlockDevice>) -> Self {
        let slices = RwLock::new(SliceCache::new(CACHED_SLICES));
        Self { io, slices, writing: Mutex::new(()), growing: Mutex::new(()) }
    }

    /// Calls `look` with the slice that has byte `at` of the table of `len` bytes at `start`, and the place of the
    /// byte in it.
    fn with_slice<T>(&self, start: u64, len: u64, at: u64, look: impl Fn(&[u8], usize) -> T) -> Result<T> {
        let within = at - at % SLICE;
        let offset = start.checked_add(within).ok_or_else(bad_entry)?;
        let generation = {
            let slices = self.slices.read();
            if let Some(slice) = slices.get(offset) {
                return Ok(look(slice, to_usize(at - within)));
            }
            slices.generation()
        };
        let mut slice = vec![0; to_usize(SLICE.min(len.saturating_sub(within)))];
        read_zero_padded(&*self.io, offset, &mut slice)?;
        let found = look(&slice, to_usize(at - within));
        self.slices.write().insert_current(offset, slice, generation);
        Ok(found)
    }

    fn directory_entry(&self, geo: &Geometry, directory: u64, table: u64) -> Result<Option<u64>> {
        if table >= geo.tables {
            // The extent is longer than its directory reaches.
            return Err(bad_entry());
        }
        let entry_len = geo.entry_len();
        let value = self.with_slice(directory, geo.tables * entry_len, table * entry_len, |slice, at| {
            entry_at(slice, at, entry_len)
        })?;
        geo.decode_directory(value.ok_or_else(bad_entry)?).ok_or_else(bad_entry)
    }

    /// Where the grain table number `table` is; `None`: there is none.
    pub(crate) fn table(&self, geo: &Geometry, table: u64) -> Result<Option<u64>> {
        self.directory_entry(geo, geo.directory, table)
    }

    /// How many tables in turn from number `table` on are missing, as far as one slice of the directory tells.
    fn missing(&self, geo: &Geometry, table: u64) -> Result<u64> {
        let entry_len = geo.entry_len();
        self.with_slice(geo.directory, geo.tables * entry_len, table * entry_len, |slice, at| {
            let entries = slice.get(at..).unwrap_or_default().chunks_exact(to_usize(entry_len));
            let missing = entries.map_while(|entry| entry.iter().all(|byte| *byte == 0).then_some(()));
            u64::try_from(missing.count()).unwrap_or(1)
        })
    }

    /// Entries of grains from `grain` on, at most `count`, as far as one slice tells.
    pub(crate) fn row(&self, geo: &Geometry, grain: u64, count: u64) -> Result<Row> {
        let (table, index) = geo.entry_of(grain);
        if let Some(start) = self.table(geo, table)? {
            return self.row_at(geo, Some(start), grain, count);
        }
        let grains = self.missing(geo, table)?.max(1).saturating_mul(geo.table_entries);
        Ok(Row::NoTable(grains.saturating_sub(index).min(count).max(1)))
    }

    /// The same where the table is known to be at `start`.
    pub(crate) fn row_at(&self, geo: &Geometry, start: Option<u64>, grain: u64, count: u64) -> Result<Row> {
        let (_, index) = geo.entry_of(grain);
        let in_table = (geo.table_entries - index).min(count).max(1);
        let Some(start) = start else {
            return Ok(Row::NoTable(in_table));
        };
        let entry_len = geo.entry_len();
        let entries = self.with_slice(start, geo.table_len(), index * entry_len, |slice, at| {
            let step = to_usize(entry_len);
            let rest = slice.get(at..).unwrap_or_default().chunks_exact(step);
            let mut entries = Vec::new();
            for bytes in rest.take(to_usize(in_table)) {
                match entry_at(bytes, 0, entry_len).and_then(|value| geo.decode(value)) {
                    Some(entry) => entries.push(entry),
                    None => break,
                }
            }
            entries
        })?;
        if entries.is_empty() { Err(bad_entry()) } else { Ok(Row::Entries(entries)) }
    }

    /// Sets the entries of `count` grains from `grain` on, in memory. `entry` gives each by its number from 0 on.
    ///
    /// # Errors
    /// `Corrupt` if a grain has no table; the storage's.
    pub(crate) fn set(
        &self,
        geo: &Geometry,
        grain: u64,
        count: u64,
        entry: impl Fn(u64) -> GrainEntry,
    ) -> Result<()> {
        let mut done = 0;
        while done < count {
            let (table, index) = geo.entry_of(grain + done);
            let start = self.table(geo, table)?.ok_or_else(bad_entry)?;
            let mirror = match geo.redundant {
                Some(redundant) => self.directory_entry(geo, redundant, table)?.filter(|copy| *copy != start),
                None => None,
            };
            let at = index * 4;
            let within = at - at % SLICE;
            let some = (SLICE.min(geo.table_len() - within) - (at - within)) / 4;
            let some = some.min(count - done);
            let bytes: Vec<u8> =
                (0..some).flat_map(|step| Geometry::encode(entry(done + step)).to_le_bytes()).collect();
            let offset = start.checked_add(within).ok_or_else(bad_entry)?;
            let mirror = mirror.and_then(|copy| copy.checked_add(within));
            self.change(Place { start, len: geo.table_len(), at }, offset, &bytes, mirror)?;
            done += some;
        }
        Ok(())
    }

    /// Changes entries of the slice at `offset`, which is loaded if need be.
    fn change(&self, place: Place, offset: u64, bytes: &[u8], mirror: Option<u64>) -> Result<()> {
        let at = to_usize(place.at % SLICE);
        let part = at..at.saturating_add(bytes.len());
        for _ in 0..MOST_LOADS {
            if let Some(entries) = self.slices.write().get_mirrored(offset, part.clone(), mirror) {
                entries.copy_from_slice(bytes);
                return Ok(());
            }
            self.with_slice(place.start, place.len, place.at, |_, _| ())?;
        }
        // A shorter table begins at the same place: the tables contradict each other.
        Err(bad_entry())
    }

    /// Forgets what is known of the table of `len` bytes at `start`, which was written by somebody else.
    pub(crate) fn forget(&self, start: u64, len: u64) {
        let mut slices = self.slices.write();
        for within in (0..len).step_by(to_usize(SLICE)) {
            slices.forget_clean(start.saturating_add(within));
        }
    }

    /// True if so much is dirty that a write-back is due.
    pub(crate) fn wants_write_back(&self) -> bool {
        self.slices.read().wants_write_back()
    }

    /// Writes dirty entries, after a barrier for the data that they refer to. Without a barrier behind.
    pub(crate) fn write_back(&self) -> Result<()> {
        let _alone = self.writing.lock();
        let taken = self.slices.write().take_dirty();
        if taken.is_empty() {
            return Ok(());
        }
        let written = self.io.flush().and_then(|()| {
            let mirrors = taken.iter().filter_map(|slice| Some((slice.mirror?, slice)));
            for (offset, slice) in taken.iter().map(|slice| (slice.offset, slice)).chain(mirrors) {
                let (before, rest) = slice.data.split_at_checked(slice.part.start).unwrap_or_default();
                let bytes = rest.get(..slice.part.len()).unwrap_or_default();
                self.io.write_at(offset.saturating_add(len_u64(before)), bytes)?;
            }
            Ok(())
        });
        self.slices.write().written(&taken, written.is_ok());
        written
    }

    /// Makes the grain table number `table` if it is missing. `allocate` gives a place of so many bytes.
    pub(crate) fn ensure(
        &self,
        geo: &Geometry,
        table: u64,
        allocate: impl FnOnce(u64) -> Result<u64>,
    ) -> Result<()> {
        if self.table(geo, table)?.is_some() {
            return Ok(());
        }
        let _alone = self.growing.lock();
        if self.table(geo, table)?.is_some() {
            return Ok(());
        }
        let len = geo.table_len().next_multiple_of(SECTOR);
        let copies = 1 + u64::from(geo.redundant.is_some());
        let place = allocate(len * copies)?;
        self.io.write_at(place, &vec![0; to_usize(len * copies)])?;
        self.io.flush()?;
        if let Some(redundant) = geo.redundant {
            self.set_directory(geo, redundant, table, place + len)?;
        }
        self.set_directory(geo, geo.directory, table, place)
    }

    fn set_directory(&self, geo: &Geometry, directory: u64, table: u64, place: u64) -> Result<()> {
        let at = directory.checked_add(table * 4).ok_or_else(bad_entry)?;
        self.io.write_at(at, &Geometry::encode(GrainEntry::At(place)).to_le_bytes())?;
        self.io.flush()?;
        let within = table * 4 - table * 4 % SLICE;
        self.slices.write().forget_clean(directory.saturating_add(within));
        debug_assert!(table < geo.tables, "a table of the directory");
        Ok(())
    }
}

fn entry_at(bytes: &[u8], at: usize, len: u64) -> Option<u64> {
    let bytes = bytes.get(at..)?;
    match len {
        8 => bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)),
        _ => bytes.first_chunk().map(|bytes| u64::from(u32::from_le_bytes(*bytes))),
    }
}
