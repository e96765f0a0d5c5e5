//! What a conversion does besides copying: keeping to an order, noting places instead of filling them, a digest.

use diskimg_chain::Node;
use diskimg_core::{BlockDevice as _, Error, ErrorKind, Prealloc, Reservation, Result};
use parking_lot::Mutex;

use super::digest::Running;
use super::layout::Run;
use super::source::Sources;
use super::{ConvertOptions, too_short};

/// How a conversion is done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Manner<'a> {
    /// Each segment is written and made visible before the next one gets its place.
    pub(super) at_once: bool,
    /// Places are noted here; nothing is written to them.
    pub(super) sketch: Option<&'a Sketch>,
    /// The digest of what is read in order.
    pub(super) digest: Option<&'a Running>,
}

/// The places that guest data got.
#[derive(Debug, Default)]
pub(super) struct Sketch(Mutex<Vec<Run>>);

impl Sketch {
    /// Notes where the bytes of `place` go, and makes them visible without having written them.
    pub(super) fn note(&self, place: Reservation<'_>) -> Result<()> {
        let mut runs = self.0.lock();
        for piece in place.pieces() {
            let host = piece.host.ok_or_else(unplanned)?.offset;
            let run = Run { host, guest: piece.range.start, len: piece.range.len };
            match runs.last_mut() {
                Some(last) if last.continues(&run) => last.len += run.len,
                _ => runs.push(run),
            }
        }
        drop(runs);
        place.commit()
    }

    /// The runs, in guest order.
    pub(super) fn into_runs(self) -> Vec<Run> {
        self.0.into_inner()
    }
}

/// The error of an image whose layout depends on more than on which of its clusters are used.
pub(super) fn unplanned() -> Error {
    Error::unsupported("The layout of the image can't be told before it is written")
}

/// Cuts a target that grew with its source; makes sure that another one has taken all.
pub(super) fn fit(sources: &Sources<'_>, target: &Node, options: &ConvertOptions) -> Result<()> {
    if !sources.is_endless() {
        return Ok(());
    }
    let device = target.device();
    if options.fit_target {
        let len = sources.known_len();
        return if len == device.len() { Ok(()) } else { device.set_len(len, Prealloc::Off) };
    }
    let mut byte = [0];
    // Nobody may have come to the end yet.
    sources.read_at(device.len(), &mut byte)?;
    if sources.known_len() > device.len() { Err(too_short()) } else { Ok(()) }
}

/// The error of a thread that panicked.
pub(super) fn panicked() -> Error {
    Error::new(ErrorKind::Io, "a thread of the conversion panicked")
}
