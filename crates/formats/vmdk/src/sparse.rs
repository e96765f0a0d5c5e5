//! [`SparseExtent`]: a part of the disk whose grains are stored where tables say. This file looks up and reads; writing is in
//! `sparse_write.rs`.
//!
//! A grain's place never changes its meaning while the extent is open: places that are given up are not given away again.
//! So readers look an entry up, leave the lock, and read.

use std::sync::Arc;

use diskimg_core::{
    BlockDevice, ByteRange, ChunkCache, Device, Error, Extent, ExtentFlags, HostRef, Result, len_u64,
    read_zero_padded, to_usize,
};
use parking_lot::Mutex;

use crate::codec::{Decoders, GrainMarker, MARKER, most_payload};
use crate::geometry::{Geometry, GrainEntry};
use crate::limits::SECTOR;
use crate::stream::Stream;
use crate::tables::{Row, Tables};

/// Decompressed grains that are kept for readers of less than a grain.
const KEPT: usize = 4;

/// A sparse extent. Offsets are those of the extent, in bytes.
#[derive(Debug)]
pub(crate) struct SparseExtent {
    /// The file, as `HostRef`s name it.
    pub storage: Arc<dyn BlockDevice>,
    /// The file, at any alignment.
    pub io: Arc<dyn BlockDevice>,
    pub geo: Geometry,
    pub tables: Tables,
    /// Set where the tables come at the end of the file.
    pub stream: Option<Stream>,
    /// Where new grains go.
    pub next: Mutex<u64>,
    pub decoders: Decoders,
    kept: ChunkCache,
}

/// What a run of bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunKind {
    Absent,
    Zero,
    /// Bytes at this place of the file.
    Data(u64),
    /// Part of a compressed grain, which is stored at this place of the file.
    Compressed(u64),
}

/// A run of bytes of one nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Bytes; never 0.
    pub len: u64,
    pub kind: RunKind,
}

impl Run {
    fn continued_by(self, next: Self) -> bool {
        match (self.kind, next.kind) {
            (RunKind::Absent, RunKind::Absent) | (RunKind::Zero, RunKind::Zero) => true,
            (RunKind::Data(a), RunKind::Data(b)) => a.checked_add(self.len) == Some(b),
            _ => false,
        }
    }
}

/// The device, or its front end if that wants aligned requests.
pub(crate) fn any_alignment(storage: &Arc<dyn BlockDevice>) -> Arc<dyn BlockDevice> {
    if storage.limits().align <= 1 {
        return Arc::clone(storage);
    }
    Arc::new(Device::new(Arc::clone(storage)))
}

impl SparseExtent {
    /// The extent in `storage`.
    pub(crate) fn new(storage: Arc<dyn BlockDevice>, geo: Geometry, stream: Option<Stream>) -> Self {
        let io = any_alignment(&storage);
        let unit = if geo.compressed { SECTOR } else { geo.grain };
        let next =
            Mutex::new(storage.len().max(geo.overhead).checked_next_multiple_of(unit).unwrap_or(u64::MAX));
        let tables = Tables::new(Arc::clone(&io));
        let kept = ChunkCache::new(KEPT.saturating_mul(to_usize(geo.grain)));
        let decoders = Decoders::default();
        Self { storage, io, geo, tables, stream, next, decoders, kept }
    }

    pub(crate) fn row(&self, grain: u64, count: u64) -> Result<Row> {
        match &self.stream {
            Some(stream) => stream.row(&self.tables, grain, count),
            None => self.tables.row(&self.geo, grain, count),
        }
    }

    /// The entry of a grain.
    pub(crate) fn entry(&self, grain: u64) -> Result<GrainEntry> {
        let row = self.row(grain, 1)?;
        Ok(row.entries().first().copied().unwrap_or(GrainEntry::Absent))
    }

    /// The first run of `range` (not empty, within the extent).
    pub(crate) fn run_at(&self, range: ByteRange) -> Result<Run> {
        let mut found: Option<Run> = None;
        while found.is_none_or(|run| run.len < range.len) {
            let done = found.map_or(0, |run| run.len);
            let rest = ByteRange::from_bounds(range.start + done, range.end());
            let piece = match self.run_in_row(rest) {
                // What is known already is an answer.
                Err(_) if found.is_some() => break,
                other => other?,
            };
            match &mut found {
                None => found = Some(piece),
                Some(run) if run.continued_by(piece) => run.len += piece.len,
                Some(_) => break,
            }
        }
        Ok(found.unwrap_or(Run { len: range.len, kind: RunKind::Absent }))
    }

    /// The first run as far as one row of entries tells.
    fn run_in_row(&self, range: ByteRange) -> Result<Run> {
        let first = self.geo.grain_of(range.start);
        let count = self.geo.grain_of(range.end().saturating_sub(1)).saturating_sub(first).saturating_add(1);
        let row = self.row(first, count)?;
        if let Row::NoTable(grains) = row {
            let end = first.saturating_add(grains).saturating_mul(self.geo.grain).min(range.end());
            return Ok(Run { len: end.saturating_sub(range.start), kind: RunKind::Absent });
        }
        let mut found: Option<Run> = None;
        let mut at = range.start;
        for (grain, entry) in (first..).zip(row.entries().iter().copied()) {
            let whole = ByteRange::new(grain.saturating_mul(self.geo.grain), self.geo.grain);
            let len = whole.end().min(range.end()).saturating_sub(at);
            if len == 0 {
                break;
            }
            let piece = Run { len, kind: self.kind_of(entry, at - whole.start) };
            match &mut found {
                None => found = Some(piece),
                Some(run) if run.continued_by(piece) => run.len += len,
                Some(_) => break,
            }
            at += len;
        }
        Ok(found.unwrap_or(Run { len: range.len, kind: RunKind::Absent }))
    }

    fn kind_of(&self, entry: GrainEntry, within: u64) -> RunKind {
        match entry {
            GrainEntry::Absent => RunKind::Absent,
            GrainEntry::Zero => RunKind::Zero,
            GrainEntry::At(place) if self.geo.compressed => RunKind::Compressed(place),
            GrainEntry::At(place) => RunKind::Data(place.saturating_add(within)),
        }
    }

    /// Fills `buf` from byte `offset` on; what is absent reads as zeros.
    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let range = ByteRange::new(offset, len_u64(buf));
        let mut at = range.start;
        while at < range.end() {
            let run = self.run_at(ByteRange::from_bounds(at, range.end()))?;
            let from = to_usize(at - range.start);
            let Some(part) = buf.get_mut(from..from + to_usize(run.len)) else { break };
            match run.kind {
                RunKind::Absent | RunKind::Zero => part.fill(0),
                RunKind::Data(host) => read_zero_padded(&*self.io, host, part)?,
                RunKind::Compressed(place) => self.read_compressed(place, at, part)?,
            }
            at += run.len;
        }
        Ok(())
    }

    /// Fills `part` with bytes of the grain at `place`, from byte `at` of the extent on.
    fn read_compressed(&self, place: u64, at: u64, part: &mut [u8]) -> Result<()> {
        let range = self.geo.grain_range(self.geo.grain_of(at));
        if len_u64(part) == range.len {
            return self.decode(place, part);
        }
        let grain = self.kept.get(place, to_usize(range.len), |grain| self.decode(place, grain))?;
        let from = to_usize(at - range.start);
        if let Some(bytes) = grain.get(from..from + part.len()) {
            part.copy_from_slice(bytes);
        }
        Ok(())
    }

    /// Forgets decompressed grains: a place may hold another grain now.
    pub(crate) fn forget_grains(&self) {
        self.kept.clear();
    }

    fn decode(&self, place: u64, grain: &mut [u8]) -> Result<()> {
        if place >= self.storage.len() {
            grain.fill(0);
            return Ok(());
        }
        let mut payload = Vec::new();
        self.read_payload(place, &mut payload)?;
        self.decoders.decode(&payload, grain)
    }

    /// The zlib stream of the grain at `place`.
    ///
    /// # Errors
    /// `Corrupt` if its marker makes no sense; the storage's.
    pub(crate) fn read_payload(&self, place: u64, payload: &mut Vec<u8>) -> Result<()> {
        payload.clear();
        if !self.geo.markers {
            payload.resize(to_usize(self.geo.grain), 0);
            return read_zero_padded(&*self.io, place, payload);
        }
        // Most grains shrink to less than half: one read is enough for them.
        let there = self.storage.len().saturating_sub(place);
        payload.resize(to_usize((self.geo.grain / 2 + SECTOR).min(there.max(MARKER))), 0);
        read_zero_padded(&*self.io, place, payload)?;
        let marker = GrainMarker::parse(payload)
            .filter(|marker| marker.len > 0 && u64::from(marker.len) <= most_payload(self.geo.grain));
        let marker = marker.ok_or_else(|| {
            Error::corrupt("The marker of a compressed grain is invalid")
                .with_errno(diskimg_core::errno::EINVAL)
        })?;
        let have = payload.len();
        payload.resize(to_usize(MARKER + u64::from(marker.len)), 0);
        if let Some(rest) = payload.get_mut(have..).filter(|rest| !rest.is_empty()) {
            read_zero_padded(&*self.io, place.saturating_add(u64::try_from(have).unwrap_or(u64::MAX)), rest)?;
        }
        payload.drain(..to_usize(MARKER));
        Ok(())
    }

    /// The first extent of `range`. Compressed grains that follow each other are one.
    pub(crate) fn extent(&self, range: ByteRange) -> Result<Extent<'_>> {
        let first = self.run_at(range)?;
        let mut extent = match first.kind {
            RunKind::Absent => Extent::absent(first.len),
            RunKind::Zero => Extent::zero(first.len),
            RunKind::Data(offset) => {
                Extent::data(first.len, Some(HostRef { device: &*self.storage, offset }))
            }
            RunKind::Compressed(_) => {
                let mut extent = Extent::data(first.len, None);
                extent.flags |= ExtentFlags::COMPRESSED;
                extent
            }
        };
        while extent.flags.contains(ExtentFlags::COMPRESSED) && extent.len < range.len {
            let rest = ByteRange::from_bounds(range.start + extent.len, range.end());
            match self.run_at(rest) {
                Ok(Run { len, kind: RunKind::Compressed(_) }) => extent.len += len,
                _ => break,
            }
        }
        Ok(extent)
    }
}
