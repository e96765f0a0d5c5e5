//! Snapshots survive a crash at any moment while one is created, applied or deleted, and so does the disk: every prefix
//! of the recorded writes, and sampled sets of those since the last barrier, open and hold what they must; an image of
//! version 3 that was left unclean is clean once it has been opened for writing. The same after each failed request.
//! `DISKIMG_CRASH_SAMPLES` asks for another number of samples per scenario.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use diskimg_core::driver::OpenMode;
use diskimg_core::opener::NoReferences;
use diskimg_core::{
    BlockDevice, Device, Image, MemDevice, NewSnapshot, Prealloc, Repair, Result, SnapshotKey, Task, to_usize,
};
use diskimg_qcow2::DRIVER;
use diskimg_testkit::{
    CheckVerdict, FaultDevice, FaultKinds, FaultPlan, FaultSpec, FormatSubject, Oracle, Recorder, Sampling,
    open_image, pattern, suite,
};

/// Create options and the disk's length in bytes.
const IMAGES: &[(&[&str], u64)] = &[
    (&["cluster_size=512"], 40 << 10),
    (&["cluster_size=512", "compat=0.10"], 40 << 10),
    (&["cluster_size=1k", "refcount_bits=4"], 30 << 10),
    (&["cluster_size=512", "refcount_bits=64"], 40 << 10),
    (&["cluster_size=16k", "extended_l2=on"], 200 << 10),
    (&["cluster_size=4k"], 100 << 10),
    (&["cluster_size=512", "lazy_refcounts=on"], 40 << 10),
    (&[], 400 << 10),
];

/// What is recorded, after two snapshots (`1` and `2`) were made with writes in between.
#[derive(Clone, Copy, Debug)]
enum Act {
    Create,
    Apply(&'static str),
    Delete(&'static str),
    /// All over the disk.
    Write(u64),
    State,
    Flush,
}

const SCENARIOS: &[&[Act]] = &[
    &[Act::Create],
    &[Act::Create, Act::Write(3)],
    &[Act::State, Act::Create, Act::Write(3), Act::Flush],
    &[Act::Apply("1")],
    &[Act::Apply("2"), Act::Write(4)],
    &[Act::Apply("1"), Act::Create, Act::Apply("2")],
    &[Act::Delete("1")],
    &[Act::Delete("2"), Act::Write(5)],
    &[Act::Write(6), Act::Flush, Act::Delete("1"), Act::Delete("2"), Act::Write(7), Act::Create],
    // With refcounts postponed by the second flush, where they are.
    &[
        Act::Write(6),
        Act::Flush,
        Act::Write(8),
        Act::Flush,
        Act::Create,
        Act::Write(3),
        Act::Flush,
        Act::Delete("1"),
    ],
];

/// What is known of disk and snapshots at one moment.
#[derive(Clone, Debug)]
struct World {
    disk: Vec<u8>,
    snapshots: Vec<(String, Vec<u8>)>,
    /// Durable when the act had ended.
    durable: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Total {
    states: usize,
    distinct: usize,
    unclean: usize,
    faults: usize,
    oracle: usize,
    leaks: u64,
}

static TOTAL: Mutex<Total> =
    Mutex::new(Total { states: 0, distinct: 0, unclean: 0, faults: 0, oracle: 0, leaks: 0 });

fn main() -> ExitCode {
    let mut tests = vec![suite::with_oracle("qemu-img judges a part of the states", |_| ())];
    for (options, size) in IMAGES {
        tests.push(suite::plain(options.join(","), move || crashes(options, *size)));
        tests.push(suite::plain(format!("faults of {}", options.join(",")), move || faults(options, *size)));
    }
    let code = suite::run(tests);
    println!("{:?}", TOTAL.lock().unwrap());
    code
}

fn open(storage: Arc<dyn BlockDevice>, write: bool) -> Result<Arc<dyn Image>> {
    open_image(&DRIVER, storage, OpenMode { write, ..OpenMode::default() }, &NoReferences)
}

fn contents(image: &Arc<dyn Image>) -> Vec<u8> {
    let device = Device::new(Arc::<dyn Image>::clone(image));
    let mut all = vec![0x55; to_usize(device.len())];
    device.read_at(0, &mut all).expect("reads");
    all
}

impl World {
    /// Does `act` to the image and to the model.
    fn act(&mut self, image: &Arc<dyn Image>, act: Act) -> Result<()> {
        let snapshots = image.as_snapshots().expect("snapshots");
        let mut next = self.clone();
        next.durable = true;
        match act {
            Act::Create => {
                let new = NewSnapshot { name: "new".to_owned(), ..NewSnapshot::default() };
                let ids = self.snapshots.iter().map(|(id, _)| id.parse::<u64>().unwrap());
                let id = (ids.max().unwrap_or(0) + 1).to_string();
                next.snapshots.push((id, self.disk.clone()));
                *self = next;
                snapshots.create_snapshot(&new).map(|_| ())
            }
            Act::Apply(id) => {
                next.disk.clone_from(&self.snapshots.iter().find(|(known, _)| known == id).unwrap().1);
                *self = next;
                snapshots.apply_snapshot(&SnapshotKey::id(id))
            }
            Act::Delete(id) => {
                next.snapshots.retain(|(known, _)| known != id);
                *self = next;
                snapshots.delete_snapshot(&SnapshotKey::id(id))
            }
            Act::Write(seed) => {
                next.durable = false;
                let bytes = pattern(seed, 0, next.disk.len() as u64);
                let device = Device::new(Arc::<dyn Image>::clone(image));
                let step = 3072;
                next.disk.copy_from_slice(&bytes);
                *self = next;
                for (number, part) in bytes.chunks(step).enumerate() {
                    device.write_at((number * step) as u64, part)?;
                }
                Ok(())
            }
            Act::State => {
                next.durable = false;
                *self = next;
                snapshots.write_vm_state(100, &[7; 3000])
            }
            Act::Flush => {
                *self = next;
                image.flush()
            }
        }
    }
}

/// An image with two snapshots of different disks, closed, and what it holds.
fn prepared(options: &'static [&'static str], size: u64) -> (Vec<u8>, World) {
    let storage = FormatSubject::new(&DRIVER, size, options).fresh().remove(0);
    let image = open(Arc::<MemDevice>::clone(&storage), true).unwrap();
    let mut world = World { disk: vec![0; to_usize(size)], snapshots: Vec::new(), durable: true };
    let some = |world: &mut World, seed: u64, from: usize, to: usize| {
        let bytes = pattern(seed, 0, (to - from) as u64);
        Device::new(Arc::<dyn Image>::clone(&image)).write_at(from as u64, &bytes).unwrap();
        world.disk[from..to].copy_from_slice(&bytes);
    };
    let len = world.disk.len();
    some(&mut world, 1, 0, len / 2);
    world.act(&image, Act::Create).unwrap();
    some(&mut world, 2, len / 4, 3 * len / 4);
    if !options.contains(&"compat=0.10") {
        let longer = size + size / 4 / 512 * 512;
        image.set_len(longer, Prealloc::Off).unwrap();
        world.disk.resize(to_usize(longer), 0);
    }
    world.act(&image, Act::State).unwrap();
    world.act(&image, Act::Create).unwrap();
    some(&mut world, 3, len / 3, len / 2);
    image.flush().unwrap();
    drop(image);
    world.durable = true;
    (storage.to_vec(), world)
}

fn crashes(options: &'static [&'static str], size: u64) {
    let is_v2 = options.contains(&"compat=0.10");
    let (bytes, begin) = prepared(options, size);
    for acts in SCENARIOS {
        let recorder = Recorder::new();
        let image = open(recorder.device(bytes.clone()), true).unwrap();
        let mut world = begin.clone();
        let mut worlds = vec![(recorder.position(), world.clone())];
        for act in *acts {
            world.act(&image, *act).unwrap_or_else(|error| panic!("{options:?} {acts:?}: {error:?}"));
            worlds.push((recorder.position(), world.clone()));
        }
        drop(image);
        let trace = recorder.trace();
        let (mut seen, mut total) = (HashSet::new(), Total::default());
        let result =
            trace.explore(Sampling { samples: diskimg_testkit::crash::samples(250), seed: 11 }, |state| {
                total.states += 1;
                let mut hasher = DefaultHasher::new();
                (&state.disks, state.position).hash(&mut hasher);
                if !seen.insert(hasher.finish()) {
                    return Ok(());
                }
                total.distinct += 1;
                let done = worlds.iter().rposition(|(end, _)| *end <= state.position).unwrap_or(0);
                let first = (0..=done).rev().find(|at| worlds[*at].1.durable).unwrap_or(0);
                let last = (done + 1).min(worlds.len() - 1);
                let known: Vec<&World> = worlds.iter().map(|(_, world)| world).collect();
                let may_be = MayBe { disks: &known[first..=last], snapshots: &known[done..=last] };
                let judged =
                    suite::judged(|| judge(&state.disks[0], &may_be, is_v2, total.distinct, &mut total));
                judged.map_err(|text| {
                    format!(
                        "{options:?} {acts:?}: after {} of {} events ({}; acts end at {:?}): {text}",
                        state.position,
                        trace.events.len(),
                        state.story,
                        worlds.iter().map(|(end, _)| end).collect::<Vec<_>>()
                    )
                })
            });
        if let Err(text) = result {
            panic!("{text}");
        }
        note(total);
    }
}

fn note(more: Total) {
    let mut total = TOTAL.lock().unwrap();
    total.states += more.states;
    total.distinct += more.distinct;
    total.unclean += more.unclean;
    total.faults += more.faults;
    total.oracle += more.oracle;
    total.leaks = total.leaks.max(more.leaks);
}

/// Each request fails in turn, once or from then on.
fn faults(options: &'static [&'static str], size: u64) {
    let is_v2 = options.contains(&"compat=0.10");
    let (bytes, begin) = prepared(options, size);
    let mut total = Total::default();
    for acts in SCENARIOS.iter().filter(|acts| acts.len() <= 2) {
        for (kinds, times) in
            [(FaultKinds::CHANGES, 1), (FaultKinds::CHANGES, u64::MAX), (FaultKinds::READ, 1)]
        {
            for nth in 0.. {
                let plan = FaultPlan::new(FaultSpec { times, ..FaultSpec::once(kinds, nth) });
                let memory = Arc::new(MemDevice::from(bytes.clone()));
                let faulty = FaultDevice::new(Arc::<MemDevice>::clone(&memory) as _, Arc::clone(&plan));
                let Ok(image) = open(Arc::new(faulty), true) else { continue };
                let mut worlds = vec![begin.clone()];
                let mut failed = None;
                for act in *acts {
                    let mut world = worlds.last().unwrap().clone();
                    let done = world.act(&image, *act);
                    worlds.push(world);
                    if let Err(error) = done {
                        failed = Some(error);
                        break;
                    }
                }
                drop(image);
                if plan.injected() == 0 {
                    break;
                }
                total.faults += 1;
                let known: Vec<&World> = worlds.iter().collect();
                let from = if failed.is_some() { known.len() - 2 } else { known.len() - 1 };
                let first = (0..=from).rev().find(|at| known[*at].durable).unwrap_or(0);
                // What is only written may be lost where closing it failed.
                let first = if failed.is_none() { first.min(known.len() - 2) } else { first };
                let may_be = MayBe { disks: &known[first..], snapshots: &known[from..] };
                let judged =
                    suite::judged(|| judge(&memory.to_vec(), &may_be, is_v2, total.faults, &mut total));
                if let Err(text) = judged {
                    panic!(
                        "{options:?} {acts:?}: failure {nth} of {kinds:?}, {times} times, {failed:?}: {text}"
                    );
                }
            }
        }
    }
    note(total);
}

/// What a state may hold.
struct MayBe<'a> {
    disks: &'a [&'a World],
    snapshots: &'a [&'a World],
}

fn judge(
    bytes: &[u8],
    may_be: &MayBe<'_>,
    is_v2: bool,
    number: usize,
    total: &mut Total,
) -> Result<(), String> {
    let as_text = |error: diskimg_core::Error| format!("{error:?}");
    let image = open(Arc::new(MemDevice::read_only(bytes.to_vec())), false).map_err(as_text)?;
    let dirty = image.info().map_err(as_text)?.dirty == Some(true);
    total.unclean += usize::from(dirty);
    verify(&image, may_be)?;
    let (leaks, words) = check(&image)?;
    total.leaks = total.leaks.max(leaks);
    let flags_only = words.iter().all(|line| line.contains("OFLAG_COPIED"));
    // Counts that the image postpones are made anew below.
    let postponed = dirty && !is_v2 && bytes[87] & 1 == 1;
    if !(words.is_empty() || postponed || flags_only && (dirty || is_v2)) {
        return Err(format!("{}check: {words:#?}", if dirty { "unclean; " } else { "" }));
    }
    drop(image);
    if !dirty && !number.is_multiple_of(8) {
        return Ok(());
    }
    let storage = Arc::new(MemDevice::from(bytes.to_vec()));
    let image = open(Arc::<MemDevice>::clone(&storage) as _, true).map_err(as_text)?;
    let kept = verify(&image, may_be)?;
    let (leaks, words) = check(&image)?;
    if dirty && (leaks > 0 || !words.is_empty()) {
        return Err(format!("repaired when it was opened, but check: {leaks} leaks, {words:#?}"));
    }
    // Life goes on, and does no harm to snapshots.
    let mut world = World { disk: contents(&image), snapshots: kept, durable: true };
    world.act(&image, Act::Write(99)).map_err(as_text)?;
    image.flush().map_err(as_text)?;
    verify(&image, &MayBe { disks: &[&world], snapshots: &[&world] })?;
    let (_, words) = check(&image)?;
    if !(words.is_empty() || is_v2 && words.iter().all(|line| line.contains("OFLAG_COPIED"))) {
        return Err(format!("check after more writes: {words:#?}"));
    }
    drop(image);
    // Where only flags of version 2 are left to find, it says no more than ours did.
    let oracle = Oracle::find().filter(|_| number.is_multiple_of(64) && words.is_empty());
    if let Some(oracle) = oracle {
        total.oracle += 1;
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        std::fs::write(folder.path().join("image"), storage.to_vec()).map_err(|error| error.to_string())?;
        match oracle.check(folder.path(), "qcow2", "image") {
            CheckVerdict::Bad(text) => return Err(format!("qemu-img check: {text}")),
            CheckVerdict::Clean | CheckVerdict::Leaks => {}
        }
    }
    Ok(())
}

/// Leaks, and the words for all other findings.
fn check(image: &Arc<dyn Image>) -> Result<(u64, Vec<String>), String> {
    let mut words = Vec::new();
    let mut say = |text: &str| {
        words.extend(text.lines().filter(|line| !line.starts_with("Leaked")).map(str::to_owned));
    };
    let report = image
        .as_check()
        .expect("a check")
        .check(Repair::Nothing, &mut say, &Task::quiet())
        .map_err(|error| format!("{error:?}"))?;
    if report.corruptions + report.check_errors == 0 {
        words.clear();
    }
    Ok((report.leaks, words))
}

/// The snapshots that are there, each of which holds what it must.
fn verify(image: &Arc<dyn Image>, may_be: &MayBe<'_>) -> Result<Vec<(String, Vec<u8>)>, String> {
    let disk = contents(image);
    let fits = |start: usize, part: &[u8]| {
        may_be
            .disks
            .iter()
            .any(|world| world.disk.len() == disk.len() && world.disk[start..start + part.len()] == *part)
    };
    let whole = may_be.disks.iter().any(|world| world.disk == disk);
    let written = may_be.disks.len() > 2 || may_be.disks.iter().any(|world| !world.durable);
    let lost = disk.chunks(512).enumerate().find(|(number, part)| !fits(number * 512, part));
    if let Some((number, _)) = lost {
        return Err(format!("the disk ({} bytes): lost at {:#x}", disk.len(), number * 512));
    }
    if !whole && !written {
        return Err("the disk is neither what it was nor what it becomes".to_owned());
    }
    let snapshots = image.as_snapshots().expect("snapshots");
    let mut found = Vec::new();
    for info in snapshots.snapshots() {
        let view = snapshots.open_snapshot(&SnapshotKey::id(&info.id));
        let view = view.map_err(|error| format!("snapshot {}: {error:?}", info.id))?;
        found.push((info.id, contents(&view)));
    }
    if may_be.snapshots.iter().any(|world| world.snapshots == found) {
        return Ok(found);
    }
    let ids: Vec<_> = found.iter().map(|(id, _)| id).collect();
    Err(format!("snapshots {ids:?} are not what they were or become"))
}
