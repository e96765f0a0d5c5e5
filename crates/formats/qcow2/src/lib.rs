//! The qcow2 format (versions 2 and 3) for diskimg: one layer, read and written through a storage that is
//! handed to it. The format's description for a registry is [`DRIVER`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod amend;
mod backing;
mod bitmap_directory;
mod bitmaps;
mod check;
mod compress;
mod create;
mod crypt;
mod cursor;
mod driver;
mod entry;
mod extensions;
mod features;
mod geometry;
mod header;
mod header_swap;
mod header_write;
mod image;
mod info;
mod limits;
mod map;
mod measure;
mod meta;
mod open;
mod options;
mod preallocate;
mod read;
mod reserve;
mod resize;
mod room;
mod settings;
mod snapshot_table;
mod snapshots;
mod write;
mod zero;

pub use driver::DRIVER;
