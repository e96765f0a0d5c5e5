//! The QED format (QEMU Enhanced Disk) for diskimg: read, written, checked and repaired, with backing files.
//!
//! A disk is kept in clusters; a table of tables says where each one is. New clusters are taken from the end of the
//! file and never move. What is common to formats of this kind is in [`diskimg_core::mapped`]; `map.rs` states the order
//! of writes.
//!
//! ```
//! use diskimg_core::driver::ProbeInput;
//!
//! let mut head = [0; 512];
//! head[..4].copy_from_slice(b"QED\0");
//! assert_eq!((diskimg_qed::DRIVER.probe)(&ProbeInput { head: &head, filename: "a.qed" }), 100);
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod check;
mod create;
mod geometry;
mod header;
mod limits;
mod map;
mod marks;
mod open;

use diskimg_core::FormatDriver;
use diskimg_core::driver::{Caps, Creator, ProbeInput, Score, WriteOrder};

use crate::header::Header;

/// The QED format.
pub static DRIVER: FormatDriver = FormatDriver {
    name: "qed",
    extensions: &["qed"],
    caps: Caps::WRITE
        .union(Caps::CREATE)
        .union(Caps::BACKING)
        .union(Caps::CHECK)
        .union(Caps::REPAIR)
        .union(Caps::RESIZE),
    options: create::OPTIONS,
    strong_options: &[],
    probe,
    open: open::open,
    creator: Some(Creator { validate: create::validate, create: create::create, order: |_| WriteOrder::Any }),
    measure: None,
};

/// 100 for the magic number.
fn probe(input: &ProbeInput<'_>) -> Score {
    if Header::is_signed(input.head) { 100 } else { 0 }
}
