//! The qcow2 format (versions 2 and 3) for diskimg: one layer, read and written through a storage that is
//! handed to it. The format's description for a registry is [`DRIVER`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod bitmap_directory;
mod compress;
mod entry;
mod extensions;
mod features;
mod geometry;
mod header;
mod header_write;
mod limits;
mod open;
mod settings;
mod snapshot_table;
