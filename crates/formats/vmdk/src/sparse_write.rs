//! Writing to sparse extents: new grains, zeros, two-phase writes and compressed grains.
//!
//! The order in which all that becomes durable is stated in [`crate::tables`] (tables in front) and [`crate::stream`]
//! (tables at the end). Writers of one grain exclude each other: the caller sees to that.

use diskimg_core::{
    ByteRange, ClusterEncoder as _, Error, ErrorKind, Result, ZeroMode, errno, len_u64, to_usize,
};

use crate::codec::{Encoder, GrainMarker, MARKER, most_payload};
use crate::error::VmdkError;
use crate::geometry::{Geometry, GrainEntry, SparseKind};
use crate::limits::{MAX_ENTRY_SECTOR, SECTOR};
use crate::sparse::{RunKind, SparseExtent};

/// Zeros that are written at once, in bytes.
const ZEROS: u64 = 256 << 10;
/// Where a COWD header says which sector is free.
const COWD_FREE_AT: u64 = 28;

/// A row of grains with places of their own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewGrains {
    /// Number of the first one.
    pub first: u64,
    pub count: u64,
    /// Where they stand in the file, one behind the other.
    pub place: u64,
}

/// A compressed grain with a place of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewPayload {
    pub grain: u64,
    /// Where its marker stands.
    pub place: u64,
    /// Bytes of its zlib stream.
    pub len: u64,
}

impl NewPayload {
    /// Bytes from the marker to the next sector.
    pub(crate) const fn stored_len(len: u64) -> u64 {
        (MARKER + len).next_multiple_of(SECTOR)
    }
}

/// What writing an allocated compressed grain gives.
pub(crate) fn already_written() -> Error {
    Error::new(ErrorKind::Io, "Could not write to allocated cluster for streamOptimized")
        .with_errno(errno::EIO)
}

fn no_room() -> Error {
    Error::limit("The extent has no sector left that an entry could refer to").with_errno(errno::EINVAL)
}

impl SparseExtent {
    /// A place of `len` bytes at the end of the file.
    fn allocate(&self, len: u64) -> Result<u64> {
        let mut next = self.next.lock();
        let place = *next;
        let end =
            place.checked_add(len).filter(|end| end / SECTOR <= MAX_ENTRY_SECTOR).ok_or_else(no_room)?;
        *next = end;
        Ok(place)
    }

    /// Gives a place back, if nothing came behind it.
    fn give_back(&self, place: u64, len: u64) {
        let mut next = self.next.lock();
        if place.checked_add(len) == Some(*next) {
            *next = place;
        }
    }

    /// A grain's place for its table, which is made if it is missing.
    fn ensure_tables(&self, first: u64, count: u64) -> Result<()> {
        let last = first.saturating_add(count.saturating_sub(1));
        for table in self.geo.entry_of(first).0..=self.geo.entry_of(last).0 {
            let unit = if self.geo.compressed { SECTOR } else { self.geo.grain };
            let whole = |len: u64| len.checked_next_multiple_of(unit).ok_or_else(no_room);
            self.tables.ensure(&self.geo, table, |len| self.allocate(whole(len)?))?;
        }
        Ok(())
    }

    /// Places for whole grains that have none.
    pub(crate) fn place(&self, first: u64, count: u64) -> Result<NewGrains> {
        self.ensure_tables(first, count)?;
        let place = self.allocate(count.saturating_mul(self.geo.grain))?;
        Ok(NewGrains { first, count, place })
    }

    /// Makes grains visible whose bytes are written. Where that fails, some of them may be visible: their place is lost.
    pub(crate) fn publish(&self, new: NewGrains) -> Result<()> {
        let grain = self.geo.grain;
        let entry = |step: u64| GrainEntry::At(new.place.saturating_add(step.saturating_mul(grain)));
        self.tables.set(&self.geo, new.first, new.count, entry)?;
        self.settle()
    }

    /// Gives places back.
    pub(crate) fn abandon(&self, new: NewGrains) {
        self.give_back(new.place, new.count.saturating_mul(self.geo.grain));
    }

    /// Writes tables back when much has gathered.
    fn settle(&self) -> Result<()> {
        if self.tables.wants_write_back() { self.write_back() } else { Ok(()) }
    }

    fn write_back(&self) -> Result<()> {
        self.tables.write_back()?;
        if self.geo.kind == SparseKind::Cowd {
            let free = u32::try_from(*self.next.lock() / SECTOR).unwrap_or(u32::MAX);
            self.io.write_at(COWD_FREE_AT, &free.to_le_bytes())?;
        }
        Ok(())
    }

    /// Makes all that was written durable.
    pub(crate) fn flush(&self) -> Result<()> {
        match &self.stream {
            Some(stream) => stream.finish(&self.tables),
            None => {
                self.write_back()?;
                self.io.flush()
            }
        }
    }

    /// Writes `buf` at byte `offset`.
    pub(crate) fn write(&self, offset: u64, buf: &[u8]) -> Result<()> {
        if self.geo.compressed {
            return self.write_compressed(offset, buf);
        }
        let range = ByteRange::new(offset, len_u64(buf));
        let mut at = range.start;
        while at < range.end() {
            let rest = ByteRange::from_bounds(at, range.end());
            let run = self.run_at(rest)?;
            let part = ByteRange::new(at, run.len);
            let from = to_usize(at - range.start);
            let bytes = buf.get(from..from + to_usize(run.len)).unwrap_or_default();
            match run.kind {
                RunKind::Data(host) => self.write_in_place(host, bytes)?,
                _ => self.write_new(part, bytes)?,
            }
            at += run.len;
        }
        Ok(())
    }

    fn write_in_place(&self, host: u64, bytes: &[u8]) -> Result<()> {
        if host < self.geo.overhead.max(SECTOR) {
            return Err(Error::corrupt("A grain lies where metadata is").with_errno(errno::EIO));
        }
        self.io.write_at(host, bytes)
    }

    /// Writes to grains that have no place yet; what `part` leaves of them becomes zeros.
    fn write_new(&self, part: ByteRange, bytes: &[u8]) -> Result<()> {
        let grain = self.geo.grain;
        let first = self.geo.grain_of(part.start);
        let count = part.end().div_ceil(grain) - first;
        let new = self.place(first, count)?;
        if let Err(error) = self.fill_new(new, part, bytes) {
            self.abandon(new);
            return Err(error);
        }
        self.publish(new)
    }

    fn fill_new(&self, new: NewGrains, part: ByteRange, bytes: &[u8]) -> Result<()> {
        let start = new.first.saturating_mul(self.geo.grain);
        let head = part.start - start;
        let end = new.count.saturating_mul(self.geo.grain);
        self.write_zeros(new.place, head)?;
        self.io.write_at(new.place + head, bytes)?;
        let filled = head + part.len;
        self.write_zeros(new.place + filled, end.saturating_sub(filled))
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<()> {
        let zeros = vec![0; to_usize(len.min(ZEROS))];
        let mut done = 0;
        while done < len {
            let part = zeros.get(..to_usize(ZEROS.min(len - done))).unwrap_or_default();
            self.io.write_at(offset.saturating_add(done), part)?;
            done += len_u64(part).max(1);
        }
        Ok(())
    }

    /// Zeroes what the disk leaves of the last one of new grains.
    pub(crate) fn zero_tail(&self, new: NewGrains) -> Result<()> {
        let end = new.first.saturating_add(new.count).saturating_mul(self.geo.grain);
        let beyond = end.saturating_sub(self.geo.len.max(new.first.saturating_mul(self.geo.grain)));
        let place_end = new.place.saturating_add(new.count.saturating_mul(self.geo.grain));
        self.write_zeros(place_end.saturating_sub(beyond), beyond)
    }

    /// Zeroes whole grains (the last one of the extent may be short) by their entries. `below`: a backing file would be seen
    /// where the extent has nothing.
    pub(crate) fn zero(&self, range: ByteRange, how: ZeroMode, below: bool) -> Result<()> {
        let unsupported = || Error::unsupported("Zeros have to be written");
        let first = self.geo.grain_of(range.start);
        let end = range.end().div_ceil(self.geo.grain);
        let mut grain = first;
        let mut runs = Vec::new();
        while grain < end {
            let row = self.row(grain, end - grain)?;
            if below && row.entries().is_empty() {
                runs.push(grain..grain + row.len());
            }
            for (grain, entry) in (grain..).zip(row.entries()) {
                let done = match entry {
                    GrainEntry::Zero => true,
                    GrainEntry::Absent => !below,
                    GrainEntry::At(_) if how == ZeroMode::KeepAllocated => return Err(unsupported()),
                    GrainEntry::At(_) => false,
                };
                if !done {
                    runs.push(grain..grain + 1);
                }
            }
            grain += row.len();
        }
        if runs.is_empty() {
            return Ok(());
        }
        if !self.geo.zeroed_grains || self.stream.is_some() || self.geo.compressed {
            return Err(unsupported());
        }
        for grain in runs.into_iter().flatten() {
            self.ensure_tables(grain, 1)?;
            self.tables.set(&self.geo, grain, 1, |_| GrainEntry::Zero)?;
        }
        self.settle()
    }
}

/// Compressed grains.
impl SparseExtent {
    fn write_compressed(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let range = ByteRange::new(offset, len_u64(buf));
        let whole = |at: u64| at.is_multiple_of(self.geo.grain) || at == self.geo.len;
        if !whole(range.start) || !whole(range.end()) {
            return Err(VmdkError::Invalid.into());
        }
        let (mut encoder, mut payload) = (Encoder::new(), Vec::new());
        let mut grain = vec![0; to_usize(self.geo.grain)];
        for (index, bytes) in (self.geo.grain_of(offset)..).zip(buf.chunks(to_usize(self.geo.grain))) {
            let (head, tail) = grain.split_at_mut(bytes.len());
            head.copy_from_slice(bytes);
            tail.fill(0);
            encoder.encode(&grain, &mut payload)?;
            let new = self.place_payload(index, len_u64(&payload))?;
            let written = self.io.write_at(new.place + MARKER, &payload);
            match written {
                Ok(()) => self.publish_payload(new)?,
                Err(error) => {
                    self.abandon_payload(new);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// A place for the zlib stream of a grain that has not been written yet.
    pub(crate) fn place_payload(&self, grain: u64, len: u64) -> Result<NewPayload> {
        if len == 0 || len > most_payload(self.geo.grain) {
            return Err(VmdkError::Invalid.into());
        }
        let place = match &self.stream {
            Some(stream) => stream.place(&self.tables, grain, len)?,
            None => {
                if !self.entry(grain)?.has_no_place() {
                    return Err(already_written());
                }
                self.ensure_tables(grain, 1)?;
                self.allocate(NewPayload::stored_len(len))?
            }
        };
        Ok(NewPayload { grain, place, len })
    }

    /// Makes a grain visible whose zlib stream is written.
    pub(crate) fn publish_payload(&self, new: NewPayload) -> Result<()> {
        if let Err(error) = self.write_frame(new) {
            self.abandon_payload(new);
            return Err(error);
        }
        // What fails from here on may have made it visible: its place is not given away again.
        let published = match &self.stream {
            Some(stream) => stream.publish(&self.tables, new),
            None => {
                let entry = |_| GrainEntry::At(new.place);
                self.tables.set(&self.geo, new.grain, 1, entry).and_then(|()| self.settle())
            }
        };
        self.forget_grains();
        published
    }

    /// The marker in front of the stream, and zeros up to the next sector.
    fn write_frame(&self, new: NewPayload) -> Result<()> {
        let sector = new.grain.saturating_mul(self.geo.grain) / SECTOR;
        let marker = GrainMarker { sector, len: u32::try_from(new.len).unwrap_or(0) };
        self.io.write_at(new.place, &marker.to_bytes())?;
        let end = new.place + MARKER + new.len;
        self.write_zeros(end, end.next_multiple_of(SECTOR) - end)
    }

    /// Gives a payload's place back.
    pub(crate) fn abandon_payload(&self, new: NewPayload) {
        match &self.stream {
            Some(stream) => stream.abandon(new),
            None => self.give_back(new.place, NewPayload::stored_len(new.len)),
        }
    }
}

impl Geometry {
    /// True if a border of the disk at `at` is one of grains, or the end.
    pub(crate) fn is_border(&self, at: u64) -> bool {
        at.is_multiple_of(self.grain) || at >= self.len
    }
}

impl SparseExtent {
    /// True if none of `count` grains from `first` on has a place.
    pub(crate) fn has_no_places(&self, first: u64, count: u64) -> Result<bool> {
        let mut grain = first;
        while grain < first.saturating_add(count) {
            let row = self.row(grain, first.saturating_add(count) - grain)?;
            if !row.entries().iter().all(|entry| entry.has_no_place()) {
                return Ok(false);
            }
            grain += row.len();
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use diskimg_core::{BlockDevice, MemDevice};
    use diskimg_testkit::{FaultDevice, FaultKinds, FaultPlan, FaultSpec, pattern};

    use super::*;
    use crate::header::CowdHeader;

    /// Sectors of a grain table of a COWD extent with grains of a sector.
    const TABLE: u64 = 4096;

    /// An empty COWD extent of `capacity` sectors whose directory has `tables` entries, all of them missing.
    fn cowd(capacity: u32, tables: u32, storage: Arc<dyn BlockDevice>) -> SparseExtent {
        let header = CowdHeader { capacity, grain: 1, directory: 4, tables };
        SparseExtent::new(storage, header.geometry().unwrap(), None)
    }

    #[test]
    fn a_place_that_may_be_visible_is_not_given_away_again() {
        let across = (TABLE - 1) * SECTOR;
        for nth in 0.. {
            let memory = Arc::new(MemDevice::new(4096));
            let plan = FaultPlan::new(FaultSpec::once(FaultKinds::READ, nth));
            let extent = cowd(8192, 2, Arc::new(FaultDevice::new(memory, Arc::clone(&plan))));
            let first = pattern(1, 0, 2 * SECTOR);
            let written = extent.write(across, &first);
            plan.disarm();
            extent.write(0, &pattern(2, 0, 8 * SECTOR)).unwrap();
            let mut there = vec![0; first.len()];
            extent.read(across, &mut there).unwrap();
            for (sector, wanted) in there.chunks(512).zip(first.chunks(512)) {
                let untouched = written.is_err() && sector.iter().all(|byte| *byte == 0);
                assert!(untouched || sector == wanted, "read {nth} failed: another write shows");
            }
            if plan.injected() == 0 {
                assert!(nth > 0 && written.is_ok());
                return;
            }
        }
    }

    #[test]
    fn behind_a_short_directory_nothing_is_read_or_written() {
        let memory = Arc::new(MemDevice::new(4096));
        let extent = cowd(8192, 1, Arc::clone(&memory) as _);
        extent.write(0, &[1; 512]).unwrap();
        let before = memory.to_vec();
        let behind = TABLE * SECTOR;
        assert_eq!(extent.read(behind, &mut [0; 512]).unwrap_err().errno(), errno::EIO);
        assert_eq!(extent.write(behind, &[1; 512]).unwrap_err().errno(), errno::EIO);
        assert_eq!(memory.to_vec(), before);
    }
}
