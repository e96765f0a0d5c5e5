//! A full backup and a row of increments: each chain reads as the disk did when it was made, and an increment costs what
//! was written.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;

use diskimg_chain::{Node, NodeParts};
use diskimg_core::driver::OpenMode;
use diskimg_core::opener::NoReferences;
use diskimg_core::{BlockDevice as _, ByteRange, Task, ZeroMode};
use diskimg_engine::{ConvertOptions, backup, convert};
use diskimg_testkit::{FormatSubject, Rng, open_image, pattern};

const SIZE: u64 = 8 << 20;

fn image(options: &[&'static str], below: Option<&Node>) -> Node {
    let disk = FormatSubject::new(&diskimg_qcow2::DRIVER, SIZE, options).fresh().remove(0);
    let mode = OpenMode { write: true, ..OpenMode::default() };
    let image = open_image(&diskimg_qcow2::DRIVER, Arc::clone(&disk) as _, mode, &NoReferences).unwrap();
    let mut parts = NodeParts::new(image, "image");
    parts.mode.read_only = false;
    Node::assemble(parts, below.cloned())
}

fn contents(node: &Node) -> Vec<u8> {
    let mut all = vec![0; usize::try_from(SIZE).unwrap()];
    node.read_at(0, &mut all).unwrap();
    all
}

#[test]
fn increments_restore_every_moment() {
    let disk = image(&["cluster_size=4k"], None);
    let mut rng = Rng::new(3);
    for number in 0..40 {
        disk.write_at(rng.below(SIZE - 20_000), &pattern(1 + number, 0, 1 + rng.below(20_000))).unwrap();
    }
    backup::start(&disk, "daily").unwrap();
    assert!(backup::start(&disk, "daily").is_err());
    let full = image(&[], None);
    convert(&[&disk], &full, &ConvertOptions::default(), &Task::quiet()).unwrap();
    assert!(contents(&full) == contents(&disk));
    let mut chain = vec![(full, contents(&disk))];
    for round in 0..5u64 {
        let mut written = 0;
        for number in 0..6 {
            let (at, len) = (rng.below(SIZE - 70_000), 1 + rng.below(10_000));
            if number == 4 {
                disk.write_zeroes(ByteRange::new(at, len + 60_000), ZeroMode::MayUnmap).unwrap();
            } else {
                disk.write_at(at, &pattern(100 * (round + 1) + number, at, len)).unwrap();
            }
            written += len.next_multiple_of(4096) + 2 * 4096 + 64_000;
        }
        let below = &chain.last().unwrap().0;
        let options = &["backing_file=below", "backing_fmt=qcow2"];
        let next = image(options, Some(below));
        let report = backup::increment(&disk, "daily", &next, &Task::quiet()).unwrap();
        assert!(report.copied <= report.marked && report.marked <= written, "{report:?} of {written}");
        chain.push((next, contents(&disk)));
        let again = image(options, Some(&chain.last().unwrap().0));
        assert_eq!(backup::increment(&disk, "daily", &again, &Task::quiet()).unwrap().marked, 0);
    }
    for (number, (node, then)) in chain.iter().enumerate() {
        assert!(contents(node) == *then, "backup {number}");
    }
    let short = image(&[], None);
    short.set_len(SIZE / 2, diskimg_core::Prealloc::Off).unwrap();
    assert!(backup::increment(&disk, "daily", &short, &Task::quiet()).is_err());
    assert!(backup::increment(&disk, "nosuch", &image(&[], None), &Task::quiet()).is_err());
}
