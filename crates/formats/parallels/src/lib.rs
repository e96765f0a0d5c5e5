//! The Parallels format for diskimg: both kinds of header, read, written, checked and repaired.
//!
//! A disk is kept in clusters; a table in memory (4 bytes a cluster) says where each one is. What is common to formats of
//! this kind is in [`diskimg_core::mapped`], with the order of writes: in-use mark | clusters | table.
//!
//! ```
//! use diskimg_core::driver::ProbeInput;
//!
//! let mut head = [0; 512];
//! head[..20].copy_from_slice(b"WithouFreSpacExt\x02\0\0\0");
//! assert_eq!((diskimg_parallels::DRIVER.probe)(&ProbeInput { head: &head, filename: "a.hds" }), 100);
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod check;
mod create;
mod extension;
mod header;
mod limits;
mod map;
mod open;
mod space;

use diskimg_core::FormatDriver;
use diskimg_core::driver::{Caps, Creator, ProbeInput, Score, WriteOrder};

use crate::header::Header;

/// The Parallels format.
pub static DRIVER: FormatDriver = FormatDriver {
    name: "parallels",
    extensions: &["hds"],
    caps: Caps::WRITE.union(Caps::CREATE).union(Caps::CHECK).union(Caps::REPAIR).union(Caps::FOREIGN_BITMAPS),
    options: create::OPTIONS,
    strong_options: &[],
    probe,
    open: open::open,
    creator: Some(Creator { validate: create::validate, create: create::create, order: |_| WriteOrder::Any }),
    measure: None,
};

/// 100 for a header with a magic and the version.
fn probe(input: &ProbeInput<'_>) -> Score {
    if Header::is_signed(input.head) { 100 } else { 0 }
}
