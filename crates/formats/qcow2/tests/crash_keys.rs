//! A power cut at any write of a change of key slots leaves an image that opens with a password that it had or shall
//! have, with all its data: every prefix of the writes, and sampled sets of those since the last barrier. Passwords
//! that a change leaves alone always open, and what it took away no longer does once it is done.
//! `DISKIMG_CRASH_SAMPLES` asks for another number of samples per image. The same where a request fails; every so-manieth
//! does (`DISKIMG_FAULT_STEP`; 1: each).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use diskimg_core::options::{OptUse, ParsedOptions};
use diskimg_core::{AmendInput, BlockDevice, ByteRange, MemDevice, Repair, Result, Task, ZeroMode};
use diskimg_qcow2::DRIVER;
use diskimg_testkit::crash::{self, CrashReport};
use diskimg_testkit::{
    CrashState, FaultPlan, FaultSpec, FormatSubject, MemOpener, Op, Oracle, Recorder, Sampling, Subject,
    panics, suite,
};

/// Bytes of the disks.
const SIZE: u64 = 192 << 10;
/// About one in so many states is read by the oracle too.
const ASKED_ONE_IN: usize = 60;

/// Create options; the first password is `a` (each secret is its own name).
const IMAGES: &[&[&str]] = &[
    &[],
    &["cluster_size=512"],
    &["cluster_size=4096", "refcount_bits=64", "encrypt.cipher-alg=aes-128"],
    &["extended_l2=on", "cluster_size=16384", "encrypt.cipher-mode=cbc", "encrypt.ivgen-alg=plain"],
    &["data_file=data"],
];

struct Step {
    /// The password that the image is opened with.
    by: &'static str,
    change: &'static str,
    force: bool,
    /// The passwords that open it afterwards.
    opens: &'static [&'static str],
}

const fn step(by: &'static str, change: &'static str, opens: &'static [&'static str]) -> Step {
    Step { by, change, force: false, opens }
}

/// Slot 6 lies across two sectors of the header.
const STEPS: &[Step] = &[
    step("a", "encrypt.state=active,encrypt.new-secret=b,encrypt.iter-time=1", &["a", "b"]),
    step("b", "encrypt.state=inactive,encrypt.old-secret=a", &["b"]),
    step("b", "encrypt.state=active,encrypt.new-secret=c,encrypt.keyslot=6,encrypt.iter-time=1", &["b", "c"]),
    step("c", "encrypt.state=inactive,encrypt.keyslot=1", &["c"]),
    Step {
        force: true,
        ..step("c", "encrypt.state=active,encrypt.new-secret=d,encrypt.keyslot=6,encrypt.iter-time=1", &["d"])
    },
    step("d", "encrypt.state=active,encrypt.new-secret=e,encrypt.keyslot=0,encrypt.iter-time=1", &["d", "e"]),
    step("e", "encrypt.state=active,encrypt.new-secret=e,encrypt.iter-time=1", &["d", "e"]),
    Step {
        force: true,
        ..step(
            "e",
            "encrypt.state=active,encrypt.new-secret=f,encrypt.keyslot=6,encrypt.iter-time=1",
            &["e", "f"],
        )
    },
    step("f", "encrypt.state=inactive,encrypt.old-secret=e", &["f"]),
];

static TOTAL: Mutex<Option<CrashReport>> = Mutex::new(None);

fn main() -> ExitCode {
    let mut tests = vec![suite::with_oracle("qemu-img reads a part of the states", |_| ())];
    for (number, options) in IMAGES.iter().enumerate() {
        tests.push(suite::plain(format!("key slots {}", options.join(",")), move || {
            explore(options, number as u64);
        }));
        tests.push(suite::plain(format!("failing requests {}", options.join(",")), move || faults(options)));
    }
    let code = suite::run(tests);
    if let Some(total) = *TOTAL.lock().unwrap() {
        println!("crash states of key slot changes: {total:?}");
    }
    code
}

/// Every so-manieth request is made to fail.
fn fault_step() -> usize {
    diskimg_testkit::asked("DISKIMG_FAULT_STEP", 14)
}

fn subject(options: &[&'static str], password: &str) -> FormatSubject {
    let mut subject = FormatSubject::new(&DRIVER, SIZE, &["encrypt.format=luks", "encrypt.iter-time=1"]);
    subject.options.push(("encrypt.key-secret", password.to_owned()));
    subject.options.extend(FormatSubject::new(&DRIVER, SIZE, options).options);
    subject
}

fn contents() -> Vec<Op> {
    let k = |from: u64, len: u64| ByteRange::new(from << 10, len << 10);
    vec![
        Op::Write(k(0, 90), 1),
        Op::Zero(k(64, 16), ZeroMode::KeepAllocated),
        Op::Write(k(150, 9), 2),
        Op::Flush,
    ]
}

fn change(options: &[&'static str], disks: &[Arc<dyn BlockDevice>], step: &Step) {
    try_change(options, disks, step).unwrap_or_else(|error| panic!("{}: {error:?}", step.change));
}

fn try_change(options: &[&'static str], disks: &[Arc<dyn BlockDevice>], step: &Step) -> Result<()> {
    let opened = subject(options, step.by).open(disks, true)?;
    let mut parsed = ParsedOptions::for_usage(&[DRIVER.options], OptUse::AMEND);
    parsed.parse(step.change).unwrap();
    let opener = MemOpener::default();
    let input = AmendInput { options: &parsed, force: step.force, opener: &opener, task: Task::quiet() };
    opened.layers[0].as_amend().unwrap().amend(&input)
}

/// Each request fails in turn, at each step: as after a crash, a password that it had or shall have opens the image.
fn faults(options: &[&'static str]) {
    let (mut disks, bytes) = crash::prepared(&subject(options, "a"), &contents());
    let mut injected = 0;
    for (number, step) in STEPS.iter().enumerate() {
        for spec in FaultSpec::usual() {
            for nth in (number % fault_step()..).step_by(fault_step()) {
                let plan = FaultPlan::new(FaultSpec { nth: nth as u64, ..spec });
                let memory: Vec<Arc<MemDevice>> =
                    disks.iter().map(|bytes| Arc::new(MemDevice::from(bytes.clone()))).collect();
                let failing = plan.over(&memory);
                let result = try_change(options, &failing, step);
                let left: Vec<Vec<u8>> = memory.iter().map(|device| device.to_vec()).collect();
                let done = number + usize::from(result.is_ok());
                if let Some(text) = panics(|| judge(options, &left, done, &bytes, None)) {
                    panic!("{options:?}: {}: {spec:?}, {nth}: {result:?}: {text}", step.change);
                }
                if plan.injected() == 0 {
                    assert!(result.is_ok(), "{}: {result:?}", step.change);
                    break;
                }
                injected += plan.injected();
            }
        }
        let memory: Vec<Arc<dyn BlockDevice>> =
            disks.iter().map(|bytes| Arc::new(MemDevice::from(bytes.clone())) as _).collect();
        change(options, &memory, step);
        disks = memory.iter().map(|device| whole(&**device)).collect();
    }
    println!("{options:?}: {injected} failures");
}

fn whole(device: &dyn BlockDevice) -> Vec<u8> {
    let mut bytes = vec![0; diskimg_core::to_usize(device.len())];
    device.read_at(0, &mut bytes).unwrap();
    bytes
}

fn explore(options: &[&'static str], seed: u64) {
    let (disks, bytes) = crash::prepared(&subject(options, "a"), &contents());
    let recorder = Recorder::new();
    let shared = recorder.devices(disks);
    let mut ends = Vec::new();
    for step in STEPS {
        change(options, &shared, step);
        ends.push(recorder.position());
    }
    let trace = recorder.trace();
    let mut report = CrashReport { events: trace.events.len(), ..CrashReport::default() };
    let mut seen = HashSet::new();
    let visit = |state: CrashState| {
        report.states += 1;
        let done = ends.iter().filter(|end| **end <= state.position).count();
        if !seen.insert(hash_of(done, &state)) {
            return Ok(());
        }
        report.distinct += 1;
        let asked = Oracle::find().filter(|_| report.distinct.is_multiple_of(ASKED_ONE_IN));
        report.oracle += usize::from(asked.is_some());
        match panics(|| judge(options, &state.disks, done, &bytes, asked)) {
            Some(text) => Err(format!(
                "{options:?}: event {}, {done} changes done: {}: {text}",
                state.position, state.story
            )),
            None => Ok(()),
        }
    };
    if let Err(text) = trace.explore(Sampling { samples: crash::samples(200), seed }, visit) {
        panic!("{text}");
    }
    TOTAL.lock().unwrap().get_or_insert_with(CrashReport::default).add(report);
}

fn hash_of(done: usize, state: &CrashState) -> u64 {
    let mut hasher = DefaultHasher::new();
    (done, &state.disks).hash(&mut hasher);
    hasher.finish()
}

/// `done` changes are complete in this state; a further one may have begun.
fn judge(options: &[&'static str], disks: &[Vec<u8>], done: usize, bytes: &[u8], asked: Option<&Oracle>) {
    let before = done.checked_sub(1).map_or(&["a"][..], |last| STEPS[last].opens);
    let after = STEPS.get(done).map_or(before, |step| step.opens);
    // What the last change took away.
    let gone = done.checked_sub(2).map_or(&["a"][..], |at| STEPS[at].opens);
    let tried: BTreeSet<&str> = [before, after, gone].into_iter().flatten().copied().collect();
    let mut opening = Vec::new();
    for password in tried {
        let shared: Vec<Arc<dyn BlockDevice>> =
            disks.iter().map(|bytes| Arc::new(MemDevice::from(bytes.clone())) as _).collect();
        let (old, new) = (before.contains(&password), after.contains(&password));
        let opened = match subject(options, password).open(&shared, false) {
            Ok(opened) => opened,
            Err(error) => {
                assert!(!(old && new), "{password} does not open it: {error:?}");
                continue;
            }
        };
        assert!(old || new, "{password} still opens it");
        opening.push(password);
        let mut found = vec![0; bytes.len()];
        opened.device.read_at(0, &mut found).unwrap();
        assert!(found == bytes, "other contents with {password}");
        let check = opened.layers[0].as_check().unwrap();
        let report = check.check(Repair::Nothing, &mut |_| (), &Task::quiet()).unwrap();
        assert_eq!((report.corruptions, report.leaks, report.check_errors), (0, 0, 0));
    }
    assert!(!opening.is_empty(), "nothing opens it");
    if let Some(oracle) = asked {
        opening.iter().for_each(|password| reads_same(oracle, disks, bytes, password));
    }
}

fn reads_same(oracle: &Oracle, disks: &[Vec<u8>], bytes: &[u8], password: &str) {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in ["image", "data"].iter().zip(disks) {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    std::fs::write(folder.path().join("plain"), bytes).unwrap();
    let secret = format!("secret,id=s,data={password}");
    let image = "driver=qcow2,file.filename=image,encrypt.key-secret=s";
    let plain = "driver=raw,file.filename=plain";
    oracle.must(folder.path(), &["compare", "--object", &secret, "--image-opts", image, plain]);
    oracle.must(folder.path(), &["check", "--object", &secret, "--image-opts", image]);
}
