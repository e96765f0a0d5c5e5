//! The crash test of formats with tables of tables (qcow version 1, qed), as that of qcow2 (`crash_qcow2.rs`): whatever a
//! flush acknowledged survives a crash at any moment.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::process::ExitCode;
use std::sync::Arc;

use diskimg_core::{FormatDriver, MemDevice, Task, to_usize};
use diskimg_engine::{ConvertOptions, convert};
use diskimg_testkit::crash::{self, Scenario};
use diskimg_testkit::{
    FormatSubject, History, Oracle, OverlaySubject, Recorder, Sampling, Subject, pattern, plain_node, suite,
};

/// What the operations are measured in, in bytes.
const UNIT: u64 = 16 << 10;
/// States that the oracle is asked about, per scenario: it can check one of the formats.
fn oracle_checks(subject: &dyn Subject) -> usize {
    if subject.format() == "qed" { 4 } else { 0 }
}

/// Formats and create options.
const KINDS: &[(&FormatDriver, &[&str])] = &[
    (&diskimg_qed::DRIVER, &["cluster_size=4k", "table_size=2"]),
    (&diskimg_qed::DRIVER, &[]),
    (&diskimg_qcow::DRIVER, &[]),
    (&diskimg_qcow::DRIVER, &["encrypt.format=aes", "encrypt.key-secret=s"]),
];

fn sampling(seed: u64) -> Sampling {
    Sampling { samples: crash::samples(80), seed }
}

fn subjects() -> Vec<Box<dyn Subject + Send>> {
    let mut all: Vec<Box<dyn Subject + Send>> = Vec::new();
    for (driver, options) in KINDS {
        all.push(Box::new(FormatSubject::new(driver, 9 * UNIT + 512, options)));
    }
    for (driver, options) in [KINDS[0], KINDS[2]] {
        let top = FormatSubject::new(driver, 8 * UNIT, options);
        let base = &diskimg_raw::DRIVER;
        all.push(Box::new(OverlaySubject { top, base, base_len: 6 * UNIT + 512, seed: 5 }));
    }
    all
}

fn main() -> ExitCode {
    let mut tests = vec![suite::with_oracle("qemu-img judges a part of the states", |_| ())];
    for subject in subjects() {
        tests.push(suite::plain(subject.name(), move || {
            crash::explore_tables(&*subject, UNIT, sampling(1), oracle_checks(&*subject));
        }));
    }
    for (driver, options) in KINDS {
        let subject = FormatSubject::new(driver, 6 * UNIT + 1024, options);
        tests.push(suite::plain(format!("create {}", subject.name()), move || {
            crash::explore_create(&subject, sampling(9));
        }));
        // More than one table of the smallest clusters.
        let subject = FormatSubject::new(driver, (5 << 20) + 1024, options);
        tests.push(suite::plain(format!("convert to {}", subject.name()), move || converted(&subject)));
    }
    suite::run(tests)
}

/// A conversion into an image that was made before, compressed where that is possible.
fn converted(subject: &FormatSubject) {
    let mut contents = vec![0; to_usize(subject.size)];
    for (number, part) in contents.chunks_mut(100_000).enumerate().filter(|(number, _)| number % 9 == 1) {
        part.copy_from_slice(&pattern(1 + number as u64, 0, part.len() as u64));
    }
    let recorder = Recorder::new();
    let shared = recorder.devices(subject.fresh().iter().map(|disk| disk.to_vec()));
    let mut history = History::new(subject.initial());
    let compress = subject.driver.name == "qcow" && subject.options.is_empty();
    let options = ConvertOptions { target_is_zero: true, compress, ..ConvertOptions::default() };
    let source =
        plain_node(&diskimg_raw::DRIVER, Arc::new(MemDevice::from(contents.clone())), false).unwrap();
    let opened = subject.open(&shared, true).unwrap();
    history.wrote(recorder.position(), true, 0, contents);
    convert(&[&source], opened.node.as_ref().unwrap(), &options, &Task::quiet()).unwrap();
    history.flushed(recorder.position(), 1);
    drop(opened);
    let scenario = Scenario {
        name: "convert",
        prepare: &[],
        record: &[],
        sampling: sampling(3),
        oracle_checks: oracle_checks(subject),
    };
    crash::judge_trace(subject, &scenario, &recorder.trace(), &history, Oracle::find());
}
