//! The header as a whole, replaced so that a crash leaves the old one or the new one.

use std::sync::atomic::Ordering;

use diskimg_core::Result;

use super::{Meta, State};
use crate::header::Header;
use crate::header_swap;

impl Meta {
    /// Replaces the header, durably; everything that it may refer to is durable before.
    ///
    /// # Errors
    /// `NoSpace` where it does not fit in a cluster; the storage's.
    pub(crate) fn change_header(&self, change: impl FnOnce(&mut Header)) -> Result<()> {
        self.check_usable()?;
        let _one_at_a_time = self.write_back.lock();
        let state = &mut *self.state.write();
        self.write_back_held(state)?;
        self.barrier()?;
        let mut header = state.header.clone();
        change(&mut header);
        header_swap::replace(&*self.storage, &header.encode()?)?;
        self.adopt_header(state, header);
        Ok(())
    }

    /// Takes note of the header that the host now has.
    pub(super) fn adopt_header(&self, state: &mut State, header: Header) {
        self.version.store(header.version, Ordering::Release);
        self.compression_type.store(header.compression_type, Ordering::Release);
        state.header = header;
    }
}
