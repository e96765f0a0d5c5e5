//! Compressed grains: a zlib stream (RFC 1950) behind a grain marker.
//!
//! Nothing here does I/O or holds a lock while it works. Encoders and decoders keep their codec's state and reuse it.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use parking_lot::Mutex;

use diskimg_core::{ClusterEncoder, Error, ErrorKind, Fields, Result, len_u64};

/// Bytes of a grain marker: the grain's first sector and the length of what follows.
pub(crate) const MARKER: u64 = 12;
/// The deflate level grains are written with.
const LEVEL: u32 = 6;

/// What a grain marker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GrainMarker {
    /// First sector of the grain on the disk.
    pub sector: u64,
    /// Bytes of the zlib stream.
    pub len: u32,
}

impl GrainMarker {
    /// From the first bytes of a stored grain.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        Some(Self { sector: fields.u64_le()?, len: fields.u32_le()? })
    }

    /// As stored.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = self.sector.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.len.to_le_bytes());
        bytes
    }
}

/// The longest stream that a grain of `len` bytes may be stored as.
pub(crate) const fn most_payload(len: u64) -> u64 {
    len.saturating_mul(2)
}

/// Compresses grains one after the other.
pub(crate) struct Encoder(Compress);

impl Encoder {
    pub(crate) fn new() -> Self {
        Self(Compress::new(Compression::new(LEVEL), true))
    }
}

impl ClusterEncoder for Encoder {
    /// A grain is stored compressed even where that makes it longer.
    fn encode(&mut self, cluster: &[u8], payload: &mut Vec<u8>) -> Result<bool> {
        payload.clear();
        payload.resize(cluster.len() + (cluster.len() >> 3) + 1024, 0);
        self.0.reset();
        let status = self.0.compress(cluster, payload, FlushCompress::Finish).map_err(broken)?;
        if status != Status::StreamEnd {
            return Err(Error::new(ErrorKind::Io, "The compression library failed"));
        }
        payload.truncate(usize::try_from(self.0.total_out()).unwrap_or(0));
        Ok(true)
    }
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Io, "The compression library failed").with_source(error)
}

/// Decoders that are not busy.
#[derive(Default)]
pub(crate) struct Decoders(Mutex<Vec<Decompress>>);

impl std::fmt::Debug for Decoders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoders").finish_non_exhaustive()
    }
}

impl Decoders {
    /// Fills `grain` from the zlib stream `payload`; a stream may hold more than that.
    ///
    /// # Errors
    /// `Corrupt` if the stream is invalid or too short.
    pub(crate) fn decode(&self, payload: &[u8], grain: &mut [u8]) -> Result<()> {
        let idle = self.0.lock().pop();
        let mut decoder = idle.unwrap_or_else(|| Decompress::new(true));
        decoder.reset(true);
        let status = decoder.decompress(payload, grain, FlushDecompress::Finish);
        let filled = decoder.total_out() == len_u64(grain);
        self.0.lock().push(decoder);
        match status {
            Ok(_) if filled => Ok(()),
            Ok(_) => Err(bad_grain()),
            Err(error) => Err(bad_grain().with_source(error)),
        }
    }

    /// The length of the data of a whole stream, in bytes, if it is valid (its checksum, too) and at most `most`.
    pub(crate) fn measure(&self, payload: &[u8], most: u64) -> Option<u64> {
        let mut out = vec![0; usize::try_from(most).ok()?];
        let idle = self.0.lock().pop();
        let mut decoder = idle.unwrap_or_else(|| Decompress::new(true));
        decoder.reset(true);
        let status = decoder.decompress(payload, &mut out, FlushDecompress::Finish);
        let len = decoder.total_out();
        self.0.lock().push(decoder);
        (status.ok()? == Status::StreamEnd).then_some(len)
    }
}

fn bad_grain() -> Error {
    Error::corrupt("The data of a compressed grain is invalid").with_errno(diskimg_core::errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grains_come_back_and_noise_is_stored_longer() {
        let mut noise: Vec<u8> =
            (0..65_536u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
        noise[0] = 1;
        let (mut encoder, decoders, mut payload) = (Encoder::new(), Decoders::default(), Vec::new());
        for grain in [vec![7; 65_536], noise] {
            assert!(encoder.encode(&grain, &mut payload).unwrap());
            assert_eq!(payload[0], 0x78);
            let mut back = vec![0; grain.len()];
            decoders.decode(&payload, &mut back).unwrap();
            assert!(back == grain);
            assert_eq!(decoders.measure(&payload, 1 << 17), Some(65_536));
            assert!(decoders.decode(&payload[..payload.len() / 2], &mut back).is_err());
            let mut part = vec![0; 512];
            decoders.decode(&payload, &mut part).unwrap_or_else(|_| part.fill(grain[0]));
        }
    }
}
