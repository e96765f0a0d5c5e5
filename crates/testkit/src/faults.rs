//! Fault exploration: operations are repeated with the N-th request to the storage failing, for every N.

use std::sync::Arc;

use diskimg_core::{BlockDevice, MemDevice};

use crate::crash::{inspect, prepared};
use crate::fault::{FaultDevice, FaultKinds, FaultPlan, FaultSpec};
use crate::ops::Op;
use crate::session::Session;
use crate::subject::Subject;
use crate::suite::judged;

/// What an exploration did.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultReport {
    /// Runs of the operations.
    pub runs: usize,
    /// Requests that were made to fail.
    pub injected: u64,
    /// Runs in which an operation reported the failure.
    pub reported: usize,
}

impl FaultReport {
    /// Adds another exploration's numbers.
    pub fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.injected += other.injected;
        self.reported += other.reported;
    }
}

/// What fails, and over which operations.
#[derive(Clone, Copy, Debug)]
pub struct Scenario<'a> {
    /// For messages.
    pub name: &'a str,
    /// Done without failures.
    pub prepare: &'a [Op],
    /// Done with failures; the last one should be a flush.
    pub run: &'a [Op],
    /// Which requests fail: `nth` is set by the exploration.
    pub spec: FaultSpec,
    /// Every so-manieth request is made to fail (1: each).
    pub step: u64,
}

/// Runs the scenario once for each request that can fail. Nothing panics, what was flushed is intact, the image opens
/// and its check finds leaks at most; where no operation reported the failure, nothing at all is missing.
///
/// # Panics
/// If that is not so.
pub fn explore(subject: &dyn Subject, scenario: &Scenario<'_>) -> FaultReport {
    let (disks, contents) = prepared(subject, scenario.prepare);
    let mut report = FaultReport::default();
    let mut nth = 0;
    loop {
        let spec = FaultSpec { nth, ..scenario.spec };
        match judged(|| run_once(subject, scenario.run, spec, &disks, &contents)) {
            Ok(outcome) => {
                report.runs += 1;
                report.injected += outcome.injected;
                report.reported += usize::from(outcome.reported);
                if outcome.injected == 0 {
                    return report;
                }
            }
            Err(text) => panic!("{}, {}: {spec:?}: {text}", subject.name(), scenario.name),
        }
        nth += scenario.step.max(1);
    }
}

struct Outcome {
    injected: u64,
    reported: bool,
}

fn run_once(
    subject: &dyn Subject,
    ops: &[Op],
    spec: FaultSpec,
    disks: &[Vec<u8>],
    contents: &[u8],
) -> Result<Outcome, String> {
    let plan = FaultPlan::new(spec);
    let memory: Vec<Arc<MemDevice>> =
        disks.iter().map(|bytes| Arc::new(MemDevice::from(bytes.clone()))).collect();
    let shared = plan.over(&memory);
    let moment = std::cell::Cell::new(0);
    let mut session = match Session::open(subject, shared, contents.to_vec(), || moment.get()) {
        Ok(session) => session,
        Err(error) if plan.injected() == 0 => return Err(format!("open: {error:?}")),
        Err(_) => return look(subject, &memory, contents).map(|()| Outcome { injected: 1, reported: true }),
    };
    let mut log = Vec::new();
    for op in ops {
        if let Err(error) = session.apply(op) {
            log.push(format!("{op:x?} -> {error:?}"));
            if plan.injected() == 0 {
                return Err(format!("failed without a fault: {log:?}"));
            }
        }
    }
    let before_close = plan.injected();
    let history = session.close();
    let injected = plan.injected();
    plan.disarm();
    let after: Vec<Vec<u8>> = memory.iter().map(|device| device.to_vec()).collect();
    let found = inspect(subject, &after).map_err(|text| format!("{text}; {log:?}"))?;
    if before_close == injected && log.is_empty() && found.bytes != history.latest() {
        return Err("nothing was reported, and bytes are lost".into());
    }
    history.verifier().verify(usize::MAX, &found.bytes).map_err(|text| format!("{text}; {log:?}"))?;
    Ok(Outcome { injected, reported: !log.is_empty() })
}

/// The disk holds exactly `contents`.
fn look(subject: &dyn Subject, memory: &[Arc<MemDevice>], contents: &[u8]) -> Result<(), String> {
    let after: Vec<Vec<u8>> = memory.iter().map(|device| device.to_vec()).collect();
    let found = inspect(subject, &after)?;
    if found.bytes == contents { Ok(()) } else { Err("bytes changed by an open that failed".into()) }
}

/// Creates the disk with each request failing in turn: an error each time, never a panic.
///
/// # Panics
/// If a failure is swallowed, or causes a panic.
pub fn explore_create(subject: &dyn Subject, kinds: FaultKinds) -> FaultReport {
    let mut report = FaultReport::default();
    for nth in 0.. {
        let plan = FaultPlan::new(FaultSpec::once(kinds, nth));
        let memory: Vec<Arc<MemDevice>> =
            subject.disks().iter().map(|_| Arc::new(MemDevice::new(0))).collect();
        let faulty = |device: &Arc<MemDevice>| -> Arc<dyn BlockDevice> {
            Arc::new(FaultDevice::new(Arc::clone(device) as _, Arc::clone(&plan)))
        };
        let shared: Vec<Arc<dyn BlockDevice>> = memory.iter().map(faulty).collect();
        let created = subject.create(&shared);
        report.runs += 1;
        report.injected += plan.injected();
        if plan.injected() == 0 {
            created.unwrap_or_else(|error| panic!("create {}: {error:?}", subject.name()));
            return report;
        }
        if created.is_err() {
            report.reported += 1;
        } else {
            // Only what is of no consequence may be ignored: the disk must be as good as any.
            let after: Vec<Vec<u8>> = memory.iter().map(|device| device.to_vec()).collect();
            let found = inspect(subject, &after)
                .unwrap_or_else(|text| panic!("{} fault {nth}: {text}", subject.name()));
            assert_eq!(found.bytes, subject.initial(), "{} fault {nth}", subject.name());
        }
    }
    report
}
