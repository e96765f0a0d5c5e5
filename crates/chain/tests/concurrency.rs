//! Writers of one unit exclude each other; writers of different units do not.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod common;

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use common::FakeImage;
use diskimg_core::RangeLock;
use diskimg_core::{BlockDevice, ByteRange, ZeroMode};

#[test]
fn no_writer_loses_the_bytes_of_another_in_the_same_unit() {
    const THREADS: usize = 8;
    const LEN: usize = 1 << 18;
    for round in 0..10u8 {
        let base = FakeImage::new(LEN as u64, 4096, true);
        let node = FakeImage::new(LEN as u64, 1 << 14, true).node(Some(base.node(None)));
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let node = node.clone();
                scope.spawn(move || {
                    // Every thread owns each eighth piece of 100 bytes: units are shared by all.
                    for at in (thread * 100..LEN - 100).step_by(THREADS * 100) {
                        node.write_at(at as u64, &[thread as u8 + 1 + round; 100]).unwrap();
                        if at % 3 == 0 {
                            node.write_zeroes(ByteRange::new(at as u64, 50), ZeroMode::MayUnmap).unwrap();
                        }
                    }
                });
            }
        });
        let mut all = vec![0; LEN];
        node.read_at(0, &mut all).unwrap();
        for thread in 0..THREADS {
            for at in (thread * 100..LEN - 100).step_by(THREADS * 100) {
                let head = if at % 3 == 0 { 0 } else { thread as u8 + 1 + round };
                assert!(all[at..at + 50].iter().all(|byte| *byte == head), "{at}");
                assert!(all[at + 50..at + 100].iter().all(|byte| *byte == thread as u8 + 1 + round), "{at}");
            }
        }
    }
}

#[test]
fn ranges_that_overlap_exclude_each_other() {
    let lock = RangeLock::default();
    let inside: Vec<AtomicU32> = (0..64).map(|_| AtomicU32::new(0)).collect();
    std::thread::scope(|scope| {
        for thread in 0..6u64 {
            let (lock, inside) = (&lock, &inside);
            scope.spawn(move || {
                let mut seed = thread + 1;
                for _ in 0..2000 {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let (start, len) = ((seed >> 33) % 60, (seed >> 50) % 4 + 1);
                    let _guard = lock.lock(ByteRange::new(start, len));
                    for at in start..start + len {
                        assert_eq!(inside[at as usize].fetch_add(1, Ordering::SeqCst), 0);
                    }
                    for at in start..start + len {
                        inside[at as usize].fetch_sub(1, Ordering::SeqCst);
                    }
                }
            });
        }
    });
}

#[test]
fn ranges_apart_are_held_together() {
    let lock = RangeLock::default();
    let together = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            let (lock, together) = (&lock, &together);
            scope.spawn(move || {
                let _guard = lock.lock(ByteRange::new(thread * 100, 100));
                together.fetch_add(1, Ordering::SeqCst);
                // Ends only when both hold theirs.
                while together.load(Ordering::SeqCst) < 2 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        }
    });
    let _empty = lock.lock(ByteRange::new(5, 0));
    let _all = lock.lock(ByteRange::new(0, u64::MAX));
}
