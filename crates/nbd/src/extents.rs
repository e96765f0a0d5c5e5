//! [`Extents`]: what the server told of extents, kept for a moment: it tells of many at once, and callers ask for one.
//!
//! Invariants: nothing that was told before one of our own writes is believed after it; nothing is believed for long,
//! since others may write to the export.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use diskimg_core::{ByteRange, ExtentFlags};

use crate::limits::EXTENTS_LIFE;
use crate::reply::Run;

#[derive(Debug)]
struct Known {
    at: Instant,
    /// Where the first run starts.
    start: u64,
    runs: VecDeque<Run>,
}

#[derive(Debug, Default)]
pub(crate) struct Extents {
    /// Counts our own writes.
    changes: AtomicU64,
    known: Mutex<Option<Known>>,
}

impl Extents {
    /// Forgets everything: something is, or was, written.
    pub(crate) fn forget(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        *self.known.lock() = None;
    }

    /// How many changes there were, to be given back with what is asked for now.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// The first extent of `range` and its flags, if they are known. Calls go front to back.
    pub(crate) fn first(&self, range: ByteRange) -> Option<Run> {
        let mut guard = self.known.lock();
        let known = guard.as_mut().filter(|known| known.at.elapsed() < EXTENTS_LIFE)?;
        while let Some((len, flags)) = known.runs.front().copied() {
            let end = known.start.saturating_add(len);
            if range.start < known.start {
                break;
            }
            if range.start < end {
                return Some(((end - range.start).min(range.len), flags));
            }
            known.start = end;
            known.runs.pop_front();
        }
        None
    }

    /// Keeps what the server told of the bytes from `start` on, unless something changed since.
    pub(crate) fn keep(&self, changes: u64, start: u64, runs: Vec<Run>) {
        let mut known = self.known.lock();
        if self.changes() == changes {
            *known = Some(Known { at: Instant::now(), start, runs: runs.into() });
        }
    }
}

/// What a value of a context means, as qemu-img reads it: bit 0 says "hole", bit 1 "zero", whatever the context is.
pub(crate) fn meaning(flags: u64) -> ExtentFlags {
    match (flags & 1 != 0, flags & 2 != 0) {
        (false, false) => ExtentFlags::PRESENT | ExtentFlags::DATA,
        (false, true) => ExtentFlags::PRESENT | ExtentFlags::DATA | ExtentFlags::ZERO,
        (true, true) => ExtentFlags::PRESENT | ExtentFlags::ZERO,
        // Nothing is stored, and nobody says that it is zero.
        (true, false) => ExtentFlags::UNSPECIFIED,
    }
}

/// Runs in whole blocks: where a server splits a block, the block is data.
pub(crate) fn whole_blocks(runs: Vec<Run>, start: u64, size: u64, block: u64) -> Vec<Run> {
    let mut at = start;
    let mut whole = Vec::with_capacity(runs.len());
    for (len, flags) in runs {
        let end = at.saturating_add(len).min(size);
        if end <= at {
            break;
        }
        if end == size || end.is_multiple_of(block) {
            whole.push((end - at, flags));
            at = end;
            continue;
        }
        let cut = end / block * block;
        if cut > at {
            whole.push((cut - at, flags));
        } else if whole.is_empty() {
            whole.push((block.min(size - at), 0));
        }
        break;
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_front_to_back_and_forgotten_at_a_write() {
        let extents = Extents::default();
        extents.keep(extents.changes(), 100, vec![(10, 0), (20, 3)]);
        assert_eq!(extents.first(ByteRange::new(104, 100)), Some((6, 0)));
        assert_eq!(extents.first(ByteRange::new(110, 5)), Some((5, 3)));
        assert_eq!(extents.first(ByteRange::new(100, 5)), None);
        assert_eq!(extents.first(ByteRange::new(130, 5)), None);
        let before = extents.changes();
        extents.forget();
        extents.keep(before, 0, vec![(10, 0)]);
        assert_eq!(extents.first(ByteRange::new(0, 5)), None);
    }

    #[test]
    fn a_split_block_is_data() {
        assert_eq!(whole_blocks(vec![(1024, 3), (100, 0), (412, 3)], 0, 4096, 512), [(1024, 3)]);
        assert_eq!(whole_blocks(vec![(100, 3), (412, 0)], 0, 4096, 512), [(512, 0)]);
        assert_eq!(whole_blocks(vec![(700, 3)], 0, 4096, 512), [(512, 3)]);
        assert_eq!(whole_blocks(vec![(9000, 3)], 0, 4096, 512), [(4096, 3)]);
        assert_eq!(whole_blocks(vec![(100, 3)], 512, 612, 512), [(100, 3)]);
    }
}
