//! Chunks and their codings.

use std::io::{Cursor, Read};

use diskimg_core::{Error, Result, errno};
use lzfse_rust::LzfseRingDecoder;
use lzma_rust2::XzReader;

use super::adc;
use crate::SECTOR;
use crate::cloop::inflate;

/// How a chunk is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// Zeros, which count for the checksum.
    Zero,
    /// Not used: reads as zeros, and is left out of the checksum.
    Ignore,
    /// As it is; what is missing at its end reads as zeros.
    Raw,
    /// Apple Data Compression.
    Adc,
    /// A zlib stream.
    Zlib,
    /// A bzip2 stream.
    Bzip2,
    /// An LZFSE stream.
    Lzfse,
    /// An xz stream.
    Xz,
}

/// Types of entries and what they stand for; `None`: nothing of the disk (a comment, the end).
const TYPES: [(u32, Option<Coding>); 10] = [
    (0, Some(Coding::Zero)),
    (1, Some(Coding::Raw)),
    (2, Some(Coding::Ignore)),
    (0x8000_0004, Some(Coding::Adc)),
    (0x8000_0005, Some(Coding::Zlib)),
    (0x8000_0006, Some(Coding::Bzip2)),
    (0x8000_0007, Some(Coding::Lzfse)),
    (0x8000_0008, Some(Coding::Xz)),
    (0x7fff_fffe, None),
    (0xffff_ffff, None),
];

impl Coding {
    /// What an entry of type `kind` stands for; the outer `None`: unknown.
    pub(super) fn of(kind: u32) -> Option<Option<Self>> {
        TYPES.iter().find(|(number, _)| *number == kind).map(|(_, coding)| *coding)
    }

    /// Nothing is stored.
    pub(super) const fn is_zero(self) -> bool {
        matches!(self, Self::Zero | Self::Ignore)
    }

    /// Decodes `payload` into `out`, which it has to fill exactly. No more memory is taken than a decoder's window.
    pub(super) fn decode(self, payload: &[u8], out: &mut [u8]) -> Result<()> {
        let damaged = || Error::corrupt("a compressed chunk is damaged").with_errno(errno::EIO);
        let done = match self {
            Self::Zero | Self::Ignore => {
                out.fill(0);
                true
            }
            Self::Raw => {
                let len = payload.len().min(out.len());
                let (head, tail) = out.split_at_mut(len);
                head.copy_from_slice(payload.get(..len).unwrap_or_default());
                tail.fill(0);
                true
            }
            Self::Adc => adc::decode(payload, out).is_some(),
            Self::Zlib => return inflate(payload, out),
            Self::Bzip2 => fill(bzip2::read::BzDecoder::new(payload), out),
            Self::Lzfse => fill_lzfse(payload, out),
            Self::Xz => fill(XzReader::new(Cursor::new(payload), false), out),
        };
        if done { Ok(()) } else { Err(damaged()) }
    }
}

/// The same for LZFSE, whose decoder wants nothing behind the end of the stream; files may have something there.
fn fill_lzfse(payload: &[u8], out: &mut [u8]) -> bool {
    let mut decoder = LzfseRingDecoder::default();
    let mut reader = decoder.reader_bytes(payload);
    reader.read_exact(out).is_ok() && !matches!(reader.read(&mut [0]), Ok(1..))
}

/// Fills `out` from a decoder that then has to be at its end.
fn fill(mut decoder: impl Read, out: &mut [u8]) -> bool {
    decoder.read_exact(out).is_ok() && matches!(decoder.read(&mut [0]), Ok(0))
}

/// A run of sectors of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Number of its table.
    pub table: u32,
    pub coding: Coding,
    /// First sector of the disk.
    pub sector: u64,
    pub sectors: u64,
    /// Host offset of its payload.
    pub host_offset: u64,
    /// Bytes of the payload.
    pub host_len: u64,
}

impl Chunk {
    /// First byte of the disk. The sector count was checked when the table was read.
    pub(super) const fn start(&self) -> u64 {
        self.sector.saturating_mul(SECTOR)
    }

    /// Bytes of the disk.
    pub(super) const fn len(&self) -> u64 {
        self.sectors.saturating_mul(SECTOR)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn sample() -> Vec<u8> {
        (0..8192u32).flat_map(|i| (i / 7 * 3).to_le_bytes()).collect()
    }

    fn check(coding: Coding, payload: &[u8]) {
        let data = sample();
        let mut out = vec![1; data.len()];
        coding.decode(payload, &mut out).unwrap();
        assert!(out == data, "{coding:?}");
        let mut longer = vec![0; data.len() + 512];
        let mut shorter = vec![0; data.len() - 512];
        if coding != Coding::Raw {
            assert!(coding.decode(payload, &mut longer).is_err(), "{coding:?}: too short");
            assert!(coding.decode(payload, &mut shorter).is_err(), "{coding:?}: too long");
            assert!(coding.decode(&payload[..payload.len() / 2], &mut out).is_err(), "{coding:?}: cut");
        }
    }

    #[test]
    fn every_coding_gives_exactly_its_chunk() {
        let data = sample();
        check(Coding::Raw, &data);
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        zlib.write_all(&data).unwrap();
        check(Coding::Zlib, &zlib.finish().unwrap());
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
        bzip2.write_all(&data).unwrap();
        check(Coding::Bzip2, &bzip2.finish().unwrap());
        let mut lzfse = Vec::new();
        lzfse_rust::encode_bytes(&data, &mut lzfse).unwrap();
        check(Coding::Lzfse, &lzfse);
        // What is behind the end of a stream is nobody's.
        let mut out = vec![0; data.len()];
        Coding::Lzfse.decode(&[lzfse.as_slice(), &[0; 20]].concat(), &mut out).unwrap();
        assert!(out == data);
        let options = lzma_rust2::XzOptions::with_preset(3);
        let mut xz = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        xz.write_all(&data).unwrap();
        check(Coding::Xz, &xz.finish().unwrap());
        let literals: Vec<u8> = data
            .chunks(128)
            .flat_map(|part| std::iter::once(0x7f | 0x80).chain(part.iter().copied()))
            .collect();
        check(Coding::Adc, &literals);
    }

    #[test]
    fn unknown_types_are_told_from_those_without_contents() {
        assert_eq!(Coding::of(0xffff_ffff), Some(None));
        assert_eq!(Coding::of(0x8000_0099), None);
        assert_eq!(Coding::of(2), Some(Some(Coding::Ignore)));
    }
}
