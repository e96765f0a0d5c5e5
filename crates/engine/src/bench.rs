//! Times requests to a disk: so many of one size, several at once, one behind the other.
//!
//! Each thread makes its requests itself, so nothing stands between a request and the system call. There are as many
//! threads as processors; while requests are found to wait for the storage, further ones are started, up to the depth
//! that was asked for.
//!
//! Invariants: requests are numbered from 0 and claimed in order; with [`BenchOptions::flush_interval`] and without
//! [`BenchOptions::no_drain`] no request runs while a flush does. A buffer belongs to one thread.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::Scope;
use std::time::{Duration, Instant};

use diskimg_chain::Node;
use diskimg_core::{BlockDevice as _, Error, ErrorKind, Result, Task, most_threads, processors};
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::parallel::Failure;
use crate::told::failed;

/// The most requests that are under way at once, whatever the depth.
const MAX_THREADS: usize = 64;

/// A request that takes longer has waited for the storage, not for the processor.
const WAITED: Duration = Duration::from_micros(150);

/// What a request does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BenchKind {
    /// It reads.
    #[default]
    Read,
    /// It writes this byte.
    Write(u8),
}

/// Which requests are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BenchOptions {
    /// What they do.
    pub kind: BenchKind,
    /// How many.
    pub count: u64,
    /// How many at once, at least 1.
    pub depth: usize,
    /// Bytes of each.
    pub size: usize,
    /// Where the first starts, in bytes.
    pub offset: u64,
    /// Bytes from the start of one to that of the next; behind the end of the disk it goes on at its start.
    pub step: u64,
    /// A flush after each so many requests; 0: none.
    pub flush_interval: u64,
    /// Flushes are made while requests are under way.
    pub no_drain: bool,
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self {
            kind: BenchKind::Read,
            count: 75_000,
            depth: 64,
            size: 4096,
            offset: 0,
            step: 4096,
            flush_interval: 0,
            no_drain: false,
        }
    }
}

/// How it went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BenchReport {
    /// From the first request to the end of the last.
    pub elapsed: Duration,
    /// Requests that were made.
    pub requests: u64,
    /// Flushes that were made.
    pub flushes: u64,
}

/// Where requests wait for a flush.
#[derive(Debug)]
struct Fence {
    /// The first request behind the next flush.
    at: u64,
    /// Requests that were claimed, and how many of them run.
    claimed: u64,
    running: u64,
}

struct Bench<'a> {
    node: &'a Node,
    options: &'a BenchOptions,
    task: &'a Task<'a>,
    len: u64,
    most: usize,
    threads: AtomicUsize,
    /// The number of the next request, where no flush is waited for.
    next: AtomicU64,
    /// `None`: nobody waits for flushes.
    fence: Option<Mutex<Fence>>,
    flushed: Condvar,
    flushes: AtomicU64,
    failure: Failure,
}

/// Makes the requests. Written bytes are left in the cache unless flushes are asked for.
///
/// # Errors
/// `Failed request: …` with the host's text, also for a request that reaches beyond the end of the disk; `Cancelled`.
pub fn bench(node: &Node, options: &BenchOptions, task: &Task<'_>) -> Result<BenchReport> {
    let fences = options.flush_interval > 0 && !options.no_drain;
    let bench = Bench {
        node,
        options,
        task,
        len: node.device().len(),
        most: options.depth.clamp(1, MAX_THREADS).min(most_threads()),
        threads: AtomicUsize::new(0),
        next: AtomicU64::new(0),
        fence: fences.then(|| Mutex::new(Fence { at: options.flush_interval, claimed: 0, running: 0 })),
        flushed: Condvar::new(),
        flushes: AtomicU64::new(0),
        failure: Failure::default(),
    };
    let few = options.count.try_into().unwrap_or(usize::MAX).max(1);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 1..processors().min(bench.most).min(few) {
            bench.spawn(scope);
        }
        bench.threads.fetch_add(1, Ordering::Relaxed);
        bench.work(scope);
    });
    let elapsed = start.elapsed();
    bench.failure.into_result()?;
    Ok(BenchReport { elapsed, requests: options.count, flushes: bench.flushes.into_inner() })
}

impl<'a> Bench<'a> {
    /// Starts one more thread, if the depth allows it.
    fn spawn<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        let more = |count: usize| (count < self.most).then_some(count + 1);
        if self.threads.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            return;
        }
        let thread = std::thread::Builder::new().name("diskimg-bench".to_owned());
        // A thread that can't be started is work for the others.
        let _ = thread.spawn_scoped(scope, move || self.work(scope));
    }

    /// What each thread does.
    fn work<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        let byte = if let BenchKind::Write(byte) = self.options.kind { byte } else { 0 };
        let mut buf = vec![byte; self.options.size];
        let mut grown = false;
        while let Some(number) = self.claim() {
            let start = Instant::now();
            let done = self.request(self.offset(number), &mut buf);
            if !grown && start.elapsed() > WAITED {
                grown = true;
                self.spawn(scope);
            }
            if let Err(error) = done.and_then(|()| self.finish(number)) {
                self.failure.record(number, tell(error));
                // Whoever looks for failures holds the lock until it waits.
                let _fence = self.fence.as_ref().map(Mutex::lock);
                self.flushed.notify_all();
                return;
            }
        }
    }

    /// Where a request starts: behind the end of the disk it goes on at its start.
    fn offset(&self, number: u64) -> u64 {
        let at = u128::from(self.options.offset) + u128::from(number) * u128::from(self.options.step);
        let wrapped = if number == 0 { at } else { at.checked_rem(self.len.into()).unwrap_or(0) };
        u64::try_from(wrapped).unwrap_or(u64::MAX)
    }

    fn request(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let device = self.node.device();
        match self.options.kind {
            BenchKind::Read => device.read_at(offset, buf),
            BenchKind::Write(_) => device.write_at(offset, buf),
        }
    }

    /// The number of the next request; waits where a flush comes first.
    fn claim(&self) -> Option<u64> {
        if self.failure.happened() {
            return None;
        }
        let number = match &self.fence {
            None => self.next.fetch_add(1, Ordering::Relaxed),
            Some(fence) => self.pass(&mut fence.lock())?,
        };
        if number >= self.options.count {
            return None;
        }
        match self.task.check() {
            Ok(()) => Some(number),
            Err(error) => {
                self.failure.record(number, error);
                None
            }
        }
    }

    fn pass(&self, fence: &mut MutexGuard<'_, Fence>) -> Option<u64> {
        while fence.claimed >= fence.at && fence.claimed < self.options.count {
            if self.failure.happened() {
                return None;
            }
            self.flushed.wait(fence);
        }
        let number = fence.claimed;
        if number < self.options.count {
            fence.claimed += 1;
            fence.running += 1;
        }
        Some(number)
    }

    /// A request is done: flushes if that is due.
    fn finish(&self, number: u64) -> Result<()> {
        let interval = self.options.flush_interval;
        if interval == 0 {
            return Ok(());
        }
        let Some(fence) = &self.fence else {
            return if (number + 1).is_multiple_of(interval) { self.flush() } else { Ok(()) };
        };
        let mut fence = fence.lock();
        fence.running -= 1;
        if fence.running == 0 && fence.claimed == fence.at {
            // Nobody can go on before this flush has ended, so the lock keeps nobody from anything.
            self.flush()?;
            fence.at = fence.at.saturating_add(interval);
            self.flushed.notify_all();
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.node.device().flush()
    }
}

fn tell(error: Error) -> Error {
    if error.kind() == ErrorKind::Cancelled { error } else { failed("Failed request", error) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use diskimg_chain::{Context, ImageSpec, OpenOptions};
    use diskimg_core::Registry;

    fn node(len: u64) -> (tempfile::NamedTempFile, Node) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(len).unwrap();
        let registry = Registry::new().with_format(&diskimg_raw::DRIVER).with_protocol(&diskimg_file::FILE);
        let options = OpenOptions::write().with_format(Some("raw"));
        let spec = ImageSpec::name(file.path().to_str().unwrap());
        let node = Node::open(&Context::new(registry), &spec, &options).unwrap();
        (file, node)
    }

    fn bytes(node: &Node) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(node.device().len()).unwrap()];
        node.device().read_at(0, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn requests_go_round_the_disk() {
        let (_file, node) = node(8 << 10);
        let options = BenchOptions {
            kind: BenchKind::Write(7),
            count: 5,
            size: 512,
            step: 3 << 10,
            depth: 2,
            ..BenchOptions::default()
        };
        let report = bench(&node, &options, &Task::quiet()).unwrap();
        assert_eq!((report.requests, report.flushes), (5, 0));
        // 0, 3k, 6k, 9k → 1k, 4k.
        let written: Vec<usize> = bytes(&node)
            .chunks(512)
            .enumerate()
            .filter(|(_, c)| c.iter().all(|b| *b == 7))
            .map(|(i, _)| i)
            .collect();
        assert_eq!(written, [0, 2, 6, 8, 12]);
    }

    #[test]
    fn flushes_come_after_each_interval_with_and_without_draining() {
        let (_file, node) = node(1 << 20);
        for no_drain in [false, true] {
            let options = BenchOptions {
                kind: BenchKind::Write(0),
                count: 100,
                depth: 8,
                flush_interval: 10,
                no_drain,
                ..BenchOptions::default()
            };
            assert_eq!(bench(&node, &options, &Task::quiet()).unwrap().flushes, 10);
        }
    }

    #[test]
    fn a_request_beyond_the_end_fails() {
        let (_file, node) = node(8 << 10);
        let options = BenchOptions { offset: 6 << 10, count: 3, ..BenchOptions::default() };
        let error = bench(&node, &options, &Task::quiet()).unwrap_err();
        assert_eq!(error.joined(), "Failed request: Input/output error");
    }
}
