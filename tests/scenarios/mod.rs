//! What the crash and the fault tests of qcow2 do: images of several sorts, and operations on them by what they exercise.
#![allow(dead_code, unreachable_pub)]

use diskimg_core::{ByteRange, ZeroMode};
use diskimg_testkit::{FormatSubject, Op, OpMix, OverlaySubject, Subject};

/// Create options, the disk's length and the write unit in bytes.
pub const IMAGES: &[(&[&str], u64, u64)] = &[
    (&["cluster_size=512"], 48 << 10, 512),
    (&["cluster_size=512", "compat=0.10"], 48 << 10, 512),
    (&["cluster_size=1k", "refcount_bits=1"], 64 << 10, 1024),
    (&["cluster_size=512", "refcount_bits=64"], 96 << 10, 512),
    (&["cluster_size=4k", "compression_type=zstd"], 128 << 10, 4096),
    (&["cluster_size=16k", "extended_l2=on"], 256 << 10, 512),
    (&["cluster_size=4k", "data_file=data"], 128 << 10, 4096),
    (&["cluster_size=1k", "preallocation=metadata"], 64 << 10, 1024),
    (&["cluster_size=512", "lazy_refcounts=on"], 32 << 10, 512),
    (&["cluster_size=4k", "pass-discard-other=on"], 128 << 10, 4096),
    (&[], 640 << 10, 65536),
];

/// Images without a backing file.
pub fn plain_images() -> Vec<FormatSubject> {
    IMAGES
        .iter()
        .map(|(options, size, _)| FormatSubject::new(&diskimg_qcow2::DRIVER, *size, options))
        .collect()
}

/// Whether clusters of a new image of that kind can be written compressed.
pub fn takes_compressed(subject: &FormatSubject) -> bool {
    subject.options.iter().all(|(name, _)| !matches!(*name, "data_file" | "preallocation"))
}

/// Images over a backing file that is as long, shorter, or longer, and does not end with a cluster.
pub fn overlays() -> Vec<OverlaySubject> {
    let top = |options, size| FormatSubject::new(&diskimg_qcow2::DRIVER, size, options);
    let over =
        |options, size, base, base_len| OverlaySubject { top: top(options, size), base, base_len, seed: 5 };
    vec![
        over(&["cluster_size=512"], 48 << 10, &diskimg_raw::DRIVER, 48 << 10),
        over(&["cluster_size=2k"], 64 << 10, &diskimg_raw::DRIVER, 33 * 512),
        over(&["cluster_size=512", "compat=0.10"], 48 << 10, &diskimg_raw::DRIVER, 20 << 10),
        over(&["cluster_size=16k", "extended_l2=on"], 192 << 10, &diskimg_raw::DRIVER, 300 << 10),
        over(&["cluster_size=4k"], 128 << 10, &diskimg_qcow2::DRIVER, 100 << 10),
    ]
}

/// What is done before, and what is done then.
pub struct Scenario {
    /// What it exercises.
    pub name: &'static str,
    /// Before anything is recorded or fails.
    pub prepare: Vec<Op>,
    /// What is recorded, or fails.
    pub run: Vec<Op>,
}

/// Scenarios for a disk of `size` bytes that is written in units of `unit` bytes.
pub fn scenarios(size: u64, unit: u64) -> Vec<Scenario> {
    let whole = Op::Write(ByteRange::new(0, size), 2);
    let half = Op::Write(ByteRange::new(0, size / 2), 2);
    let none = OpMix::flushes(size + 8 * unit);
    let writes = OpMix { write: 30, ..none };
    let script = |mix: OpMix, seed| mix.script(seed, 24, size, unit);
    let named = |name, prepare: Option<&Op>, run| Scenario {
        name,
        prepare: prepare.cloned().into_iter().collect(),
        run,
    };
    vec![
        named("allocating writes", None, script(writes, 1)),
        named("overwrites", Some(&whole), script(writes, 2)),
        named("zeroes", Some(&whole), script(OpMix { zero: 30, write: 8, ..none }, 3)),
        named("discards and reuse", Some(&whole), script(OpMix { discard: 30, write: 20, ..none }, 4)),
        named("resizes", Some(&half), script(OpMix { set_len: 20, write: 20, ..none }, 5)),
        named("two-phase writes", Some(&half), script(OpMix { reserve: 30, discard: 5, ..none }, 6)),
        named("compressed clusters", None, script(OpMix { compress: 30, write: 10, discard: 6, ..none }, 7)),
        named("everything", Some(&half), OpMix::changes(size + 8 * unit).script(8, 60, size, unit)),
        named("resizes of compressed clusters", None, script(OpMix { set_len: 20, compress: 25, ..none }, 9)),
        named("shrink over data", Some(&whole), shrink(size, unit)),
        named("zeroes over a preallocated cluster", Some(&whole), rezero(size, unit)),
    ]
}

/// Cut off, flushed, grown again, written.
fn shrink(size: u64, unit: u64) -> Vec<Op> {
    let half = size / 2 / 512 * 512;
    let tail = ByteRange::new(half, size - half);
    vec![
        Op::SetLen(half),
        Op::Flush,
        Op::SetLen(size),
        Op::Write(ByteRange::new(half, unit), 3),
        Op::Flush,
        Op::Write(tail, 6),
        Op::SetLen(half + 512),
        Op::SetLen(size + unit),
        Op::Flush,
    ]
}

/// Allocated zeros, written in part, zeroed again.
fn rezero(size: u64, unit: u64) -> Vec<Op> {
    let some = ByteRange::new(0, (unit * 4).min(size));
    vec![
        Op::Zero(some, ZeroMode::KeepAllocated),
        Op::Flush,
        Op::Write(ByteRange::new(100, 200), 3),
        Op::Write(ByteRange::new(unit + 1, unit / 2), 6),
        Op::Flush,
        Op::Zero(some, ZeroMode::MayUnmap),
        Op::Write(ByteRange::new(unit * 2, 512), 9),
        Op::Flush,
    ]
}

/// All disks with their lengths and units.
pub fn all() -> Vec<(Box<dyn Subject + Send>, u64, u64)> {
    let mut all: Vec<(Box<dyn Subject + Send>, u64, u64)> = Vec::new();
    for (subject, (_, size, unit)) in plain_images().into_iter().zip(IMAGES) {
        all.push((Box::new(subject), *size, *unit));
    }
    for overlay in overlays() {
        let (size, unit) = (overlay.top.size, 2048);
        all.push((Box::new(overlay), size, unit));
    }
    all
}
