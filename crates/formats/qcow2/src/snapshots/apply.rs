//! Applying a snapshot: its tree becomes the active one too, in place of the old.

use diskimg_core::{ByteRange, Error, Result, SnapshotKey};

use super::{as_u32, padded};
use crate::entry::COPIED;
use crate::image::Qcow2;
use crate::meta::Shift;

impl Qcow2 {
    /// See [`diskimg_core::Snapshots::apply_snapshot`]; no change of the image runs.
    pub(super) fn apply_alone(&self, which: &SnapshotKey<'_>) -> Result<()> {
        if self.has_bitmaps() {
            return Err(Error::unsupported("Device has active dirty bitmaps"));
        }
        let (_, snapshot) = self.find_snapshot(which)?;
        let tree = self.snapshot_l1(&snapshot)?;
        let geo = self.meta.geo;
        let old = self.meta.with_tables(|tables| tables.l1.to_vec());
        let old_area = ByteRange::new(self.meta.header().l1_offset, old.len() as u64 * 8);
        let entries = geo.l1_entries_for(snapshot.disk_size).max(old.len() as u64);
        let new = padded(tree.iter().map(|entry| entry & !COPIED).collect(), entries);
        let l1_size = as_u32(new.len() as u64)?;
        let area = self.meta.allocate_table(new.len() as u64 * 8)?;
        if let Err(error) = self.meta.shift_tree(&tree, Shift::Up) {
            let _ = self.meta.free_table(area);
            return Err(error);
        }
        let switched = self.meta.write_l1(area, &new).and_then(|()| {
            self.meta.switch_header(|header| {
                (header.l1_size, header.l1_offset) = (l1_size, area.start);
                header.size = snapshot.disk_size;
            })
        });
        if let Err(error) = switched {
            // What can't be undone is leaked.
            let _ = self.meta.shift_tree(&tree, Shift::Down).and_then(|()| self.meta.free_table(area));
            return Err(error);
        }
        self.contents.replace(|| {
            self.meta.adopt_l1(area.start, new);
            self.set_disk_len(snapshot.disk_size);
        });
        // Readers may still be at clusters of the old tree.
        self.meta.epochs.wait_for_all();
        self.decompression.forget();
        self.meta.shift_tree(&old, Shift::Down)?;
        self.meta.free_table(old_area)?;
        self.meta.flush()
    }
}
