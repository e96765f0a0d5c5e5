//! [`Journal`]: changes of tables, made through the log, and the headers.
//!
//! Order of a commit, with a barrier at each bar:
//!
//! ```text
//! entry in the log │ header with the log's GUID │ the tables' sectors │ header without it
//! ```
//!
//! The data that the tables refer to are durable before. Each header is written to the place of the older one, so one is
//! always whole. An entry takes half of the log at most, so that none overwrites the one before it, which may still
//! count. When the image is closed both headers are brought up to date.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use diskimg_core::mapped::TableWrite;
use diskimg_core::{BlockDevice, Error, Result, to_usize};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::header::Current;
use crate::limits::{LOG_SECTOR, MIB};
use crate::log::{self, Ring, SECTOR, Stamp};
use crate::replay::write_other;

/// Most sectors of an entry: bounds memory.
const MOST_SECTORS: u64 = 1024;

#[derive(Debug)]
struct State {
    current: Current,
    /// Where the next entry goes.
    at: u64,
    sequence: u64,
    /// The other header is out of date.
    behind: bool,
}

/// The log and the headers of an open image.
#[derive(Debug)]
pub(crate) struct Journal {
    storage: Arc<dyn BlockDevice>,
    ring: Ring,
    state: Mutex<State>,
    /// The headers tell that this session changes the disk.
    marked: AtomicBool,
}

impl Journal {
    /// That of the image with the header `current`, whose log says nothing.
    pub(crate) fn new(storage: Arc<dyn BlockDevice>, current: Current) -> Self {
        let ring = Ring::of(&current.header);
        let state = Mutex::new(State { current, at: 0, sequence: 1, behind: false });
        Self { storage, ring, state, marked: AtomicBool::new(false) }
    }

    /// Sectors that an entry can write.
    fn capacity(&self) -> Result<usize> {
        let most = log::capacity(self.ring.len / 2).min(MOST_SECTORS);
        let there = self.ring.offset.checked_add(self.ring.len).is_some_and(|end| end <= self.storage.len());
        if most == 0 || !there {
            return Err(Error::unsupported("the log of the VHDX image is too short for changes"));
        }
        Ok(to_usize(most))
    }

    /// Tells in the headers that file and disk change, before the first change.
    pub(crate) fn mark(&self) -> Result<()> {
        if self.marked.load(Ordering::Acquire) {
            return Ok(());
        }
        let state = &mut *self.state.lock();
        if self.marked.load(Ordering::Acquire) {
            return Ok(());
        }
        self.capacity()?;
        let header = &mut state.current.header;
        (header.file_write, header.data_write) = (Uuid::new_v4(), Uuid::new_v4());
        // It may name a log that says nothing.
        header.log = Uuid::nil();
        write_other(&*self.storage, &mut state.current)?;
        self.storage.flush()?;
        write_other(&*self.storage, &mut state.current)?;
        self.marked.store(true, Ordering::Release);
        Ok(())
    }

    /// Makes changes of whole sectors durable.
    pub(crate) fn commit(&self, writes: &[TableWrite]) -> Result<()> {
        if writes.is_empty() {
            return Ok(());
        }
        let state = &mut *self.state.lock();
        let sectors: Vec<(u64, &[u8])> = writes
            .iter()
            .flat_map(|write| (write.offset..).step_by(SECTOR).zip(write.bytes.chunks(SECTOR)))
            .collect();
        if sectors.iter().any(|(offset, bytes)| bytes.len() != SECTOR || !offset.is_multiple_of(LOG_SECTOR)) {
            return Err(Error::invalid("the log takes whole sectors"));
        }
        for batch in sectors.chunks(self.capacity()?) {
            self.commit_batch(state, batch)?;
        }
        Ok(())
    }

    fn commit_batch(&self, state: &mut State, batch: &[(u64, &[u8])]) -> Result<()> {
        let storage = &*self.storage;
        let log = Uuid::new_v4();
        let stamp = Stamp { at: state.at, sequence: state.sequence, log, file_len: storage.len() };
        let entry = log::encode(stamp, batch);
        self.ring.write(storage, state.at, &entry)?;
        storage.flush()?;
        state.behind = true;
        state.current.header.log = log;
        write_other(storage, &mut state.current)?;
        storage.flush()?;
        for (offset, bytes) in batch {
            storage.write_at(*offset, bytes)?;
        }
        storage.flush()?;
        state.at = (state.at + entry.len() as u64) % self.ring.len;
        state.sequence += 1;
        state.current.header.log = Uuid::nil();
        write_other(storage, &mut state.current)
    }

    /// Brings both headers up to date.
    pub(crate) fn close(&self) -> Result<()> {
        let state = &mut *self.state.lock();
        if state.behind {
            self.storage.flush()?;
            write_other(&*self.storage, &mut state.current)?;
            state.behind = false;
        }
        Ok(())
    }
}

/// The end of what the log may not touch and blocks may not lie in.
pub(crate) const FRONT: u64 = MIB;
