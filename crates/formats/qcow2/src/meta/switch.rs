//! Tables that are replaced as a whole: written elsewhere first, then switched to by one write of the header.
//!
//! All fields that say where tables are, the disk's size and the dirty bit stand in one sector of the header, so any
//! of them change together in one write that a crash leaves done or not done.

use std::collections::HashSet;

use diskimg_core::{ByteRange, Error, ErrorKind, Result, errno, to_usize};

use super::Meta;
use super::alloc::Clusters;
use super::grow::table_bytes;
use super::overlap::FixedArea;
use super::trees::Shift;
use crate::entry::{COPIED, L1Entry};
use crate::features::DIRTY;
use crate::header::{Header, SECTOR};
use crate::settings::Overlap;

/// Header offset of the first field that is switched, the disk's size.
const FIELDS: u64 = 24;

/// The fields from `size` to `incompatible_features` (version 2: to `snapshots_offset`), as stored.
fn fields(header: &Header) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(56);
    bytes.extend_from_slice(&header.size.to_be_bytes());
    bytes.extend_from_slice(&header.crypt_method.to_be_bytes());
    bytes.extend_from_slice(&header.l1_size.to_be_bytes());
    bytes.extend_from_slice(&header.l1_offset.to_be_bytes());
    bytes.extend_from_slice(&header.reftable_offset.to_be_bytes());
    bytes.extend_from_slice(&header.reftable_clusters.to_be_bytes());
    bytes.extend_from_slice(&header.snapshot_count.to_be_bytes());
    bytes.extend_from_slice(&header.snapshots_offset.to_be_bytes());
    if header.is_v3() {
        bytes.extend_from_slice(&header.incompatible.to_be_bytes());
    }
    bytes
}

impl Meta {
    /// Makes everything written so far durable, then changes the header in one write, then makes that durable.
    ///
    /// # Errors
    /// The storage's. If the write itself failed nobody knows what the host has: nothing is written any more.
    pub(crate) fn switch_header(&self, change: impl FnOnce(&mut Header)) -> Result<()> {
        self.write_back()?;
        self.barrier()?;
        let result = {
            let _one_at_a_time = self.write_back.lock();
            let state = &mut *self.state.write();
            change(&mut state.header);
            self.storage.write_at(FIELDS, &fields(&state.header)).and_then(|()| self.barrier())
        };
        if result.is_err() {
            self.give_up();
        }
        result
    }

    /// Sets or clears the dirty bit; true if it was changed. Version 2 has none.
    ///
    /// # Errors
    /// As [`Self::switch_header`].
    pub(crate) fn set_dirty(&self, dirty: bool) -> Result<bool> {
        let header = self.header();
        if !header.is_v3() || (header.incompatible & DIRTY != 0) == dirty {
            return Ok(false);
        }
        self.switch_header(|header| {
            header.incompatible = header.incompatible & !DIRTY | if dirty { DIRTY } else { 0 };
        })?;
        Ok(true)
    }

    /// Clusters for a table of `len` bytes; none for an empty one.
    ///
    /// # Errors
    /// `Limit`, `NoSpace`, the storage's.
    pub(crate) fn allocate_table(&self, len: u64) -> Result<ByteRange> {
        if len == 0 {
            return Ok(ByteRange::default());
        }
        Ok(self.allocate_area(len)?.bytes(&self.geo))
    }

    /// Gives back the clusters that hold `range`, to which nothing on the host refers.
    ///
    /// # Errors
    /// The storage's.
    pub(crate) fn free_table(&self, range: ByteRange) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        self.shift_clusters(Clusters::holding(&self.geo, range), Shift::Down)
    }

    /// Writes a table into clusters of its own, padded with zeros to a whole sector: nobody reads what follows.
    ///
    /// # Errors
    /// `Corrupt` where that would hit other metadata; the storage's.
    pub(crate) fn write_table(&self, area: ByteRange, mut bytes: Vec<u8>) -> Result<()> {
        if area.is_empty() {
            return Ok(());
        }
        bytes.resize(bytes.len().next_multiple_of(to_usize(SECTOR)).min(to_usize(area.len)), 0);
        self.write_area(area.start, &bytes, Overlap::empty())
    }

    /// Writes the entries of an L1 table into clusters of its own.
    ///
    /// # Errors
    /// The storage's.
    pub(crate) fn write_l1(&self, area: ByteRange, entries: &[u64]) -> Result<()> {
        self.write_table(area, table_bytes(entries))
    }

    /// Uses `entries`, which stand at `offset` already and which the header names, as the active L1 table from now on.
    pub(crate) fn adopt_l1(&self, offset: u64, entries: Vec<u64>) {
        // No part of the old table may be on its way to the host any more.
        let _one_at_a_time = self.write_back.lock();
        let state = &mut *self.state.write();
        let cluster_of = |entry: &u64| Some(L1Entry(*entry).offset() >> state.geo.cluster_bits);
        state.index.l2_tables = entries.iter().filter_map(cluster_of).filter(|at| *at != 0).collect();
        state.l1.replace(offset, entries);
    }

    /// Takes the COPIED flags out of the active L1 table.
    pub(crate) fn clear_copied_in_l1(&self) {
        let table = &mut self.state.write().l1;
        for index in 0..table.len() {
            let entry = table.get(index);
            if entry & COPIED != 0 {
                table.set(index, entry & !COPIED);
            }
        }
    }

    /// Empties the L1 entries from `first` on; those that had tables. Their references are still counted.
    pub(crate) fn take_l1_tail(&self, first: u64) -> Vec<u64> {
        let state = &mut *self.state.write();
        let mut tail = Vec::new();
        for index in first..state.l1.len() {
            let entry = state.l1.get(index);
            if entry != 0 {
                state.l1.set(index, 0);
                // What is cached of the table stays: its references are still to be taken back.
                let cluster = L1Entry(entry).offset() >> state.geo.cluster_bits;
                state.index.l2_tables.remove(&cluster);
                tail.push(entry);
            }
        }
        tail
    }

    /// Takes note of where the snapshot table and the L1 tables of snapshots are now.
    pub(crate) fn set_snapshot_areas(&self, areas: Vec<FixedArea>) {
        let kinds = Overlap::SNAPSHOT_TABLE | Overlap::INACTIVE_L1;
        self.state.write().index.fixed.replace(kinds, areas);
    }

    /// Takes note of the clusters that hold L2 tables of snapshots.
    pub(crate) fn set_inactive_tables(&self, clusters: HashSet<u64>) {
        self.state.write().index.inactive_l2 = clusters;
    }

    /// The error of a device that refuses to work: a change of the header may or may not have reached the host.
    pub(super) fn broken() -> Error {
        Error::new(ErrorKind::Poisoned, "an earlier change of the image's header failed")
            .with_errno(errno::EIO)
    }
}
