//! Whatever a flush acknowledged survives a crash at any moment: all writes and barriers are recorded, and every prefix
//! and thousands of sampled sets of the writes since the last barrier are opened, read and checked, a part of them also
//! by the installed `qemu-img`. `DISKIMG_CRASH_SAMPLES` asks for another number of samples per scenario.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod scenarios;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use diskimg_core::{ByteRange, MemDevice, Task, to_usize};
use diskimg_engine::{ConvertOptions, convert};
use diskimg_testkit::crash::{self, CrashReport, Scenario};
use diskimg_testkit::{
    Change, FormatSubject, History, Oracle, Recorder, Sampling, Subject, Trace, panics, pattern, plain_node,
    suite,
};

/// Numbers of all tests together.
static TOTAL: Mutex<Option<CrashReport>> = Mutex::new(None);

/// States that the oracle is asked about, per scenario.
const ORACLE_CHECKS: usize = 6;

fn samples() -> usize {
    crash::samples(250)
}

fn main() -> ExitCode {
    // Without it no state is shown to it: that is counted as ignored, or is a failure where it is required.
    let mut tests = vec![suite::with_oracle("qemu-img judges a part of the states", |_| ())];
    for (subject, size, unit) in scenarios::all() {
        tests.push(suite::plain(subject.name(), move || operations(&*subject, size, unit)));
    }
    for (subject, size, unit) in scenarios::all() {
        let name = format!("failed flushes of {}", subject.name());
        tests.push(suite::plain(name, move || failed_flushes(&*subject, size, unit)));
    }
    for subject in scenarios::plain_images() {
        tests.push(suite::plain(format!("create {}", subject.name()), move || {
            note(crash::explore_create(&subject, sampling(9)));
        }));
    }
    for subject in scenarios::plain_images() {
        tests.push(suite::plain(format!("convert to {}", subject.name()), move || {
            note(converted(&subject, false));
            if scenarios::takes_compressed(&subject) {
                note(converted(&subject, true));
            }
        }));
    }
    tests.push(suite::plain(
        "without the barriers between metadata writes images would break",
        barriers_matter,
    ));
    let code = suite::run(tests);
    if let Some(total) = *TOTAL.lock().unwrap() {
        println!("crash states: {total:?}");
    }
    code
}

fn sampling(seed: u64) -> Sampling {
    Sampling { samples: samples(), seed }
}

fn note(report: CrashReport) {
    TOTAL.lock().unwrap().get_or_insert_with(CrashReport::default).add(report);
}

fn operations(subject: &dyn Subject, size: u64, unit: u64) {
    let mut repaired = 0;
    for scenario in scenarios::scenarios(size, unit) {
        let scenario = Scenario {
            name: scenario.name,
            prepare: &scenario.prepare,
            record: &scenario.run,
            sampling: sampling(1),
            oracle_checks: ORACLE_CHECKS,
        };
        let report = crash::explore(subject, &scenario, Oracle::find());
        repaired += report.repaired;
        note(report);
    }
    // Only who postpones refcounts may leave images that have to be repaired.
    let postpones = subject.name().contains("lazy_refcounts=on");
    assert_eq!(repaired > 0, postpones, "{}: {repaired} states had to be repaired", subject.name());
}

fn failed_flushes(subject: &dyn Subject, size: u64, unit: u64) {
    for scenario in scenarios::scenarios(size, unit) {
        let scenario = Scenario {
            name: scenario.name,
            prepare: &scenario.prepare,
            record: &scenario.run,
            sampling: Sampling { samples: samples() / 10, seed: 2 },
            oracle_checks: 0,
        };
        note(crash::explore_failed_flushes(subject, &scenario));
    }
}

/// The recorded writes with only those barriers that end a flush of the guest: the exploration must find damage, else
/// it would not notice if the format left barriers out.
fn barriers_matter() {
    let mut caught = 0;
    for (options, size, unit) in scenarios::IMAGES.iter().take(4) {
        let subject = FormatSubject::new(&diskimg_qcow2::DRIVER, *size, options);
        for scenario in scenarios::scenarios(*size, *unit) {
            let scenario = Scenario {
                name: scenario.name,
                prepare: &scenario.prepare,
                record: &scenario.run,
                sampling: sampling(4),
                oracle_checks: 0,
            };
            let (mut trace, history) = crash::record(&subject, &scenario);
            let kept: Vec<usize> =
                history.flush_moments().filter_map(|moment| last_barrier(&trace, moment)).collect();
            for (number, event) in trace.events.iter_mut().enumerate() {
                if matches!(event.change, Change::Barrier) && !kept.contains(&number) {
                    event.change = Change::Zero(ByteRange::default());
                }
            }
            let run = || {
                let _ = crash::judge_trace(&subject, &scenario, &trace, &history, None);
            };
            caught += usize::from(panics(run).is_some());
        }
    }
    assert!(caught >= 8, "only {caught} of 40 scenarios notice missing barriers");
}

fn last_barrier(trace: &Trace, moment: usize) -> Option<usize> {
    trace.events[..moment].iter().rposition(|event| matches!(event.change, Change::Barrier))
}

/// A conversion into an image that was made before.
fn converted(subject: &FormatSubject, compress: bool) -> CrashReport {
    let mut contents = vec![0; to_usize(subject.size)];
    for (number, part) in contents.chunks_mut(7000).enumerate().filter(|(number, _)| number % 3 != 1) {
        part.copy_from_slice(&pattern(1 + number as u64, 0, part.len() as u64));
    }
    let source = Arc::new(MemDevice::from(contents.clone()));
    let source = plain_node(&diskimg_raw::DRIVER, source, false).unwrap();
    let recorder = Recorder::new();
    let shared = recorder.devices(subject.fresh().iter().map(|disk| disk.to_vec()));
    let mut history = History::new(subject.initial());
    let opened = subject.open(&shared, true).unwrap();
    let options = ConvertOptions { compress, target_is_zero: true, ..ConvertOptions::default() };
    let begin = recorder.position();
    history.wrote(begin, true, 0, contents);
    convert(&[&source], opened.node.as_ref().unwrap(), &options, &Task::quiet()).unwrap();
    history.flushed(recorder.position(), 1);
    drop(opened);
    let scenario = Scenario {
        name: if compress { "convert -c" } else { "convert" },
        prepare: &[],
        record: &[],
        sampling: sampling(3),
        oracle_checks: ORACLE_CHECKS,
    };
    crash::judge_trace(subject, &scenario, &recorder.trace(), &history, Oracle::find())
}
