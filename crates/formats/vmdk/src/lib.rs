//! The VMDK format for diskimg: hosted sparse extents (monolithic, split, stream-optimised), flat extents, and ESX's
//! COWD and seSparse extents to read. The format's description for a registry is [`DRIVER`].
//!
//! A disk is a row of *parts* (module `parts`), each a flat or a sparse extent in a file of its own or in the image's; a text
//! descriptor (module `descriptor`) names them, except where one sparse extent is all there is.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod check;
mod codec;
mod create;
mod descriptor;
mod descriptor_file;
mod descriptor_write;
mod driver;
mod error;
mod extent_line;
mod geometry;
mod header;
mod image;
mod info;
mod limits;
mod open;
mod options;
mod parts;
mod sesparse;
mod sparse;
mod sparse_write;
mod stream;
mod stream_file;
mod tables;

pub use driver::DRIVER;
