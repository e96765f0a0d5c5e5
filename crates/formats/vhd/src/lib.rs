//! The VHD format (called `vpc`) for diskimg: fixed and dynamic images, read and written; differencing images read.
//!
//! A dynamic disk is kept in blocks, each behind a bitmap of its sectors; a table in memory (4 bytes a block) says where
//! each one is. What is common to formats of this kind is in [`diskimg_core::mapped`]; `map.rs` states the order of
//! writes. A fixed image is the disk's bytes and a footer behind them, by which it can't be told from a raw image: it has
//! to be opened by the format's name.
//!
//! ```
//! use diskimg_core::driver::ProbeInput;
//!
//! let head = b"conectix\0\0\0\x02";
//! assert_eq!((diskimg_vhd::DRIVER.probe)(&ProbeInput { head, filename: "a.vhd" }), 100);
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod bitmaps;
mod create;
mod fixed;
mod footer;
mod geometry;
mod header;
mod limits;
mod map;
mod open;
mod parent;

use diskimg_core::FormatDriver;
use diskimg_core::driver::{Caps, Creator, ProbeInput, Score, WriteOrder};

/// The VHD format.
pub static DRIVER: FormatDriver = FormatDriver {
    name: "vpc",
    extensions: &["vhd", "vpc", "avhd"],
    caps: Caps::WRITE.union(Caps::CREATE).union(Caps::BACKING),
    options: create::OPTIONS,
    strong_options: &[open::FORCE_SIZE_CALC],
    probe,
    open: open::open,
    creator: Some(Creator { validate: create::validate, create: create::create, order: |_| WriteOrder::Any }),
    measure: None,
};

/// 100 for a footer at the start, which all but fixed images have.
fn probe(input: &ProbeInput<'_>) -> Score {
    if input.head.starts_with(footer::COOKIE) { 100 } else { 0 }
}
