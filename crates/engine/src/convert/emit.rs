//! Writes a file from front to end: threads read the next parts of it, and write them in turn.
//!
//! A [`Script`] says what comes next: guest bytes, bytes that are held in memory, zeros. A part is claimed, read into the
//! buffer of its thread, and written when everything before it was. So as many parts are read ahead as there are threads
//! besides the one that writes; memory is bounded by threads × [`UNIT`] bytes. What is read in order is read as it is
//! claimed. Called by [`super::outflow`] alone.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use diskimg_core::{BlockDevice as _, ByteRange, Error, ErrorKind, Result, Task, len_u64, to_usize};
use parking_lot::{Condvar, Mutex};

use super::digest::{Running, read_sectors};
use super::failure::CopyError;
use super::layout::{Run, Sparse};
use super::manner::panicked;
use super::rate::Rate;
use super::source::{Class, SourceWalk, Sources};
use super::{ConvertOptions, UNIT};
use crate::parallel::{Failure, on_threads, workers};
use crate::told::failed;

/// A run of zeros of so many bytes is written from a buffer of zeros that all share.
const LONG: u64 = 64 << 10;

/// The longest run of zeros that is one part, in bytes.
const LONGEST: u64 = 16 << 20;

/// Zeros that are written at once, in bytes.
const ZEROS: usize = 256 << 10;

/// Parts in one turn: bounds what a thread holds of a fragmented disk.
const MAX_PARTS: usize = 1024;

/// The thread that writes wants others that read meanwhile.
const LEAST_THREADS: usize = 2;

/// Where bytes go that can't be changed afterwards.
pub(super) struct Out {
    writer: Box<dyn Write + Send>,
    zeros: Vec<u8>,
}

impl Out {
    pub(super) fn new(writer: Box<dyn Write + Send>) -> Self {
        Self { writer, zeros: vec![0; ZEROS] }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).map_err(cannot_write)
    }

    pub(super) fn zeros(&mut self, len: u64) -> Result<()> {
        let mut left = len;
        while left > 0 {
            let now = self.zeros.get(..to_usize(left).min(ZEROS)).unwrap_or_default();
            self.writer.write_all(now).map_err(cannot_write)?;
            left -= len_u64(now).max(1);
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        self.writer.flush().map_err(cannot_write)
    }
}

fn cannot_write(error: std::io::Error) -> Error {
    failed("error while writing to the output", error.into())
}

/// The error of a target that does not keep to the order that it promised.
pub(super) fn write_failed(text: &str) -> Error {
    Error::new(ErrorKind::Io, text.to_owned()).context("error while writing to the output")
}

/// Where bytes of the file come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Zeros,
    /// From this byte of the sources on.
    Guest(u64),
    /// From this byte of the file's metadata on.
    Held(u64),
}

/// A part of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) len: u64,
    pub(super) origin: Origin,
}

/// What a file is made of, from front to end.
pub(super) trait Script: Send {
    /// What comes next; `None`: nothing.
    fn peek(&mut self) -> Result<Option<Part>>;

    /// The first `len` bytes of that have been taken.
    fn advance(&mut self, len: u64);

    /// Where the file ends, as far as that is known by now.
    fn len(&self) -> u64;
}

/// A file that is the guest's disk.
#[derive(Debug)]
pub(super) struct Plain<'a> {
    walk: SourceWalk<'a>,
    at: u64,
    /// What was looked at last.
    known: Option<Part>,
}

impl<'a> Plain<'a> {
    pub(super) fn new(sources: &'a Sources<'a>) -> Self {
        Self { walk: SourceWalk::new(sources), at: 0, known: None }
    }
}

impl Script for Plain<'_> {
    fn peek(&mut self) -> Result<Option<Part>> {
        let end = self.len();
        if self.at >= end {
            return Ok(None);
        }
        if self.known.is_none() {
            let (class, len) = self
                .walk
                .classify(ByteRange::from_bounds(self.at, end))
                .map_err(|error| self.walk.failed(self.at, error))?;
            let origin = if class == Class::Data { Origin::Guest(self.at) } else { Origin::Zeros };
            self.known = Some(Part { len: len.max(1), origin });
        }
        Ok(self.known)
    }

    fn advance(&mut self, len: u64) {
        self.at += len;
        self.known = self.known.and_then(|part| rest_of(part, len));
    }

    fn len(&self) -> u64 {
        self.walk.known_len()
    }
}

fn rest_of(part: Part, taken: u64) -> Option<Part> {
    let len = part.len.checked_sub(taken).filter(|len| *len > 0)?;
    let origin = match part.origin {
        Origin::Zeros => Origin::Zeros,
        Origin::Guest(at) => Origin::Guest(at + taken),
        Origin::Held(at) => Origin::Held(at + taken),
    };
    Some(Part { len, origin })
}

/// A file whose layout is known.
#[derive(Debug)]
pub(super) struct Planned {
    held: Arc<Sparse>,
    runs: std::iter::Peekable<std::vec::IntoIter<Run>>,
    at: u64,
    len: u64,
}

impl Planned {
    /// `held`: all that is no guest data. `runs`: guest data.
    pub(super) fn new(held: Arc<Sparse>, mut runs: Vec<Run>) -> Self {
        runs.sort_unstable_by_key(|run| run.host);
        let end = runs.last().map_or(0, |run| run.host.saturating_add(run.len));
        let len = held.len().max(end);
        Self { held, runs: runs.into_iter().peekable(), at: 0, len }
    }
}

impl Script for Planned {
    fn peek(&mut self) -> Result<Option<Part>> {
        while let Some(run) = self.runs.next_if(|run| run.host.saturating_add(run.len) <= self.at) {
            if run.len == 0 {
                continue;
            }
        }
        let next = self.runs.peek();
        if let Some(run) = next.filter(|run| run.host <= self.at) {
            let skipped = self.at - run.host;
            return Ok(rest_of(Part { len: run.len, origin: Origin::Guest(run.guest) }, skipped));
        }
        let gap = ByteRange::from_bounds(self.at, next.map_or(self.len, |run| run.host));
        if gap.is_empty() {
            return Ok(None);
        }
        let (zero, len) = self.held.kind_at(gap);
        let origin = if zero { Origin::Zeros } else { Origin::Held(self.at) };
        Ok(Some(Part { len, origin }))
    }

    fn advance(&mut self, len: u64) {
        self.at += len;
    }

    fn len(&self) -> u64 {
        self.len
    }
}

/// What a thread writes in one turn.
#[derive(Debug, Default)]
struct Job {
    number: u64,
    /// Where it starts in the file.
    start: u64,
    parts: Vec<Part>,
    len: u64,
    buf: Vec<u8>,
}

impl Job {
    fn is_long_zero(&self) -> bool {
        matches!(self.parts.as_slice(), [Part { origin: Origin::Zeros, len }] if *len >= LONG)
    }
}

struct Claims<S> {
    script: S,
    next: u64,
    at: u64,
}

/// A file on its way out.
pub(super) struct Emission<'a, S> {
    sources: &'a Sources<'a>,
    held: Option<&'a Sparse>,
    /// The digest of what goes out.
    digest: Option<&'a Running>,
    salvage: bool,
    task: &'a Task<'a>,
    rate: Rate,
    claims: Mutex<Claims<S>>,
    turn: Mutex<u64>,
    changed: Condvar,
    out: Mutex<Out>,
    failure: Failure,
    guest_bytes: AtomicU64,
}

/// Lets nobody wait for a thread that panics.
struct Alarm<'e, 'a, S>(&'e Emission<'a, S>);

impl<S> Drop for Alarm<'_, '_, S> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(panicked());
        }
    }
}

impl<'a, S: Script> Emission<'a, S> {
    /// Writes all that `script` says to `out`; the number of bytes that were the guest's.
    pub(super) fn run(
        script: S,
        sources: &'a Sources<'a>,
        (held, digest): (Option<&'a Sparse>, Option<&'a Running>),
        out: Box<dyn Write + Send>,
        options: &ConvertOptions,
        task: &'a Task<'a>,
    ) -> Result<u64> {
        let count = workers(options.workers, script.len().div_ceil(UNIT));
        let count = if options.workers.is_none() { count.max(LEAST_THREADS) } else { count };
        let emission = Self {
            sources,
            held,
            digest,
            salvage: options.salvage,
            task,
            rate: Rate::new(options.rate_limit),
            claims: Mutex::new(Claims { script, next: 0, at: 0 }),
            turn: Mutex::new(0),
            changed: Condvar::new(),
            out: Mutex::new(Out::new(out)),
            failure: Failure::default(),
            guest_bytes: AtomicU64::new(0),
        };
        on_threads(count, |_| emission.work());
        emission.failure.into_result()?;
        emission.out.into_inner().flush()?;
        task.progress.update(1, 1);
        Ok(emission.guest_bytes.into_inner())
    }

    fn work(&self) {
        let _alarm = Alarm(self);
        let mut job = Job::default();
        loop {
            match self.next(&mut job) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.fail(error),
            }
        }
    }

    /// Claims, reads and writes one job; false if there is none.
    fn next(&self, job: &mut Job) -> Result<bool> {
        if self.failure.happened() || !self.claim(job)? {
            return Ok(false);
        }
        if !self.sources.in_order() {
            self.fetch(job)?;
        }
        self.write(job)
    }

    fn claim(&self, job: &mut Job) -> Result<bool> {
        self.task.check()?;
        let mut claims = self.claims.lock();
        job.parts.clear();
        job.len = 0;
        while job.len < UNIT
            && job.parts.len() < MAX_PARTS
            && let Some(part) = claims.script.peek()?
        {
            let long = part.origin == Origin::Zeros && part.len >= LONG;
            if long && !job.parts.is_empty() {
                break;
            }
            let len = part.len.min(if long { LONGEST } else { UNIT - job.len });
            job.parts.push(Part { len, ..part });
            job.len += len;
            claims.script.advance(len);
            if long {
                break;
            }
        }
        job.start = claims.at;
        if self.sources.in_order() && !job.parts.is_empty() {
            self.fetch(job)?;
            // The end may have been met.
            job.len = job.len.min(claims.script.len().saturating_sub(job.start));
        }
        claims.at += job.len;
        if job.parts.is_empty() || job.len == 0 {
            return Ok(false);
        }
        job.number = claims.next;
        claims.next += 1;
        Ok(true)
    }

    /// Brings the bytes of a job into its buffer.
    fn fetch(&self, job: &mut Job) -> Result<()> {
        if job.is_long_zero() {
            return Ok(());
        }
        let Job { parts, buf, len, .. } = job;
        buf.resize(to_usize(*len).max(buf.len()), 0);
        let mut rest = buf.as_mut_slice();
        for part in parts {
            let (bytes, behind) = rest.split_at_mut_checked(to_usize(part.len)).unwrap_or_default();
            match part.origin {
                Origin::Zeros => bytes.fill(0),
                Origin::Held(at) => self.held.map_or(Ok(()), |held| held.read_at(at, bytes))?,
                Origin::Guest(at) => self.read(at, bytes)?,
            }
            rest = behind;
        }
        Ok(())
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        let range = ByteRange::new(at, len_u64(bytes));
        self.rate.take(range.len, self.task)?;
        self.guest_bytes.fetch_add(range.len, Ordering::Relaxed);
        match self.sources.read_at(at, bytes) {
            Err(error) if error.kind() == ErrorKind::Cancelled => Err(error),
            Err(_) if self.salvage && !self.sources.in_order() => {
                read_sectors(self.sources, at, bytes);
                Ok(())
            }
            Err(error) if self.sources.in_order() => Err(CopyError::reading_pipe(range, error).into()),
            read => read.map_err(|error| CopyError::reading(range, error).into()),
        }
    }

    /// Writes a job when its turn has come; false if that will never be.
    fn write(&self, job: &Job) -> Result<bool> {
        let mut turn = self.turn.lock();
        while *turn != job.number {
            if self.failure.happened() {
                return Ok(false);
            }
            self.changed.wait(&mut turn);
        }
        drop(turn);
        let mut out = self.out.lock();
        if job.is_long_zero() {
            out.zeros(job.len)?;
        } else {
            let bytes = job.buf.get(..to_usize(job.len)).unwrap_or_default();
            if let Some(digest) = self.digest {
                digest.feed(job.start, bytes);
            }
            out.write(bytes)?;
        }
        drop(out);
        *self.turn.lock() += 1;
        self.changed.notify_all();
        let total = self.claims.lock().script.len();
        self.task.progress.update(job.start.saturating_add(job.len), total);
        Ok(true)
    }
}

impl<S> Emission<'_, S> {
    fn fail(&self, error: Error) {
        self.failure.record(0, error);
        let _turn = self.turn.lock();
        self.changed.notify_all();
    }
}
