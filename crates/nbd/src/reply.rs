//! [`Reply`]: what has come of the reply to one request, chunk by chunk.
//!
//! Invariants: what a read brings covers its range exactly once when it is complete, or it is an error; memory is bounded
//! by the length of the request. Chunks are read by whichever thread reads the connection: into the buffer of the
//! request if that thread waits for it, else into pieces that its owner copies.

use std::io::Read;

use diskimg_core::{Error, Result, errno, to_usize};

use crate::limits::{MAX_CHUNKS, MAX_ERROR_CHUNK, MAX_EXTENTS};
use crate::wire::{
    ReplyBody, Style, chunk, command, read_u16, read_u32, read_u64, skip, to_errno, violation,
};

/// A run of bytes with the flags of the context: `(bytes, flags)`.
pub(crate) type Run = (u64, u64);

#[derive(Debug)]
enum Piece {
    Bytes(Vec<u8>),
    Zeros(usize),
}

/// A reply that is under way.
#[derive(Debug)]
pub(crate) struct Reply {
    command: u16,
    offset: u64,
    len: u64,
    context: Option<u32>,
    style: Style,
    chunks: usize,
    /// Parts of a read that came, in order: `(start, end)` from the start of the request.
    covered: Vec<(u64, u64)>,
    pieces: Vec<(usize, Piece)>,
    runs: Vec<Run>,
    error: Option<Error>,
}

/// What a complete reply says.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pieces: Vec<(usize, Piece)>,
    /// The extents of a block status.
    pub(crate) runs: Vec<Run>,
}

impl Outcome {
    /// Copies what was not read into `buf` at once.
    pub(crate) fn fill(self, buf: &mut [u8]) {
        for (at, piece) in self.pieces {
            match piece {
                Piece::Bytes(bytes) => {
                    if let Some(target) = buf.get_mut(at..at.saturating_add(bytes.len())) {
                        target.copy_from_slice(&bytes);
                    }
                }
                Piece::Zeros(len) => {
                    if let Some(target) = buf.get_mut(at..at.saturating_add(len)) {
                        target.fill(0);
                    }
                }
            }
        }
    }
}

impl Reply {
    pub(crate) fn new(command: u16, offset: u64, len: u64, context: Option<u32>, style: Style) -> Self {
        Self {
            command,
            offset,
            len,
            context,
            style,
            chunks: 0,
            covered: Vec::new(),
            pieces: Vec::new(),
            runs: Vec::new(),
            error: None,
        }
    }

    /// Reads what follows a header; `buf` is the buffer of the request, if it is at hand. True if the reply is complete.
    ///
    /// # Errors
    /// The server broke the protocol, or the connection: it can't be used any more. Errors that the server reports
    /// are kept for [`Reply::finish`].
    pub(crate) fn absorb(
        &mut self,
        from: &mut impl Read,
        body: ReplyBody,
        buf: Option<&mut [u8]>,
    ) -> Result<bool> {
        self.chunks += 1;
        if self.chunks > MAX_CHUNKS {
            return Err(violation("a reply of too many chunks"));
        }
        match body {
            ReplyBody::Simple { error } => {
                self.simple(from, error, buf)?;
                Ok(true)
            }
            ReplyBody::Chunk { done, kind, len } => {
                self.chunk(from, done, kind, len, buf)?;
                Ok(done)
            }
        }
    }

    fn simple(&mut self, from: &mut impl Read, error: u32, buf: Option<&mut [u8]>) -> Result<()> {
        if self.chunks > 1 {
            return Err(violation("a simple reply after chunks"));
        }
        if error != 0 {
            self.note_error(error, "");
            return Ok(());
        }
        match self.command {
            command::READ if self.style == Style::Simple => self.take_data(from, 0, self.len, buf),
            command::READ | command::BLOCK_STATUS => {
                Err(violation("a simple reply where chunks were agreed on"))
            }
            _ => Ok(()),
        }
    }

    fn chunk(
        &mut self,
        from: &mut impl Read,
        done: bool,
        kind: u16,
        len: u64,
        buf: Option<&mut [u8]>,
    ) -> Result<()> {
        match kind {
            chunk::NONE if len == 0 && done => Ok(()),
            chunk::DATA if self.command == command::READ && len > 8 => {
                let at = read_u64(from)?;
                self.take_data(from, self.place(at)?, len - 8, buf)
            }
            chunk::HOLE if self.command == command::READ && len == 12 => {
                let (at, count) = (read_u64(from)?, u64::from(read_u32(from)?));
                let at = self.cover(self.place(at)?, count)?;
                match buf.and_then(|buf| buf.get_mut(at..at + to_usize(count))) {
                    Some(target) => target.fill(0),
                    None => self.pieces.push((at, Piece::Zeros(to_usize(count)))),
                }
                Ok(())
            }
            chunk::STATUS | chunk::STATUS_EXT if self.command == command::BLOCK_STATUS => {
                self.take_status(from, kind == chunk::STATUS_EXT, len)
            }
            kind if kind & chunk::ERROR != 0 => self.take_error(from, len),
            kind => Err(violation(format!("a chunk of type {kind} and {len} bytes"))),
        }
    }

    /// An offset of the device as one of the request.
    fn place(&self, at: u64) -> Result<u64> {
        at.checked_sub(self.offset).ok_or_else(|| violation("a chunk in front of what was asked for"))
    }

    /// Notes that so many bytes came; where they belong in the buffer.
    fn cover(&mut self, at: u64, count: u64) -> Result<usize> {
        let end = at.checked_add(count).filter(|end| *end <= self.len && count > 0);
        let end = end.ok_or_else(|| violation("a chunk outside of what was asked for"))?;
        let next = self.covered.partition_point(|(start, _)| *start < at);
        let before = next.checked_sub(1).and_then(|i| self.covered.get(i)).is_none_or(|(_, to)| *to <= at);
        let after = self.covered.get(next).is_none_or(|(start, _)| *start >= end);
        if !before || !after {
            return Err(violation("the same bytes twice"));
        }
        self.covered.insert(next, (at, end));
        Ok(to_usize(at))
    }

    fn take_data(&mut self, from: &mut impl Read, at: u64, count: u64, buf: Option<&mut [u8]>) -> Result<()> {
        let at = self.cover(at, count)?;
        let count = to_usize(count);
        if let Some(target) = buf.and_then(|buf| buf.get_mut(at..at + count)) {
            return Ok(from.read_exact(target)?);
        }
        let mut bytes = vec![0; count];
        from.read_exact(&mut bytes)?;
        self.pieces.push((at, Piece::Bytes(bytes)));
        Ok(())
    }

    fn take_status(&mut self, from: &mut impl Read, extended: bool, len: u64) -> Result<()> {
        let (head, each) = if extended { (8, 16) } else { (4, 8) };
        let count = len.checked_sub(head).filter(|rest| rest.is_multiple_of(each)).map(|rest| rest / each);
        let count = count.filter(|count| (1..=MAX_EXTENTS).contains(count));
        let count = count.ok_or_else(|| violation(format!("a block status of {len} bytes")))?;
        let context = read_u32(from)?;
        if extended && u64::from(read_u32(from)?) != count {
            return Err(violation("a block status with a wrong number of extents"));
        }
        if Some(context) != self.context {
            return Ok(skip(from, count * each)?);
        }
        if !self.runs.is_empty() {
            return Err(violation("two block statuses of one context"));
        }
        for _ in 0..count {
            let run = if extended {
                (read_u64(from)?, read_u64(from)?)
            } else {
                (u64::from(read_u32(from)?), u64::from(read_u32(from)?))
            };
            if run.0 == 0 {
                return Err(violation("an empty extent"));
            }
            match self.runs.last_mut() {
                Some(last) if last.1 == run.1 => last.0 = last.0.saturating_add(run.0),
                _ => self.runs.push(run),
            }
        }
        Ok(())
    }

    fn take_error(&mut self, from: &mut impl Read, len: u64) -> Result<()> {
        if !(6..=MAX_ERROR_CHUNK).contains(&len) {
            return Err(violation(format!("an error chunk of {len} bytes")));
        }
        let (error, text_len) = (read_u32(from)?, u64::from(read_u16(from)?));
        if text_len > len - 6 {
            return Err(violation("an error chunk that is cut"));
        }
        let mut text = vec![0; to_usize(text_len)];
        from.read_exact(&mut text)?;
        skip(from, len - 6 - text_len)?;
        if error == 0 {
            return Err(violation("an error chunk without an error"));
        }
        self.note_error(error, &String::from_utf8_lossy(&text));
        Ok(())
    }

    fn note_error(&mut self, number: u32, said: &str) {
        let error = Error::from_errno(to_errno(number));
        let error =
            if said.is_empty() { error } else { error.with_source(format!("the server said: {said}")) };
        // The messages of the server are details: what counts is the number.
        let text = error.strerror();
        self.error.get_or_insert_with(|| error.told_as(text));
    }

    /// What a complete reply says.
    ///
    /// # Errors
    /// What the server reported; EIO if it left bytes out.
    pub(crate) fn finish(self) -> Result<Outcome> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let short = || Error::from_errno(errno::EIO).with_source(violation("bytes are missing"));
        let came: u64 = self.covered.iter().map(|(start, end)| end - start).sum();
        if self.command == command::READ && came != self.len {
            return Err(short());
        }
        if self.command == command::BLOCK_STATUS && self.runs.is_empty() {
            return Err(short());
        }
        Ok(Outcome { pieces: self.pieces, runs: self.runs })
    }
}
