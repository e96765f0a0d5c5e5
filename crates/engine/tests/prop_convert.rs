//! Conversions of random disks: the contents are the same, for every format, option and number of threads, and so is
//! every byte of the new image.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]
#![allow(clippy::cast_possible_truncation)]

mod common;

use std::num::NonZero;

use common::{contents, fill, qcow2, raw, speckled, stored};
use diskimg_core::{Repair, Task};
use diskimg_engine::{ConvertOptions, check, convert};
use diskimg_testkit::Rng;
use proptest::prelude::*;

fn options(workers: usize) -> ConvertOptions {
    ConvertOptions { workers: NonZero::new(workers), target_is_zero: true, ..ConvertOptions::default() }
}

/// Target options that change how clusters are placed.
const TARGETS: [&[&str]; 6] = [
    &[],
    &["cluster_size=512"],
    &["cluster_size=4k", "refcount_bits=1"],
    &["extended_l2=on"],
    &["cluster_size=2M"],
    &["compression_type=zstd", "refcount_bits=64"],
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_number_of_threads_makes_the_same_image(
        seed in any::<u64>(), sectors in 1usize..12_000, target in 0usize..TARGETS.len(), compress in any::<bool>(),
        sparse in prop::sample::select(vec![0u64, 512, 4096, 65536]), source_is_qcow2 in any::<bool>(),
    ) {
        let bytes = speckled(&mut Rng::new(seed), sectors * 512);
        let len = bytes.len() as u64;
        let source = if source_is_qcow2 {
            let (_, node) = qcow2(len, &["cluster_size=4k"]);
            fill(&node, &bytes, 12 * 512);
            node
        } else {
            raw(bytes.clone())
        };
        let mut images = Vec::new();
        for workers in [1, 2, 5] {
            let (storage, node) = qcow2(len, TARGETS[target]);
            let how = ConvertOptions { compress, sparse_size: sparse, ..options(workers) };
            let report = convert(&[&source], &node, &how, &Task::quiet()).unwrap();
            prop_assert_eq!(report.total, len);
            prop_assert!(contents(&node) == bytes, "other contents with {} threads", workers);
            let found = check(&node, Repair::Nothing, &mut |_| {}, &Task::quiet()).unwrap();
            prop_assert_eq!((found.corruptions, found.leaks, found.check_errors), (0, 0, 0));
            if sparse == 0 {
                prop_assert_eq!(stored(&node), len);
            }
            images.push(storage.to_vec());
        }
        prop_assert!(images[0] == images[1] && images[1] == images[2], "the images differ");
    }

    #[test]
    fn what_a_target_held_before_is_gone(
        seed in any::<u64>(), sectors in 1usize..6000, to_qcow2 in any::<bool>(), out_of_order in any::<bool>(),
        copy_range in any::<bool>(), source_is_qcow2 in any::<bool>(), extra in 0usize..5,
    ) {
        let mut rng = Rng::new(seed);
        let bytes = speckled(&mut rng, sectors * 512);
        let old = speckled(&mut rng, (sectors + extra) * 512);
        let source = if source_is_qcow2 {
            let (_, node) = qcow2(bytes.len() as u64, &[]);
            fill(&node, &bytes, 4096);
            node
        } else {
            raw(bytes.clone())
        };
        let target = if to_qcow2 { qcow2(old.len() as u64, &["cluster_size=8k"]).1 } else { raw(old.clone()) };
        fill(&target, &old, 8192);
        let how = ConvertOptions { out_of_order, copy_range, target_is_zero: false, ..options(3) };
        convert(&[&source], &target, &how, &Task::quiet()).unwrap();
        let mut expected = bytes.clone();
        expected.extend_from_slice(&old[bytes.len()..]);
        prop_assert!(contents(&target) == expected);
    }

    #[test]
    fn sources_follow_each_other(
        seed in any::<u64>(), sectors in prop::collection::vec(0usize..2000, 1..5), compress in any::<bool>(),
    ) {
        let mut rng = Rng::new(seed);
        let parts: Vec<Vec<u8>> = sectors.iter().map(|count| speckled(&mut rng, count * 512)).collect();
        let nodes: Vec<_> = parts.iter().map(|bytes| raw(bytes.clone())).collect();
        let all = parts.concat();
        let (_, target) = qcow2(all.len() as u64, &[]);
        let how = ConvertOptions { compress, ..options(2) };
        convert(&nodes.iter().collect::<Vec<_>>(), &target, &how, &Task::quiet()).unwrap();
        prop_assert!(contents(&target) == all);
    }
}
