//! Finds the runs of zeros in bytes that were read.
//!
//! Zeros are looked for in blocks on borders of `block` bytes of the disk; a run of zero blocks counts if it is at
//! least `least` bytes long, or all there is.

use diskimg_core::{ByteRange, align_down, is_zero, to_usize};

/// How zeros are looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct ZeroRules {
    /// The unit that is tested at once: what the target can leave out.
    pub(super) block: u64,
    /// The least run that is left out, in bytes.
    pub(super) least: u64,
}

/// Calls `emit` with the runs that `buf`, the bytes of `range`, is made of: ascending, without gaps; true: zeros.
pub(super) fn split(buf: &[u8], range: ByteRange, rules: ZeroRules, mut emit: impl FnMut(ByteRange, bool)) {
    let mut data_from = range.start;
    let mut zero_from = None;
    let mut at = range.start;
    while at < range.end() {
        let end = range.end().min(align_down(at, rules.block).saturating_add(rules.block.max(1)));
        let block = buf.get(to_usize(at - range.start)..to_usize(end - range.start)).unwrap_or_default();
        if is_zero(block) {
            zero_from.get_or_insert(at);
        } else if let Some(from) = zero_from.take() {
            data_from = end_run(data_from, ByteRange::from_bounds(from, at), range, rules, &mut emit);
        }
        at = end;
    }
    if let Some(from) = zero_from {
        data_from = end_run(data_from, ByteRange::from_bounds(from, range.end()), range, rules, &mut emit);
    }
    if data_from < range.end() {
        emit(ByteRange::from_bounds(data_from, range.end()), false);
    }
}

/// Emits the data before the run `zeros`, and the run, if it is long enough. Returns where data begins next.
fn end_run(
    data_from: u64,
    zeros: ByteRange,
    range: ByteRange,
    rules: ZeroRules,
    emit: &mut impl FnMut(ByteRange, bool),
) -> u64 {
    if zeros.len < rules.least && zeros != range {
        return data_from;
    }
    if data_from < zeros.start {
        emit(ByteRange::from_bounds(data_from, zeros.start), false);
    }
    emit(zeros, true);
    zeros.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(buf: &[u8], start: u64, block: u64, least: u64) -> Vec<(u64, u64, bool)> {
        let mut found = Vec::new();
        let range = ByteRange::new(start, buf.len() as u64);
        split(buf, range, ZeroRules { block, least }, |run, zero| found.push((run.start, run.len, zero)));
        found
    }

    #[test]
    fn short_runs_are_data_and_long_ones_are_not() {
        let mut buf = vec![1; 64];
        buf[8..16].fill(0);
        buf[33..60].fill(0);
        assert_eq!(
            runs(&buf, 0, 8, 8),
            [(0, 8, false), (8, 8, true), (16, 24, false), (40, 16, true), (56, 8, false)]
        );
        assert_eq!(runs(&buf, 0, 8, 16), [(0, 40, false), (40, 16, true), (56, 8, false)]);
        assert_eq!(runs(&buf, 0, 8, 24), [(0, 64, false)]);
    }

    #[test]
    fn blocks_are_those_of_the_disk_and_nothing_but_zeros_is_a_run() {
        let buf = [0; 10];
        assert_eq!(runs(&buf, 3, 8, 4096), [(3, 10, true)]);
        let mut buf = [0; 10];
        buf[9] = 1;
        assert_eq!(runs(&buf, 3, 8, 4), [(3, 5, true), (8, 5, false)]);
        assert_eq!(runs(&[], 3, 8, 4), []);
    }
}
