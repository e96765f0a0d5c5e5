//! The guard of an image whose format was only guessed: a guest that writes another format's header to its first sector
//! would decide what the image is the next time it is opened, and thus which host files it refers to.
//!
//! Invariants: the first sector never changes into something that a probe takes for another format. Used by
//! [`crate::RawImage`] alone.

use diskimg_core::driver::{PROBE_LEN, ProbeInput};
use diskimg_core::{Registry, Result, read_only_error};

/// Refuses first sectors that look like another format.
#[derive(Debug)]
pub(crate) struct Guard {
    filename: String,
    known: Option<Registry>,
}

impl Guard {
    /// A guard against the formats of `known`; without any, against every change of the first sector.
    pub(crate) fn new(filename: &str, known: Option<Registry>) -> Self {
        Self { filename: filename.to_owned(), known }
    }

    /// Whether the image may start with `head` (EPERM if not).
    pub(crate) fn admit(&self, head: &[u8; PROBE_LEN]) -> Result<()> {
        let Some(known) = &self.known else { return Err(read_only_error()) };
        match known.probe(&ProbeInput { head, filename: &self.filename }) {
            Some(found) if found.format.name != crate::DRIVER.name => Err(read_only_error()),
            _ => Ok(()),
        }
    }
}
