//! Comparing and mapping.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]
#![allow(clippy::cast_possible_truncation)]

mod common;

use std::num::NonZero;

use common::{fill, qcow2, raw, speckled};
use diskimg_chain::Node;
use diskimg_core::{BlockDevice, ByteRange, Task, ZeroMode};
use diskimg_engine::{CompareOptions, CompareReport, Difference, compare, map};
use diskimg_testkit::Rng;
use proptest::prelude::*;

fn compared(left: &Node, right: &Node, strict: bool) -> CompareReport {
    let options = CompareOptions { strict, workers: NonZero::new(3) };
    compare(left, right, &options, &Task::quiet()).unwrap()
}

const SAME: CompareReport = CompareReport { size_mismatch: false, difference: None };

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn the_first_difference_is_found(
        seed in any::<u64>(), sectors in 1usize..9000, changes in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let bytes = speckled(&mut Rng::new(seed), sectors * 512);
        let (_, left) = qcow2(bytes.len() as u64, &[]);
        fill(&left, &bytes, 4096);
        let mut other = bytes.clone();
        let places: Vec<usize> = changes.iter().map(|index| index.index(bytes.len())).collect();
        places.iter().for_each(|at| other[*at] ^= 0x41);
        let first = (0..bytes.len()).find(|at| bytes[*at] != other[*at]);
        let report = compared(&left, &raw(other), false);
        let expected = first.map(|at| Difference::Content { offset: (at / 512 * 512) as u64 });
        prop_assert_eq!(report, CompareReport { size_mismatch: false, difference: expected });
    }

    #[test]
    fn entries_tile_the_range_and_differ_from_their_neighbours(
        seed in any::<u64>(), sectors in 1usize..9000, start in any::<prop::sample::Index>(), len in 1u64..3_000_000,
    ) {
        let bytes = speckled(&mut Rng::new(seed), sectors * 512);
        let (_, node) = qcow2(bytes.len() as u64, &["cluster_size=4k"]);
        fill(&node, &bytes, 8192);
        let range = ByteRange::new(start.index(bytes.len()) as u64, len);
        let mut at = range.start;
        map(&node, range, &Task::quiet(), &mut |entry| {
            assert_eq!(entry.start, at);
            assert!(entry.length > 0);
            at += entry.length;
            let part = &bytes[entry.start as usize..at as usize];
            if entry.zero {
                assert!(part.iter().all(|byte| *byte == 0));
            }
            Ok(())
        }).unwrap();
        prop_assert_eq!(at, range.end().min(bytes.len() as u64));
    }
}

#[test]
fn sizes_may_differ_by_zeros() {
    let (short, mut long) = (raw(vec![1; 4096]), vec![1; 4096]);
    long.resize(8192, 0);
    let report = compared(&short, &raw(long.clone()), false);
    assert_eq!(report, CompareReport { size_mismatch: true, difference: None });
    long[6000] = 1;
    let report = compared(&raw(long.clone()), &short, false);
    let offset = 6000 / 512 * 512;
    assert_eq!(
        report,
        CompareReport { size_mismatch: true, difference: Some(Difference::Content { offset }) }
    );
    long[100] = 2;
    let report = compared(&raw(long.clone()), &short, false);
    let first = Some(Difference::Content { offset: 0 });
    assert_eq!(report, CompareReport { size_mismatch: false, difference: first });
    assert_eq!(compared(&raw(long), &short, true).difference, Some(Difference::Size));
}

#[test]
fn strict_mode_looks_at_what_is_allocated() {
    let ((_, empty), (_, zeroed)) = (qcow2(1 << 20, &[]), qcow2(1 << 20, &[]));
    zeroed.write_zeroes(ByteRange::new(1 << 19, 1 << 16), ZeroMode::MayUnmap).unwrap();
    assert_eq!(compared(&empty, &zeroed, false), SAME);
    let difference = Some(Difference::Status { offset: 1 << 19 });
    assert_eq!(compared(&empty, &zeroed, true), CompareReport { size_mismatch: false, difference });
    assert_eq!(compared(&empty, &empty, true), SAME);
}
