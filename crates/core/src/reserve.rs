//! Two-phase writes: reserve a place, write the bytes, commit.

use std::fmt;

use crate::error::{Error, Result};
use crate::extent::HostRef;
use crate::range::{ByteRange, len_u64, to_usize};

/// The second phase of a reservation, as a format provides it.
pub trait Publish: Send {
    /// Makes the bytes visible at their guest offsets.
    ///
    /// # Errors
    /// Those of a metadata update; the guest then still sees the old bytes.
    fn commit(self: Box<Self>) -> Result<()>;

    /// Gives the space back.
    fn abandon(self: Box<Self>);

    /// Writes `buf` to the places of the bytes from `offset` on, where these have no [`Piece::host`]: the format
    /// changes bytes on their way (it encrypts them). Called for one piece at a time, perhaps from another thread.
    ///
    /// # Errors
    /// The host's.
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let _ = (offset, buf);
        Err(Error::invalid("write to a reservation that has no place for bytes"))
    }
}

/// A part of a reservation that is contiguous on the host.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// Bytes relative to the device that was asked (guest bytes); for a compressed cluster the payload, from 0.
    pub range: ByteRange,
    /// Where they go as they are; `None`: the format changes them on their way, and only
    /// [`Reservation::write_at`] brings them there.
    pub host: Option<HostRef<'a>>,
    /// The place reads as zeros where nothing is written to it; never with bytes that are changed on their way.
    pub fresh: bool,
}

/// A place for bytes that are not visible yet. Dropping it gives the space back.
pub struct Reservation<'a> {
    pieces: Vec<Piece<'a>>,
    publish: Option<Box<dyn Publish + 'a>>,
}

impl<'a> Reservation<'a> {
    /// A reservation of `pieces` (ascending, without gaps) that `publish` makes visible.
    #[must_use]
    pub fn new(pieces: Vec<Piece<'a>>, publish: Box<dyn Publish + 'a>) -> Self {
        Self { pieces, publish: Some(publish) }
    }

    /// Where the bytes go, ascending.
    #[must_use]
    pub fn pieces(&self) -> &[Piece<'a>] {
        &self.pieces
    }

    /// Whether zeros need not be written: all of the place reads as zeros by itself.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.pieces.iter().all(|piece| piece.fresh && piece.host.is_some())
    }

    /// Writes `buf` to the places of the bytes from `offset` on (guest bytes as in [`Piece::range`]).
    ///
    /// # Errors
    /// The host's, or `OutOfRange` for bytes that are not part of the reservation.
    pub fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let wanted = ByteRange::new(offset, len_u64(buf));
        let mut written = 0;
        for piece in &self.pieces {
            let part = piece.range.intersect(wanted);
            if part.is_empty() {
                continue;
            }
            let from = to_usize(part.start - offset);
            let bytes = buf.get(from..from + to_usize(part.len)).unwrap_or_default();
            match (piece.host, &self.publish) {
                (Some(host), _) => {
                    host.device.write_at(host.advance(part.start - piece.range.start).offset, bytes)?;
                }
                (None, Some(publish)) => publish.write_at(part.start, bytes)?,
                (None, None) => break,
            }
            written += part.len;
        }
        if written == wanted.len { Ok(()) } else { Err(Error::invalid("write outside of its reservation")) }
    }

    /// Makes the bytes visible.
    ///
    /// # Errors
    /// Those of a metadata update; the guest then still sees the old bytes.
    pub fn commit(mut self) -> Result<()> {
        match self.publish.take() {
            Some(publish) => publish.commit(),
            None => Ok(()),
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if let Some(publish) = self.publish.take() {
            publish.abandon();
        }
    }
}

impl fmt::Debug for Reservation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reservation").field(&self.pieces).finish()
    }
}
