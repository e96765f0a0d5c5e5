//! Metadata beside the mapping tables (bitmaps and their directory): places for it, and the header that refers to it.
//!
//! Order: the new areas and their counts | the header | (the old areas are dropped by the next write-back).

use std::sync::atomic::Ordering;

use diskimg_core::{ByteRange, Result, len_u64};

use super::alloc::Clusters;
use super::{FixedArea, Meta, State};
use crate::header::Header;
use crate::header_swap;
use crate::settings::Overlap;

impl Meta {
    /// Clusters that follow each other for `bytes` bytes.
    pub(crate) fn allocate_area(&self, bytes: u64) -> Result<Clusters> {
        let count = self.geo.clusters_for(bytes).max(1);
        let mut from = 0;
        self.change(|state| state.allocate_exactly(count, &mut from))
    }

    /// Writes an area, unless that would hit metadata of a kind other than `own`.
    pub(crate) fn write_area(&self, offset: u64, bytes: &[u8], own: Overlap) -> Result<()> {
        self.check_metadata_write(ByteRange::new(offset, len_u64(bytes)), own)?;
        self.storage.write_at(offset, bytes)
    }

    /// Areas that the header does not refer to any more have one reference less.
    pub(crate) fn drop_areas(&self, areas: impl IntoIterator<Item = Clusters>) {
        let state = &mut *self.state.write();
        areas.into_iter().for_each(|area| state.alloc.drop_later(area));
    }

    /// What writes of guest data must not hit: the one area of `kind`, or none.
    pub(crate) fn set_fixed_area(&self, kind: Overlap, area: Option<FixedArea>) {
        self.state.write().index.fixed.replace(kind, area);
    }

    /// Replaces the header, durably; everything that it may refer to is durable before.
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
