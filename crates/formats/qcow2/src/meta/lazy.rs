//! Postponed refcounts (specification, "lazy refcounts"): flushes of the guest leave them in memory, and the header says
//! with its dirty bit that those on the host are out of date.
//!
//! ```text
//! header: dirty, guest data | L2 tables | L1 table          at a flush of the guest
//! refcount blocks | refcount table | … | header: not dirty  at the end
//! ```
//!
//! The bit is durable before a table refers to what is not counted; it costs no barrier of its own, since the guest's data
//! needs one at that place anyhow. All else that writes back (growing tables, snapshots, memory running short) writes the
//! counts too. After a crash the next writer counts anew. The first flush of all postpones nothing: an image that
//! is written, flushed once and closed, as by a conversion, is never marked.

use std::sync::atomic::{AtomicBool, Ordering};

use diskimg_core::Result;

use super::Meta;
use super::corrupt::INCOMPATIBLE_FIELD;
use super::write_back::Counts;
use crate::features::{DIRTY, LAZY_REFCOUNTS};

/// Whether refcounts are postponed.
#[derive(Debug)]
pub(super) struct Postponement {
    /// As the one who opened the image wants it; `None`: as the header says.
    wanted: Option<bool>,
    /// The image was flushed.
    flushed: AtomicBool,
    /// The dirty bit was set for this.
    announced: AtomicBool,
}

impl Postponement {
    pub(super) fn new(wanted: Option<bool>) -> Self {
        Self { wanted, flushed: AtomicBool::new(false), announced: AtomicBool::new(false) }
    }
}

impl Meta {
    fn postpones(&self) -> bool {
        let state = self.state.read();
        let lazy = self.lazy.wanted.unwrap_or(state.header.compatible & LAZY_REFCOUNTS != 0);
        lazy && state.header.is_v3()
    }

    /// Everything durable that the guest wrote, and what finds it.
    ///
    /// # Errors
    /// The storage's; `Corrupt`.
    pub(crate) fn flush_guest(&self) -> Result<()> {
        if !self.lazy.flushed.swap(true, Ordering::AcqRel) || !self.postpones() {
            return self.flush();
        }
        self.write_back_with(Counts::Postponed)?;
        self.barrier()
    }

    /// Says in the header that refcounts are postponed, if they are. The next barrier makes it durable. The caller holds
    /// the write-back lock.
    pub(super) fn announce(&self) -> Result<()> {
        let state = &mut *self.state.write();
        let postponed = state.refs.has_dirty() || state.reftable.is_dirty();
        if !postponed || state.header.incompatible & DIRTY != 0 {
            return Ok(());
        }
        let field = state.header.incompatible | DIRTY;
        self.storage.write_at(INCOMPATIBLE_FIELD, &field.to_be_bytes())?;
        state.header.incompatible = field;
        self.lazy.announced.store(true, Ordering::Release);
        Ok(())
    }

    /// Takes the word back if everything is written.
    pub(super) fn end_postponing(&self) {
        if self.lazy.announced.load(Ordering::Acquire) && self.state.read().is_clean() {
            // Without it the next writer counts anew, which does no harm.
            let _ = self.set_dirty(false);
        }
    }
}
