//! The state area: guest bytes behind the disk, from the first that an L1 entry of its own maps. It is no part of the
//! disk; a snapshot takes it over.

use diskimg_core::{ByteRange, Error, ErrorKind, Result, errno, len_u64};

use crate::image::Qcow2;
use crate::limits::MAX_L1_ENTRIES;

/// Entries to grow an L1 table of `len` entries to when `needed` are: half as many again, until it suffices.
fn grown(len: u64, needed: u64) -> u64 {
    let mut entries = len.max(1);
    while entries < needed {
        entries = (entries * 3).div_ceil(2);
    }
    entries.min(MAX_L1_ENTRIES)
}

impl Qcow2 {
    /// The guest byte with which the state area begins.
    pub(crate) fn state_start(&self) -> u64 {
        let geo = &self.meta.geo;
        geo.l1_entries_for(self.disk_len()).saturating_mul(geo.l2_coverage())
    }

    /// The guest bytes of `len` bytes of the state area.
    fn state_range(&self, offset: u64, len: u64) -> Result<ByteRange> {
        let geo = &self.meta.geo;
        let start = self.state_start().checked_add(offset);
        let end = start.and_then(|start| start.checked_add(len));
        let most = MAX_L1_ENTRIES.saturating_mul(geo.l2_coverage());
        match (start, end) {
            (Some(start), Some(end)) if end <= most => Ok(ByteRange::from_bounds(start, end)),
            _ => Err(Error::new(ErrorKind::OutOfRange, diskimg_core::strerror(errno::EFBIG))
                .with_errno(errno::EFBIG)),
        }
    }

    /// See [`diskimg_core::Snapshots::read_vm_state`].
    pub(super) fn read_state_area(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.meta.check_usable()?;
        self.contents.read(|| {
            let range = self.state_range(offset, len_u64(buf))?;
            self.read_sectors(range.start, buf)
        })
    }

    /// See [`diskimg_core::Snapshots::write_vm_state`].
    pub(super) fn write_state_area(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.check_snapshots_changeable()?;
        loop {
            let gate = self.change_gate.read();
            let range = self.state_range(offset, len_u64(buf))?;
            let needed = self.meta.geo.l1_entries_for(range.end());
            let len = self.meta.with_tables(|tables| tables.l1.len() as u64);
            if needed <= len {
                return self.write_sectors(range.start, buf);
            }
            drop(gate);
            let _alone = self.exclusive();
            let len = self.meta.with_tables(|tables| tables.l1.len() as u64);
            self.meta.grow_l1(grown(len, needed))?;
        }
    }

    /// Empties the state area. No change of the image runs.
    pub(crate) fn drop_vm_state(&self) -> Result<()> {
        let tail = self.meta.take_l1_tail(self.meta.geo.l1_entries_for(self.disk_len()));
        if tail.is_empty() {
            return Ok(());
        }
        self.meta.flush()?;
        // Readers may still be at its clusters.
        self.meta.epochs.wait_for_all();
        self.decompression.forget();
        self.meta.shift_tree(&tail, crate::meta::Shift::Down)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_grow_by_half() {
        assert_eq!(grown(1, 1), 1);
        assert_eq!(grown(1, 2), 2);
        assert_eq!(grown(2, 4), 5);
        assert_eq!(grown(0, 3), 3);
        assert_eq!(grown(8, MAX_L1_ENTRIES), MAX_L1_ENTRIES);
    }
}
