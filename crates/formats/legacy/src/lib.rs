//! Three formats of other programs that are only read: Bochs' growing disks, compressed loop images (`cloop`) and
//! Apple's disk images (`dmg`).
//!
//! The drivers are all that a registry needs; [`DmgImage`] can verify the checksums of a disk image besides.
//!
//! ```
//! use diskimg_core::driver::ProbeInput;
//!
//! let head = [0; 512];
//! // An Apple disk image is known by its name alone: its headers stand at the end.
//! assert_eq!((diskimg_legacy::DMG.probe)(&ProbeInput { head: &head, filename: "a.dmg" }), 2);
//! assert_eq!((diskimg_legacy::BOCHS.probe)(&ProbeInput { head: &head, filename: "a.dmg" }), 0);
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod bochs;
mod cloop;
mod dmg;
mod image;

use diskimg_core::FormatDriver;
use diskimg_core::driver::{Caps, OpenContext, ProbeInput, Score};
use diskimg_core::{Image, Result};
use std::sync::Arc;

pub use dmg::{ChecksumReport, DmgImage};

/// Sizes of disks are multiples of it, in bytes.
const SECTOR: u64 = 512;
/// Bytes of decoded chunks that an image keeps for later reads. A reader holds one chunk more.
const KEPT_BYTES: usize = 16 << 20;

/// A format that can only be read: no options, no creation.
const fn read_only(
    name: &'static str,
    extensions: &'static [&'static str],
    probe: fn(&ProbeInput<'_>) -> Score,
    open: fn(OpenContext<'_>) -> Result<Arc<dyn Image>>,
) -> FormatDriver {
    FormatDriver {
        name,
        extensions,
        caps: Caps::empty(),
        options: &[],
        strong_options: &[],
        probe,
        open,
        creator: None,
        measure: None,
    }
}

/// Bochs' growing redolog.
pub static BOCHS: FormatDriver = read_only("bochs", &["bochs"], bochs::probe, bochs::open);
/// Compressed loop images, version 2.0.
pub static CLOOP: FormatDriver = read_only("cloop", &["cloop"], cloop::probe, cloop::open);
/// Apple disk images (UDIF).
pub static DMG: FormatDriver = read_only("dmg", &["dmg"], dmg::probe, dmg::open);
