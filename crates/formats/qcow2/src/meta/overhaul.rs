//! [`Meta::overhaul`]: metadata changed on the host by somebody who has it all to himself, for repairs.
//!
//! Everything cached is written before and forgotten afterwards, so nothing here outlives what was changed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use diskimg_core::Result;

use super::alloc::Allocator;
use super::overlap::FixedAreas;
use super::table::MemTable;
use super::{FixedArea, Meta, State};
use crate::header::Header;

/// How long to wait for requests that still read what was freed.
const PATIENCE: Duration = Duration::from_millis(1);

/// What is in memory and changes with what is on the host.
#[derive(Debug)]
pub(crate) struct Overhaul {
    /// The header.
    pub header: Header,
    /// The active L1 table.
    pub l1: Vec<u64>,
    /// The refcount table.
    pub reftable: Vec<u64>,
    /// Metadata outside of the active tables.
    pub fixed: Vec<FixedArea>,
    /// The image was found sound: what was reported before is over.
    pub sound: bool,
    /// It is not known what the host has: nothing may be written any more.
    pub unsure: bool,
}

impl Meta {
    /// Writes everything back, and lets `work` change the host and what is known of it. Nobody else changes anything
    /// meanwhile.
    ///
    /// # Errors
    /// What writing back says.
    pub(crate) fn overhaul<T>(&self, work: impl FnOnce(&mut Overhaul) -> T) -> Result<T> {
        loop {
            self.flush()?;
            let _one_at_a_time = self.write_back.lock();
            let mut state = self.state.write();
            if state.is_clean() && state.released.is_empty() {
                return Ok(self.overhaul_held(&mut state, work));
            }
            drop(state);
            std::thread::sleep(PATIENCE);
        }
    }

    /// Writes everything back and waits until every reference that was dropped is subtracted: refcounts say then who
    /// refers to what. Nobody drops references meanwhile.
    ///
    /// # Errors
    /// What writing back says.
    pub(crate) fn settle(&self) -> Result<()> {
        loop {
            self.flush()?;
            let state = self.state.read();
            if state.is_clean() && state.released.is_empty() {
                return Ok(());
            }
            drop(state);
            std::thread::sleep(PATIENCE);
        }
    }

    fn overhaul_held<T>(&self, state: &mut State, work: impl FnOnce(&mut Overhaul) -> T) -> T {
        let mut parts = Overhaul {
            header: state.header.clone(),
            l1: state.l1.entries().to_vec(),
            reftable: state.reftable.entries().to_vec(),
            fixed: std::mem::take(&mut state.index.fixed).into_areas(),
            sound: false,
            unsure: false,
        };
        let result = work(&mut parts);
        state.index.take_tables(state.geo, &parts.l1, &parts.reftable);
        state.index.fixed = FixedAreas::new(parts.fixed);
        state.l1 = MemTable::new(parts.header.l1_offset, parts.l1);
        state.reftable = MemTable::new(parts.header.reftable_offset, parts.reftable);
        state.header = parts.header;
        state.l2.clear();
        state.refs.clear();
        state.alloc = Allocator::new(state.alloc.hole_rules);
        if parts.sound {
            self.reported.store(false, Ordering::Release);
        }
        if parts.unsure {
            self.reported.store(true, Ordering::Release);
        }
        result
    }
}
