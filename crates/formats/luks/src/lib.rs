//! LUKS volumes (version 1) for diskimg: opened with a secret, created, and their key slots changed.
//!
//! A volume is a header with key material and, behind it or in a file of its own, a payload of encrypted sectors. What a
//! header and its key slots are is in [`diskimg_crypto::luks`]; here is the disk that the payload holds. There is no
//! metadata but the header, which only amending writes, so data needs no order of writes.
//!
//! ```
//! use diskimg_core::driver::ProbeInput;
//!
//! let head = b"LUKS\xba\xbe\0\x01";
//! assert_eq!((diskimg_luks::DRIVER.probe)(&ProbeInput { head, filename: "a.luks" }), 100);
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod create;
mod image;
mod limits;
mod open;
mod options;

use diskimg_core::driver::{Caps, Creator, ProbeInput, Score, WriteOrder};
use diskimg_core::{Error, FormatDriver};
use diskimg_crypto::luks::is_luks;

pub use image::LuksImage;

/// LUKS, version 1.
pub static DRIVER: FormatDriver = FormatDriver {
    name: "luks",
    extensions: &["luks"],
    caps: Caps::WRITE
        .union(Caps::CREATE)
        .union(Caps::RESIZE)
        .union(Caps::AMEND)
        .union(Caps::ENCRYPT)
        .union(Caps::PREALLOCATE),
    options: options::OPTIONS,
    strong_options: &[options::KEY_SECRET],
    probe,
    open: open::open,
    creator: Some(Creator { validate: create::validate, create: create::create, order: |_| WriteOrder::Any }),
    measure: Some(create::measure),
};

/// 100 for the magic number with version 1; a later one is none that qemu-img knows.
fn probe(input: &ProbeInput<'_>) -> Score {
    if is_luks(input.head) { 100 } else { 0 }
}

/// The refusal of a volume without a key.
fn key_required() -> Error {
    Error::invalid("Parameter 'key-secret' is required for cipher")
}
