//! The qcow format, version 1, for diskimg: read and written, with compressed clusters, encryption with AES and backing
//! files. Version 2 and 3 are another format.
//!
//! A disk is kept in clusters; a table of tables says where each one is. What is common to formats of this kind is in
//! [`diskimg_core::mapped`]; `map.rs` states the order of writes.
//!
//! ```
//! use diskimg_core::driver::ProbeInput;
//!
//! let mut head = [0; 512];
//! head[..8].copy_from_slice(b"QFI\xfb\0\0\0\x01");
//! assert_eq!((diskimg_qcow::DRIVER.probe)(&ProbeInput { head: &head, filename: "a.qcow" }), 100);
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod codec;
mod create;
mod crypt;
mod header;
mod limits;
mod map;
mod open;

use diskimg_core::FormatDriver;
use diskimg_core::driver::{Caps, Creator, ProbeInput, Score, WriteOrder};

use crate::header::Header;

/// The qcow format, version 1.
pub static DRIVER: FormatDriver = FormatDriver {
    name: "qcow",
    extensions: &["qcow"],
    caps: Caps::WRITE.union(Caps::CREATE).union(Caps::BACKING).union(Caps::COMPRESS).union(Caps::ENCRYPT),
    options: create::OPTIONS,
    strong_options: &["encrypt.key-secret"],
    probe,
    open: open::open,
    creator: Some(Creator { validate: create::validate, create: create::create, order: |_| WriteOrder::Any }),
    measure: None,
};

/// 100 for the magic number and version 1.
fn probe(input: &ProbeInput<'_>) -> Score {
    if Header::is_signed(input.head) { 100 } else { 0 }
}
