//! [`FixedMap`]: the disk's bytes from the start of the file on, and the footer behind them, which is never written.

use std::sync::Arc;

use diskimg_core::mapped::{ClusterMap, Cut, Place, Run, Space};
use diskimg_core::{BlockDevice, Error, ExtentFlags, ImageInfo, Result};

use crate::limits::SECTOR;

/// Bytes that are looked at as one: there is no such unit in the file.
const UNIT: u64 = 64 << 10;

/// The map of an open fixed image.
#[derive(Debug)]
pub(crate) struct FixedMap {
    storage: Arc<dyn BlockDevice>,
    filename: String,
    /// The file is long enough for the disk and the footer.
    whole: bool,
}

impl FixedMap {
    /// The map of a disk of `len` bytes.
    pub(crate) fn new(storage: Arc<dyn BlockDevice>, filename: &str, len: u64) -> Self {
        let whole = len.checked_add(SECTOR).is_some_and(|end| end <= storage.len().next_multiple_of(SECTOR));
        Self { storage, filename: filename.to_owned(), whole }
    }
}

impl ClusterMap for FixedMap {
    diskimg_core::mapped_file!(crate::DRIVER);

    fn cluster_size(&self) -> u64 {
        UNIT
    }

    fn run_at(&self, cluster: u64, most: u64) -> Result<Run> {
        Ok(Run { place: Place::Stored(cluster.saturating_mul(UNIT)), count: most.max(1) })
    }

    fn allocate(&self, _: u64, _: u64) -> Result<Space> {
        Err(Error::invalid("a fixed VHD image allocates nothing"))
    }

    fn publish(&self, _: u64, _: u64, _: Place) -> Result<()> {
        Err(Error::invalid("a fixed VHD image has no table"))
    }

    fn before_change(&self) -> Result<()> {
        if self.whole { Ok(()) } else { Err(Error::corrupt("the file is shorter than the fixed VHD disk")) }
    }

    fn stored_flags(&self) -> ExtentFlags {
        ExtentFlags::ASK_HOST
    }

    fn take_dirty(&self) -> Cut {
        Cut::new()
    }

    fn not_written(&self, _: Cut) {}

    fn info(&self) -> Result<ImageInfo> {
        Ok(ImageInfo { dirty: Some(false), ..ImageInfo::default() })
    }
}
