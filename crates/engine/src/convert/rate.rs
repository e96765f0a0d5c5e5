//! Keeps the reading below a number of bytes a second.

use std::num::NonZero;
use std::time::{Duration, Instant};

use diskimg_core::{Result, Task};
use parking_lot::Mutex;

/// How long is slept at once, so that a cancelled task ends soon.
const NAP: Duration = Duration::from_millis(50);

/// Hands out bytes at a steady rate.
#[derive(Debug)]
pub(super) struct Rate {
    per_second: Option<NonZero<u64>>,
    /// When all that was handed out has been paid for.
    paid: Mutex<Instant>,
}

impl Rate {
    /// So many bytes a second; `None`: any number.
    pub(super) fn new(per_second: Option<NonZero<u64>>) -> Self {
        Self { per_second, paid: Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes` more may be read.
    pub(super) fn take(&self, bytes: u64, task: &Task<'_>) -> Result<()> {
        let Some(per_second) = self.per_second else { return Ok(()) };
        let cost = u128::from(bytes) * 1_000_000 / u128::from(per_second.get());
        let cost = Duration::from_micros(u64::try_from(cost).unwrap_or(u64::MAX));
        let until = {
            let mut paid = self.paid.lock();
            let start = (*paid).max(Instant::now());
            *paid = start.checked_add(cost).unwrap_or(start);
            start
        };
        loop {
            task.check()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(NAP));
        }
    }
}
