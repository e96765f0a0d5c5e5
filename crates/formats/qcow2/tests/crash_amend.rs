//! A power cut at any write of an amendment leaves an image that opens with all its data, as the old or the new one.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use diskimg_core::opener::NoReferences;
use diskimg_core::options::{OptUse, ParsedOptions};
use diskimg_core::{AmendInput, BlockDevice, ByteRange, MemDevice, Result, Task, ZeroMode};
use diskimg_qcow2::DRIVER;
use diskimg_testkit::crash::{self, CrashReport, Scenario};
use diskimg_testkit::{
    FaultDevice, FaultKinds, FaultPlan, FaultSpec, FormatSubject, History, Op, Oracle, Recorder, Sampling,
    Subject, suite,
};

/// Bytes of the disks.
const SIZE: u64 = 1 << 20;

/// Numbers of all tests together.
static TOTAL: Mutex<Option<CrashReport>> = Mutex::new(None);

fn main() -> ExitCode {
    let code = suite::run(vec![
        suite::plain("refcounts of every width", refcounts_of_every_width),
        suite::plain("both versions", both_versions),
        suite::plain("failing requests", failing_requests),
    ]);
    if let Some(total) = *TOTAL.lock().unwrap() {
        println!("crash states of amendments: {total:?}");
    }
    code
}

/// What is in the image before: data, zeros with and without a host cluster, a gap.
fn contents() -> Vec<Op> {
    let k = |from: u64, len: u64| ByteRange::new(from << 10, len << 10);
    vec![
        Op::Write(k(0, 300), 1),
        Op::Zero(k(64, 64), ZeroMode::KeepAllocated),
        Op::Zero(k(512, 128), ZeroMode::MayUnmap),
        Op::Write(k(900, 10), 2),
        Op::Flush,
    ]
}

/// Opens, amends and closes.
fn amend(subject: &FormatSubject, disks: &[Arc<dyn BlockDevice>], change: &str) -> Result<()> {
    let opened = subject.open(disks, true)?;
    let mut options = ParsedOptions::for_usage(&[DRIVER.options], OptUse::AMEND);
    options.parse(change)?;
    let input = AmendInput { options: &options, force: false, opener: &NoReferences, task: Task::quiet() };
    opened.node.as_ref().unwrap().image().as_amend().unwrap().amend(&input)
}

/// Amends an image made with `create` by each of `changes`, one after the other, and judges every crash.
fn survives(create: &[&'static str], changes: &[&str]) {
    let subject = FormatSubject::new(&DRIVER, SIZE, create);
    let prepare = contents();
    let (disks, bytes) = crash::prepared(&subject, &prepare);
    let recorder = Recorder::new();
    let shared: Vec<Arc<dyn BlockDevice>> =
        disks.into_iter().map(|bytes| recorder.device(bytes) as Arc<dyn BlockDevice>).collect();
    changes.iter().for_each(|change| amend(&subject, &shared, change).unwrap());
    let scenario = Scenario {
        name: "amend",
        prepare: &prepare,
        record: &[],
        sampling: Sampling { samples: 300, seed: 7 },
        oracle_checks: 3,
    };
    let trace = recorder.trace();
    let report = crash::judge_trace(&subject, &scenario, &trace, &History::new(bytes), Oracle::find());
    TOTAL.lock().unwrap().get_or_insert_with(CrashReport::default).add(report);
}

fn refcounts_of_every_width() {
    survives(&["cluster_size=4096"], &["refcount_bits=64", "refcount_bits=1", "refcount_bits=8"]);
    survives(&["cluster_size=512"], &["refcount_bits=32", "refcount_bits=2", "refcount_bits=16"]);
    survives(&["cluster_size=65536", "refcount_bits=1"], &["refcount_bits=64"]);
}

fn both_versions() {
    survives(&["cluster_size=4096"], &["compat=v2", "compat=v3", "lazy_refcounts=on", "lazy_refcounts=off"]);
    survives(
        &["cluster_size=65536"],
        &["compat=v2", "compat=v3,refcount_bits=8", "compat=v2,refcount_bits=16"],
    );
    survives(&["cluster_size=16384", "compression_type=zstd"], &["compat=v2"]);
}

/// Whatever request fails, what is left opens and reads as before, and nothing in it is damaged.
fn survives_errors(create: &[&'static str], change: &str) {
    let subject = FormatSubject::new(&DRIVER, SIZE, create);
    let (disks, bytes) = crash::prepared(&subject, &contents());
    for nth in 0.. {
        let plan = FaultPlan::new(FaultSpec::once(FaultKinds::CHANGES, nth));
        let memory: Vec<Arc<MemDevice>> =
            disks.iter().map(|bytes| Arc::new(MemDevice::from(bytes.clone()))).collect();
        let failing: Vec<Arc<dyn BlockDevice>> = memory
            .iter()
            .map(|device| Arc::new(FaultDevice::new(Arc::clone(device) as _, Arc::clone(&plan))) as _)
            .collect();
        let result = amend(&subject, &failing, change);
        let shared: Vec<Arc<dyn BlockDevice>> = memory.iter().map(|device| Arc::clone(device) as _).collect();
        let opened =
            subject.open(&shared, false).unwrap_or_else(|error| panic!("{change}, {nth}: {error:?}"));
        let mut found = vec![0; bytes.len()];
        opened.device.read_at(0, &mut found).unwrap();
        assert!(found == bytes, "{change}: request {nth} failed ({result:?}), other contents");
        let check = opened.layers[0].as_check().unwrap();
        let report = check.check(diskimg_core::Repair::Nothing, &mut |_| (), &Task::quiet()).unwrap();
        assert_eq!(
            report.corruptions + report.check_errors,
            0,
            "{change}: request {nth} failed ({result:?})"
        );
        if plan.injected() == 0 {
            assert!(result.is_ok() && nth > 3, "{result:?} after {nth}");
            return;
        }
    }
}

fn failing_requests() {
    survives_errors(&["cluster_size=4096"], "refcount_bits=64");
    survives_errors(&["cluster_size=512"], "refcount_bits=1");
    survives_errors(&["cluster_size=4096"], "compat=v2");
    survives_errors(&["cluster_size=65536", "compat=v2"], "compat=v3,refcount_bits=32,lazy_refcounts=on");
}
