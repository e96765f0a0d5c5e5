//! Cuts the sources into units of work, in guest order.
//!
//! Invariants: the pieces of all units ascend and do not overlap; each starts and ends on a border of the target's
//! write unit (or at the end of the disk); a unit's pieces of data are at most `max_unit` bytes. What needs no
//! work is in no piece.

use diskimg_chain::Asking;
use diskimg_core::{ByteRange, ErrorKind, Task, align_down, align_up};

use super::failure::CopyError;
use super::source::{Class, SourceWalk, Sources};

/// The least that is looked at or read on its own where that failed, in bytes.
pub(super) const SECTOR: u64 = 512;

/// Pieces in a unit: bounds what one thread holds of a fragmented disk.
const MAX_PIECES: usize = 256;

/// A run that is handled as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) range: ByteRange,
    /// It is known to be zeros, and has to be zeroed.
    pub(super) zero: bool,
}

/// What one thread does at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unit {
    /// Its number, from 0 without gaps.
    pub(super) number: u64,
    /// What to copy, ascending. Empty: the disk has been walked to its end.
    pub(super) pieces: Vec<Piece>,
    /// Bytes of data in the pieces.
    pub(super) data_len: u64,
    /// Bytes of the disk that are done with once this unit is, from the end of the unit before.
    pub(super) span: u64,
}

/// What a plan goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// The target's unit of placing.
    pub(super) write_unit: u64,
    /// Bytes of data in a unit at most; a multiple of `write_unit`.
    pub(super) max_unit: u64,
    /// Zeros from this byte on (a border of units) need no writing: the target reads as zeros there.
    pub(super) zero_from: u64,
    /// Known zeros are written like data.
    pub(super) fill: bool,
    /// How the host is asked about preallocated bytes.
    pub(super) asking: Asking,
    /// Where nothing is known of a sector because that could not be read, reading it is tried.
    pub(super) salvage: bool,
}

/// A range of which nothing could be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unknown {
    pub(super) range: ByteRange,
    /// Number of the error.
    pub(super) errno: i32,
}

impl Unknown {
    /// Where its sectors start.
    pub(super) fn sectors(&self) -> impl Iterator<Item = u64> + use<> {
        let (start, end) = (self.range.start, self.range.end());
        std::iter::successors(Some(start), |at| align_down(*at, SECTOR).checked_add(SECTOR))
            .take_while(move |at| *at < end)
    }
}

/// Bytes of one class.
#[derive(Clone, Copy, Debug)]
struct Run {
    class: Class,
    start: u64,
    end: u64,
}

impl Run {
    fn has(&self, at: u64) -> bool {
        self.start <= at && at < self.end
    }
}

/// Walks the sources once.
#[derive(Debug)]
pub(super) struct Planner<'a> {
    walk: SourceWalk<'a>,
    rules: Rules,
    at: u64,
    end: u64,
    next_number: u64,
    /// The run that was looked at last, and the extent behind it.
    run: Option<Run>,
    ahead: Option<Run>,
    /// What could not be told, ascending; neighbours are joined.
    unknown: Vec<Unknown>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(sources: &'a Sources<'a>, rules: Rules) -> Self {
        Self {
            walk: SourceWalk::new(sources).asking(rules.asking),
            rules,
            at: 0,
            end: sources.len(),
            next_number: 0,
            run: None,
            ahead: None,
            unknown: Vec::new(),
        }
    }

    /// What could not be told, ascending; only with `salvage`.
    pub(super) fn into_unknown(self) -> Vec<Unknown> {
        self.unknown
    }

    /// The next unit, in the storage of `unit`; its pieces are empty when there is none.
    pub(super) fn next(&mut self, unit: &mut Unit, task: &Task<'_>) -> Result<(), CopyError> {
        unit.pieces.clear();
        unit.data_len = 0;
        let start = self.at;
        while self.at < self.end && unit.pieces.len() < MAX_PIECES {
            task.check()?;
            let room = self.rules.max_unit - unit.data_len;
            if room < self.rules.write_unit {
                break;
            }
            let Some(piece) = self.next_piece(room)? else { continue };
            self.at = piece.range.end();
            if !piece.zero {
                unit.data_len += piece.range.len;
            }
            match unit.pieces.last_mut() {
                Some(last) if last.zero == piece.zero && last.range.end() == piece.range.start => {
                    last.range.len += piece.range.len;
                }
                _ => unit.pieces.push(piece),
            }
        }
        unit.span = self.at - start;
        if !unit.pieces.is_empty() {
            unit.number = self.next_number;
            self.next_number += 1;
        }
        Ok(())
    }

    /// The run at `at`, at most `room` bytes if it is data; `None` if it was skipped.
    fn next_piece(&mut self, room: u64) -> Result<Option<Piece>, CopyError> {
        let unit = self.rules.write_unit;
        let (class, end) = self.run_at(self.at)?;
        if class != Class::Data {
            let whole = if end >= self.end { self.end } else { align_down(end, unit) };
            if whole > self.at {
                let range = ByteRange::from_bounds(self.at, whole);
                return Ok(self.zero_piece(class, range));
            }
        }
        // Data, or a unit that is only in part something else: all of the unit is read and written.
        let whole = align_up(end, unit).unwrap_or(self.end).min(self.end);
        let range = ByteRange::from_bounds(self.at, whole.min(self.at.saturating_add(room)));
        Ok(Some(Piece { range, zero: false }))
    }

    /// Advances over what needs no work.
    fn zero_piece(&mut self, class: Class, range: ByteRange) -> Option<Piece> {
        let needed = match class {
            Class::Zero => ByteRange::from_bounds(range.start, range.end().min(self.rules.zero_from)),
            Class::Below | Class::Data => ByteRange::default(),
        };
        if needed.is_empty() {
            self.at = range.end();
            return None;
        }
        Some(Piece { range: needed, zero: true })
    }

    /// The class of byte `at` and where its run ends. Neighbours of one class are joined as far as a unit reaches.
    fn run_at(&mut self, at: u64) -> Result<(Class, u64), CopyError> {
        let mut run = match self.run.filter(|run| run.has(at)) {
            Some(run) => run,
            None => self.extent_at(at)?,
        };
        let enough = at.saturating_add(self.rules.max_unit).min(self.end);
        while run.end < enough {
            let next = self.extent_at(run.end)?;
            if next.class != run.class {
                break;
            }
            run.end = next.end;
        }
        self.run = Some(run);
        Ok((run.class, run.end))
    }

    fn extent_at(&mut self, at: u64) -> Result<Run, CopyError> {
        if let Some(known) = self.ahead.filter(|run| run.has(at)) {
            return Ok(known);
        }
        let rest = ByteRange::from_bounds(at, self.end);
        let (class, len) = match self.walk.classify(rest) {
            Err(error) if self.rules.salvage && error.kind() != ErrorKind::Cancelled => {
                let sector = rest.intersect(ByteRange::new(align_down(at, SECTOR), SECTOR));
                self.remember(Unknown { range: sector, errno: error.errno() });
                (Class::Data, sector.len)
            }
            classified => classified.map_err(|error| CopyError::status(at, error))?,
        };
        let class = if class == Class::Zero && self.rules.fill { Class::Data } else { class };
        let run = Run { class, start: at, end: at.saturating_add(len.max(1)) };
        self.ahead = Some(run);
        Ok(run)
    }

    fn remember(&mut self, unknown: Unknown) {
        match self.unknown.last_mut() {
            Some(last) if unknown.range.start < last.range.end() => {}
            Some(last) if last.errno == unknown.errno && last.range.end() == unknown.range.start => {
                last.range.len += unknown.range.len;
            }
            _ => self.unknown.push(unknown),
        }
    }
}
