//! Random operations on a chain of fake images beside a flat model of the disk.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::cast_possible_truncation)]

mod common;

use std::sync::Arc;

use common::{FakeImage, Unit};
use diskimg_chain::{DetectZeroes, Node, NodeParts, StackOptions};
use diskimg_core::{BlockDevice, ByteRange, ExtentFlags, Prealloc, ZeroMode};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Write(u16, u16, u8),
    Zero(u16, u16, bool),
    FastZero(u16, u16),
    Discard(u16, u16),
    Reserve(u16, u16, u8),
    Resize(u16),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (any::<u16>(), any::<u16>(), 1u8..).prop_map(|(at, len, fill)| Op::Write(at, len, fill)),
        3 => (any::<u16>(), any::<u16>(), any::<bool>()).prop_map(|(at, len, unmap)| Op::Zero(at, len, unmap)),
        1 => (any::<u16>(), any::<u16>()).prop_map(|(at, len)| Op::FastZero(at, len)),
        1 => (any::<u16>(), any::<u16>()).prop_map(|(at, len)| Op::Discard(at, len)),
        1 => (any::<u16>(), any::<u16>(), 1u8..).prop_map(|(at, len, fill)| Op::Reserve(at, len, fill)),
        1 => any::<u16>().prop_map(Op::Resize),
    ]
}

/// A layer: length, unit, and what its units are (0 absent, 1 zero, else data).
type Plan = (u16, u32, Vec<u8>);

fn layer() -> impl Strategy<Value = Plan> {
    (0u16..40_000, 9u32..14, proptest::collection::vec(0u8..5, 80))
}

fn build(plans: &[Plan], zeroing: bool) -> (Node, Vec<u8>) {
    let mut below: Option<(Node, Vec<u8>)> = None;
    for (index, (len, shift, kinds)) in plans.iter().enumerate() {
        let (len, unit) = (u64::from(*len), 1u64 << shift);
        let image = FakeImage::new(len, unit, zeroing);
        let (node, mut bytes) = match below.take() {
            Some((node, bytes)) => (Some(node), bytes),
            None => (None, Vec::new()),
        };
        bytes.resize(len as usize, 0);
        for (at, kind) in kinds.iter().enumerate() {
            let range = ByteRange::new(at as u64 * unit, unit).intersect(ByteRange::new(0, len));
            if range.is_empty() {
                break;
            }
            let fill = match kind {
                0 | 4 => continue,
                1 => 0,
                _ => (index as u8 + 1) * 40 + at as u8 % 40,
            };
            let unit = if fill == 0 { Unit::Zero } else { Unit::Data(vec![fill; unit as usize]) };
            image.set(at, unit);
            bytes[range.start as usize..range.end() as usize].fill(fill);
        }
        below = Some((image.node(node), bytes));
    }
    below.unwrap()
}

fn place(at: u16, len: u16, disk: usize) -> ByteRange {
    let start = u64::from(at) % (disk as u64 + 1);
    // Short and long requests, some of whole sectors.
    let len = match len % 4 {
        0 => u64::from(len) % 700,
        1 => u64::from(len) % 20_000,
        2 => u64::from(len % 16) * 512,
        _ => u64::from(len),
    };
    let start = if at.is_multiple_of(3) { start / 512 * 512 } else { start };
    ByteRange::new(start, len.min(disk as u64 - start))
}

fn part(model: &mut [u8], range: ByteRange) -> &mut [u8] {
    &mut model[range.start as usize..range.end() as usize]
}

fn check(node: &Node, model: &[u8]) {
    assert_eq!(node.len(), model.len() as u64);
    let mut all = vec![0x55; model.len()];
    node.read_at(0, &mut all).unwrap();
    assert!(all == model, "first difference at {:?}", all.iter().zip(model).position(|(a, b)| a != b));
    let mut extents = Vec::new();
    let all = ByteRange::new(0, node.len());
    node.device()
        .each_extent(all, &mut |at, extent| {
            extents.push((at, extent.len, extent.flags));
            Ok(())
        })
        .unwrap();
    let mut walk = node.status_walk();
    let mut walked = Vec::new();
    let mut at = 0;
    while at < node.len() {
        let status = walk.status(ByteRange::from_bounds(at, node.len())).unwrap();
        walked.push((at, status.len, status.flags));
        at += status.len;
    }
    assert_eq!(extents, walked);
    let mut walked = walked.into_iter();
    let mut at = 0;
    while at < node.len() {
        let range = ByteRange::from_bounds(at, node.len());
        let status = node.status(range).unwrap();
        assert_eq!(walked.next(), Some((at, status.len, status.flags)));
        let extent = node.extent_at(range).unwrap();
        assert_eq!((extent.len, extent.flags), (status.len, status.flags));
        assert!(status.len > 0 && status.len <= range.len);
        assert!(!status.flags.is_empty());
        let bytes = &model[at as usize..(at + status.len) as usize];
        if status.flags.contains(ExtentFlags::ZERO) {
            assert!(bytes.iter().all(|byte| *byte == 0));
        }
        assert_eq!(
            std::ptr::from_ref(node.layers().nth(status.depth).unwrap()),
            std::ptr::from_ref(status.layer)
        );
        at += status.len;
    }
}

fn apply(node: &Node, model: &mut Vec<u8>, op: &Op, unit: u64, zeroing: bool) {
    match *op {
        Op::Write(at, len, fill) => {
            let range = place(at, len, model.len());
            let bytes: Vec<u8> = (0..range.len).map(|i| fill.wrapping_add((i / 64) as u8) | 1).collect();
            node.write_at(range.start, &bytes).unwrap();
            part(model, range).copy_from_slice(&bytes);
        }
        Op::Zero(at, len, unmap) => {
            let range = place(at, len, model.len());
            node.write_zeroes(range, if unmap { ZeroMode::MayUnmap } else { ZeroMode::KeepAllocated })
                .unwrap();
            part(model, range).fill(0);
        }
        Op::FastZero(at, len) => {
            let range = place(at, len, model.len());
            if node.write_zeroes(range, ZeroMode::FastOnly).is_ok() {
                part(model, range).fill(0);
            }
        }
        Op::Discard(at, len) => {
            let range = place(at, len, model.len());
            node.discard(range).unwrap();
            let start = range.start.next_multiple_of(unit);
            let end = if range.end() == model.len() as u64 { range.end() } else { range.end() / unit * unit };
            if zeroing && start < end {
                part(model, ByteRange::from_bounds(start, end)).fill(0);
            }
        }
        Op::Reserve(at, len, fill) => {
            let range = place(at, len, model.len());
            let bytes = vec![fill; range.len as usize];
            let dropped = node.reserve(range).unwrap();
            drop(dropped);
            if let Some(reservation) = node.reserve(range).unwrap() {
                reservation.write_at(range.start, &bytes).unwrap();
                reservation.commit().unwrap();
                part(model, range).copy_from_slice(&bytes);
            }
        }
        Op::Resize(len) => {
            let len = usize::from(len) % 50_000;
            node.set_len(len as u64, Prealloc::Off).unwrap();
            model.resize(len, 0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_chain_is_a_flat_disk(
        plans in proptest::collection::vec(layer(), 1..4),
        zeroing in any::<bool>(),
        ops in proptest::collection::vec(op(), 0..25),
    ) {
        let unit = 1u64 << plans.last().unwrap().1;
        let (node, mut model) = build(&plans, zeroing);
        check(&node, &model);
        for op in &ops {
            apply(&node, &mut model, op, unit, zeroing);
        }
        check(&node, &model);
    }
}

#[test]
fn a_partly_zeroed_unit_is_zeroed_as_a_whole_if_nothing_else_is_in_it() {
    let base = FakeImage::new(1 << 16, 4096, true);
    base.set(1, Unit::Data(vec![7; 4096]));
    let top = Arc::new(FakeImage::new(1 << 16, 4096, true));
    let below = base.node(None);
    let node = Node::assemble(NodeParts::new(top.clone(), "top"), Some(below));
    // Unit 0 reads as zeros, unit 1 does not.
    node.write_zeroes(ByteRange::new(100, 4196), ZeroMode::MayUnmap).unwrap();
    let units = top.states();
    assert_eq!(units[0], Unit::Zero);
    let Unit::Data(bytes) = &units[1] else { panic!("{:?}", units[1]) };
    assert_eq!((bytes[..200].iter().max(), bytes[200..].iter().min()), (Some(&0), Some(&7)));
}

#[test]
fn growing_over_a_longer_backing_file_shows_zeros() {
    let base = FakeImage::new(1 << 16, 4096, true);
    for unit in 0..16 {
        base.set(unit, Unit::Data(vec![9; 4096]));
    }
    for zeroing in [false, true] {
        let base = FakeImage::new(1 << 16, 4096, true);
        (0..16).for_each(|unit| base.set(unit, Unit::Data(vec![9; 4096])));
        let node = FakeImage::new(10_000, 8192, zeroing).node(Some(base.node(None)));
        node.set_len(100_000, Prealloc::Off).unwrap();
        let mut all = vec![1; 100_000];
        node.read_at(0, &mut all).unwrap();
        assert!(all[..10_000].iter().all(|byte| *byte == 9));
        assert!(all[10_000..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn zeros_are_detected_and_unmapping_is_off_unless_wanted() {
    let open = |detect_zeroes, unmap| {
        let top = Arc::new(FakeImage::new(1 << 14, 4096, true));
        let mut parts = NodeParts::new(top.clone(), "top");
        parts.mode.stack = StackOptions { unmap, detect_zeroes };
        (top, Node::assemble(parts, None))
    };
    for (detect, unmap, unit) in [
        (DetectZeroes::Off, true, Unit::Data(vec![0; 4096])),
        (DetectZeroes::On, false, Unit::Zero),
        (DetectZeroes::Unmap, true, Unit::Zero),
    ] {
        let (top, node) = open(detect, unmap);
        node.write_at(0, &[0; 4096]).unwrap();
        assert_eq!(top.states()[0], unit, "{detect:?}");
    }
    let (top, node) = open(DetectZeroes::Off, false);
    node.write_at(0, &[5; 4096]).unwrap();
    node.discard(ByteRange::new(0, 4096)).unwrap();
    assert_eq!(top.states()[0], Unit::Data(vec![5; 4096]));
}

#[test]
fn a_read_only_node_refuses_every_change() {
    let mut parts = NodeParts::new(Arc::new(FakeImage::new(8192, 512, true)), "top");
    parts.mode.read_only = true;
    let node = Node::assemble(parts, None);
    let range = ByteRange::new(0, 512);
    assert!(node.write_at(0, &[1; 512]).is_err());
    assert!(node.write_zeroes(range, ZeroMode::MayUnmap).is_err());
    assert!(node.discard(range).is_err());
    assert!(node.set_len(0, Prealloc::Off).is_err());
    assert!(node.reserve(range).is_err());
}
