//! The numbers and layouts of the wire (§1 to §4 of the notes). Everything is big-endian.
//!
//! Reading is bounded: nothing is allocated for a length that was not checked.

use std::io::{self, Read};

use diskimg_core::{Error, ErrorKind, Result};

/// `NBDMAGIC`.
pub(crate) const INITIAL_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`.
pub(crate) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// What servers of the old style send in its place.
pub(crate) const OLD_MAGIC: u64 = 0x0000_4202_8186_1253;
/// In front of a reply to an option.
pub(crate) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// Handshake flags.
pub(crate) mod handshake {
    /// The server replies to every option.
    pub(crate) const FIXED: u16 = 1;
    /// No zeroes follow the old reply.
    pub(crate) const NO_ZEROES: u16 = 2;
}

/// Options of the negotiation.
pub(crate) mod option {
    pub(crate) const EXPORT_NAME: u32 = 1;
    pub(crate) const ABORT: u32 = 2;
    pub(crate) const LIST: u32 = 3;
    pub(crate) const GO: u32 = 7;
    pub(crate) const STRUCTURED_REPLY: u32 = 8;
    pub(crate) const SET_META_CONTEXT: u32 = 10;
    pub(crate) const EXTENDED_HEADERS: u32 = 11;
}

/// Replies to options.
pub(crate) mod answer {
    pub(crate) const ACK: u32 = 1;
    pub(crate) const SERVER: u32 = 2;
    pub(crate) const INFO: u32 = 3;
    pub(crate) const META_CONTEXT: u32 = 4;
    /// From here on they are errors.
    pub(crate) const ERROR: u32 = 1 << 31;
    pub(crate) const UNSUPPORTED: u32 = ERROR + 1;
    pub(crate) const TLS_REQUIRED: u32 = ERROR + 5;
    pub(crate) const UNKNOWN: u32 = ERROR + 6;
}

/// Kinds of information about an export.
pub(crate) mod info {
    pub(crate) const EXPORT: u16 = 0;
    pub(crate) const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags.
pub(crate) mod can {
    pub(crate) const READ_ONLY: u16 = 1 << 1;
    pub(crate) const FLUSH: u16 = 1 << 2;
    pub(crate) const FUA: u16 = 1 << 3;
    pub(crate) const TRIM: u16 = 1 << 5;
    pub(crate) const WRITE_ZEROES: u16 = 1 << 6;
    pub(crate) const MULTI_CONN: u16 = 1 << 8;
    pub(crate) const FAST_ZERO: u16 = 1 << 11;
}

/// Commands.
pub(crate) mod command {
    pub(crate) const READ: u16 = 0;
    pub(crate) const WRITE: u16 = 1;
    pub(crate) const DISCONNECT: u16 = 2;
    pub(crate) const FLUSH: u16 = 3;
    pub(crate) const TRIM: u16 = 4;
    pub(crate) const WRITE_ZEROES: u16 = 6;
    pub(crate) const BLOCK_STATUS: u16 = 7;
}

/// Flags of commands.
pub(crate) mod flag {
    pub(crate) const FUA: u16 = 1;
    pub(crate) const NO_HOLE: u16 = 1 << 1;
    pub(crate) const FAST_ZERO: u16 = 1 << 4;
    pub(crate) const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Types of chunks.
pub(crate) mod chunk {
    pub(crate) const NONE: u16 = 0;
    pub(crate) const DATA: u16 = 1;
    pub(crate) const HOLE: u16 = 2;
    pub(crate) const STATUS: u16 = 5;
    pub(crate) const STATUS_EXT: u16 = 6;
    /// This bit says that it is an error.
    pub(crate) const ERROR: u16 = 1 << 15;
    /// The last chunk of its reply.
    pub(crate) const DONE: u16 = 1;
}

const REQUEST_MAGIC: u32 = 0x2560_9513;
const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
const SIMPLE_MAGIC: u32 = 0x6744_6698;
const CHUNK_MAGIC: u32 = 0x668e_33ef;
const EXTENDED_CHUNK_MAGIC: u32 = 0x6e8a_278c;

/// Which headers were agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Style {
    /// Simple replies only.
    Simple,
    /// Replies in chunks, lengths of 32 bits.
    Structured,
    /// Lengths of 64 bits.
    Extended,
}

/// A request without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) command: u16,
    pub(crate) flags: u16,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl Request {
    /// The header on the wire. With compact headers `len` has been cut to 32 bits before.
    pub(crate) fn encode(&self, style: Style, cookie: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        let payload = style == Style::Extended && self.command == command::WRITE;
        let flags = if payload { self.flags | flag::PAYLOAD_LEN } else { self.flags };
        let magic = if style == Style::Extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        out.extend_from_slice(&magic.to_be_bytes());
        out.extend_from_slice(&flags.to_be_bytes());
        out.extend_from_slice(&self.command.to_be_bytes());
        out.extend_from_slice(&cookie.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
        if style == Style::Extended {
            out.extend_from_slice(&self.len.to_be_bytes());
        } else {
            out.extend_from_slice(&u32::try_from(self.len).unwrap_or(u32::MAX).to_be_bytes());
        }
        out
    }
}

/// The header of a reply or of a chunk of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReplyHead {
    pub(crate) cookie: u64,
    pub(crate) body: ReplyBody,
}

/// What follows a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyBody {
    /// The data of a read, if there was no error.
    Simple { error: u32 },
    /// `len` bytes.
    Chunk { done: bool, kind: u16, len: u64 },
}

/// The error of a server that does not keep to the protocol.
pub(crate) fn violation(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Io, format!("the NBD server does not keep to the protocol: {}", what.into()))
}

/// Bytes of a fixed number.
pub(crate) fn read_array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

pub(crate) fn read_u16(from: &mut impl Read) -> io::Result<u16> {
    read_array(from).map(u16::from_be_bytes)
}

pub(crate) fn read_u32(from: &mut impl Read) -> io::Result<u32> {
    read_array(from).map(u32::from_be_bytes)
}

pub(crate) fn read_u64(from: &mut impl Read) -> io::Result<u64> {
    read_array(from).map(u64::from_be_bytes)
}

/// Reads and forgets `len` bytes.
pub(crate) fn skip(from: &mut impl Read, len: u64) -> io::Result<()> {
    let passed = io::copy(&mut from.take(len), &mut io::sink())?;
    if passed == len { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// The header of the next reply.
pub(crate) fn read_reply(from: &mut impl Read, style: Style) -> Result<ReplyHead> {
    let magic = read_u32(from)?;
    match magic {
        SIMPLE_MAGIC if style != Style::Extended => {
            let error = read_u32(from)?;
            Ok(ReplyHead { cookie: read_u64(from)?, body: ReplyBody::Simple { error } })
        }
        CHUNK_MAGIC if style == Style::Structured => read_chunk(from, false),
        EXTENDED_CHUNK_MAGIC if style == Style::Extended => read_chunk(from, true),
        _ => Err(violation(format!("a reply begins with {magic:#x}"))),
    }
}

fn read_chunk(from: &mut impl Read, extended: bool) -> Result<ReplyHead> {
    let (flags, kind, cookie) = (read_u16(from)?, read_u16(from)?, read_u64(from)?);
    let len = if extended {
        // The offset of the request, which its cookie tells as well.
        read_u64(from)?;
        read_u64(from)?
    } else {
        u64::from(read_u32(from)?)
    };
    Ok(ReplyHead { cookie, body: ReplyBody::Chunk { done: flags & chunk::DONE != 0, kind, len } })
}

/// The host's error number for one of the wire.
pub(crate) fn to_errno(error: u32) -> i32 {
    match error {
        // EPERM EIO ENOMEM ENOSPC EOVERFLOW ENOTSUP ESHUTDOWN: the same on Linux.
        1 | 5 | 12 | 28 | 75 | 95 | 108 => i32::try_from(error).unwrap_or(diskimg_core::errno::EINVAL),
        _ => diskimg_core::errno::EINVAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_laid_out_as_the_protocol_says() {
        let request = Request { command: command::WRITE, flags: flag::FUA, offset: 0x1234, len: 512 };
        let compact = request.encode(Style::Structured, 7);
        assert_eq!(compact.len(), 28);
        assert_eq!(&compact[..8], [0x25, 0x60, 0x95, 0x13, 0, 1, 0, 1]);
        assert_eq!(&compact[8..], [0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0x12, 0x34, 0, 0, 2, 0]);
        let extended = request.encode(Style::Extended, 7);
        assert_eq!((extended.len(), extended[5]), (32, 0x21));
    }

    #[test]
    fn replies_of_another_style_are_refused() {
        let simple = [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 9];
        let head = read_reply(&mut &simple[..], Style::Structured).unwrap();
        assert_eq!(head, ReplyHead { cookie: 9, body: ReplyBody::Simple { error: 5 } });
        assert!(read_reply(&mut &simple[..], Style::Extended).is_err());
        assert!(read_reply(&mut &simple[..10], Style::Simple).is_err());
    }
}
