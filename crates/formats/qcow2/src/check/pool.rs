//! Work in units on all cores: threads claim the next unit until there is none left.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use diskimg_core::{Error, ErrorKind, Result, Task, processors, to_usize};

/// Threads are worth starting for this many bytes each.
const BYTES_PER_THREAD: u64 = 2 << 20;
/// More threads than this find nothing to do: memory is the limit.
const MAX_THREADS: u64 = 8;

/// Hands out the numbers of units.
pub(super) struct Claims<'a> {
    next: AtomicUsize,
    units: usize,
    failed: AtomicBool,
    task: &'a Task<'a>,
}

impl Claims<'_> {
    /// The next unit; `None` when all are taken or another thread failed.
    ///
    /// # Errors
    /// `Cancelled`.
    pub(super) fn next(&self) -> Result<Option<usize>> {
        self.task.check()?;
        if self.failed.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let unit = self.next.fetch_add(1, Ordering::Relaxed);
        Ok((unit < self.units).then_some(unit))
    }
}

/// Runs `work` on as many threads as `bytes` of reading deserve; each claims units until there are none.
///
/// # Errors
/// The first error of `work`.
pub(super) fn run(
    units: usize,
    bytes: u64,
    task: &Task<'_>,
    work: impl Fn(&Claims<'_>) -> Result<()> + Sync,
) -> Result<()> {
    let claims = Claims { next: AtomicUsize::new(0), units, failed: AtomicBool::new(false), task };
    let cores = u64::try_from(processors()).unwrap_or(1);
    let threads = to_usize((bytes / BYTES_PER_THREAD).min(cores).min(MAX_THREADS)).min(units);
    if threads <= 1 {
        return work(&claims);
    }
    let guarded = || {
        let result = work(&claims);
        if result.is_err() {
            claims.failed.store(true, Ordering::Relaxed);
        }
        result
    };
    std::thread::scope(|scope| {
        // A thread that can't be started is not missed: this one does the work that is left.
        let others: Vec<_> = (1..threads)
            .filter_map(|_| std::thread::Builder::new().spawn_scoped(scope, guarded).ok())
            .collect();
        let mut result = guarded();
        for other in others {
            let ended =
                other.join().unwrap_or_else(|_| Err(Error::new(ErrorKind::Io, "A worker thread failed")));
            result = result.and(ended);
        }
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn each_unit_is_done_once_and_an_error_stops_all() {
        let sum = AtomicU64::new(0);
        let work = |claims: &Claims<'_>| -> Result<()> {
            while let Some(unit) = claims.next()? {
                sum.fetch_add(unit as u64, Ordering::Relaxed);
            }
            Ok(())
        };
        run(1000, 64 << 20, &Task::quiet(), work).unwrap();
        assert_eq!(sum.into_inner(), 999 * 1000 / 2);
        let fail = |claims: &Claims<'_>| -> Result<()> {
            while let Some(unit) = claims.next()? {
                if unit == 10 {
                    return Err(Error::corrupt("ten"));
                }
            }
            Ok(())
        };
        assert_eq!(run(1 << 40, 64 << 20, &Task::quiet(), fail).unwrap_err().to_string(), "ten");
    }
}
