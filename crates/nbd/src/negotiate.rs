//! The handshake: from the greeting to the first request (§1 of the notes).
//!
//! Works on any reader and writer, so that scripts can play the server. Invariants: the number and the length of replies
//! is bounded, and the [`Session`] that comes out is consistent: its block sizes are powers of two (the maximum a
//! multiple), its size is one that a device can have.

use std::io::{Read, Write};

use diskimg_core::{Error, Result, check_len, errno};

use crate::limits::{MAX_MIN_BLOCK, MAX_OPTION_REPLIES, MAX_OPTION_REPLY, MAX_STRING, MAX_TRANSFER};
use crate::wire::{
    INITIAL_MAGIC, OLD_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, Style, answer, handshake, info, option,
    read_u16, read_u32, read_u64, skip, violation,
};

/// The context that tells what is allocated.
pub(crate) const ALLOCATION: &str = "base:allocation";

/// What a client asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) export: &'a str,
    /// The metadata context.
    pub(crate) context: &'a str,
}

/// What was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    /// Bytes.
    pub(crate) size: u64,
    /// Transmission flags.
    pub(crate) flags: u16,
    pub(crate) style: Style,
    /// Requests come in multiples of it.
    pub(crate) min_block: u32,
    pub(crate) preferred: u32,
    /// The greatest transfer.
    pub(crate) max_block: u32,
    /// The number of the context, if the server has it.
    pub(crate) context: Option<u32>,
}

impl Session {
    /// True if the server can do what the flag of `wire::can` stands for.
    pub(crate) fn can(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// The smallest block of servers that do not tell, unless other signs say that they take bytes.
const ASSUMED_BLOCK: u32 = 512;

/// Zero bytes behind the old reply.
const OLD_PADDING: u64 = 124;

/// Negotiates.
pub(crate) fn negotiate(from: &mut impl Read, to: &mut impl Write, wanted: Wanted<'_>) -> Result<Session> {
    let magic = read_u64(from).map_err(|error| cut(error, "initial magic"))?;
    if magic != INITIAL_MAGIC {
        return Err(Error::invalid(format!("Bad initial magic received: 0x{magic:x}")));
    }
    match read_u64(from).map_err(|error| cut(error, "server magic"))? {
        OPTION_MAGIC => {}
        OLD_MAGIC => return old_style(from, wanted),
        magic => return Err(Error::invalid(format!("Bad server magic received: 0x{magic:x}"))),
    }
    let server = read_u16(from).map_err(|error| cut(error, "server flags"))?;
    let (fixed, short) = (server & handshake::FIXED != 0, server & handshake::NO_ZEROES != 0);
    let client = server & (handshake::FIXED | handshake::NO_ZEROES);
    to.write_all(&u32::from(client).to_be_bytes())?;
    let talk = Talk { from, to, fresh: Export::default() };
    if fixed { talk.fixed(wanted, short) } else { talk.export_name(wanted, short, Style::Simple, None) }
}

/// A connection that ended, or stalled, while `what` was read.
fn cut(error: std::io::Error, what: &str) -> Error {
    if error.kind() == std::io::ErrorKind::UnexpectedEof {
        let text = "Unexpected end-of-file before all data were read";
        return Error::from_errno(errno::EINVAL).told_as(format!("Failed to read {what}: {text}"));
    }
    Error::from(error).context(format!("Failed to read {what}"))
}

fn old_style(from: &mut impl Read, wanted: Wanted<'_>) -> Result<Session> {
    if !wanted.export.is_empty() {
        return Err(Error::invalid("Server does not support non-empty export names"));
    }
    let size = read_u64(from)?;
    let flags = u16::try_from(read_u32(from)? & 0xffff).unwrap_or_default();
    skip(from, OLD_PADDING)?;
    Export { about: Some((size, flags)), blocks: None }.session(Style::Simple, None)
}

/// What the server told of the export.
#[derive(Debug, Default)]
struct Export {
    about: Option<(u64, u16)>,
    /// Minimum, preferred, maximum.
    blocks: Option<(u32, u32, u32)>,
}

impl Export {
    fn session(&self, style: Style, context: Option<u32>) -> Result<Session> {
        let (size, flags) = self.about.ok_or_else(|| violation("it does not tell the size"))?;
        check_len(size)?;
        let bytewise = context.is_some() || !size.is_multiple_of(u64::from(ASSUMED_BLOCK));
        let assumed = if bytewise { 1 } else { ASSUMED_BLOCK };
        let (min_block, preferred, max) = self.blocks.unwrap_or((assumed, 4096, MAX_TRANSFER));
        let fits = min_block.is_power_of_two()
            && min_block <= MAX_MIN_BLOCK
            && preferred.is_power_of_two()
            && preferred >= min_block
            && max >= min_block;
        if !fits {
            return Err(violation(format!("block sizes {min_block}, {preferred}, {max}")));
        }
        let max_block = max.min(MAX_TRANSFER) / min_block * min_block;
        Ok(Session { size, flags, style, min_block, preferred, max_block, context })
    }
}

/// One reply to an option.
struct Answer {
    kind: u32,
    data: Vec<u8>,
}

impl Answer {
    fn is_error(&self) -> bool {
        self.kind >= answer::ERROR
    }

    /// The error of the whole, for an option called `name` with the number `number`.
    fn refusal(&self, number: u32, name: &str, export: &str) -> Error {
        let said = String::from_utf8_lossy(&self.data);
        let told = |text: &str| {
            if said.is_empty() { text.to_owned() } else { format!("{text}server reported: {said}") }
        };
        match self.kind {
            answer::UNKNOWN => with_lines(Error::invalid("Requested export not available"), told("")),
            answer::TLS_REQUIRED => with_lines(
                Error::invalid(format!("TLS negotiation required before option {number} ({name})")),
                told("Did you forget a valid tls-creds?\n"),
            ),
            kind => with_lines(
                Error::invalid(format!(
                    "the server refused option {number} ({name}) for export '{export}' with error {}",
                    kind - answer::ERROR
                )),
                told(""),
            ),
        }
    }
}

fn with_lines(error: Error, lines: String) -> Error {
    let lines = lines.trim_end().to_owned();
    if lines.is_empty() { error } else { error.with_hint(lines) }
}

struct Talk<'a, R, W> {
    from: &'a mut R,
    to: &'a mut W,
    fresh: Export,
}

impl<R: Read, W: Write> Talk<'_, R, W> {
    fn fixed(mut self, wanted: Wanted<'_>, short: bool) -> Result<Session> {
        let mut style = Style::Simple;
        for (number, reached) in
            [(option::EXTENDED_HEADERS, Style::Extended), (option::STRUCTURED_REPLY, Style::Structured)]
        {
            self.ask(number, &[])?;
            if self.answer(number)?.kind == answer::ACK {
                style = reached;
                break;
            }
        }
        let context = if style == Style::Simple { None } else { self.choose_context(wanted)? };
        if self.go(wanted)? {
            return self.fresh.session(style, context);
        }
        self.look_for(wanted)?;
        self.export_name(wanted, short, style, context)
    }

    fn ask(&mut self, number: u32, data: &[u8]) -> Result<()> {
        let len = u32::try_from(data.len()).map_err(|_| Error::limit("option too long"))?;
        let mut message = Vec::with_capacity(16 + data.len());
        message.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        message.extend_from_slice(&number.to_be_bytes());
        message.extend_from_slice(&len.to_be_bytes());
        message.extend_from_slice(data);
        Ok(self.to.write_all(&message)?)
    }

    fn answer(&mut self, number: u32) -> Result<Answer> {
        let magic = read_u64(self.from).map_err(|error| cut(error, "option reply"))?;
        if magic != OPTION_REPLY_MAGIC {
            return Err(Error::invalid(format!("Unexpected option reply magic 0x{magic:x}")));
        }
        let to = read_u32(self.from)?;
        if to != number {
            return Err(violation(format!("a reply to option {to} in place of {number}")));
        }
        let (kind, len) = (read_u32(self.from)?, read_u32(self.from)?);
        if len > MAX_OPTION_REPLY {
            return Err(violation(format!("a reply of {len} bytes to option {number}")));
        }
        let mut data = Vec::new();
        let got = (&mut *self.from).take(u64::from(len)).read_to_end(&mut data)?;
        if u32::try_from(got) != Ok(len) {
            return Err(violation("a reply is cut"));
        }
        Ok(Answer { kind, data })
    }

    /// Replies up to the last one, an ACK or an error, which is returned; `each` sees the others.
    fn answers(
        &mut self,
        number: u32,
        mut each: impl FnMut(&mut Export, &Answer) -> Result<()>,
    ) -> Result<Answer> {
        for _ in 0..MAX_OPTION_REPLIES {
            let answer = self.answer(number)?;
            if answer.kind == answer::ACK || answer.is_error() {
                return Ok(answer);
            }
            each(&mut self.fresh, &answer)?;
        }
        Err(violation(format!("more than {MAX_OPTION_REPLIES} replies to option {number}")))
    }

    fn choose_context(&mut self, wanted: Wanted<'_>) -> Result<Option<u32>> {
        let number = option::SET_META_CONTEXT;
        let mut data = with_len(wanted.export);
        data.extend_from_slice(&1_u32.to_be_bytes());
        data.extend_from_slice(&with_len(wanted.context));
        self.ask(number, &data)?;
        let mut chosen = None;
        let last = self.answers(number, |_, answer| {
            let mut bytes = answer.data.as_slice();
            if answer.kind == answer::META_CONTEXT {
                let id = read_u32(&mut bytes)?;
                if bytes == wanted.context.as_bytes() {
                    chosen = Some(id);
                }
            }
            Ok(())
        })?;
        Ok(if last.is_error() { None } else { chosen })
    }

    /// False if the server does not know the option.
    fn go(&mut self, wanted: Wanted<'_>) -> Result<bool> {
        let mut data = with_len(wanted.export);
        data.extend_from_slice(&1_u16.to_be_bytes());
        data.extend_from_slice(&info::BLOCK_SIZE.to_be_bytes());
        self.ask(option::GO, &data)?;
        let last = self.answers(option::GO, |fresh, answer| match answer.kind {
            answer::INFO => take_info(fresh, &answer.data),
            _ => Err(violation(format!("reply {} to option GO", answer.kind))),
        })?;
        match last.kind {
            answer::ACK => Ok(true),
            answer::UNSUPPORTED => Ok(false),
            _ => {
                let _ = self.ask(option::ABORT, &[]);
                Err(last.refusal(option::GO, "go", wanted.export))
            }
        }
    }

    /// Looks for the export in the server's list: the old option tells nothing of an unknown one.
    fn look_for(&mut self, wanted: Wanted<'_>) -> Result<()> {
        self.ask(option::LIST, &[])?;
        let mut found = false;
        let last = self.answers(option::LIST, |_, answer| {
            let mut bytes = answer.data.as_slice();
            if answer.kind == answer::SERVER {
                let len = usize::try_from(read_u32(&mut bytes)?).unwrap_or(usize::MAX);
                found |= len <= MAX_STRING && bytes.get(..len) == Some(wanted.export.as_bytes());
            }
            Ok(())
        })?;
        match last.kind {
            answer::TLS_REQUIRED => Err(last.refusal(option::LIST, "list", wanted.export)),
            answer::ACK if !found => {
                let _ = self.ask(option::ABORT, &[]);
                Err(Error::invalid(format!("No export with name '{}' available", wanted.export)))
            }
            _ => Ok(()),
        }
    }

    fn export_name(
        mut self,
        wanted: Wanted<'_>,
        short: bool,
        style: Style,
        context: Option<u32>,
    ) -> Result<Session> {
        self.ask(option::EXPORT_NAME, wanted.export.as_bytes())?;
        let size = read_u64(self.from).map_err(|error| cut(error, "export length"))?;
        let flags = read_u16(self.from)?;
        if !short {
            skip(self.from, OLD_PADDING)?;
        }
        self.fresh.about = Some((size, flags));
        self.fresh.session(style, context)
    }
}

/// A text with its length in front.
fn with_len(text: &str) -> Vec<u8> {
    let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
    let mut data = len.to_be_bytes().to_vec();
    data.extend_from_slice(text.as_bytes());
    data
}

fn take_info(fresh: &mut Export, mut data: &[u8]) -> Result<()> {
    match read_u16(&mut data)? {
        info::EXPORT => fresh.about = Some((read_u64(&mut data)?, read_u16(&mut data)?)),
        info::BLOCK_SIZE => {
            fresh.blocks = Some((read_u32(&mut data)?, read_u32(&mut data)?, read_u32(&mut data)?));
        }
        _ => {}
    }
    Ok(())
}
