//! Guest operations, snapshots, bitmaps, amendments and repairs in any order, beside models of all of them. Findings of
//! the fuzz target `acts_qcow2` are kept here.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use diskimg_core::{BlockDevice as _, ByteRange, ZeroMode};
use diskimg_qcow2::DRIVER;
use diskimg_testkit::{Act, FormatSubject, Op, OpMix, Play, Rng, Session, run_shrinking};

/// Create options and the disk's length in bytes.
const GEOMETRIES: &[(&[&str], u64)] = &[
    (&["cluster_size=512"], 60 << 10),
    (&["cluster_size=512", "compat=0.10"], 60 << 10),
    (&["cluster_size=1k", "refcount_bits=2"], 100 << 10),
    (&["cluster_size=4k", "compression_type=zstd"], 200 << 10),
    (&["cluster_size=16k", "extended_l2=on"], 300 << 10),
    (&["cluster_size=2k", "data_file=data"], 100 << 10),
    (&["cluster_size=1k", "lazy_refcounts=on"], 100 << 10),
    (&[], 1 << 20),
];

const CHANGES: &[&str] = &[
    "refcount_bits=1",
    "refcount_bits=2",
    "refcount_bits=8",
    "refcount_bits=16",
    "refcount_bits=32",
    "refcount_bits=64",
    "compat=v2",
    "compat=v3",
    "lazy_refcounts=on",
    "lazy_refcounts=off",
];

fn script(seed: u64, size: u64, unit: u64) -> Vec<Act> {
    let mut rng = Rng::new(seed);
    let mix = OpMix { read: 0, extents: 0, check: 2, reopen: 6, set_len: 2, ..OpMix::all(size + size / 2) };
    let mut acts = Vec::new();
    for _ in 0..80 {
        let number = rng.below(4);
        acts.push(match rng.below(40) {
            0..=2 => Act::CreateSnapshot,
            3 | 4 => Act::ApplySnapshot(number),
            5 => Act::DeleteSnapshot(number),
            6 if rng.chance(50) => Act::AddBitmap(number, 512 << rng.below(6), rng.chance(75)),
            7 => Act::RemoveBitmap(number),
            8 => Act::MergeBitmap(number, rng.below(4)),
            9 => Act::EnableBitmap(number, rng.chance(60)),
            10 => Act::DeferBitmaps,
            11 => Act::StoreBitmaps,
            12..=14 => Act::Amend(CHANGES[rng.index(CHANGES.len())]),
            15 => Act::Repair,
            16 => Act::Compare,
            _ => Act::Guest(mix.next(&mut rng, size, unit)),
        });
    }
    acts
}

fn play(options: &[&'static str], size: u64, acts: &[Act]) {
    let subject = FormatSubject::new(&DRIVER, size, options);
    let mut play = Play::new(&subject);
    acts.iter().for_each(|act| play.act(act));
    play.finish();
}

#[test]
fn everything_in_any_order() {
    for (number, (options, size)) in GEOMETRIES.iter().enumerate() {
        let subject = FormatSubject::new(&DRIVER, *size, options);
        let unit = Session::in_memory(&subject).opened().device.limits().write_unit;
        for round in 0..diskimg_testkit::rounds(30) {
            let acts = script(round + 1000 * number as u64, *size, unit);
            run_shrinking(&acts, |acts| {
                let mut play = Play::new(&subject);
                acts.iter().for_each(|act| play.act(act));
                play.finish();
            });
        }
    }
}

#[test]
fn references_that_were_dropped_are_gone_before_zeros_are_counted() {
    let range = ByteRange::new;
    let acts = [
        Act::Guest(Op::Write(range(0x5800, 0xc00), 7)),
        Act::CreateSnapshot,
        Act::Guest(Op::Zero(range(0x6000, 0x1000), ZeroMode::KeepAllocated)),
        Act::CreateSnapshot,
        Act::Guest(Op::Reserve(range(0x1c00, 0x400), 0, false)),
        Act::Amend("compat=v2"),
    ];
    play(&["cluster_size=1k"], 100 << 10, &acts);
}

#[test]
fn changes_that_wait_are_stored_before_an_amendment() {
    let acts = [
        Act::AddBitmap(0, 512, true),
        Act::StoreBitmaps,
        Act::DeferBitmaps,
        Act::RemoveBitmap(0),
        Act::Amend("compat=v2"),
    ];
    play(&["cluster_size=4096"], 16896, &acts);
}
