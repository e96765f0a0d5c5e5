//! The VDI format of VirtualBox for diskimg: dynamic and static images, read and written; differencing images read.
//!
//! A disk is kept in blocks of 1 MiB; a table in memory (4 bytes a block) says where each one is. What is common to
//! formats of this kind is in [`diskimg_core::mapped`], with the order of writes: blocks | header and table.
//!
//! ```
//! use diskimg_core::driver::ProbeInput;
//!
//! let mut head = [0; 512];
//! head[0x40..0x48].copy_from_slice(&[0x7f, 0x10, 0xda, 0xbe, 1, 0, 1, 0]);
//! assert_eq!((diskimg_vdi::DRIVER.probe)(&ProbeInput { head: &head, filename: "a.vdi" }), 100);
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod check;
mod create;
mod header;
mod limits;
mod map;
mod open;

use diskimg_core::FormatDriver;
use diskimg_core::driver::{Caps, Creator, ProbeInput, Score, WriteOrder};

use crate::header::{HEADER_LEN, Header};

/// The VDI format.
pub static DRIVER: FormatDriver = FormatDriver {
    name: "vdi",
    extensions: &["vdi"],
    caps: Caps::WRITE.union(Caps::CREATE).union(Caps::CHECK).union(Caps::PREALLOCATE),
    options: create::OPTIONS,
    strong_options: &["parent"],
    probe,
    open: open::open,
    creator: Some(Creator { validate: create::validate, create: create::create, order: |_| WriteOrder::Any }),
    measure: None,
};

/// 100 for a header with the signature.
fn probe(input: &ProbeInput<'_>) -> Score {
    let signed = input.head.len() >= HEADER_LEN && Header::is_signed(input.head);
    if signed { 100 } else { 0 }
}
