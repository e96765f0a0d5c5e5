//! Contract: random operations beside the model; crashes and faults over them.

use diskimg_core::{BlockDevice, ByteRange};

use crate::crash::{self, CrashReport};
use crate::fault::{FaultKinds, FaultSpec};
use crate::faults::{self, FaultReport};
use crate::ops::{Op, OpMix};
use crate::replay::Sampling;
use crate::session::Session;
use crate::shrink::run_shrinking;
use crate::subject::{FormatSubject, Subject};

/// `count` random operations, everything compared on the way and at the end, also after reopening.
///
/// # Panics
/// If anything differs; with a short sequence of operations that shows it.
pub fn random_operations(subject: &dyn Subject, seed: u64, count: usize) {
    let (len, unit) = {
        let session = Session::in_memory(subject);
        let device = &session.opened().device;
        (device.len(), device.limits().write_unit.max(512))
    };
    let ops = OpMix::all(len * 2).script(seed, count, len, unit);
    run_shrinking(&ops, |ops| {
        let mut session = Session::in_memory(subject);
        for op in ops {
            session.must(op);
        }
        session.verify_reopened();
    });
}

/// The write unit of images of that kind, at least a sector.
fn unit_of(subject: &FormatSubject) -> u64 {
    Session::in_memory(subject).opened().device.limits().write_unit.max(512)
}

/// Whatever was flushed survives a crash at any moment of some random operations.
///
/// # Panics
/// If it does not.
pub fn crash_durable(subject: &FormatSubject, samples: usize) -> CrashReport {
    let unit = unit_of(subject);
    let mix = OpMix::changes(subject.size + unit);
    let prepare = [Op::Write(ByteRange::new(0, subject.size / 2), 2)];
    let record = mix.script(11, 30, subject.size, unit);
    let scenario = crash::Scenario {
        name: "random operations",
        prepare: &prepare,
        record: &record,
        sampling: Sampling { samples, seed: 12 },
        oracle_checks: 0,
    };
    crash::explore(subject, &scenario, None)
}

/// A failing request is reported and costs nothing that was flushed.
///
/// # Panics
/// If it does.
pub fn faults_are_errors(subject: &FormatSubject) -> FaultReport {
    let mix = OpMix::changes(subject.size + 4096);
    let prepare = [Op::Write(ByteRange::new(0, subject.size / 2), 2)];
    let run = mix.script(13, 20, subject.size, unit_of(subject));
    let mut report = FaultReport::default();
    for kinds in [FaultKinds::CHANGES, FaultKinds::READ] {
        let spec = FaultSpec::once(kinds, 0);
        let scenario =
            faults::Scenario { name: "random operations", prepare: &prepare, run: &run, spec, step: 1 };
        report.add(faults::explore(subject, &scenario));
    }
    report.add(faults::explore_create(subject, FaultKinds::CHANGES));
    assert!(report.injected > 0, "{}: no request at all", subject.name());
    report
}
