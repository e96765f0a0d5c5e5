//! Counts how much there is to copy, and how far the copying has come, as `convert -p` shows it.
//!
//! A step is a run of data of at most [`STEP`] bytes, or one cluster where clusters are compressed. What needs no
//! copying is no step. All of the metadata is walked before the copying and once more while it goes on, so that no list
//! is kept: that is done only for a [`Progress`](diskimg_core::Progress) that asks for it.

use diskimg_core::{ByteRange, Result, Task, align_down, align_up};

use super::plan::{Rules, SECTOR};
use super::source::{Class, SourceWalk, Sources};

/// The longest step, in bytes.
const STEP: u64 = 2 << 20;

/// Walks the steps in guest order.
#[derive(Debug)]
pub(super) struct Steps<'a> {
    walk: SourceWalk<'a>,
    /// Bytes of all sources.
    len: u64,
    /// Data starts and ends at multiples of it.
    unit: u64,
    /// A step is at most so many bytes.
    limit: u64,
    fill: bool,
    salvage: bool,
    /// The class at `at`, and where its run ends.
    run: (Class, u64),
    at: u64,
    /// The end of a step that was looked at, but not yet reached.
    waiting: Option<(u64, u64)>,
    /// Bytes in the steps that were reported, and in all of them.
    done: u64,
    total: u64,
}

impl<'a> Steps<'a> {
    /// Counts what is to copy.
    pub(super) fn count(
        sources: &'a Sources<'a>,
        rules: Rules,
        compress: bool,
        task: &Task<'_>,
    ) -> Result<Self> {
        let (unit, limit) = if compress { (rules.write_unit, rules.write_unit) } else { (1, STEP) };
        let start = || Self {
            walk: SourceWalk::new(sources),
            len: sources.len(),
            unit,
            limit,
            fill: rules.fill,
            salvage: rules.salvage,
            run: (Class::Below, 0),
            at: 0,
            waiting: None,
            done: 0,
            total: 0,
        };
        let mut all = start();
        let mut total = 0;
        while let Some((_, len)) = all.step() {
            task.check()?;
            total += len;
        }
        Ok(Self { total, ..start() })
    }

    /// Reports all steps that end at or before byte `reached`.
    pub(super) fn report(&mut self, reached: u64, task: &Task<'_>) {
        while let Some((end, len)) = self.waiting.take().or_else(|| self.step()) {
            if end > reached {
                self.waiting = Some((end, len));
                return;
            }
            self.done += len;
            task.progress.update(self.done, self.total);
        }
    }

    /// Where the next step ends, and its length.
    fn step(&mut self) -> Option<(u64, u64)> {
        let end = self.len;
        while self.at < end {
            let (class, run_end) = self.run_at(self.at);
            let whole = align_down(run_end, self.unit);
            if class != Class::Data && whole > self.at {
                self.at = whole;
                continue;
            }
            let from = self.at;
            let data = align_up(run_end, self.unit).unwrap_or(end).min(end);
            self.at = data.min(from.saturating_add(self.limit));
            return Some((self.at, self.at - from));
        }
        None
    }

    fn run_at(&mut self, at: u64) -> (Class, u64) {
        if at >= self.run.1 {
            let rest = ByteRange::from_bounds(at, self.len);
            // The copying tells what is wrong.
            let (class, len) = self.walk.look(rest).unwrap_or_else(|_| {
                (Class::Data, if self.salvage { SECTOR.min(rest.len) } else { rest.len })
            });
            let class = if class == Class::Zero && self.fill { Class::Data } else { class };
            self.run = (class, at.saturating_add(len.max(1)));
        }
        self.run
    }
}
