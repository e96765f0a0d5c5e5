//! Each request to the storage fails in turn, over the scenarios of the crash tests: the failure is an error, never a
//! panic; what was flushed is intact, the image opens, its check finds leaks at most; and where nothing was reported,
//! nothing is missing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod scenarios;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use diskimg_core::{BlockDevice, MemDevice, Repair, Task, to_usize};
use diskimg_engine::{ConvertOptions, convert};
use diskimg_testkit::faults::{self, FaultReport, Scenario};
use diskimg_testkit::{FaultKinds, FaultPlan, FaultSpec, FormatSubject, Subject, pattern, plain_node, suite};

/// Numbers of all tests together.
static TOTAL: Mutex<Option<FaultReport>> = Mutex::new(None);

fn main() -> ExitCode {
    let mut tests = Vec::new();
    for (subject, size, unit) in scenarios::all() {
        tests.push(suite::plain(subject.name(), move || operations(&*subject, size, unit)));
    }
    for subject in scenarios::plain_images() {
        tests.push(suite::plain(format!("create {}", subject.name()), move || {
            note(faults::explore_create(&subject, FaultKinds::CHANGES));
            note(faults::explore_create(&subject, FaultKinds::READ));
        }));
    }
    for subject in scenarios::plain_images() {
        tests.push(suite::plain(format!("convert to {}", subject.name()), move || conversions(&subject)));
    }
    let code = suite::run(tests);
    if let Some(total) = *TOTAL.lock().unwrap() {
        println!("injected failures: {total:?}");
    }
    code
}

fn note(report: FaultReport) {
    TOTAL.lock().unwrap().get_or_insert_with(FaultReport::default).add(report);
}

fn operations(subject: &dyn Subject, size: u64, unit: u64) {
    for scenario in scenarios::scenarios(size, unit) {
        for spec in FaultSpec::usual() {
            let scenario = Scenario {
                name: scenario.name,
                prepare: &scenario.prepare,
                run: &scenario.run,
                spec,
                step: 1,
            };
            note(faults::explore(subject, &scenario));
        }
    }
}

/// Conversions with each request to the target failing in turn.
fn conversions(subject: &FormatSubject) {
    for compress in [false, true] {
        if compress && !scenarios::takes_compressed(subject) {
            continue;
        }
        for nth in 0.. {
            let report = conversion(subject, compress, nth);
            note(report);
            if report.injected == 0 {
                break;
            }
        }
    }
}

fn conversion(subject: &FormatSubject, compress: bool, nth: u64) -> FaultReport {
    let contents = pattern(4, 0, subject.size);
    let source = Arc::new(MemDevice::from(contents.clone()));
    let source = plain_node(&diskimg_raw::DRIVER, source, false).unwrap();
    let plan = FaultPlan::new(FaultSpec::once(FaultKinds::CHANGES | FaultKinds::READ, nth));
    let memory = subject.fresh();
    let shared = plan.over(&memory);
    let done = subject.open(&shared, true).and_then(|opened| {
        let options = ConvertOptions { compress, target_is_zero: true, ..ConvertOptions::default() };
        convert(&[&source], opened.node.as_ref().unwrap(), &options, &Task::quiet())
    });
    plan.disarm();
    let plain: Vec<Arc<dyn BlockDevice>> = memory.iter().map(|device| Arc::clone(device) as _).collect();
    let opened = subject.open(&plain, false).unwrap_or_else(|error| panic!("fault {nth}: {error:?}"));
    let check = opened.layers[0].as_check().unwrap();
    let mut said = Vec::new();
    let report =
        check.check(Repair::Nothing, &mut |line| said.push(line.to_owned()), &Task::quiet()).unwrap();
    assert_eq!(report.corruptions + report.check_errors, 0, "fault {nth}: {said:#?}");
    let mut got = vec![0; to_usize(opened.device.len())];
    opened.device.read_at(0, &mut got).unwrap();
    if done.is_ok() {
        assert!(got == contents, "fault {nth}: nothing was reported, and bytes are lost");
    } else {
        let strange = got.iter().zip(&contents).position(|(got, right)| *got != 0 && got != right);
        assert_eq!(strange, None, "fault {nth}: a strange byte");
    }
    FaultReport { runs: 1, injected: plan.injected(), reported: usize::from(done.is_err()) }
}
