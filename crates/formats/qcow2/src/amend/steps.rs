//! [`Steps`]: the progress of several changes, told as one that never goes back.

use std::cell::Cell;

use diskimg_core::{Result, Task};

/// Parts that each change counts.
const PARTS: u64 = 1 << 20;

/// Progress over all changes.
#[derive(Debug)]
pub(super) struct Steps<'a> {
    task: &'a Task<'a>,
    count: u64,
    ended: Cell<u64>,
}

impl<'a> Steps<'a> {
    /// `count` changes are to come that take long.
    pub(super) fn new(task: &'a Task<'a>, count: u64) -> Self {
        Self { task, count: count.max(1), ended: Cell::new(0) }
    }

    /// `done` of `total` parts of the running change are done.
    ///
    /// # Errors
    /// `Cancelled` once a stop was asked for.
    pub(super) fn report(&self, done: u64, total: u64) -> Result<()> {
        self.task.check()?;
        if self.count == 1 {
            self.task.progress.update(done, total.max(1));
            return Ok(());
        }
        let part = u128::from(done.min(total)) * u128::from(PARTS) / u128::from(total.max(1));
        let part = u64::try_from(part).unwrap_or(PARTS);
        self.task.progress.update(self.ended.get() * PARTS + part, self.count * PARTS);
        Ok(())
    }

    /// The running change is done.
    pub(super) fn end(&self) {
        self.ended.set((self.ended.get() + 1).min(self.count));
        self.task.progress.update(self.ended.get() * PARTS, self.count * PARTS);
    }
}
