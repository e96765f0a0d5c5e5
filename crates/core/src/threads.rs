//! How many threads are worth starting, and how many there is room for.

use std::num::NonZero;
use std::thread::available_parallelism;

use rustix::process::{Resource, getrlimit};

/// Address space that one more thread takes, in bytes: its stack, and what C's library sets aside for its memory.
const THREAD_SPACE: u64 = 72 << 20;

/// One part in so many of a limited address space is for threads; the rest is for tables and buffers.
const SHARE: u64 = 2;

/// The processors that this process may use, or as many threads as there is room for, if they are fewer.
#[must_use]
pub fn processors() -> usize {
    available_parallelism().map_or(1, NonZero::get).min(most_threads())
}

/// Threads that the address space has room for (`ulimit -v`, by which cloud services run commands on images), at least
/// one. What more of them set aside would be missing for everything else.
#[must_use]
pub fn most_threads() -> usize {
    let room = |limit: u64| usize::try_from(limit / SHARE / THREAD_SPACE).unwrap_or(usize::MAX).max(1);
    getrlimit(Resource::As).current.map_or(usize::MAX, room)
}
