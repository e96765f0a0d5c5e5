//! Tells whether two disks have the same contents.
//!
//! Threads claim runs of both disks' extents in guest order. What both know to be zeros costs nothing; what one
//! knows to be zeros is read from the other only. The difference that is reported is the first one, as if the disks
//! had been read from front to back.
//!
//! Memory: two buffers of [`UNIT`] bytes for each thread.

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use diskimg_chain::{Node, Status};
use diskimg_core::{
    BlockDevice as _, ByteRange, Error, ExtentFlags, Result, Task, is_zero, len_u64, to_usize,
};
use parking_lot::Mutex;

use crate::parallel::{Failure, on_threads, workers};
use crate::told::failed;

/// Bytes that are compared at once.
pub const UNIT: u64 = 256 << 10;

/// Differences are told to so many bytes.
const SECTOR: usize = 512;

/// How disks are compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct CompareOptions {
    /// Sizes and what is allocated have to be equal too.
    pub strict: bool,
    /// Threads; `None`: as many as there are processors.
    pub workers: Option<NonZero<usize>>,
}

/// The first difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The sizes; only in strict mode, where nothing else is looked at then.
    Size,
    /// What is known of the bytes from `offset` on; only in strict mode.
    Status {
        /// Guest byte.
        offset: u64,
    },
    /// The contents of the sector at `offset`.
    Content {
        /// Guest byte.
        offset: u64,
    },
}

/// What a comparison found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompareReport {
    /// The sizes differ, and no difference was found before the end of the smaller disk: the rest of the
    /// larger one counts as equal if it is zeros.
    pub size_mismatch: bool,
    /// The first difference; `None`: the disks are identical.
    pub difference: Option<Difference>,
}

/// A run of both disks.
#[derive(Clone, Copy, Debug)]
struct Run {
    range: ByteRange,
    left: bool,
    right: bool,
}

/// What could not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CompareStage {
    /// What is allocated could not be told.
    Allocation,
    /// Contents could not be read.
    Read,
    /// The comparison was cancelled.
    Cancelled,
}

/// Why disks could not be compared.
#[derive(Debug)]
pub struct CompareError {
    stage: CompareStage,
    size_mismatch: bool,
    error: Error,
}

impl CompareError {
    fn new(stage: CompareStage, error: Error) -> Self {
        Self { stage, size_mismatch: false, error }
    }

    /// What could not be done.
    #[must_use]
    pub fn stage(&self) -> CompareStage {
        self.stage
    }

    /// The sizes differ, and no difference was found before the end of the smaller disk: it failed behind that.
    #[must_use]
    pub fn size_mismatch(&self) -> bool {
        self.size_mismatch
    }

    /// The error itself.
    #[must_use]
    pub fn error(&self) -> &Error {
        &self.error
    }
}

impl From<CompareError> for Error {
    fn from(error: CompareError) -> Self {
        error.error
    }
}

impl std::fmt::Display for CompareError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for CompareError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.error)
    }
}

struct Comparison<'a> {
    left: &'a Node,
    right: &'a Node,
    options: CompareOptions,
    task: &'a Task<'a>,
    common: u64,
    total: u64,
    next: Mutex<u64>,
    found: Mutex<Option<Difference>>,
    stopped: AtomicBool,
    done: AtomicU64,
    failure: Failure<CompareError>,
}

/// Compares two disks.
///
/// # Errors
/// See [`CompareError`]: `Sector allocation test failed for …`, `Error while reading offset … of …` with its cause.
pub fn compare(
    left: &Node,
    right: &Node,
    options: &CompareOptions,
    task: &Task<'_>,
) -> Result<CompareReport, CompareError> {
    let (left_len, right_len) = (left.device().len(), right.device().len());
    let (common, total) = (left_len.min(right_len), left_len.max(right_len));
    if options.strict && left_len != right_len {
        return Ok(CompareReport { size_mismatch: true, difference: Some(Difference::Size) });
    }
    let comparison = Comparison {
        left,
        right,
        options: *options,
        task,
        common,
        total,
        next: Mutex::new(0),
        found: Mutex::new(None),
        stopped: AtomicBool::new(false),
        done: AtomicU64::new(0),
        failure: Failure::default(),
    };
    on_threads(workers(options.workers, total.div_ceil(UNIT)), |_| comparison.work());
    let difference = comparison.found.into_inner();
    let outcome = comparison.failure.into_result_before(difference.map(offset_of));
    let beyond = |offset: u64| common != total && offset >= common;
    outcome.map_err(|(at, error)| CompareError { size_mismatch: beyond(at), ..error })?;
    let size_mismatch = common != total && difference.is_none_or(|difference| beyond(offset_of(difference)));
    Ok(CompareReport { size_mismatch, difference })
}

fn offset_of(difference: Difference) -> u64 {
    match difference {
        Difference::Size => 0,
        Difference::Status { offset } | Difference::Content { offset } => offset,
    }
}

impl Comparison<'_> {
    fn work(&self) {
        let mut buffers = (Vec::new(), Vec::new());
        while !self.stopped.load(Ordering::Acquire) && !self.failure.happened() {
            match self.claim() {
                Ok(None) => break,
                Ok(Some(run)) => self.compare_run(run, &mut buffers),
                Err((at, error)) => self.failure.record(at, error),
            }
        }
    }

    /// The next run that has to be read.
    fn claim(&self) -> Result<Option<Run>, (u64, CompareError)> {
        let mut next = self.next.lock();
        while *next < self.total && !self.stopped.load(Ordering::Acquire) {
            let at = *next;
            self.task.check().map_err(|error| (at, CompareError::new(CompareStage::Cancelled, error)))?;
            let run =
                self.run_at(at).map_err(|error| (at, CompareError::new(CompareStage::Allocation, error)))?;
            let Some(run) = run else { break };
            *next = run.range.end();
            if run.left || run.right {
                return Ok(Some(run));
            }
            self.advance(run.range.len);
        }
        Ok(None)
    }

    /// The run at `at`, and which of the disks have to be read for it. `None`: their status differs there.
    fn run_at(&self, at: u64) -> Result<Option<Run>> {
        if at >= self.common {
            let longer = if self.left.device().len() > self.common { self.left } else { self.right };
            let status = status_of(longer, ByteRange::from_bounds(at, self.total))?;
            let data = needs_reading(&status);
            let len = if data { status.len.min(UNIT) } else { status.len };
            let left = data && std::ptr::eq(longer, self.left);
            return Ok(Some(Run { range: ByteRange::new(at, len), left, right: data && !left }));
        }
        let rest = ByteRange::from_bounds(at, self.common);
        let (left, right) = (status_of(self.left, rest)?, status_of(self.right, rest)?);
        if self.options.strict && nature(&left) != nature(&right) {
            self.differs(Difference::Status { offset: at });
            return Ok(None);
        }
        let (read_left, read_right) = (needs_reading(&left), needs_reading(&right));
        let mut len = left.len.min(right.len);
        if read_left || read_right {
            len = len.min(UNIT);
        }
        Ok(Some(Run { range: ByteRange::new(at, len), left: read_left, right: read_right }))
    }

    fn compare_run(&self, run: Run, buffers: &mut (Vec<u8>, Vec<u8>)) {
        let (start, len) = (run.range.start, to_usize(run.range.len));
        let read = |wanted: bool, node: &Node, buf: &mut Vec<u8>| {
            buf.resize(if wanted { len } else { 0 }, 0);
            if !wanted {
                return Ok(());
            }
            node.device().read_at(start, buf).map_err(|error| first_unreadable(node, run.range, buf, error))
        };
        let (left, right) = (&mut buffers.0, &mut buffers.1);
        let left_read = read(run.left, self.left, left);
        let unread = match (left_read, read(run.right, self.right, right)) {
            (Err(left), Err(right)) => Some(if left.at <= right.at { left } else { right }),
            (Err(one), Ok(())) | (Ok(()), Err(one)) => Some(one),
            (Ok(()), Ok(())) => None,
        };
        // What differs before the sector that can't be read comes first.
        let readable = unread.as_ref().map_or(len, |unread| to_usize(unread.at - start));
        left.truncate(readable);
        right.truncate(readable);
        let sector = match (run.left, run.right) {
            (true, true) => first_difference(left, right),
            (true, false) => first_data(left),
            (false, _) => first_data(right),
        };
        match (sector, unread) {
            (Some(sector), _) => self.differs(Difference::Content { offset: start + sector }),
            (None, Some(unread)) => {
                self.failure.record(unread.at, CompareError::new(CompareStage::Read, unread.error))
            }
            (None, None) => self.advance(run.range.len),
        }
    }

    fn differs(&self, difference: Difference) {
        let mut found = self.found.lock();
        if found.is_none_or(|known| offset_of(difference) < offset_of(known)) {
            *found = Some(difference);
        }
        // Runs are claimed in order: what is in the works elsewhere may come before this one, nothing else can.
        self.stopped.store(true, Ordering::Release);
    }

    fn advance(&self, len: u64) {
        let done = self.done.fetch_add(len, Ordering::Relaxed) + len;
        self.task.progress.update(done, self.total);
    }
}

fn needs_reading(status: &Status<'_>) -> bool {
    !status.flags.contains(ExtentFlags::ZERO)
}

/// What strict mode compares.
fn nature(status: &Status<'_>) -> (ExtentFlags, bool) {
    (status.flags, status.host.is_some())
}

/// Where the first sector that differs begins.
fn first_difference(left: &[u8], right: &[u8]) -> Option<u64> {
    if left == right {
        return None;
    }
    let pairs = left.chunks(SECTOR).zip(right.chunks(SECTOR));
    sector_offset(pairs.map(|(left, right)| left != right))
}

/// Where the first sector with a byte other than 0 begins.
fn first_data(buf: &[u8]) -> Option<u64> {
    if is_zero(buf) { None } else { sector_offset(buf.chunks(SECTOR).map(|sector| !is_zero(sector))) }
}

fn sector_offset(mut sectors: impl Iterator<Item = bool>) -> Option<u64> {
    let index = sectors.position(|is_it| is_it)?;
    u64::try_from(index * SECTOR).ok()
}

fn status_of(node: &Node, range: ByteRange) -> Result<Status<'_>> {
    let text = || format!("Sector allocation test failed for {}", node.label());
    node.status(range).map_err(|error| error.told_as(text()))
}

/// A sector that can't be read.
struct Unreadable {
    at: u64,
    error: Error,
}

/// The first sector that can't be read; `buf` then has what stands before it.
fn first_unreadable(node: &Node, range: ByteRange, buf: &mut [u8], cause: Error) -> Unreadable {
    let told = |at: u64, cause: Error| Unreadable {
        at,
        error: failed(format!("Error while reading offset {at} of {}", node.label()), cause),
    };
    let mut at = range.start;
    for sector in buf.chunks_mut(SECTOR) {
        if let Err(cause) = node.device().read_at(at, sector) {
            return told(at, cause);
        }
        at += len_u64(sector);
    }
    told(range.start, cause)
}
