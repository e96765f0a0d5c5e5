//! Crash exploration: operations are recorded, then every state that a crash could have left is opened and judged.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use diskimg_core::{BlockDevice, ByteRange, MemDevice};

use crate::fault::{FaultDevice, FaultKinds, FaultPlan, FaultSpec};
use crate::history::{History, Verifier};
use crate::ops::{Op, OpMix};
use crate::oracle::{CheckVerdict, Oracle};
use crate::record::{Recorder, Trace};
use crate::replay::{CrashState, Sampling};
use crate::rng::asked;
use crate::session::{Session, checked, read_all};
use crate::subject::Subject;
use crate::suite::{caught, judged};

/// One in so many states is also written to, to see that life goes on.
const WRITTEN_ONE_IN: usize = 16;

/// What an exploration did.
#[derive(Clone, Copy, Debug, Default)]
pub struct CrashReport {
    /// States tried.
    pub states: usize,
    /// Different ones among them.
    pub distinct: usize,
    /// Requests that were recorded.
    pub events: usize,
    /// States that the oracle's check saw.
    pub oracle: usize,
    /// States that a writer had to repair first, as they said themselves.
    pub repaired: usize,
    /// Greatest number of leaked clusters.
    pub leaks: u64,
}

impl CrashReport {
    /// Adds another exploration's numbers.
    pub fn add(&mut self, other: Self) {
        self.states += other.states;
        self.distinct += other.distinct;
        self.events += other.events;
        self.oracle += other.oracle;
        self.repaired += other.repaired;
        self.leaks = self.leaks.max(other.leaks);
    }
}

/// What is done before and while the recorder runs, and how much of it is replayed.
#[derive(Clone, Copy, Debug)]
pub struct Scenario<'a> {
    /// For messages.
    pub name: &'a str,
    /// Done, flushed and closed before recording.
    pub prepare: &'a [Op],
    /// Recorded.
    pub record: &'a [Op],
    /// How many states are tried.
    pub sampling: Sampling,
    /// About so many states are shown to the oracle.
    pub oracle_checks: usize,
}

/// How many states a scenario is sampled with: `usual`, or what the environment asks for with `DISKIMG_CRASH_SAMPLES`.
#[must_use]
pub fn samples(usual: usize) -> usize {
    asked("DISKIMG_CRASH_SAMPLES", usual)
}

/// Explores what is common to formats with tables of places: writes that allocate and that do not, zeroes, two-phase
/// writes, and all of it in turn, on the first eight units of `unit` bytes.
///
/// # Panics
/// As [`explore`].
pub fn explore_tables(subject: &dyn Subject, unit: u64, sampling: Sampling, oracle_checks: usize) {
    let size = 8 * unit;
    let whole = Op::Write(ByteRange::new(0, size), 2);
    let none = OpMix::flushes(size);
    let writes = OpMix { write: 30, ..none };
    let scenarios: [(&str, Vec<Op>, OpMix, u64); 5] = [
        ("allocating writes", vec![], writes, 1),
        ("overwrites", vec![whole.clone()], writes, 2),
        ("zeroes", vec![whole], OpMix { zero: 30, write: 8, ..none }, 3),
        ("two-phase writes", vec![], OpMix { reserve: 30, write: 5, ..none }, 6),
        ("everything", vec![], OpMix { set_len: 0, ..OpMix::changes(size) }, 8),
    ];
    for (name, prepare, mix, seed) in scenarios {
        let record = mix.script(seed, 20, size, unit);
        let scenario = Scenario { name, prepare: &prepare, record: &record, sampling, oracle_checks };
        explore(subject, &scenario, Oracle::find());
    }
}

/// Records the scenario on `subject` and judges its crash states: each opens, holds what was flushed, and its check
/// finds leaks at most; a sample passes `qemu-img check`.
///
/// # Panics
/// If a state does not, with its story.
pub fn explore(subject: &dyn Subject, scenario: &Scenario<'_>, oracle: Option<&Oracle>) -> CrashReport {
    let (trace, history) = record(subject, scenario);
    judge_trace(subject, scenario, &trace, &history, oracle)
}

/// The scenario's requests to the storage, and what it did to the disk.
///
/// # Panics
/// If an operation fails.
#[must_use]
pub fn record(subject: &dyn Subject, scenario: &Scenario<'_>) -> (Trace, History) {
    let (disks, contents) = prepared(subject, scenario.prepare);
    let recorder = Recorder::new();
    let shared = recorder.devices(disks);
    let clock = || recorder.position();
    let mut session = Session::open(subject, shared, contents, clock)
        .unwrap_or_else(|error| panic!("{}: open: {error:?}", subject.name()));
    for op in scenario.record {
        session.must(op);
    }
    let history = session.close();
    (recorder.trace(), history)
}

/// The same with each flush of the storage failing in turn while the operations run: what a failed flush left open may
/// be lost, what an earlier one acknowledged may not. Operations may fail from there on.
///
/// # Panics
/// As [`explore`].
pub fn explore_failed_flushes(subject: &dyn Subject, scenario: &Scenario<'_>) -> CrashReport {
    let (disks, contents) = prepared(subject, scenario.prepare);
    let mut total = CrashReport::default();
    for nth in 0.. {
        let recorder = Recorder::new();
        let plan = FaultPlan::new(FaultSpec::once(FaultKinds::FLUSH, nth));
        let faulty = |bytes: &Vec<u8>| -> Arc<dyn BlockDevice> {
            Arc::new(FaultDevice::new(recorder.device(bytes.clone()), Arc::clone(&plan)))
        };
        let shared: Vec<Arc<dyn BlockDevice>> = disks.iter().map(faulty).collect();
        let clock = || recorder.position();
        let Ok(mut session) = Session::open(subject, shared, contents.clone(), clock) else { continue };
        for op in scenario.record {
            let done = session.apply(op);
            assert!(done.is_ok() || plan.injected() > 0, "{}: {op:?}: {done:?}", subject.name());
        }
        let history = session.close();
        if plan.injected() == 0 {
            break;
        }
        total.add(judge_trace(subject, scenario, &recorder.trace(), &history, None));
    }
    total
}

/// Judges every crash state of a trace that was recorded by other means.
///
/// # Panics
/// As [`explore`].
pub fn judge_trace(
    subject: &dyn Subject,
    scenario: &Scenario<'_>,
    trace: &Trace,
    history: &History,
    oracle: Option<&Oracle>,
) -> CrashReport {
    let mut report = CrashReport { events: trace.events.len(), ..CrashReport::default() };
    let mut seen = HashSet::new();
    let mut verifier = history.verifier();
    let expected = trace.events.len() + scenario.sampling.samples;
    let step = expected / scenario.oracle_checks.max(1);
    let visit = |state: CrashState| {
        report.states += 1;
        if seen.insert(hash_of(&state)) {
            report.distinct += 1;
            let asked =
                oracle.filter(|_| report.distinct.is_multiple_of(step.max(1)) && scenario.oracle_checks > 0);
            report.oracle += usize::from(asked.is_some());
            let rewrite = report.distinct.is_multiple_of(WRITTEN_ONE_IN);
            let judged = judge(subject, &state, &mut verifier, rewrite, asked);
            let (leaks, repaired) = judged.map_err(|text| story(subject, scenario, trace, &state, &text))?;
            report.leaks = report.leaks.max(leaks);
            report.repaired += usize::from(repaired);
        }
        Ok::<(), String>(())
    };
    if let Err(text) = trace.explore(scenario.sampling, visit) {
        panic!("{text}");
    }
    report
}

/// A disk made in memory, `ops` done to it, flushed and closed: its storages' bytes and its contents.
///
/// # Panics
/// If anything fails.
#[must_use]
pub fn prepared(subject: &dyn Subject, ops: &[Op]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let memory: Vec<Arc<MemDevice>> = subject.disks().iter().map(|_| Arc::new(MemDevice::new(0))).collect();
    let shared: Vec<Arc<dyn BlockDevice>> = memory.iter().map(|device| Arc::clone(device) as _).collect();
    let name = subject.name();
    subject.create(&shared).unwrap_or_else(|error| panic!("create {name}: {error:?}"));
    let opened = Session::open(subject, shared, subject.initial(), || 0);
    let mut session = opened.unwrap_or_else(|error| panic!("open {name}: {error:?}"));
    for op in ops {
        session.must(op);
    }
    session.verify_reopened();
    let contents = session.close().latest().to_vec();
    (memory.iter().map(|device| device.to_vec()).collect(), contents)
}

/// Records the creation of the disk and judges its crash states: until the first flush after it the disk may not open,
/// but nothing panics, and if it opens and passes its check it is as it should be; from that flush on it must.
///
/// # Panics
/// If that is not so.
pub fn explore_create(subject: &dyn Subject, sampling: Sampling) -> CrashReport {
    let recorder = Recorder::new();
    let shared: Vec<Arc<dyn BlockDevice>> =
        subject.disks().iter().map(|_| recorder.device(Vec::new()) as Arc<dyn BlockDevice>).collect();
    let name = subject.name();
    subject.create(&shared).unwrap_or_else(|error| panic!("create {name}: {error:?}"));
    let opened = Session::open(subject, shared, subject.initial(), || 0);
    let mut session = opened.unwrap_or_else(|error| panic!("open {name}: {error:?}"));
    session.must(&Op::Flush);
    let finished = recorder.position();
    drop(session);
    let trace = recorder.trace();
    let mut report = CrashReport { events: trace.events.len(), ..CrashReport::default() };
    let visit = |state: CrashState| {
        report.states += 1;
        let found = caught(|| inspect(subject, &state.disks))
            .map_err(|text| format!("{name}: {}: panic: {text}", state.story))?;
        report.distinct += usize::from(found.is_ok());
        match found {
            // Before that it may be shorter.
            Ok(found)
                if !subject.initial().starts_with(&found.bytes)
                    || (state.position >= finished && found.bytes.len() != subject.initial().len()) =>
            {
                let at = found.bytes.iter().position(|byte| *byte != 0);
                let place = format!("after {} of {} events", state.position, trace.events.len());
                Err(format!(
                    "{name}: {place}: {}: {} bytes, first at {at:x?}",
                    state.story,
                    found.bytes.len()
                ))
            }
            Err(text) if state.position >= finished => Err(format!("{name}: {}: {text}", state.story)),
            _ => Ok(()),
        }
    };
    if let Err(text) = trace.explore(sampling, visit) {
        panic!("create: {text}");
    }
    report
}

fn hash_of(state: &CrashState) -> u64 {
    let mut hasher = DefaultHasher::new();
    // What is allowed depends on the moment too.
    (&state.disks, state.position).hash(&mut hasher);
    hasher.finish()
}

/// Opens, reads and checks one state: the number of leaks, and whether it had to be repaired.
fn judge(
    subject: &dyn Subject,
    state: &CrashState,
    verifier: &mut Verifier<'_>,
    rewrite: bool,
    oracle: Option<&Oracle>,
) -> Result<(u64, bool), String> {
    judged(|| {
        let contents = inspect(subject, &state.disks)?;
        verifier.verify(state.position, &contents.bytes)?;
        let disks = contents.repaired.as_deref().unwrap_or(&state.disks);
        if let Some(oracle) = oracle {
            ask(oracle, subject, disks)?;
        }
        let found = (contents.leaks, contents.repaired.is_some());
        if rewrite {
            life_goes_on(subject, &state.disks, contents.bytes)?;
        }
        Ok(found)
    })
}

/// What a read-only look at storages found.
#[derive(Clone, Debug)]
pub(crate) struct Inspected {
    /// The whole contents.
    pub(crate) bytes: Vec<u8>,
    /// Leaked clusters.
    pub(crate) leaks: u64,
    /// The storages as a writer leaves them that opens and closes them, where an image says of itself that it was not
    /// closed cleanly and its check finds more than leaks.
    pub(crate) repaired: Option<Vec<Vec<u8>>>,
}

/// Opens read-only, reads all, checks: damage is an error, unless the image says that it was not closed cleanly, and a
/// writer repairs it without changing what it holds.
pub(crate) fn inspect(subject: &dyn Subject, disks: &[Vec<u8>]) -> Result<Inspected, String> {
    let (bytes, leaks, damage) = look(subject, disks)?;
    let Some((text, dirty)) = damage else { return Ok(Inspected { bytes, leaks, repaired: None }) };
    if !dirty {
        return Err(text);
    }
    let memory: Vec<Arc<MemDevice>> =
        disks.iter().map(|bytes| Arc::new(MemDevice::from(bytes.clone()))).collect();
    let shared: Vec<Arc<dyn BlockDevice>> = memory.iter().map(|device| Arc::clone(device) as _).collect();
    subject.open(&shared, true).map_err(|error| format!("can't be repaired: {error:?}"))?;
    let after: Vec<Vec<u8>> = memory.iter().map(|device| device.to_vec()).collect();
    match look(subject, &after)? {
        (_, _, Some((text, _))) => Err(format!("after its repair: {text}")),
        (found, ..) if found != bytes => Err("its repair changed its contents".into()),
        (bytes, leaks, None) => Ok(Inspected { bytes, leaks, repaired: Some(after) }),
    }
}

/// Contents, leaks, and damage with whether the image says that it was not closed cleanly.
type Look = (Vec<u8>, u64, Option<(String, bool)>);

fn look(subject: &dyn Subject, disks: &[Vec<u8>]) -> Result<Look, String> {
    let shared: Vec<Arc<dyn BlockDevice>> =
        disks.iter().map(|bytes| Arc::new(MemDevice::read_only(bytes.clone())) as _).collect();
    let opened = subject.open(&shared, false).map_err(|error| format!("does not open: {error:?}"))?;
    let bytes = read_all(&opened.device).map_err(|error| format!("can't be read: {error:?}"))?;
    let mut leaks = 0;
    for layer in &opened.layers {
        let found = checked(layer.as_ref()).map_err(|error| format!("can't be checked: {error:?}"))?;
        let Some((report, said)) = found else { continue };
        if report.corruptions + report.check_errors > 0 {
            let info = layer.info().map_err(|error| format!("can't be described: {error:?}"))?;
            let text = format!("check: {report:?}\n{}", said.join("\n"));
            return Ok((bytes, leaks, Some((text, info.dirty == Some(true)))));
        }
        leaks += report.leaks;
    }
    Ok((bytes, leaks, None))
}

/// Writes all over a copy of the disks and compares.
fn life_goes_on(subject: &dyn Subject, disks: &[Vec<u8>], contents: Vec<u8>) -> Result<(), String> {
    let shared: Vec<Arc<dyn BlockDevice>> =
        disks.iter().map(|bytes| Arc::new(MemDevice::from(bytes.clone())) as _).collect();
    let len = contents.len() as u64;
    let opened = Session::open(subject, shared, contents, || 0);
    let mut session = opened.map_err(|error| format!("does not open for writing: {error:?}"))?;
    let unit = session.opened().device.limits().write_unit.max(512);
    for (number, at) in (0..len).step_by(usize::try_from(unit).unwrap_or(usize::MAX)).enumerate() {
        let size = (len - at).min(if number % 2 == 0 { unit } else { 300 });
        if written_once(&session, at) {
            continue;
        }
        session.must(&Op::Write(ByteRange::new(at, size), 77 + number as u64));
    }
    session.verify_all();
    session.must(&Op::Flush);
    session.must(&Op::Reopen);
    session.verify_all();
    session.check_clean(u64::MAX).map_err(|error| format!("check after more writes: {error:?}"))
}

/// True if byte `at` is stored in an image that takes each cluster once only.
fn written_once(session: &Session<'_>, at: u64) -> bool {
    let Some(top) = session.opened().layers.first() else { return false };
    let once = top.as_compressed().is_some_and(|clusters| clusters.only_encoded());
    once && top.extent_at(ByteRange::new(at, 1)).is_ok_and(|extent| extent.is_present())
}

/// Puts storages into `folder` under their names.
///
/// # Panics
/// If they can't be written.
pub fn put_files(subject: &dyn Subject, folder: &Path, disks: &[Vec<u8>]) {
    for (name, bytes) in subject.disks().iter().zip(disks) {
        std::fs::write(folder.join(name), bytes).expect("write a file for the oracle");
    }
}

fn ask(oracle: &Oracle, subject: &dyn Subject, disks: &[Vec<u8>]) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    put_files(subject, folder.path(), disks);
    match oracle.check(folder.path(), subject.format(), subject.disks()[0]) {
        CheckVerdict::Clean | CheckVerdict::Leaks => Ok(()),
        CheckVerdict::Bad(text) => Err(format!("qemu-img check: {text}")),
    }
}

/// All that is needed to understand a failure.
fn story(
    subject: &dyn Subject,
    scenario: &Scenario<'_>,
    trace: &Trace,
    state: &CrashState,
    text: &str,
) -> String {
    use std::fmt::Write as _;
    let mut lines = format!("{}, {}: {text}\n", subject.name(), scenario.name);
    let _ =
        writeln!(lines, "crash after {} of {} events: {}", state.position, trace.events.len(), state.story);
    let first = state.position.saturating_sub(40);
    for (number, event) in trace.events.iter().enumerate().take(state.position).skip(first) {
        let change = match &event.change {
            crate::record::Change::Write(at, bytes) => format!("write {at:#x}+{:#x}", bytes.len()),
            other => format!("{other:x?}"),
        };
        let _ = writeln!(lines, "  {number}: disk {} {change}", event.disk);
    }
    if let Some(folder) = std::env::var_os("DISKIMG_KEEP_STATE") {
        let folder = Path::new(&folder);
        put_files(subject, folder, &state.disks);
        let _ = writeln!(lines, "the state is kept in {}", folder.display());
    }
    let _ = writeln!(lines, "recorded: {:x?}", scenario.record);
    lines
}
