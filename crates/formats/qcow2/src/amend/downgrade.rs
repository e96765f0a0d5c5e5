//! From version 3 to version 2: what version 2 does not have is refused or expressed otherwise.
//!
//! Order: every refusal first; then zero clusters become what version 2 knows, which version 3 reads alike | the header.

use diskimg_core::{Error, Result};

use super::as_version_2;
use super::steps::Steps;
use crate::features::COMPRESSION;
use crate::image::Qcow2;
use crate::options::V2_REFCOUNT_ORDER;

impl Qcow2 {
    /// Makes the image one of version 2.
    ///
    /// # Errors
    /// `Unsupported` for what version 2 does not have; the storage's.
    pub(super) fn downgrade(&self, steps: &Steps<'_>) -> Result<()> {
        let _nobody_writes = self.exclusive();
        self.check_downgrade()?;
        self.meta.settle()?;
        let trees = self.trees()?;
        if self.meta.compression_type() != 0 && self.has_compressed_clusters(&trees)? {
            return Err(Error::unsupported(
                "Cannot downgrade an image with zstd compression type and existing compressed clusters",
            ));
        }
        self.expand_zero_clusters(&trees, steps)?;
        self.meta.flush()?;
        // Nobody knows what the header says after a failure, and version 2 does not have what version 3 writes.
        self.meta.change_header(as_version_2).inspect_err(|_| self.meta.give_up())
    }

    fn check_downgrade(&self) -> Result<()> {
        let header = self.meta.header();
        if header.has_data_file() {
            return Err(Error::unsupported("Cannot downgrade an image with a data file"));
        }
        if header.refcount_order != V2_REFCOUNT_ORDER {
            return Err(Error::unsupported("compat=0.10 requires refcount_bits=16"));
        }
        let size = self.disk_len();
        let fits = |state: u64| u32::try_from(state).is_ok();
        if self.snapshots.read().iter().any(|snap| !fits(snap.vm_state_size) || snap.disk_size != size) {
            return Err(Error::unsupported("Internal snapshots prevent downgrade of image"));
        }
        let others = header.incompatible & !COMPRESSION;
        if others != 0 {
            return Err(Error::unsupported(format!(
                "Cannot downgrade an image with incompatible features {others:#x} set"
            )));
        }
        Ok(())
    }
}
