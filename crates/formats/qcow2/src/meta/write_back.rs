//! The order in which metadata reaches the host, and when freed space becomes free.
//!
//! A write-back makes a *cut*: everything that is dirty at one moment. Then, with a barrier wherever the left has to be
//! durable before the right:
//!
//! ```text
//! refcount blocks, guest data | refcount table | L2 tables | L1 table | references dropped by them
//! ```
//!
//! So a table on the host never refers to a cluster that is not counted, or whose bytes are not there; a crash leaves
//! leaks at worst. Dropped references are subtracted only after the tables without them are durable and every request
//! that may still use the clusters has ended ([`super::epoch`]). No lock is held over the writes.

use diskimg_core::{DirtySlice, Result};

use super::alloc::{Clusters, Dropped};
use super::overlap::overlap_text;
use super::table::DirtyPart;
use super::trees::Shift;
use super::{Meta, State};

/// Longest write that is made of neighbouring slices, in bytes.
const MAX_JOINED: usize = 1 << 20;

/// Dropped runs that are remembered before a write-back is due.
const MAX_DROPPED: usize = 4096;

/// References that no table on the host has any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Released {
    dropped: Dropped,
    epoch: usize,
}

/// Whether a cut takes the refcounts along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counts {
    Written,
    /// They stay in memory; the header says so before anything refers to what they count (see `lazy`).
    Postponed,
}

/// Everything that was dirty at one moment.
#[derive(Debug)]
pub(super) struct Cut {
    pub refs: Vec<DirtySlice>,
    pub reftable: Option<DirtyPart>,
    pub l2: Vec<DirtySlice>,
    pub l1: Option<DirtyPart>,
    dropped: Vec<Dropped>,
}

impl Cut {
    fn has_tables(&self) -> bool {
        !self.l2.is_empty() || self.l1.is_some()
    }

    fn is_empty(&self) -> bool {
        self.refs.is_empty()
            && self.reftable.is_none()
            && self.l2.is_empty()
            && self.l1.is_none()
            && self.dropped.is_empty()
    }
}

impl State {
    /// True if a write-back is due to keep memory bounded.
    pub(super) fn wants_write_back(&self) -> bool {
        self.l2.wants_write_back() || self.refs.wants_write_back() || self.alloc.dropped.len() > MAX_DROPPED
    }

    pub(super) fn is_clean(&self) -> bool {
        !(self.l2.has_dirty()
            || self.refs.has_dirty()
            || self.l1.is_dirty()
            || self.reftable.is_dirty()
            || !self.alloc.dropped.is_empty()
            || !self.holes.is_empty())
    }

    pub(super) fn cut(&mut self, counts: Counts) -> Cut {
        let all = counts == Counts::Written;
        Cut {
            refs: if all { self.refs.take_dirty() } else { Vec::new() },
            reftable: if all { self.reftable.take_dirty() } else { None },
            l2: self.l2.take_dirty(),
            l1: self.l1.take_dirty(),
            dropped: std::mem::take(&mut self.alloc.dropped),
        }
    }

    /// The writing of `cut` has ended: well, or everything in it is dirty again.
    pub(super) fn finish(&mut self, cut: Cut, ok: bool, epoch: usize) {
        self.refs.written(&cut.refs, ok);
        self.l2.written(&cut.l2, ok);
        if ok {
            self.released.extend(cut.dropped.into_iter().map(|dropped| Released { dropped, epoch }));
            return;
        }
        if let Some(part) = &cut.reftable {
            self.reftable.not_written(part);
        }
        if let Some(part) = &cut.l1 {
            self.l1.not_written(part);
        }
        self.alloc.dropped.extend(cut.dropped);
    }
}

impl Meta {
    /// Writes all dirty metadata in the normative order. Barriers within it are flushes of the storage; the last tables
    /// are written but not flushed.
    pub(crate) fn write_back(&self) -> Result<()> {
        self.write_back_with(Counts::Written)
    }

    pub(super) fn write_back_with(&self, counts: Counts) -> Result<()> {
        {
            let _one_at_a_time = self.write_back.lock();
            let cut = self.checked_cut(&mut self.state.write(), counts)?;
            if !cut.is_empty() {
                let announced =
                    if counts == Counts::Postponed && cut.has_tables() { self.announce() } else { Ok(()) };
                let result = announced.and_then(|()| self.write_cut(&cut));
                self.state.write().finish(cut, result.is_ok(), self.epochs.now());
                result?;
            }
        }
        self.release_past()
    }

    /// Write-back by somebody who holds the write-back lock and the state: for changes of the tables' places.
    pub(super) fn write_back_held(&self, state: &mut State) -> Result<()> {
        let cut = self.checked_cut(state, Counts::Written)?;
        let result = self.write_cut(&cut);
        state.finish(cut, result.is_ok(), self.epochs.now());
        result
    }

    /// What is dirty, unless writing it would hit other metadata: then nothing of it is written.
    fn checked_cut(&self, state: &mut State, counts: Counts) -> Result<Cut> {
        let cut = state.cut(counts);
        let Some(name) = state.cut_overlaps(&cut) else { return Ok(cut) };
        state.finish(cut, false, self.epochs.now());
        Err(self.corruption_held(state, &overlap_text(name)))
    }

    /// Everything durable.
    pub(crate) fn flush(&self) -> Result<()> {
        self.write_back()?;
        if self.state.read().refs.has_dirty() {
            // References that were dropped just now.
            self.write_back()?;
        }
        self.barrier()
    }

    /// No table is written while the guard lives.
    pub(crate) fn pause_write_back(&self) -> parking_lot::MutexGuard<'_, ()> {
        self.write_back.lock()
    }

    /// Writes everything back when the image is closed; errors have no one to go to.
    pub(crate) fn close(&self) {
        for _ in 0..4 {
            if self.write_back().is_err() {
                return;
            }
            let state = self.state.read();
            if state.is_clean() && state.released.is_empty() {
                break;
            }
        }
        self.end_postponing();
    }

    fn write_cut(&self, cut: &Cut) -> Result<()> {
        self.write_slices(&cut.refs)?;
        if let Some(part) = &cut.reftable {
            self.barrier()?;
            self.storage.write_at(part.offset, &part.bytes)?;
        }
        if cut.has_tables() {
            self.barrier()?;
        }
        self.write_slices(&cut.l2)?;
        if let Some(part) = &cut.l1 {
            if !cut.l2.is_empty() {
                self.barrier()?;
            }
            self.storage.write_at(part.offset, &part.bytes)?;
        }
        if cut.dropped.is_empty() { Ok(()) } else { self.barrier() }
    }

    /// Writes slices in host order, neighbours together.
    fn write_slices(&self, slices: &[DirtySlice]) -> Result<()> {
        let mut joined: Vec<u8> = Vec::new();
        let mut start = 0;
        for slice in slices {
            let bytes = slice.data.get(slice.part.clone()).unwrap_or_default();
            let offset = slice.offset + slice.part.start as u64;
            if offset != start + joined.len() as u64 || joined.len() + bytes.len() > MAX_JOINED {
                if !joined.is_empty() {
                    self.storage.write_at(start, &joined)?;
                }
                joined.clear();
                start = offset;
            }
            joined.extend_from_slice(bytes);
        }
        if joined.is_empty() { Ok(()) } else { self.storage.write_at(start, &joined) }
    }

    /// Makes everything written so far durable, guest data included.
    pub(crate) fn barrier(&self) -> Result<()> {
        if let Some(data) = &self.data_file {
            data.flush()?;
        }
        self.storage.flush()
    }

    /// Subtracts the released references whose last users have gone.
    fn release_past(&self) -> Result<()> {
        if self.state.read().released.is_empty() {
            return self.make_holes();
        }
        // Twice: with no request running, both groups are empty and what was freed just now is past.
        self.epochs.advance();
        self.epochs.advance();
        loop {
            let epochs = &self.epochs;
            let more = self.change_unhurried(|state| {
                let Some(at) = state.released.iter().position(|free| epochs.is_past(free.epoch)) else {
                    return Ok(false);
                };
                let Some(Released { dropped, epoch }) = state.released.get(at).copied() else {
                    return Ok(false);
                };
                let Dropped { clusters, hole } = dropped;
                let done = state.shift_run(clusters, 1, Shift::Down, hole)?;
                let rest = Clusters { first: clusters.first + done, count: clusters.count - done };
                if rest.count == 0 {
                    state.released.swap_remove(at);
                } else if let Some(slot) = state.released.get_mut(at) {
                    *slot = Released { dropped: Dropped { clusters: rest, hole }, epoch };
                }
                Ok(true)
            })?;
            if !more {
                return self.make_holes();
            }
            if self.wants_holes() {
                self.make_holes()?;
            }
        }
    }
}
