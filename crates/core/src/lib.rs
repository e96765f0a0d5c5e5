//! The bottom row of diskimg: traits, extents, errors, options, sizes, bounded readers, the front end,
//! memory devices. Every other crate speaks in these types; this one knows no format and no host file.
//!
//! ```
//! use diskimg_core::{BlockDevice, Device, MemDevice};
//! use std::sync::Arc;
//!
//! let disk = Device::new(Arc::new(MemDevice::new(4096)));
//! disk.write_at(1000, b"hello")?;
//! let mut buf = [0; 5];
//! disk.read_at(1000, &mut buf)?;
//! assert_eq!(&buf, b"hello");
//! # Ok::<(), diskimg_core::Error>(())
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod amend;
mod backing;
mod bitmap;
mod chunk_cache;
mod cursor;
mod device;
mod dirty;
pub mod driver;
mod error;
mod extend;
mod extent;
pub mod filter;
mod front;
mod image;
mod info;
pub mod mapped;
mod mem;
pub mod opener;
pub mod options;
pub mod parent_path;
mod pass;
mod progress;
pub mod protocol;
mod range;
mod range_lock;
mod read;
mod registry;
mod reserve;
mod secret;
pub mod size;
mod slice_cache;
mod snapshot;
mod threads;
mod zero;

pub use amend::{Amend, AmendInput};
pub use backing::{BackingChange, Emptying};
pub use bitmap::{BitmapInfo, Bitmaps, NewBitmap, inconsistent_bitmap, unknown_bitmap};
pub use chunk_cache::ChunkCache;
pub use cursor::Cursor;
pub use device::{
    BlockDevice, Description, ENDLESS, EachExtent, Forward, Limits, Prealloc, Widened, ZeroMode,
    read_only_error,
};
pub use dirty::DirtyBitmap;
pub use driver::FormatDriver;
pub use error::{Error, ErrorKind, Result, errno, strerror};
pub use extend::extend_to;
pub use extent::{Extent, ExtentFlags, HostRef};
pub use front::{Device, MAX_DEVICE_LEN, check_len};
pub use image::{
    BackingRef, Check, CheckReport, Child, ClusterEncoder, Codec, CompressedClusters, Image, Repair,
};
pub use info::{ImageInfo, InfoValue, SnapshotInfo};
pub use mem::{MemDevice, NullDevice};
pub use opener::Opener;
pub use progress::{CancelToken, Progress, Task};
pub use range::{ByteRange, align_down, align_up, len_u64, to_usize};
pub use range_lock::{RangeGuard, RangeLock};
pub use read::{Fields, read_table, read_zero_padded};
pub use registry::{FALLBACK_FORMAT, FALLBACK_PROTOCOL, Probed, Registry};
pub use reserve::{Piece, Publish, Reservation};
pub use secret::{Secret, Secrets, unknown_secret};
pub use slice_cache::{DirtySlice, SliceCache};
pub use snapshot::{NewSnapshot, SnapshotKey, Snapshots};
pub use threads::{most_threads, processors};
pub use zero::is_zero;
