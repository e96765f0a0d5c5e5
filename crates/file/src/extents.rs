//! What the file system knows of holes, remembered so that a walk over a file costs about one call per extent.
//!
//! Invariants: an answer is used only while nothing could have changed it. Writes fill holes but never make any, and
//! punches make holes but never fill any; so each counts for itself, and a remembered hole outlives punches, remembered
//! data outlives writes. Other processes may fill holes too: a hole is believed for a moment only, no longer than between
//! a question and the read that follows it. No lock is held while the kernel is asked. Used by [`crate::FileDevice`] alone.

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use diskimg_core::{ByteRange, Result};
use parking_lot::Mutex;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::errors::from_os;

/// How long a hole is believed without asking again.
const TRUST: Duration = Duration::from_millis(20);

/// A run of bytes of one kind, starting where it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) end: u64,
    pub(crate) data: bool,
}

/// The moment of an answer, in changes seen so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    fills: u64,
    punches: u64,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    start: u64,
    run: Run,
    stamp: Stamp,
    asked: Instant,
}

/// The last answer, and what happened since.
#[derive(Debug, Default)]
pub(crate) struct ExtentCache {
    last: Mutex<Option<Known>>,
    fills: AtomicU64,
    punches: AtomicU64,
    unsupported: AtomicBool,
}

impl ExtentCache {
    /// To be called after bytes were written and before the writer learns of it.
    pub(crate) fn filled(&self) {
        self.fills.fetch_add(1, Ordering::AcqRel);
    }

    /// To be called after bytes may have become holes.
    pub(crate) fn punched(&self) {
        self.punches.fetch_add(1, Ordering::AcqRel);
    }

    /// Both: the length changed.
    pub(crate) fn reshaped(&self) {
        self.filled();
        self.punched();
    }

    fn stamp(&self) -> Stamp {
        Stamp { fills: self.fills.load(Ordering::Acquire), punches: self.punches.load(Ordering::Acquire) }
    }

    /// The run of one kind that `range` (not empty, within the file) starts with; it may end behind `range`.
    pub(crate) fn run_at(&self, file: &File, range: ByteRange) -> Result<Run> {
        if self.unsupported.load(Ordering::Relaxed) {
            return Ok(Run { end: range.end(), data: true });
        }
        let stamp = self.stamp();
        let last = *self.last.lock();
        if let Some(known) = last.filter(|known| known.holds(range.start, stamp)) {
            return Ok(known.run);
        }
        let asked = Instant::now();
        // A hole ends where data starts: one question less.
        let data_here = last.is_some_and(|known| known.borders(range.start, stamp));
        let Some(run) = ask(file, range, data_here)? else {
            self.unsupported.store(true, Ordering::Relaxed);
            return Ok(Run { end: range.end(), data: true });
        };
        *self.last.lock() = Some(Known { start: range.start, run, stamp, asked });
        Ok(run)
    }
}

impl Known {
    fn holds(&self, at: u64, now: Stamp) -> bool {
        if at < self.start || at >= self.run.end {
            return false;
        }
        if self.run.data {
            return self.stamp.punches == now.punches;
        }
        self.stamp.fills == now.fills && self.asked.elapsed() < TRUST
    }

    fn borders(&self, at: u64, now: Stamp) -> bool {
        !self.run.data && self.stamp == now && at == self.run.end
    }
}

/// Asks the kernel; `None` if it can't tell.
fn ask(file: &File, range: ByteRange, data_here: bool) -> Result<Option<Run>> {
    let data_start = if data_here { Ok(range.start) } else { seek(file, SeekFrom::Data(range.start)) };
    match data_start {
        Ok(start) if start > range.start => return Ok(Some(Run { end: start, data: false })),
        Ok(_) => {}
        // No data up to the end of the file, wherever that is.
        Err(Errno::NXIO) => return Ok(Some(Run { end: u64::MAX, data: false })),
        Err(Errno::INVAL | Errno::NOTSUP | Errno::NOSYS | Errno::SPIPE) => return Ok(None),
        Err(error) => return Err(from_os(error)),
    }
    match seek(file, SeekFrom::Hole(range.start)) {
        Ok(end) if end > range.start => Ok(Some(Run { end, data: true })),
        // The file changes while it is asked: take the cautious answer.
        Ok(_) | Err(Errno::NXIO) => Ok(Some(Run { end: range.end(), data: true })),
        Err(Errno::INVAL | Errno::NOTSUP | Errno::NOSYS) => Ok(None),
        Err(error) => Err(from_os(error)),
    }
}
