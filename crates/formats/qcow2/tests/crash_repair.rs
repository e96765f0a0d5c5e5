//! A repair that is interrupted at any moment, by a crash or an error, leaves an image that the same repair can go on
//! with, and of which the guest reads what it read before. `DISKIMG_CRASH_SAMPLES` asks for another number of states.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::cast_possible_truncation)]

mod damage;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use diskimg_core::driver::OpenMode;
use diskimg_core::{BlockDevice, CheckReport, MemDevice, Repair, Result, Task};
use diskimg_qcow2::DRIVER;
use diskimg_testkit::{
    FaultDevice, FaultKinds, FaultPlan, FaultSpec, MemOpener, Oracle, Recorder, Rng, Sampling, open_image,
    suite,
};

use damage::*;

/// Unit in which guest data is compared, in bytes.
const UNIT: usize = 4096;
/// Bytes of the disk that are looked at.
const MOST: u64 = 4 << 20;
/// Images per kind.
const ROUNDS: u64 = 4;

static STATES: AtomicUsize = AtomicUsize::new(0);
static FAULTS: AtomicUsize = AtomicUsize::new(0);

fn main() -> ExitCode {
    let mut tests = Vec::new();
    for case in CASES {
        tests.push(suite::with_oracle(format!("crash in a repair: {}", case.0), move |oracle| {
            let mut image = case.1.make(oracle).image;
            (case.2)(&mut image);
            interrupt(&image.0);
        }));
    }
    for (number, setup) in SETUPS.iter().enumerate().filter(|(_, setup)| !setup.options.contains("data_file"))
    {
        tests.push(suite::with_oracle(format!("crash in a repair: random damage {number}"), move |oracle| {
            at_random(oracle, setup, number as u64);
        }));
    }
    let code = suite::run(tests);
    println!("states: {STATES:?}, faults: {FAULTS:?}");
    code
}

type Case = (&'static str, Setup, fn(&mut Patch));

const CASES: &[Case] = &[
    ("in place", SNAPSHOTS, |i| {
        i.set_u16(i.refcount(5), 1);
        i.set_u16(i.refcount(7), 9);
        i.xor(i.l2(1), COPIED);
    }),
    ("rebuild", SNAPSHOTS, |i| i.set_u16(i.refcount(5), 0)),
    ("rebuild with small clusters", UNSHARED, |i| i.set_u16(i.refcount(9), 0)),
    ("rebuild of a dirty image", PLAIN, |i| {
        i.set(72, 3);
        i.set(i.reftable(), 4);
    }),
    ("snapshot table", SNAPSHOTS, |i| i.set_u32(i.snapshots() + 36, 1025)),
    ("one snapshot more", SNAPSHOTS, |i| i.set_u32(60, 3)),
    ("entries of a snapshot", SNAPSHOTS, |i| {
        let l2 = i.offset_at(i.get(i.snapshots()));
        i.xor(l2 + 24, 0x201);
    }),
];

fn at_random(oracle: &Oracle, setup: &Setup, seed: u64) {
    let made = setup.make(oracle);
    let places = places(&made.image);
    for round in 0..ROUNDS {
        let mut rng = Rng::new(seed << 32 | round);
        let mut image = made.image.clone();
        for _ in 0..1 + rng.below(4) {
            let group = rng.pick(&places).clone();
            let at = *rng.pick(&group);
            damage_entry(&mut image, at, &places, &mut rng);
        }
        interrupt(&image.0);
    }
}

fn repair(storage: Arc<dyn BlockDevice>) -> Result<CheckReport> {
    repair_until(storage, || ())
}

/// Calls `closing` before the image is closed: who closes stores bitmaps, and is told of failures by a notice alone.
fn repair_until(storage: Arc<dyn BlockDevice>, closing: impl FnOnce()) -> Result<CheckReport> {
    let mode = OpenMode { check: true, write: true, ..OpenMode::default() };
    let image = open_image(&DRIVER, storage, mode, &MemOpener::new([]))?;
    let check = image.as_check().unwrap();
    check.check(Repair::All, &mut |_| {}, &Task::quiet())?;
    let report = check.check(Repair::Nothing, &mut |_| {}, &Task::quiet());
    closing();
    report
}

/// What the guest reads, by unit.
fn guest(bytes: &[u8]) -> Vec<Option<Vec<u8>>> {
    let storage = Arc::new(MemDevice::read_only(bytes.to_vec()));
    let Ok(image) = open_image(&DRIVER, storage, OpenMode::default(), &MemOpener::new([])) else {
        return Vec::new();
    };
    let units = (image.len().min(MOST) as usize).div_ceil(UNIT);
    let read = |unit: usize| {
        let mut buf = vec![0; UNIT.min(image.len() as usize - unit * UNIT)];
        image.read_at((unit * UNIT) as u64, &mut buf).ok().map(|()| buf)
    };
    (0..units).map(read).collect()
}

fn interrupt(damaged: &[u8]) {
    let recorder = Recorder::new();
    let device = recorder.device(damaged.to_vec());
    // What can't be repaired at all changes nothing that matters.
    let Ok(done) = repair(device.clone()) else { return };
    let repaired = device.to_vec();
    // Guest data that is somebody's metadata changes with it: only what the whole repair keeps is looked at.
    let (before, after) = (guest(damaged), guest(&repaired));
    let kept: Vec<Option<Vec<u8>>> = before
        .iter()
        .enumerate()
        .map(|(unit, bytes)| {
            bytes.clone().filter(|bytes| after.get(unit).and_then(Option::as_ref) == Some(bytes))
        })
        .collect();
    let judge = |bytes: &[u8], story: &str| {
        let now = guest(bytes);
        for (unit, expected) in kept.iter().enumerate().filter(|(_, bytes)| bytes.is_some()) {
            assert!(now.get(unit) == Some(expected), "guest unit {unit}: {story}");
        }
        let again = Arc::new(MemDevice::from(bytes.to_vec()));
        let report = repair(again.clone()).unwrap_or_else(|error| panic!("{}: {story}", error.joined()));
        let left = (report.corruptions, report.leaks, report.check_errors);
        assert!(
            report.corruptions <= done.corruptions
                && report.leaks == 0
                && report.check_errors == done.check_errors,
            "left {left:?}, without a crash {done:?}: {story}"
        );
        let now = guest(&again.to_vec());
        for (unit, expected) in kept.iter().enumerate().filter(|(_, bytes)| bytes.is_some()) {
            assert!(now.get(unit) == Some(expected), "guest unit {unit} after another repair: {story}");
        }
    };
    let trace = recorder.trace();
    let sampling = Sampling { samples: diskimg_testkit::crash::samples(60), seed: 7 };
    let states = trace.explore(sampling, |state| {
        judge(&state.disks[0], &format!("at {} of {}: {}", state.position, trace.events.len(), state.story));
        Ok::<(), String>(())
    });
    STATES.fetch_add(states.unwrap(), Ordering::Relaxed);
    for nth in 1.. {
        let memory = Arc::new(MemDevice::from(damaged.to_vec()));
        let kinds = FaultKinds::WRITE | FaultKinds::FLUSH;
        let plan = FaultPlan::new(FaultSpec::once(kinds, nth));
        let mut repaired = false;
        let device = Arc::new(FaultDevice::new(memory.clone(), plan.clone()));
        let result = repair_until(device, || repaired = plan.injected() == 0);
        if plan.injected() == 0 {
            break;
        }
        assert!(result.is_err() || repaired, "fault {nth} was not told");
        judge(&memory.to_vec(), &format!("fault {nth}"));
        FAULTS.fetch_add(1, Ordering::Relaxed);
    }
}
