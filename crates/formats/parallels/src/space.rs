//! [`HostSpace`]: which host clusters are free. Kept as runs, so that memory is bounded by the entries of the table.

use std::collections::BTreeMap;

/// Host clusters are numbered from where data begins.
#[derive(Debug, Default)]
pub(crate) struct HostSpace {
    /// Number of the first cluster behind all that are in use.
    end: u64,
    /// Free runs before `end`: first cluster and how many.
    holes: BTreeMap<u64, u64>,
}

impl HostSpace {
    /// The space around runs (first, count) in use, which come in any order and may overlap.
    pub(crate) fn around(mut used: Vec<(u64, u64)>) -> Self {
        used.sort_unstable();
        let mut space = Self::default();
        for (first, count) in used {
            if first > space.end {
                space.holes.insert(space.end, first - space.end);
            }
            space.end = space.end.max(first.saturating_add(count));
        }
        space
    }

    /// Takes up to `most` clusters that follow each other, the first hole first, none from number `limit` on.
    pub(crate) fn take(&mut self, most: u64, limit: u64) -> Option<(u64, u64)> {
        if let Some((first, count)) = self.holes.pop_first() {
            let taken = count.min(most);
            if taken < count {
                self.holes.insert(first + taken, count - taken);
            }
            return Some((first, taken));
        }
        let first = self.end;
        let count = most.min(limit.saturating_sub(first));
        self.end += count;
        (count > 0).then_some((first, count))
    }

    /// Takes `count` clusters back.
    pub(crate) fn give_back(&mut self, mut first: u64, mut count: u64) {
        if let Some(behind) = self.holes.remove(&(first + count)) {
            count += behind;
        }
        if let Some((before, len)) = self.holes.range(..first).next_back().map(|(start, len)| (*start, *len))
            && before + len == first
        {
            (first, count) = (before, count + len);
        }
        if first + count == self.end {
            self.holes.remove(&first);
            self.end = first;
        } else {
            self.holes.insert(first, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_taken_first_and_joined() {
        let mut space = HostSpace::around(vec![(7, 1), (0, 1), (3, 2), (3, 1)]);
        assert_eq!(space.end, 8);
        assert_eq!(space.take(5, 100), Some((1, 2)));
        assert_eq!(space.take(1, 100), Some((5, 1)));
        assert_eq!(space.take(5, 100), Some((6, 1)));
        assert_eq!(space.take(5, 10), Some((8, 2)));
        assert_eq!(space.take(1, 10), None);
        space.give_back(2, 1);
        space.give_back(4, 1);
        space.give_back(3, 1);
        assert_eq!(space.take(9, 10), Some((2, 3)));
        space.give_back(8, 2);
        space.give_back(7, 1);
        assert_eq!(space.end, 7);
    }
}
