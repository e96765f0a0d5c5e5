//! Deleting a snapshot: the table forgets it, then its references are given back.

use diskimg_core::{ByteRange, Result, SnapshotKey};

use super::{as_u32, table};
use crate::features::DIRTY;
use crate::image::Qcow2;
use crate::meta::Shift;

impl Qcow2 {
    /// See [`diskimg_core::Snapshots::delete_snapshot`]; no change of the image runs.
    pub(super) fn delete_alone(&self, which: &SnapshotKey<'_>) -> Result<()> {
        let (index, snapshot) = self.find_snapshot(which)?;
        let tree = self.snapshot_l1(&snapshot)?;
        let mut list = self.snapshots.read().clone();
        list.remove(index);
        let bytes = table::encode(&mut list)?;
        let count = as_u32(list.len() as u64)?;
        let old_table = self.table_area();
        let new_table = self.meta.allocate_table(bytes.len() as u64)?;
        let sets_dirty = self.meta.header().incompatible & DIRTY == 0;
        let switched = self.meta.write_table(new_table, bytes).and_then(|()| {
            self.meta.switch_header(|header| {
                (header.snapshot_count, header.snapshots_offset) = (count, new_table.start);
                if header.is_v3() {
                    header.incompatible |= DIRTY;
                }
            })
        });
        if let Err(error) = switched {
            // What can't be undone is leaked.
            let _ = self.meta.free_table(new_table);
            return Err(error);
        }
        self.adopt_snapshots(list);
        self.meta.free_table(old_table)?;
        self.meta.shift_tree(&tree, Shift::Down)?;
        self.meta.free_table(ByteRange::new(snapshot.l1_offset, tree.len() as u64 * 8))?;
        self.decompression.forget();
        self.meta.refresh_copied()?;
        if sets_dirty {
            self.meta.set_dirty(false)?;
        }
        self.meta.flush()
    }
}
