//! Makes a sequence that goes wrong short: steps are dropped while it still goes wrong in the same way.

use super::step::Step;
use std::time::{Duration, Instant};

/// Longest time spent on one sequence.
const TIME: Duration = Duration::from_secs(40);

/// The fewest steps found for which `fails` is true; the last one is always kept.
pub fn shorten(steps: &[Step], fails: impl Fn(&[Step]) -> bool) -> Vec<Step> {
    let started = Instant::now();
    let mut kept = steps.to_vec();
    let mut size = (kept.len() / 2).max(1);
    loop {
        let mut shorter = false;
        let mut end = kept.len().saturating_sub(1);
        while end > 0 && started.elapsed() < TIME {
            let start = end.saturating_sub(size);
            let mut fewer = kept.clone();
            fewer.drain(start..end);
            if fails(&fewer) {
                kept = fewer;
                shorter = true;
            }
            end = start;
        }
        if started.elapsed() >= TIME || (size == 1 && !shorter) {
            return kept;
        }
        size = (size / 2).max(1);
    }
}
