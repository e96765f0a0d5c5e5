//! The raw format for diskimg: the bytes of a file as they are, or a part of them.
//!
//! [`DRIVER`] is all that this crate offers; a registry holds it, the chain opens images with it.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod create;
mod guard;
mod image;
mod open;

use diskimg_core::FormatDriver;
use diskimg_core::driver::{Caps, Creator, WriteOrder};

pub use image::RawImage;

/// The raw format.
pub static DRIVER: FormatDriver = FormatDriver {
    name: "raw",
    extensions: &["raw", "img", "iso"],
    caps: Caps::WRITE.union(Caps::CREATE).union(Caps::RESIZE).union(Caps::PREALLOCATE).union(Caps::FORWARD),
    options: create::OPTIONS,
    strong_options: &["offset", "size"],
    // Every content can be raw.
    probe: |_| 1,
    open: open::open,
    creator: Some(Creator {
        validate: create::validate,
        create: create::create,
        order: |_| WriteOrder::Plain,
    }),
    measure: Some(create::measure),
};

/// Virtual sizes are multiples of it, in bytes.
const SECTOR: u64 = 512;
