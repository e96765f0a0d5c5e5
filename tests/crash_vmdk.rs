//! The crash test of VMDK images, as that of qcow2 (`crash_qcow2.rs`): whatever a flush acknowledged survives a crash at
//! any moment. Streams are written by conversions; one that was interrupted is recovered.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::process::ExitCode;
use std::sync::Arc;

use diskimg_core::{MemDevice, Task, to_usize};
use diskimg_engine::{ConvertOptions, convert};
use diskimg_testkit::crash::{self, Scenario};
use diskimg_testkit::{
    FormatSubject, History, Oracle, OverlaySubject, Recorder, Sampling, Subject, pattern, plain_node, suite,
};

/// Bytes of a grain.
const GRAIN: u64 = 64 << 10;
/// States that the oracle is asked about, per scenario.
const ORACLE_CHECKS: usize = 4;
/// Kinds of images that are written anywhere.
const KINDS: &[&[&str]] = &[&[], &["zeroed_grain=on"], &["subformat=twoGbMaxExtentSparse"]];
/// Kinds of streams.
const STREAMS: &[&[&str]] =
    &[&["subformat=streamOptimized"], &["subformat=streamOptimized", "zeroed_grain=on"]];

fn sampling(seed: u64) -> Sampling {
    Sampling { samples: crash::samples(120), seed }
}

fn subjects() -> Vec<Box<dyn Subject + Send>> {
    let plain = |options: &&'static [&'static str]| {
        FormatSubject::new(&diskimg_vmdk::DRIVER, (9 * GRAIN) + 512, options)
    };
    let mut all: Vec<Box<dyn Subject + Send>> = Vec::new();
    for subject in KINDS.iter().map(plain) {
        all.push(Box::new(subject));
    }
    for options in &KINDS[..2] {
        let top = FormatSubject::new(&diskimg_vmdk::DRIVER, 8 * GRAIN, options);
        all.push(Box::new(OverlaySubject {
            top,
            base: &diskimg_vmdk::DRIVER,
            base_len: 6 * GRAIN + 512,
            seed: 5,
        }));
    }
    all
}

fn main() -> ExitCode {
    let mut tests = vec![suite::with_oracle("qemu-img judges a part of the states", |_| ())];
    for subject in subjects() {
        tests.push(suite::plain(subject.name(), move || {
            crash::explore_tables(&*subject, GRAIN, sampling(1), ORACLE_CHECKS);
        }));
    }
    for options in KINDS.iter().chain(STREAMS) {
        let subject = FormatSubject::new(&diskimg_vmdk::DRIVER, 6 * GRAIN + 1024, options);
        tests.push(suite::plain(format!("create {}", subject.name()), move || {
            crash::explore_create(&subject, sampling(9));
        }));
    }
    for options in KINDS.iter().chain(STREAMS) {
        // More than one table of a stream is 32 MiB of disk: its data is sparse.
        let subject = FormatSubject::new(&diskimg_vmdk::DRIVER, 20 * GRAIN + 1024, options);
        let stream = STREAMS.contains(options);
        tests.push(suite::plain(format!("convert to {}", subject.name()), move || {
            converted(&subject, stream)
        }));
    }
    suite::run(tests)
}

/// A conversion into an image that was made before; `stream`: in two steps, with a flush between.
fn converted(subject: &FormatSubject, stream: bool) {
    let mut contents = vec![0; to_usize(subject.size)];
    for (number, part) in contents.chunks_mut(100_000).enumerate().filter(|(number, _)| number % 3 != 1) {
        part.copy_from_slice(&pattern(1 + number as u64, 0, part.len() as u64));
    }
    let recorder = Recorder::new();
    let shared = recorder.devices(subject.fresh().iter().map(|disk| disk.to_vec()));
    let mut history = History::new(subject.initial());
    let options = ConvertOptions { target_is_zero: true, ..ConvertOptions::default() };
    let half = 10 * GRAIN;
    let steps = if stream { vec![(0, half), (half, subject.size)] } else { vec![(0, subject.size)] };
    for (number, (from, to)) in steps.into_iter().enumerate() {
        // What was written before is left out: grains of a stream are written once.
        let mut part = vec![0; to_usize(to)];
        part[to_usize(from)..].copy_from_slice(&contents[to_usize(from)..to_usize(to)]);
        let source = plain_node(&diskimg_raw::DRIVER, Arc::new(MemDevice::from(part)), false).unwrap();
        let opened = subject.open(&shared, true).unwrap();
        history.wrote(recorder.position(), true, from, contents[to_usize(from)..to_usize(to)].to_vec());
        convert(&[&source], opened.node.as_ref().unwrap(), &options, &Task::quiet()).unwrap();
        history.flushed(recorder.position(), number + 1);
        drop(opened);
    }
    // qemu-img can't open a stream while it is written.
    let oracle_checks = if stream { 0 } else { ORACLE_CHECKS };
    let scenario =
        Scenario { name: "convert", prepare: &[], record: &[], sampling: sampling(3), oracle_checks };
    crash::judge_trace(subject, &scenario, &recorder.trace(), &history, Oracle::find());
}
