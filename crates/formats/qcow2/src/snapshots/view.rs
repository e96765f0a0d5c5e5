//! A snapshot as a read-only image of its own, over the same storage.

use std::sync::Arc;

use diskimg_core::driver::OpenMode;
use diskimg_core::{Image, Result, SnapshotKey};

use crate::image::Qcow2;
use crate::open::Parts;
use crate::snapshot_table::SnapshotTable;

impl Qcow2 {
    /// See [`diskimg_core::Snapshots::open_snapshot`].
    pub(super) fn view_of(&self, which: &SnapshotKey<'_>) -> Result<Arc<dyn Image>> {
        let (_, snapshot) = self.find_snapshot(which)?;
        if self.mode.write {
            // Tables that the snapshot shares may not be on the host yet.
            self.meta.write_back()?;
        }
        let l1 = self.snapshot_l1(&snapshot)?;
        let mut header = self.meta.header();
        (header.l1_offset, header.l1_size) = (snapshot.l1_offset, snapshot.l1_size);
        (header.size, header.snapshot_count) = (snapshot.disk_size, 0);
        Ok(Arc::new(Self::new(Parts {
            storage: Arc::clone(&self.storage),
            data_file: self.data_file.clone(),
            header,
            l1,
            reftable: self.meta.with_tables(|tables| tables.reftable.to_vec()),
            snapshots: SnapshotTable::default(),
            bitmaps: Vec::new(),
            crypt: self.crypt.clone(),
            mode: OpenMode { write: false, ..self.mode },
            settings: self.settings.clone(),
            notices: self.notices.clone(),
            filename: self.filename.clone(),
        })))
    }
}
