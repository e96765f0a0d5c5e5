//! [`Connection`]: one connection, any number of requests of any number of threads under way on it.
//!
//! There is no thread of its own: of those that wait for a reply, one has the reader and hands to the others what is
//! theirs; when its own reply is complete, it passes the reader on. No lock is held while it reads. Whoever breaks the
//! protocol, or the connection, breaks it for all requests at once.
//!
//! Invariant: as long as anybody waits, somebody reads: a server that is blocked on its replies is thus never waited for
//! by a thread that writes.

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex, MutexGuard};

use diskimg_core::{Error, ErrorKind, Result, errno};

use crate::limits::{GREETING_TIME, HANDSHAKE_TIME};
use crate::negotiate::{Session, Wanted, negotiate};
use crate::options::NbdOptions;
use crate::reply::{Outcome, Reply};
use crate::stream::Stream;
use crate::wire::{Request, command, read_reply, violation};

/// Bytes that are read ahead: enough for the headers of many replies.
const READ_AHEAD: usize = 16 << 10;

/// Why a request failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server refused it.
    Refused(Error),
    /// The connection is lost: another one may serve it.
    Lost(Error),
}

impl Failure {
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Refused(error) | Self::Lost(error) => error,
        }
    }
}

#[derive(Debug)]
struct Slot {
    /// What came so far; not here while somebody reads more of it.
    reply: Option<Reply>,
    complete: bool,
    waits: bool,
    wake: Arc<Condvar>,
}

#[derive(Debug)]
struct State {
    next_cookie: u64,
    slots: BTreeMap<u64, Slot>,
    /// `None`: somebody reads, or the connection is broken.
    reader: Option<BufReader<Stream>>,
    broken: Option<String>,
}

/// A connection that was negotiated.
#[derive(Debug)]
pub(crate) struct Connection {
    session: Session,
    writer: Mutex<Stream>,
    state: Mutex<State>,
    stream: Stream,
    busy: AtomicUsize,
}

impl Connection {
    /// Connects and negotiates.
    pub(crate) fn open(options: &NbdOptions, context: &str) -> Result<Self> {
        let mut stream = Stream::connect(&options.address)?;
        stream.limit_time(Some(GREETING_TIME))?;
        let mut reader = BufReader::with_capacity(READ_AHEAD, stream.clone());
        std::io::BufRead::fill_buf(&mut reader)?;
        reader.get_mut().limit_time(Some(HANDSHAKE_TIME))?;
        let wanted = Wanted { export: &options.export, context };
        let session = match negotiate(&mut reader, &mut stream, wanted) {
            Ok(session) => session,
            Err(error) => {
                stream.shut();
                return Err(error);
            }
        };
        reader.get_mut().limit_time(None)?;
        stream.limit_time(None)?;
        Ok(Self::over(stream, reader, session))
    }

    fn over(mut stream: Stream, reader: BufReader<Stream>, session: Session) -> Self {
        // Reads of the clones that write have no deadline: they never read.
        let _ = stream.limit_time(None);
        let (next_cookie, broken) = (1, None);
        let state = State { next_cookie, slots: BTreeMap::new(), reader: Some(reader), broken };
        let (writer, state, busy) = (Mutex::new(stream.clone()), Mutex::new(state), AtomicUsize::new(0));
        Self { session, writer, state, stream, busy }
    }

    /// What was agreed on.
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// How many requests are under way.
    pub(crate) fn busy(&self) -> usize {
        self.busy.load(Ordering::Relaxed)
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.state.lock().broken.is_some()
    }

    /// Makes a request and waits for its reply. `data`: what is written; `buf`: where what is read goes, as long as the
    /// request says.
    pub(crate) fn call(
        &self,
        request: Request,
        data: &[u8],
        buf: &mut [u8],
    ) -> std::result::Result<Outcome, Failure> {
        self.busy.fetch_add(1, Ordering::Relaxed);
        let done = self.exchange(request, data, buf);
        self.busy.fetch_sub(1, Ordering::Relaxed);
        let outcome = done.map_err(Failure::Lost)?;
        outcome.finish().map_err(Failure::Refused)
    }

    fn exchange(&self, request: Request, data: &[u8], buf: &mut [u8]) -> Result<Reply> {
        let cookie = self.register(request)?;
        let header = request.encode(self.session.style, cookie);
        {
            let mut writer = self.writer.lock();
            let sent = writer.write_all(&header).and_then(|()| writer.write_all(data));
            if let Err(error) = sent {
                self.break_off(&Error::from(error).context("cannot send to the NBD server"));
            }
        }
        self.wait(cookie, buf)
    }

    fn register(&self, request: Request) -> Result<u64> {
        let Request { command, offset, len, .. } = request;
        let reply = Reply::new(command, offset, len, self.session.context, self.session.style);
        let mut state = self.state.lock();
        if let Some(why) = &state.broken {
            return Err(lost(why));
        }
        let cookie = state.next_cookie;
        state.next_cookie = cookie.wrapping_add(1);
        let wake = Arc::new(Condvar::new());
        state.slots.insert(cookie, Slot { reply: Some(reply), complete: false, waits: false, wake });
        Ok(cookie)
    }

    fn wait(&self, cookie: u64, buf: &mut [u8]) -> Result<Reply> {
        let mut state = self.state.lock();
        loop {
            let unknown = || violation("a request that nobody made");
            if state.slots.get(&cookie).ok_or_else(unknown)?.complete {
                let slot = state.slots.remove(&cookie);
                return slot.and_then(|slot| slot.reply).ok_or_else(unknown);
            }
            if let Some(why) = &state.broken {
                let error = lost(why);
                state.slots.remove(&cookie);
                return Err(error);
            }
            if let Some(mut reader) = state.reader.take() {
                let done = MutexGuard::unlocked(&mut state, || self.lead(&mut reader, cookie, buf));
                match done {
                    Ok(()) => pass_on(&mut state, reader, cookie),
                    Err(error) => MutexGuard::unlocked(&mut state, || self.break_off(&error)),
                }
                continue;
            }
            let slot = state.slots.get_mut(&cookie).ok_or_else(unknown)?;
            slot.waits = true;
            let wake = Arc::clone(&slot.wake);
            wake.wait(&mut state);
            if let Some(slot) = state.slots.get_mut(&cookie) {
                slot.waits = false;
            }
        }
    }

    /// Reads replies until that to `mine` is complete.
    fn lead(&self, reader: &mut BufReader<Stream>, mine: u64, buf: &mut [u8]) -> Result<()> {
        loop {
            let head = read_reply(reader, self.session.style)?;
            let stranger = || violation(format!("a reply to request {}, which nobody made", head.cookie));
            let mut reply = {
                let mut state = self.state.lock();
                let slot = state.slots.get_mut(&head.cookie).filter(|slot| !slot.complete);
                slot.and_then(|slot| slot.reply.take()).ok_or_else(stranger)?
            };
            let target = (head.cookie == mine).then_some(&mut *buf);
            let complete = reply.absorb(reader, head.body, target)?;
            let mut state = self.state.lock();
            if let Some(slot) = state.slots.get_mut(&head.cookie) {
                (slot.reply, slot.complete) = (Some(reply), complete);
                if complete && head.cookie == mine {
                    return Ok(());
                }
                if complete {
                    slot.wake.notify_one();
                }
            }
        }
    }

    /// Gives the connection up, with all requests that are under way.
    fn break_off(&self, why: &Error) {
        self.stream.shut();
        let mut state = self.state.lock();
        state.broken.get_or_insert_with(|| why.joined());
        state.reader = None;
        for slot in state.slots.values() {
            slot.wake.notify_one();
        }
    }
}

/// Puts the reader back, and wakes one of those who wait to take it.
fn pass_on(state: &mut State, reader: BufReader<Stream>, done: u64) {
    if state.broken.is_some() {
        return;
    }
    state.reader = Some(reader);
    let next = state.slots.iter().find(|(cookie, slot)| **cookie != done && slot.waits && !slot.complete);
    if let Some((_, slot)) = next {
        slot.wake.notify_one();
    }
}

fn lost(why: &str) -> Error {
    let cause = Error::new(ErrorKind::Io, why.to_owned());
    let error = cause.with_errno(errno::EIO);
    let text = error.strerror();
    error.told_as(text)
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.state.get_mut().broken.is_none() {
            let request = Request { command: command::DISCONNECT, flags: 0, offset: 0, len: 0 };
            self.stream.say_goodbye(&request.encode(self.session.style, 0));
        }
    }
}
