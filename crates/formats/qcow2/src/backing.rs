//! Another backing file, and emptying an image after its contents were committed.
//!
//! The backing file changes with one replacement of the header. Emptying takes the short way where nothing but the
//! active tables refers to clusters (see [`crate::meta::Meta::forget_all`]); else it drops each entry by itself, and the
//! tables, which snapshots may share, stay.

use diskimg_core::{BackingChange, BackingRef, ByteRange, Emptying, Error, ErrorKind, Prealloc, Result};

use crate::entry::L2Entry;
use crate::features;
use crate::header::CRYPT_LUKS;
use crate::image::Qcow2;
use crate::meta::Freed;

impl BackingChange for Qcow2 {
    fn set_backing(&self, backing: Option<&BackingRef>) -> Result<()> {
        self.check_writable()?;
        if backing.is_some() && self.data_file.is_some() && self.has_autoclear(features::RAW_DATA_FILE) {
            let text = "Backing file and data-file-raw cannot be used at the same time";
            return Err(Error::invalid(text));
        }
        let _nobody_writes = self.exclusive();
        let (name, format) = match backing {
            Some(BackingRef { name, format }) => (Some(name.clone()), format.clone()),
            None => (None, None),
        };
        self.meta.change_header(|header| {
            header.backing_name = name;
            header.extensions.backing_format = format;
        })?;
        *self.backing.write() = backing.cloned();
        Ok(())
    }
}

impl Emptying for Qcow2 {
    fn make_empty(&self) -> Result<()> {
        self.check_writable()?;
        let _nobody_writes = self.exclusive();
        let short = self.is_simple()
            && self.contents.replace(|| {
                let done = self.meta.forget_all();
                self.decompression.forget();
                done
            })?;
        if short {
            return self.meta.flush();
        }
        let clusters = 0..self.meta.geo.clusters_for(self.disk_len());
        self.meta.update_entries(clusters, false, Freed::Snapshot, |entry| {
            (entry != L2Entry::default()).then(L2Entry::default)
        })?;
        self.decompression.forget();
        if !self.is_simple() {
            self.meta.flush()?;
            return self.discard_data_file();
        }
        self.meta.drop_l2_tables(0)?;
        self.meta.flush()?;
        self.cut_file()
    }
}

impl Qcow2 {
    /// True if nothing but the header, the refcounts and the active tables is in the file.
    fn is_simple(&self) -> bool {
        let header = self.meta.header();
        header.is_v3()
            && header.crypt_method != CRYPT_LUKS
            && self.data_file.is_none()
            && !self.has_snapshots()
            && !self.has_bitmaps()
    }

    /// Nothing refers to the data file any more. That it can't give space back harms nothing.
    fn discard_data_file(&self) -> Result<()> {
        let Some(data) = &self.data_file else { return Ok(()) };
        let all = ByteRange::new(0, data.len());
        match data.discard(all) {
            Err(error) if error.kind() != ErrorKind::Unsupported => Err(error),
            _ => Ok(()),
        }
    }

    /// Gives the free end of the file back. That it could not be done harms nothing.
    fn cut_file(&self) -> Result<()> {
        let end = self.meta.counted_end()?;
        let _quiet = self.meta.pause_write_back();
        if end < self.storage.len() {
            let _ = self.storage.set_len(end, Prealloc::Off);
        }
        Ok(())
    }
}
