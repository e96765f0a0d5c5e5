//! The SHA-256 of what is converted, computed beside the copying by a thread that reads in guest order.
//!
//! What is read from front to end is read once: there the one who reads it feeds a [`Running`] digest.
//!
//! What the extents tell to be zeros is not read. Memory: two buffers of [`CHUNK`] bytes.

use std::sync::atomic::{AtomicBool, Ordering};

use diskimg_core::{ByteRange, Result, len_u64, to_usize};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::plan::SECTOR;
use super::source::{Class, SourceWalk, Sources};

/// A digest of bytes that somebody else reads, in order.
#[derive(Debug, Default)]
pub(super) struct Running(Mutex<(Sha256, u64)>);

impl Running {
    /// The next bytes that are not known to be zeros, which start at byte `start`.
    pub(super) fn feed(&self, start: u64, bytes: &[u8]) {
        let mut running = self.0.lock();
        let (hash, at) = &mut *running;
        skip(hash, start.saturating_sub(*at));
        hash.update(bytes);
        *at = start.saturating_add(len_u64(bytes));
    }

    /// The digest of all `total` bytes.
    pub(super) fn finish(self, total: u64) -> [u8; 32] {
        let (mut hash, at) = self.0.into_inner();
        skip(&mut hash, total.saturating_sub(at));
        hash.finalize().into()
    }
}

/// Takes `len` zeros.
fn skip(hash: &mut Sha256, len: u64) {
    let zeros = vec![0; to_usize(CHUNK.min(len))];
    let mut left = len;
    while left > 0 {
        let now = left.min(CHUNK);
        hash.update(zeros.get(..to_usize(now)).unwrap_or_default());
        left -= now;
    }
}

/// Bytes that are read at once.
const CHUNK: u64 = 1 << 20;

/// The digest of all of `sources`; `None` if `stop` was set before the end. With `salvage`, sectors that can't be read
/// count as zeros.
pub(super) fn digest(sources: &Sources<'_>, salvage: bool, stop: &AtomicBool) -> Result<Option<[u8; 32]>> {
    let mut hash = Sha256::new();
    let zeros = vec![0; to_usize(CHUNK)];
    let mut buf = vec![0; to_usize(CHUNK)];
    let mut walk = SourceWalk::new(sources);
    let mut at = 0;
    while at < sources.len() {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let rest = ByteRange::from_bounds(at, sources.len());
        let (class, known) = match walk.classify(rest) {
            Err(_) if salvage => (Class::Data, SECTOR),
            classified => classified?,
        };
        let len = known.clamp(1, CHUNK).min(rest.len);
        let bytes = buf.get_mut(..to_usize(len)).unwrap_or_default();
        if class == Class::Zero {
            hash.update(zeros.get(..to_usize(len)).unwrap_or_default());
        } else {
            match sources.read_at(at, bytes) {
                Err(_) if salvage => read_sectors(sources, at, bytes),
                read => read?,
            }
            hash.update(&*bytes);
        }
        at += len;
    }
    Ok(Some(hash.finalize().into()))
}

pub(super) fn read_sectors(sources: &Sources<'_>, start: u64, bytes: &mut [u8]) {
    let mut at = start;
    for sector in bytes.chunks_mut(to_usize(SECTOR)) {
        if sources.read_at(at, sector).is_err() {
            sector.fill(0);
        }
        at += SECTOR;
    }
}
