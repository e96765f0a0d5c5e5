//! A power cut at any write of an amendment leaves an image that opens with all its data, as the old or the new one.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod picture;

use std::collections::HashSet;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use diskimg_core::{BlockDevice, ByteRange, Image, MemDevice, NewSnapshot, Result, Task, ZeroMode};
use diskimg_qcow2::DRIVER;
use diskimg_testkit::crash::{self, CrashReport, Scenario};
use diskimg_testkit::{
    CrashState, FaultKinds, FaultPlan, FaultSpec, FormatSubject, History, Op, Oracle, OverlaySubject,
    Recorder, Sampling, Subject, suite,
};

use picture::Picture;

/// Bytes of the disks.
const SIZE: u64 = 1 << 20;

/// Numbers of all tests together.
static TOTAL: Mutex<Option<CrashReport>> = Mutex::new(None);

fn main() -> ExitCode {
    let code = suite::run(vec![
        suite::plain("refcounts of every width", refcounts_of_every_width),
        suite::plain("both versions", both_versions),
        suite::plain("failing requests", failing_requests),
        suite::plain("with snapshots and bitmaps", with_snapshots_and_bitmaps),
        suite::plain("over a backing file", over_a_backing_file),
        suite::plain("with a data file", with_a_data_file),
        suite::plain("of another size", of_another_size),
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
    diskimg_testkit::amend(&*opened.layers[0], change)
}

/// Amends an image made with `create` by each of `changes`, one after the other, and judges every crash.
fn survives(create: &[&'static str], changes: &[&str]) {
    let subject = FormatSubject::new(&DRIVER, SIZE, create);
    let prepare = contents();
    let (disks, bytes) = crash::prepared(&subject, &prepare);
    let recorder = Recorder::new();
    let shared = recorder.devices(disks);
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
        let failing = plan.over(&memory);
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

/// Amends an image by each of `changes`, one after the other, and judges every crash by all that is seen of the image.
/// `before` is done first; what a change refuses is left out.
fn keeps_all(subject: &dyn Subject, before: impl Fn(&dyn Image), changes: &[&str]) {
    let (disks, _) = crash::prepared(subject, &contents());
    let recorder = Recorder::new();
    let prepared = picture::memory(&disks);
    before(&*subject.open(&picture::shared(&prepared), true).unwrap().layers[0]);
    let devices: Vec<Arc<dyn BlockDevice>> =
        prepared.iter().map(|device| recorder.device(device.to_vec()) as Arc<dyn BlockDevice>).collect();
    let take = || Picture::of(&subject.open(&devices, false).unwrap());
    let (mut pictures, mut ends) = (vec![take()], Vec::new());
    for change in changes {
        let opened = subject.open(&devices, true).unwrap();
        diskimg_testkit::amend(&*opened.layers[0], change)
            .unwrap_or_else(|error| panic!("{change}: {error:?}"));
        drop(opened);
        ends.push(recorder.position());
        pictures.push(take());
    }
    let trace = recorder.trace();
    let mut report = CrashReport { events: trace.events.len(), ..CrashReport::default() };
    let mut seen = HashSet::new();
    let visit = |state: CrashState| {
        report.states += 1;
        let done = ends.iter().filter(|end| **end <= state.position).count();
        if !seen.insert((done, state.disks.clone())) {
            return Ok(());
        }
        report.distinct += 1;
        let new = pictures.get(done + 1).unwrap_or(&pictures[done]);
        let judged = picture::judge(subject, &state.disks, (&pictures[done], new), false);
        let change = changes.get(done).copied().unwrap_or("nothing");
        judged.map_err(|text| {
            format!("{}, {change}: event {}: {}: {text}", subject.name(), state.position, state.story)
        })
    };
    if let Err(text) = trace.explore(Sampling { samples: 150, seed: 11 }, visit) {
        panic!("{text}");
    }
    TOTAL.lock().unwrap().get_or_insert_with(CrashReport::default).add(report);
}

/// Two snapshots, one with the state of a machine, and clusters that one, two or three trees share.
fn with_history(image: &dyn Image) {
    picture::add_snapshot(image, "one").unwrap();
    image.write_at(8 << 10, &[5; 20 << 10]).unwrap();
    image.as_snapshots().unwrap().write_vm_state(0, &[9; 5000]).unwrap();
    let new = NewSnapshot { name: "two".into(), vm_state_size: 5000, ..NewSnapshot::default() };
    image.as_snapshots().unwrap().create_snapshot(&new).unwrap();
    image.write_at(100 << 10, &[6; 9 << 10]).unwrap();
    image.flush().unwrap();
}

fn with_bitmaps(image: &dyn Image) {
    picture::add_bitmap(image, "records", true).unwrap();
    picture::add_bitmap(image, "rests", false).unwrap();
    image.write_at(300 << 10, &[7; 70 << 10]).unwrap();
    image.as_bitmaps().unwrap().enable_bitmap("rests", true).unwrap();
    image.write_at(3 << 10, &[8; 3 << 10]).unwrap();
    image.as_bitmaps().unwrap().enable_bitmap("rests", false).unwrap();
    image.flush().unwrap();
}

fn with_snapshots_and_bitmaps() {
    let of = |options| FormatSubject::new(&DRIVER, SIZE, options);
    keeps_all(
        &of(&["cluster_size=4096"]),
        with_history,
        &["refcount_bits=64", "refcount_bits=8", "size=1152k"],
    );
    keeps_all(&of(&["cluster_size=512"]), with_history, &["refcount_bits=32", "lazy_refcounts=on"]);
    keeps_all(&of(&["cluster_size=65536"]), with_history, &["compat=v2", "compat=v3", "refcount_bits=4"]);
    keeps_all(&of(&["cluster_size=16384", "extended_l2=on"]), with_history, &["refcount_bits=2", "size=3M"]);
    let both = |image: &dyn Image| {
        with_history(image);
        with_bitmaps(image);
    };
    keeps_all(&of(&["cluster_size=4096"]), both, &["refcount_bits=32", "lazy_refcounts=on", "size=1280k"]);
    keeps_all(&of(&["cluster_size=65536"]), with_bitmaps, &["size=40M,refcount_bits=1", "compat=v3"]);
}

fn over_a_backing_file() {
    let over = |options, base_len| OverlaySubject {
        top: FormatSubject::new(&DRIVER, SIZE, options),
        base: &DRIVER,
        base_len,
        seed: 3,
    };
    keeps_all(&over(&["cluster_size=4096"], SIZE), |_| {}, &["refcount_bits=64", "compat=v3", "size=1152k"]);
    // Zeros over data become clusters of zeros.
    keeps_all(&over(&["cluster_size=4096"], SIZE), |_| {}, &["compat=v2", "compat=v3,refcount_bits=8"]);
    keeps_all(&over(&["cluster_size=65536"], SIZE / 2), with_history, &["compat=v2", "compat=v3"]);
    // What the backing file has behind the old end must not show up.
    keeps_all(&over(&["cluster_size=16384"], SIZE + (96 << 10)), |_| {}, &["size=1280k", "refcount_bits=1"]);
}

fn with_a_data_file() {
    let of = |options| FormatSubject::new(&DRIVER, SIZE, options);
    keeps_all(
        &of(&["cluster_size=4096", "data_file=data"]),
        with_bitmaps,
        &["refcount_bits=64", "lazy_refcounts=on", "size=1280k"],
    );
    let raw = &["cluster_size=65536", "data_file=data", "data_file_raw=on"];
    keeps_all(&of(raw), |_| {}, &["refcount_bits=1", "size=40M", "data_file_raw=off"]);
}

fn of_another_size() {
    let of = |options| FormatSubject::new(&DRIVER, SIZE, options);
    keeps_all(&of(&["cluster_size=512"]), |_| {}, &["size=2M", "size=3M,refcount_bits=64,lazy_refcounts=on"]);
    keeps_all(&of(&["cluster_size=4096", "compat=v2"]), |_| {}, &["size=9M,compat=v3", "size=10M,compat=v2"]);
}
