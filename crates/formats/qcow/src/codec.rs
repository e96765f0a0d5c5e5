//! Payloads of compressed clusters: raw deflate with a window of 4 KiB, as the format's readers open it.
//!
//! Nothing here does I/O. Each worker has its own encoder; the image keeps a pool of decoders.

use diskimg_core::{ClusterEncoder, Error, ErrorKind, Result, errno};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use parking_lot::Mutex;

/// log2 of the window.
const WINDOW_BITS: u8 = 12;
/// The level that images are usually written with.
const LEVEL: u32 = 6;

/// Bytes that deflate never exceeds.
const fn bound(len: usize) -> usize {
    len + (len >> 3) + (len >> 8) + 64
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Io, "The compression library failed").with_source(error)
}

fn damaged() -> Error {
    Error::new(ErrorKind::Corrupt, diskimg_core::strerror(errno::EIO)).with_errno(errno::EIO)
}

/// Compresses clusters one after the other.
pub(crate) struct Encoder(Compress);

impl Encoder {
    pub(crate) fn new() -> Self {
        Self(Compress::new_with_window_bits(Compression::new(LEVEL), false, WINDOW_BITS))
    }
}

impl ClusterEncoder for Encoder {
    fn encode(&mut self, cluster: &[u8], payload: &mut Vec<u8>) -> Result<bool> {
        // Room for every stream to end: one that was broken off would leave its rest in the encoder's buffers.
        payload.clear();
        payload.resize(bound(cluster.len()), 0);
        self.0.reset();
        if self.0.compress(cluster, payload, FlushCompress::Finish).map_err(failed)? != Status::StreamEnd {
            return Err(failed(std::io::Error::from(std::io::ErrorKind::WriteZero)));
        }
        let len = usize::try_from(self.0.total_out()).ok().filter(|len| *len < cluster.len());
        payload.truncate(len.unwrap_or(0));
        Ok(len.is_some())
    }
}

/// Decoders that wait for the next payload.
#[derive(Default)]
pub(crate) struct Decoders(Mutex<Vec<Decompress>>);

impl std::fmt::Debug for Decoders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Decoders").field(&self.0.lock().len()).finish()
    }
}

impl Decoders {
    /// Fills `out` from `payload`; bytes behind the end of the stream are ignored.
    pub(crate) fn decode(&self, payload: &[u8], out: &mut [u8]) -> Result<()> {
        let idle = self.0.lock().pop();
        let mut state = idle.unwrap_or_else(|| Decompress::new_with_window_bits(false, WINDOW_BITS));
        state.reset(false);
        let status = state.decompress(payload, out, FlushDecompress::Finish);
        let filled = usize::try_from(state.total_out()) == Ok(out.len());
        self.0.lock().push(state);
        match status {
            Ok(_) if filled => Ok(()),
            Ok(_) => Err(damaged()),
            Err(error) => Err(damaged().with_source(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_read_back_and_damage_is_told() {
        let cluster: Vec<u8> = (0..4096_u16).map(|at| (at / 100).to_le_bytes()[0]).collect();
        let (mut encoder, decoders, mut payload) = (Encoder::new(), Decoders::default(), Vec::new());
        let mut out = vec![0; 4096];
        for _ in 0..2 {
            assert!(encoder.encode(&cluster, &mut payload).unwrap());
            decoders.decode(&payload, &mut out).unwrap();
            assert_eq!(out, cluster);
        }
        assert!(decoders.decode(&payload[..20], &mut out).is_err());
        assert!(decoders.decode(&[], &mut out).is_err());
        let mut noise = diskimg_testkit::Rng::new(1);
        let noise: Vec<u8> = (0..4096).map(|_| noise.next_u64().to_le_bytes()[0]).collect();
        assert!(!encoder.encode(&noise, &mut payload).unwrap());
        assert!(encoder.encode(&cluster, &mut payload).unwrap());
    }
}
