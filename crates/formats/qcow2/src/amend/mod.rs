//! Amending: changing what an image was created with.
//!
//! Order: upgrade, encryption, refcount width, data file, backing file (which can only be confirmed), lazy refcounts,
//! size, downgrade. What fails leaves what came before it done. Each step leaves the image openable at every write:
//! its own module says how. Nobody writes to the image meanwhile.

mod downgrade;
mod steps;
mod wanted;
mod zeros;

use diskimg_core::{Amend, AmendInput, Error, Prealloc, Result};

use crate::features::{LAZY_REFCOUNTS, RAW_DATA_FILE};
use crate::header::{Header, V2_LEN, V3_LEN};
use crate::image::Qcow2;
use steps::Steps;
use wanted::Wanted;

impl Amend for Qcow2 {
    fn amend(&self, input: &AmendInput<'_>) -> Result<()> {
        self.check_writable()?;
        self.store_waiting_bitmaps()?;
        let header = self.meta.header();
        let wanted = Wanted::parse(input.options, &header)?;
        let steps = Steps::new(&input.task, wanted.long_steps(&header));
        self.amend_header(&wanted, &header, input, &steps)?;
        if let Some(size) = wanted.size {
            if i64::try_from(size).is_err() {
                return Err(Error::invalid("Image size cannot be negative"));
            }
            diskimg_core::BlockDevice::set_len(self, size, Prealloc::Off)?;
        }
        if wanted.version < self.meta.version() {
            self.downgrade(&steps)?;
            steps.end();
        }
        self.meta.flush()
    }
}

impl Qcow2 {
    /// All but size and downgrade. The header is rewritten even if nothing in it changes.
    fn amend_header(
        &self,
        wanted: &Wanted,
        old: &Header,
        input: &AmendInput<'_>,
        steps: &Steps<'_>,
    ) -> Result<()> {
        let _nobody_writes = self.exclusive();
        if wanted.version > old.version {
            steps.report(0, 2)?;
            self.complete_snapshot_table()?;
            steps.report(1, 2)?;
            steps.end();
        }
        if wanted.encryption {
            self.amend_encryption(input.options, input.force, input.opener)?;
        }
        if wanted.refcount_order != old.refcount_order {
            wanted.check_refcount_width()?;
            let report = |done, total| steps.report(done, total);
            self.meta
                .change_refcount_width(wanted.refcount_order, &report, |header| wanted.upgrade(header))?;
            steps.end();
        }
        wanted.check_backing(self.backing_ref().as_ref())?;
        let lazy_now = old.compatible & LAZY_REFCOUNTS != 0;
        if wanted.lazy_refcounts == Some(true) && !lazy_now && wanted.version < 3 {
            return Err(Error::invalid(
                "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)",
            ));
        }
        self.meta.change_header(|header| {
            wanted.upgrade(header);
            wanted.set_data_file(header);
            match wanted.lazy_refcounts {
                Some(true) => header.compatible |= LAZY_REFCOUNTS,
                Some(false) => header.compatible &= !LAZY_REFCOUNTS,
                None => {}
            }
        })
    }

    /// Version 3 demands more of each entry of the snapshot table than version 2.
    fn complete_snapshot_table(&self) -> Result<()> {
        let short =
            |snapshot: &crate::snapshot_table::Snapshot| snapshot.extra_len < crate::snapshot_table::V3_EXTRA;
        if self.snapshots.read().iter().any(short) {
            return self.rewrite_snapshot_table();
        }
        Ok(())
    }
}

impl Wanted {
    /// Makes `header` one of version 3, if that is asked for.
    fn upgrade(&self, header: &mut Header) {
        if self.version > header.version {
            header.version = self.version;
            header.header_length = V3_LEN;
        }
    }

    fn set_data_file(&self, header: &mut Header) {
        match &self.data_file {
            Some(name) if name.is_empty() => header.extensions.data_file = None,
            Some(name) => header.extensions.data_file = Some(name.clone()),
            None => {}
        }
        if self.clear_data_file_raw {
            header.autoclear &= !RAW_DATA_FILE;
        }
    }
}

/// What is left of `header` in version 2.
fn as_version_2(header: &mut Header) {
    header.version = 2;
    header.header_length = V2_LEN;
    (header.incompatible, header.compatible, header.autoclear) = (0, 0, 0);
    header.compression_type = 0;
    header.unknown_fields.clear();
}
