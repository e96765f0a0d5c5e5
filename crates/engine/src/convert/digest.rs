//! The SHA-256 of what is converted, computed beside the copying by a thread that reads in guest order.
//!
//! What the extents tell to be zeros is not read. Memory: two buffers of [`CHUNK`] bytes.

use std::sync::atomic::{AtomicBool, Ordering};

use diskimg_core::{ByteRange, Result, to_usize};
use sha2::{Digest as _, Sha256};

use super::plan::SECTOR;
use super::source::{Class, SourceWalk, Sources};

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

fn read_sectors(sources: &Sources<'_>, start: u64, bytes: &mut [u8]) {
    let mut at = start;
    for sector in bytes.chunks_mut(to_usize(SECTOR)) {
        if sources.read_at(at, sector).is_err() {
            sector.fill(0);
        }
        at += SECTOR;
    }
}
