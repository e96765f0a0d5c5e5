//! [`Appended`]: the file of an image that is only appended to, on its way into a pipe.
//!
//! The image is made in memory. Its front, which does not depend on what follows, goes out as it was then; what a session
//! changes there meanwhile (marks that say that it is being written or was changed) stays in memory. What is written behind the front has
//! to come in the order of its places, but for what stands within the last [`HOLD`] bytes (a cluster gets its frame when its
//! bytes are there); gaps are zeros. Used by [`super::outflow`], with the target written one segment at a time.

use std::fmt;
use std::io::Write;
use std::sync::Arc;

use diskimg_core::{
    BlockDevice, ByteRange, Description, Error, Limits, Prealloc, Result, ZeroMode, len_u64, to_usize,
};
use parking_lot::Mutex;

use super::emit::{Out, write_failed};
use super::layout::Sparse;

/// Bytes at the end that may still change.
const HOLD: usize = 512 << 10;

/// Bytes that go out at once.
const BATCH: usize = 512 << 10;

/// What is held of the end at most, in bytes: a directory may be that long.
const MAX_END: usize = 64 << 20;

/// What has been appended.
struct End {
    out: Out,
    /// Bytes that went out; 0: not even the front.
    sent: u64,
    /// What comes behind them.
    held: Vec<u8>,
}

impl End {
    fn send(&mut self, len: usize) -> Result<()> {
        self.out.write(self.held.get(..len).unwrap_or_default())?;
        self.held.drain(..len);
        self.sent += u64::try_from(len).unwrap_or(0);
        Ok(())
    }

    fn put(&mut self, offset: u64, buf: &[u8]) -> Result<()> {
        let from = offset.checked_sub(self.sent).map(to_usize).filter(|from| *from <= MAX_END);
        let from = from.ok_or_else(|| write_failed("the image is not written in order"))?;
        let end = from.saturating_add(buf.len());
        if self.held.len() < end {
            self.held.resize(end, 0);
        }
        self.held.get_mut(from..end).unwrap_or_default().copy_from_slice(buf);
        if self.held.len() >= HOLD + BATCH { self.send(self.held.len() - HOLD) } else { Ok(()) }
    }
}

pub(super) struct Appended {
    /// The image as it was made; what changes in its front.
    made: Arc<Sparse>,
    /// Bytes of the front.
    front: u64,
    /// The front as it goes out.
    bytes: Vec<u8>,
    end: Mutex<End>,
}

impl Appended {
    /// The image that is `made`, whose first `front` bytes are final.
    pub(super) fn new(made: Arc<Sparse>, front: u64, out: Box<dyn Write + Send>) -> Result<Self> {
        let mut bytes = vec![0; to_usize(front.min(made.len()))];
        made.read_at(0, &mut bytes)?;
        let end = End { out: Out::new(out), sent: 0, held: Vec::new() };
        Ok(Self { made, front, bytes, end: Mutex::new(end) })
    }

    /// Writes what is left. The session has ended.
    pub(super) fn finish(&self) -> Result<()> {
        let mut end = self.end.lock();
        if end.sent == 0 {
            // Nothing was appended: the image is as it was made.
            let mut all = vec![0; to_usize(self.made.len())];
            self.made.read_at(0, &mut all)?;
            end.held = all;
        }
        let len = end.held.len();
        end.send(len)?;
        end.out.flush()
    }

    fn append(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let mut end = self.end.lock();
        if end.sent == 0 {
            end.out.write(&self.bytes)?;
            end.sent = self.front;
        }
        end.put(offset, buf)
    }
}

impl fmt::Debug for Appended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Appended").field("front", &self.front).finish_non_exhaustive()
    }
}

impl BlockDevice for Appended {
    fn len(&self) -> u64 {
        let end = self.end.lock();
        if end.sent == 0 { self.made.len() } else { end.sent + len_u64(&end.held) }
    }

    fn limits(&self) -> Limits {
        Limits { growable: true, ..Limits::default() }
    }

    fn describe(&self) -> Description<'_> {
        Description { driver: "file", filename: "" }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let begun = self.end.lock().sent > 0;
        if begun && offset.saturating_add(len_u64(buf)) > self.front {
            return Err(Error::unsupported("what went into a pipe can't be read again"));
        }
        self.made.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        if offset >= self.front {
            return self.append(offset, buf);
        }
        let (front, behind) = buf.split_at(buf.len().min(to_usize(self.front - offset)));
        self.made.write_at(offset, front)?;
        if behind.is_empty() { Ok(()) } else { self.append(self.front, behind) }
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        if range.end() <= self.front {
            return self.made.write_zeroes(range, how);
        }
        Err(Error::unsupported("zeros are written as they come"))
    }

    fn discard(&self, _range: ByteRange) -> Result<()> {
        Err(Error::unsupported("nothing can be taken back from a pipe"))
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64, _prealloc: Prealloc) -> Result<()> {
        match len == self.len() {
            true => Ok(()),
            false => Err(Error::unsupported("the length of what goes into a pipe can't be changed")),
        }
    }
}
