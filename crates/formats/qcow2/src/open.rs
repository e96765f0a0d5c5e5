//! Opening: header, options, data file and tables, in the order in which their errors are reported.

use std::sync::Arc;

use diskimg_core::BlockDevice;
use diskimg_core::driver::{Notices, OpenMode};

use crate::bitmap_directory::Bitmap;
use crate::header::Header;
use crate::settings::Settings;
use crate::snapshot_table::Snapshot;

/// Everything that an open image is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    /// What holds the image.
    pub storage: Arc<dyn BlockDevice>,
    /// What holds the guest's data, if the image has a data file; `None` also when it is only described.
    pub data_file: Option<Arc<dyn BlockDevice>>,
    /// The header.
    pub header: Header,
    /// The active L1 table, as stored; empty when the image is only described.
    pub l1: Vec<u64>,
    /// The refcount table, as stored; empty when the image is only described.
    pub reftable: Vec<u64>,
    /// The snapshots.
    pub snapshots: Vec<Snapshot>,
    /// The bitmaps.
    pub bitmaps: Vec<Bitmap>,
    /// What it is opened for.
    pub mode: OpenMode,
    /// Its options.
    pub settings: Settings,
    /// Where warnings go.
    pub notices: Notices,
    /// The displayed name.
    pub filename: String,
}
