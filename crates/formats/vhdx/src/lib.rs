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
mod check;
mod damage;
mod header;
mod limits;
mod log;
mod map;
mod metadata;
mod open;
mod region;
mod replay;

use diskimg_core::FormatDriver;
use diskimg_core::driver::{Caps, ProbeInput, Score};

use crate::header::SIGNATURE;

/// The VHDX format.
pub static DRIVER: FormatDriver = FormatDriver {
    name: "vhdx",
    extensions: &["vhdx"],
    caps: Caps::CHECK.union(Caps::REPAIR),
    options: &[],
    strong_options: &[],
    probe,
    open: open::open,
    creator: None,
    measure: None,
};

/// 100 for a file with the signature.
fn probe(input: &ProbeInput<'_>) -> Score {
    if input.head.starts_with(SIGNATURE) { 100 } else { 0 }
}
