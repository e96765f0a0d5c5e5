//! One writer at a time, for a target whose file takes no more than one.
//!
//! The kernel lets one thread write to a buffered file; another one that tries spins meanwhile. So units whose bytes go
//! into such a file stand in line, and one thread, who has the pen, writes them all while the others read. Invariant:
//! whoever joins a line without a writer writes until the line is empty, so no unit is left behind.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::pipeline::Work;
use super::place::Places;

/// The line of units that are to be written.
#[derive(Debug, Default)]
pub(super) struct Pen<'a>(Mutex<Line<'a>>);

#[derive(Debug, Default)]
struct Line<'a> {
    /// A thread has the pen.
    held: bool,
    waiting: VecDeque<(Work, Places<'a>)>,
}

impl<'a> Pen<'a> {
    /// Adds a unit to the line. True: the caller has the pen now, until [`next`](Self::next) has nothing for it.
    pub(super) fn join(&self, work: Work, places: Places<'a>) -> bool {
        let mut line = self.0.lock();
        line.waiting.push_back((work, places));
        !std::mem::replace(&mut line.held, true)
    }

    /// The unit that is written next; `None` takes the pen away.
    pub(super) fn next(&self) -> Option<(Work, Places<'a>)> {
        let mut line = self.0.lock();
        let next = line.waiting.pop_front();
        line.held = next.is_some();
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_the_pen_and_writes_what_joins_meanwhile() {
        let pen = Pen::default();
        let join = || pen.join(Work::default(), Vec::new());
        assert!(join());
        assert!(!join());
        assert!(pen.next().is_some());
        assert!(!join());
        assert!(pen.next().is_some() && pen.next().is_some() && pen.next().is_none());
        assert!(join());
        assert!(pen.next().is_some() && pen.next().is_none());
    }
}
