//! Weighted ranges: how often is each place covered? In the time of a sort, however much the ranges overlap, so that
//! an image that names the same table thousands of times costs no more than one that names it once.

/// `len` units from `start`, counted `weight` times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Weighted {
    /// First unit.
    pub start: u64,
    /// Units.
    pub len: u64,
    /// How often.
    pub weight: u64,
}

/// Ranges (start, length) to be counted.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// Places where the weight changes.
    steps: Vec<(u64, i64)>,
}

impl Sweep {
    /// Adds a range, empty ones too.
    pub(super) fn add(&mut self, start: u64, len: u64) {
        if len != 0 {
            self.steps.push((start, 1));
            self.steps.push((start.saturating_add(len), -1));
        }
    }

    /// Disjoint ranges in ascending order, with the number of added ranges that cover each.
    pub(super) fn finish(mut self) -> Vec<Weighted> {
        self.steps.sort_unstable();
        let mut found = Vec::new();
        let (mut weight, mut from) = (0i64, 0);
        for (at, step) in self.steps {
            if at > from {
                if let Some(weight) = u64::try_from(weight).ok().filter(|weight| *weight != 0) {
                    found.push(Weighted { start: from, len: at - from, weight });
                }
                from = at;
            }
            weight += step;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_are_weighted_and_gaps_left_out() {
        let mut sweep = Sweep::default();
        [(0, 10), (5, 10), (5, 2), (20, 1), (30, 0)]
            .into_iter()
            .for_each(|(start, len)| sweep.add(start, len));
        let found: Vec<_> = sweep.finish().iter().map(|w| (w.start, w.len, w.weight)).collect();
        assert_eq!(found, [(0, 5, 1), (5, 2, 3), (7, 3, 2), (10, 5, 1), (20, 1, 1)]);
    }
}
