//! Payloads of compressed clusters (specification, "Compressed Clusters Descriptor"): the header's compression
//! types, encoding of a whole cluster and decoding of its payload.
//!
//! Nothing here does I/O or takes a lock. An [`Encoder`] and a [`Decoder`] keep their codec's state (well below
//! 1 MiB) and reuse it; each worker has its own, the image keeps a pool of decoders. Decoding allocates nothing that
//! the payload could ask for: the output is the caller's cluster, and zstd frames are decoded in one step without a
//! window of their own.

mod noise;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{CParameter, find_frame_compressed_size};

use diskimg_core::{ClusterEncoder, Codec, Error, ErrorKind, Result};

/// log2 of the deflate window that every reader of the format has.
const DEFLATE_WINDOW_BITS: u8 = 12;
/// The deflate level images are usually written with.
const DEFLATE_LEVEL: u32 = 6;
/// The zstd level images are usually written with.
const ZSTD_LEVEL: i32 = 3;

/// The header's compression types.
const TYPES: [(u8, Codec); 2] = [(0, Codec::Deflate), (1, Codec::Zstd)];

/// The method of the header's `compression_type`; `None` for one that does not exist.
pub(crate) fn codec_of(compression_type: u8) -> Option<Codec> {
    TYPES.iter().find(|(known, _)| *known == compression_type).map(|(_, codec)| *codec)
}

/// Compresses clusters one after the other.
pub(crate) struct Encoder(EncoderState);

enum EncoderState {
    Deflate(Compress),
    Zstd(Compressor<'static>),
}

impl Encoder {
    /// An encoder with the usual level of `codec`.
    ///
    /// # Errors
    /// `Unsupported` for a method that the format does not have; no memory.
    pub(crate) fn new(codec: Codec) -> Result<Self> {
        let state = match codec {
            Codec::Deflate => EncoderState::Deflate(Compress::new_with_window_bits(
                Compression::new(DEFLATE_LEVEL),
                false,
                DEFLATE_WINDOW_BITS,
            )),
            Codec::Zstd => EncoderState::Zstd(zstd_compressor().map_err(broken_encoder)?),
            _ => return Err(no_such_codec()),
        };
        Ok(Self(state))
    }
}

fn zstd_compressor() -> std::io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(ZSTD_LEVEL)?;
    compressor.set_parameter(CParameter::ContentSizeFlag(true))?;
    compressor.set_parameter(CParameter::ChecksumFlag(false))?;
    Ok(compressor)
}

/// Bytes that deflate never exceeds, whatever the window and memory level.
const fn deflate_bound(len: usize) -> usize {
    len + (len >> 3) + (len >> 8) + 64
}

impl ClusterEncoder for Encoder {
    fn encode(&mut self, cluster: &[u8], payload: &mut Vec<u8>) -> Result<bool> {
        let len = match &mut self.0 {
            EncoderState::Deflate(_) if noise::is_noise(cluster) => None,
            EncoderState::Deflate(state) => {
                // Room for every stream to end: one that was broken off would leave its rest in the encoder's buffers.
                payload.resize(deflate_bound(cluster.len()), 0);
                state.reset();
                match state.compress(cluster, payload, FlushCompress::Finish).map_err(broken_encoder)? {
                    Status::StreamEnd => usize::try_from(state.total_out()).ok(),
                    Status::Ok | Status::BufError => {
                        return Err(broken_encoder(std::io::Error::from(std::io::ErrorKind::WriteZero)));
                    }
                }
            }
            // Its one error with valid parameters is that the output has no room.
            EncoderState::Zstd(state) => {
                payload.resize(cluster.len().saturating_sub(1), 0);
                state.compress_to_buffer(cluster, payload.as_mut_slice()).ok()
            }
        };
        // A payload that is not smaller than the cluster is of no use.
        let len = len.filter(|len| *len < cluster.len());
        payload.truncate(len.unwrap_or(0));
        Ok(len.is_some())
    }
}

/// Decompresses payloads one after the other.
pub(crate) struct Decoder(DecoderState);

enum DecoderState {
    Deflate(Decompress),
    Zstd(Decompressor<'static>),
}

impl Decoder {
    /// A decoder of `codec`.
    ///
    /// # Errors
    /// `Unsupported` for a method that the format does not have; no memory.
    pub(crate) fn new(codec: Codec) -> Result<Self> {
        let state = match codec {
            Codec::Deflate => {
                DecoderState::Deflate(Decompress::new_with_window_bits(false, DEFLATE_WINDOW_BITS))
            }
            Codec::Zstd => DecoderState::Zstd(Decompressor::new().map_err(broken_encoder)?),
            _ => return Err(no_such_codec()),
        };
        Ok(Self(state))
    }

    /// Fills `out`, a whole cluster, from `payload`; bytes behind the end of the compressed data are ignored.
    ///
    /// # Errors
    /// `Corrupt` if the payload is invalid or cut, or does not decode to exactly the length of `out`.
    pub(crate) fn decode(&mut self, payload: &[u8], out: &mut [u8]) -> Result<()> {
        match &mut self.0 {
            DecoderState::Deflate(state) => inflate(state, payload, out),
            DecoderState::Zstd(state) => decode_frames(state, payload, out),
        }
    }
}

/// Only the bytes produced count: qemu, too, accepts a stream that fills the cluster and does not end there.
fn inflate(state: &mut Decompress, payload: &[u8], out: &mut [u8]) -> Result<()> {
    state.reset(false);
    let status = state
        .decompress(payload, out, FlushDecompress::Finish)
        .map_err(|e| corrupt_payload("is invalid").with_source(e))?;
    if usize::try_from(state.total_out()) == Ok(out.len()) {
        return Ok(());
    }
    Err(corrupt_payload(if status == Status::StreamEnd { "ends too early" } else { "is cut" }))
}

/// Several frames may follow each other until the cluster is full. The last one must end with it.
fn decode_frames(state: &mut Decompressor<'_>, payload: &[u8], out: &mut [u8]) -> Result<()> {
    let (mut rest, mut room) = (payload, out);
    while !room.is_empty() {
        let len = find_frame_compressed_size(rest).map_err(|_| corrupt_payload("is invalid or cut"))?;
        let (frame, behind) = rest.split_at_checked(len).ok_or_else(|| corrupt_payload("is cut"))?;
        let done = state
            .decompress_to_buffer(frame, room)
            .map_err(|e| corrupt_payload("does not decode to its cluster").with_source(e))?;
        room = room.get_mut(done..).unwrap_or_default();
        rest = behind;
    }
    Ok(())
}

fn corrupt_payload(how: &str) -> Error {
    Error::corrupt(format!("The data of a compressed cluster {how}"))
}

fn broken_encoder(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Io, "The compression library failed").with_source(error)
}

fn no_such_codec() -> Error {
    Error::unsupported("Compression method that qcow2 does not have")
}

#[cfg(test)]
mod tests;
