//! The VHDX format of Hyper-V for diskimg: dynamic, fixed and differencing disks.
//!
//! A disk is kept in blocks of 1 to 256 MiB; a table in memory (8 bytes a block) says where each one is. What is common
//! to formats of this kind is in [`diskimg_core::mapped`]. Changes of the tables go through the file's log.
//!
//! ```
//! use diskimg_core::driver::ProbeInput;
//!
//! assert_eq!((diskimg_vhdx::DRIVER.probe)(&ProbeInput { head: b"vhdxfile", filename: "a" }), 100);
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod bat;
mod bitmap;
mod check;
mod create;
mod damage;
mod header;
mod journal;
mod limits;
mod locator;
mod log;
mod map;
mod metadata;
mod open;
mod parent;
mod region;
mod replay;
mod space;

use diskimg_core::FormatDriver;
use diskimg_core::driver::{Caps, Creator, ProbeInput, Score, WriteOrder};

use crate::header::SIGNATURE;

/// The VHDX format.
pub static DRIVER: FormatDriver = FormatDriver {
    name: "vhdx",
    extensions: &["vhdx"],
    caps: Caps::WRITE
        .union(Caps::CREATE)
        .union(Caps::BACKING)
        .union(Caps::CHECK)
        .union(Caps::REPAIR)
        .union(Caps::PREALLOCATE),
    options: create::OPTIONS,
    strong_options: &[],
    probe,
    open: open::open,
    creator: Some(Creator { validate: create::validate, create: create::create, order: |_| WriteOrder::Any }),
    measure: None,
};

/// 100 for a file with the signature.
fn probe(input: &ProbeInput<'_>) -> Score {
    if input.head.starts_with(SIGNATURE) { 100 } else { 0 }
}
