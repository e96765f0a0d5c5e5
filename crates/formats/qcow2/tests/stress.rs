//! Threads write, zero, discard, reserve and compress, each to cells of its own, while others flush, make and delete
//! snapshots, change the disk's size and take bitmaps; with and without requests to the storage that fail. Then: what is
//! read, what each snapshot holds, what a bitmap marks, and what is there after a crash at any moment is what the logs of
//! the cells allow.
//!
//! `DISKIMG_PROP_ROUNDS` sets the number of runs for each sort of image, `DISKIMG_STRESS_SEED` the first seed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use diskimg_core::{
    BlockDevice, ByteRange, DirtyBitmap, Error, HostRef, Image, Limits, MemDevice, NewBitmap, NewSnapshot,
    Prealloc, Repair, Result, SnapshotKey, Task, ZeroMode, errno, to_usize,
};
use diskimg_qcow2::DRIVER;
use diskimg_testkit::{
    FormatSubject, Opened, OverlaySubject, Recorder, Rng, Sampling, SlowDevice, Subject, asked, rounds,
    shared,
};
use parking_lot::Mutex;

/// What image it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Alone,
    /// No snapshots: its data stands elsewhere.
    WithDataFile,
    /// Over another image, which shows through; a snapshot alone does not show that.
    Overlay,
}

/// Create options and sorts.
const IMAGES: &[(&[&str], Sort)] = &[
    (&["cluster_size=512"], Sort::Alone),
    (&["cluster_size=1k", "refcount_bits=2"], Sort::Alone),
    (&["cluster_size=4k", "compression_type=zstd"], Sort::Alone),
    (&["cluster_size=16k", "extended_l2=on"], Sort::Alone),
    (&["cluster_size=1k", "lazy_refcounts=on"], Sort::Alone),
    (&["cluster_size=1k", "pass-discard-other=on", "pass-discard-snapshot=on"], Sort::Alone),
    (&["cluster_size=2k", "encrypt.format=luks", "encrypt.key-secret=a", "encrypt.iter-time=1"], Sort::Alone),
    (&["cluster_size=2k", "data_file=data"], Sort::WithDataFile),
    (&["cluster_size=1k"], Sort::Overlay),
    (&["cluster_size=16k", "extended_l2=on"], Sort::Overlay),
];

/// Such an image of `size` bytes.
fn subject(options: &[&'static str], sort: Sort, size: u64) -> Box<dyn Subject> {
    let top = FormatSubject::new(&DRIVER, size, options);
    if sort == Sort::Overlay {
        return Box::new(OverlaySubject { top, base: &DRIVER, base_len: size / 1024 * 512, seed: 8 });
    }
    Box::new(top)
}

/// A new one.
fn fresh(subject: &dyn Subject) -> Vec<Arc<MemDevice>> {
    let disks: Vec<_> = subject.disks().iter().map(|_| Arc::new(MemDevice::new(0))).collect();
    subject.create(&shared(&disks)).unwrap();
    disks
}

const WRITERS: u64 = 3;
/// Clusters that are watched: more than one table of the smallest maps.
const CLUSTERS: u64 = 150;
/// Parts of a cluster that are written by themselves.
const PARTS: u64 = 2;

/// What was done to a cell.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// What it holds then, in each word.
    stamp: u64,
    /// It may hold what it held, or any mixture.
    failed: bool,
    start: u64,
    end: u64,
    /// Changes of the storage before it began.
    position: usize,
}

/// A flush that succeeded.
#[derive(Clone, Copy, Debug)]
struct Flush {
    start: u64,
    position: usize,
}

/// A snapshot that was tried.
#[derive(Clone, Debug)]
struct Kept {
    name: String,
    start: u64,
    end: u64,
}

struct World<'a> {
    opened: &'a Opened,
    recorder: &'a Recorder,
    clock: AtomicU64,
    cells: Vec<Mutex<Vec<Entry>>>,
    flushes: Mutex<Vec<Flush>>,
    kept: Mutex<Vec<Kept>>,
    done: AtomicBool,
    cluster: u64,
    /// What a cell shows that was never written.
    initial: Vec<u8>,
    /// Requests fail.
    faulty: bool,
}

/// Fails some requests, by chance.
#[derive(Debug)]
struct Chance {
    inner: Arc<dyn BlockDevice>,
    rng: Mutex<Rng>,
    /// In 10 000.
    odds: AtomicU64,
    failed: AtomicU64,
}

impl Chance {
    fn pass(&self) -> Result<()> {
        let odds = self.odds.load(Ordering::SeqCst);
        if odds > 0 && self.rng.lock().below(10_000) < odds {
            self.failed.fetch_add(1, Ordering::SeqCst);
            return Err(Error::from_errno(errno::EIO));
        }
        Ok(())
    }
}

impl BlockDevice for Chance {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.pass()?;
        self.inner.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.pass()?;
        self.inner.write_at(offset, buf)
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        self.pass()?;
        self.inner.write_zeroes(range, how)
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        self.pass()?;
        self.inner.discard(range)
    }

    fn flush(&self) -> Result<()> {
        self.pass()?;
        self.inner.flush()
    }

    fn set_len(&self, len: u64, prealloc: Prealloc) -> Result<()> {
        self.pass()?;
        self.inner.set_len(len, prealloc)
    }

    fn extent_at(&self, range: ByteRange) -> Result<diskimg_core::Extent<'_>> {
        let inner = self.inner.extent_at(range)?;
        Ok(diskimg_core::Extent { host: inner.host.map(|host| HostRef { device: self, ..host }), ..inner })
    }
}

impl World<'_> {
    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn cell_len(&self) -> u64 {
        self.cluster / PARTS
    }

    fn cell_range(&self, cell: u64) -> ByteRange {
        ByteRange::new(cell * self.cell_len(), self.cell_len())
    }

    /// Does something that leaves `stamp` in `cells`; `None`: it was not done at all.
    fn change(
        &self,
        cells: std::ops::Range<u64>,
        stamp: u64,
        act: impl FnOnce(ByteRange) -> Result<Option<()>>,
    ) {
        let (start, position) = (self.now(), self.recorder.position());
        let end = u64::MAX;
        // Known before it happens: a reader may see it at once.
        let entry = Entry { stamp, failed: true, start, end, position };
        for cell in cells.clone() {
            self.cells[to_usize(cell)].lock().push(entry);
        }
        let range = ByteRange::from_bounds(cells.start * self.cell_len(), cells.end * self.cell_len());
        let done = act(range);
        let end = self.now();
        assert!(self.faulty || done.is_ok(), "{done:?}");
        for cell in cells {
            let mut log = self.cells[to_usize(cell)].lock();
            match done {
                Ok(None) => drop(log.pop()),
                _ => *log.last_mut().unwrap() = Entry { failed: done.is_err(), end, ..entry },
            }
        }
    }

    /// What a cell may hold for one who began after everything that ended before `from` and saw nothing that began after
    /// `until`, nor behind `position`. `None`: also what was there at first.
    fn allowed(&self, cell: u64, from: u64, until: u64, position: usize) -> Vec<Option<u64>> {
        let log = self.cells[to_usize(cell)].lock();
        let mut found = vec![None];
        for entry in log.iter() {
            if !entry.failed && entry.end < from {
                found.clear();
            }
            if entry.start < until && entry.position < position {
                found.push(Some(entry.stamp));
            }
        }
        found
    }

    fn verify(&self, bytes: &[u8], from: u64, until: u64, position: usize, what: &str) {
        for cell in 0..CLUSTERS * PARTS {
            let range = self.cell_range(cell);
            let part = &bytes[to_usize(range.start)..to_usize(range.end())];
            let allowed = self.allowed(cell, from, until, position);
            if let Some((at, word)) = self.strange(range, part, &allowed) {
                let log = self.cells[to_usize(cell)].lock();
                panic!("{what}: cell {cell}: {word:#x} at {at:#x} is not one of {allowed:x?}: {log:?}");
            }
        }
    }

    /// A word of the bytes `part` of `range`, and its offset, that is none of the `allowed` ones.
    fn strange(&self, range: ByteRange, part: &[u8], allowed: &[Option<u64>]) -> Option<(u64, u64)> {
        let before = &self.initial[to_usize(range.start)..to_usize(range.end())];
        let words = |bytes: &[u8]| -> Vec<u64> {
            bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
        };
        let mut found = (range.start..).step_by(8).zip(words(part).into_iter().zip(words(before)));
        let fits = |word: u64, before: u64| allowed.iter().any(|one| one.unwrap_or(before) == word);
        found.find(|(_, (word, before))| !fits(*word, *before)).map(|(at, (word, _))| (at, word))
    }

    fn writer(&self, number: u64, seed: u64, steps: u64) {
        let mut rng = Rng::new(seed ^ number << 40);
        let device = &self.opened.device;
        let image = &*self.opened.layers[0];
        for step in 0..steps {
            let cluster = number + WRITERS * rng.below(CLUSTERS / WRITERS);
            let first = cluster * PARTS;
            let stamp = 1 + step + number * 1_000_000;
            let bytes = |len: u64| stamp.to_le_bytes().repeat(to_usize(len / 8));
            let whole = first..first + PARTS;
            match rng.below(12) {
                0..=2 => self
                    .change(whole, stamp, |range| device.write_at(range.start, &bytes(range.len)).map(Some)),
                3..=5 => {
                    let cell = first + rng.below(PARTS);
                    self.change(cell..cell + 1, stamp, |range| {
                        device.write_at(range.start, &bytes(range.len)).map(Some)
                    });
                }
                6 => {
                    let cell = first + rng.below(PARTS);
                    let how = if rng.chance(50) { ZeroMode::MayUnmap } else { ZeroMode::KeepAllocated };
                    self.change(cell..cell + 1, 0, |range| device.write_zeroes(range, how).map(Some));
                }
                7 => {
                    let how = if rng.chance(50) { ZeroMode::MayUnmap } else { ZeroMode::KeepAllocated };
                    self.change(whole, 0, |range| device.write_zeroes(range, how).map(Some));
                }
                8 => self.change(whole, 0, |range| image.discard(range).map(Some)),
                9 => {
                    let commits = rng.chance(70);
                    self.change(whole, stamp, |range| {
                        let Some(place) = device.reserve(range)? else { return Ok(None) };
                        place.write_at(range.start, &bytes(range.len))?;
                        std::thread::yield_now();
                        if commits { place.commit().map(Some) } else { Ok(None) }
                    });
                }
                10 => self.change(whole, stamp, |range| compress(image, range, &bytes(range.len))),
                _ => {
                    let from = self.now();
                    let mut found = vec![0; to_usize(self.cluster)];
                    let read = device.read_at(first * self.cell_len(), &mut found);
                    assert!(self.faulty || read.is_ok(), "{read:?}");
                    for (cell, part) in (first..).zip(found.chunks(to_usize(self.cell_len()))) {
                        let allowed = self.allowed(cell, from, u64::MAX, usize::MAX);
                        let strange = self.strange(self.cell_range(cell), part, &allowed);
                        assert!(
                            read.is_err() || strange.is_none(),
                            "cell {cell}: {strange:x?}, {allowed:x?}"
                        );
                    }
                }
            }
        }
    }

    fn flush(&self) -> Result<()> {
        let start = self.now();
        self.opened.device.flush()?;
        self.flushes.lock().push(Flush { start, position: self.recorder.position() });
        Ok(())
    }

    /// Makes and deletes snapshots, resizes, and takes bitmaps until the writers have ended.
    fn keeper(&self, seed: u64, has_snapshots: bool) {
        let mut rng = Rng::new(seed ^ 0x77);
        let image = &*self.opened.layers[0];
        let (snapshots, bitmaps) = (image.as_snapshots().unwrap(), image.as_bitmaps().unwrap());
        let size = self.opened.device.len();
        let mut made = 0;
        // When the bitmap was made or last taken.
        let mut since: Option<u64> = None;
        while !self.done.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_micros(rng.below(3000)));
            match rng.below(10) {
                0..=2 if has_snapshots => {
                    made += 1;
                    let name = format!("s{made}");
                    let start = self.now();
                    let new = NewSnapshot { name: name.clone(), ..NewSnapshot::default() };
                    let done = snapshots.create_snapshot(&new);
                    let end = self.now();
                    let full = done.as_ref().is_err_and(|error| error.errno() == errno::EINVAL);
                    assert!(self.faulty || full || done.is_ok(), "{done:?}");
                    self.kept.lock().push(Kept { name, start, end });
                }
                3..=5 if has_snapshots => {
                    let all = snapshots.snapshots();
                    if all.is_empty() {
                        continue;
                    }
                    let one = &all[rng.index(all.len())];
                    if rng.chance(50) {
                        self.look_at(image, &one.name);
                    } else {
                        let done = snapshots.delete_snapshot(&SnapshotKey::name(&one.name));
                        assert!(self.faulty || done.is_ok(), "{done:?}");
                    }
                }
                6 => {
                    let done = self.opened.device.set_len(size + 512 * rng.below(200), Prealloc::Off);
                    assert!(self.faulty || done.is_ok(), "{done:?}");
                }
                7 | 8 => match since {
                    None => {
                        let granularity = Some(self.cluster.max(512));
                        let new = NewBitmap { name: "b".into(), granularity, enabled: true };
                        let done = bitmaps.add_bitmap(&new);
                        assert!(self.faulty || done.is_ok(), "{done:?}");
                        since = done.is_ok().then(|| self.now());
                    }
                    Some(from) => {
                        let until = self.now();
                        let taken = bitmaps.take_bitmap("b");
                        assert!(self.faulty || taken.is_ok(), "{taken:?}");
                        if let Ok(taken) = taken {
                            since = Some(self.now());
                            self.check_marks(&taken, from, until);
                        }
                    }
                },
                _ => {
                    let done = self.flush();
                    assert!(self.faulty || done.is_ok(), "{done:?}");
                }
            }
        }
    }

    /// All that was done between the two moments is marked. (What failed may have changed nothing.)
    fn check_marks(&self, marks: &DirtyBitmap, from: u64, until: u64) {
        for cell in 0..CLUSTERS * PARTS {
            let changed = |entry: &&Entry| !entry.failed && entry.start > from && entry.end < until;
            let log = self.cells[to_usize(cell)].lock();
            let at = self.cell_range(cell).start;
            if let Some(entry) = log.iter().rev().find(changed) {
                assert!(marks.test(at), "cell {cell} at {at:#x} is not marked: {entry:?}, {from} to {until}");
            }
        }
    }

    fn look_at(&self, image: &dyn Image, name: &str) {
        let Some(kept) = self.kept.lock().iter().find(|kept| kept.name == name).cloned() else { return };
        let mut found = vec![0; to_usize(CLUSTERS * self.cluster)];
        let view = image.as_snapshots().unwrap().open_snapshot(&SnapshotKey::name(name));
        let read = view.and_then(|view| view.read_at(0, &mut found));
        assert!(self.faulty || read.is_ok(), "{read:?}");
        if read.is_ok() {
            self.verify(&found, kept.start, kept.end, usize::MAX, name);
        }
    }
}

fn compress(image: &dyn Image, range: ByteRange, bytes: &[u8]) -> Result<Option<()>> {
    let Some(clusters) = image.as_compressed() else { return Ok(None) };
    let mut payload = Vec::new();
    if !clusters.encoder()?.encode(bytes, &mut payload)? {
        return Ok(None);
    }
    // What is there already, or can't be compressed, is refused before anything changes.
    let Ok(place) = clusters.reserve_encoded(range.start, payload.len() as u64) else { return Ok(None) };
    place.write_at(0, &payload)?;
    place.commit().map(Some)
}

/// Corruptions, leaks, whether it says that it is unclean, and what was said.
fn checked(image: &dyn Image) -> (u64, u64, bool, Vec<String>) {
    let mut said = Vec::new();
    let mut say = |line: &str| said.push(line.to_owned());
    let report = image.as_check().unwrap().check(Repair::Nothing, &mut say, &Task::quiet()).unwrap();
    let dirty = image.info().unwrap().dirty == Some(true);
    (report.corruptions + report.check_errors, report.leaks, dirty, said)
}

fn run(options: &[&'static str], sort: Sort, seed: u64, odds: u64, steps: u64) {
    let what = format!("{options:?} {sort:?} seed {seed} odds {odds}");
    let cluster_of = |image: &dyn Image| image.info().unwrap().cluster_size.unwrap();
    let probe = subject(options, sort, 1 << 20);
    let probe = probe.open(&shared(&fresh(&*probe)), false).unwrap();
    let cluster = cluster_of(&*probe.layers[0]);
    drop(probe);
    let subject = &*subject(options, sort, CLUSTERS * cluster + 512);
    let recorder = Recorder::new();
    let recorded = recorder.devices(fresh(subject).iter().map(|disk| disk.to_vec()));
    let mut chances = Vec::new();
    for (number, device) in (0..).zip(recorded) {
        let slow = SlowDevice::new(device, Duration::from_micros(100), (seed + number) << 20);
        let (odds, failed) = (AtomicU64::new(0), AtomicU64::new(0));
        let rng = Mutex::new(Rng::new(seed + 7 + number));
        chances.push(Arc::new(Chance { inner: Arc::new(slow), rng, odds, failed }));
    }
    let disks: Vec<Arc<dyn BlockDevice>> = chances.iter().map(|device| Arc::clone(device) as _).collect();
    let opened = subject.open(&disks, true).unwrap();
    let world = World {
        opened: &opened,
        recorder: &recorder,
        clock: AtomicU64::new(1),
        cells: (0..CLUSTERS * PARTS).map(|_| Mutex::new(Vec::new())).collect(),
        flushes: Mutex::new(Vec::new()),
        kept: Mutex::new(Vec::new()),
        done: AtomicBool::new(false),
        cluster,
        initial: subject.initial(),
        faulty: odds > 0,
    };
    chances.iter().for_each(|device| device.odds.store(odds, Ordering::SeqCst));
    std::thread::scope(|scope| {
        let world = &world;
        let keeper = scope.spawn(move || world.keeper(seed, sort == Sort::Alone));
        let writers: Vec<_> =
            (0..WRITERS).map(|number| scope.spawn(move || world.writer(number, seed, steps))).collect();
        let ended: Vec<_> = writers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        world.done.store(true, Ordering::SeqCst);
        let kept = keeper.join();
        assert!(ended.iter().all(|end| end.is_ok()) && kept.is_ok(), "{what}");
    });
    chances.iter().for_each(|device| device.odds.store(0, Ordering::SeqCst));
    let failures: u64 = chances.iter().map(|device| device.failed.load(Ordering::SeqCst)).sum();
    let last = world.now();
    let flushed = world.flush();
    assert!(failures > 0 || flushed.is_ok(), "{what}: {flushed:?}");
    let mut found = vec![0; to_usize(CLUSTERS * cluster)];
    if opened.device.read_at(0, &mut found).is_ok() {
        world.verify(&found, last, u64::MAX, usize::MAX, &format!("{what}: at the end"));
    }
    for kept in opened.layers[0].as_snapshots().unwrap().snapshots() {
        world.look_at(&*opened.layers[0], &kept.name);
    }
    let World { clock, cells, flushes, kept, initial, .. } = world;
    let closes = recorder.position();
    drop(opened);
    let trace = recorder.trace();
    // What the threads knew, for what comes after.
    let reopened = subject.open(&disks, false).unwrap();
    let world = World {
        opened: &reopened,
        recorder: &recorder,
        clock,
        cells,
        flushes,
        kept,
        done: AtomicBool::new(true),
        cluster,
        initial,
        faulty: false,
    };
    let since = world.flushes.lock().last().map_or(0, |flush| flush.start);
    reopened.device.read_at(0, &mut found).unwrap();
    world.verify(&found, since, u64::MAX, usize::MAX, &format!("{what}: reopened"));
    let (corruptions, leaks, dirty, said) = checked(&*reopened.layers[0]);
    assert!(corruptions == 0 || dirty, "{what}: {said:#?}");
    assert!(leaks == 0 || failures > 0 || dirty, "{what}: {said:#?}");
    let mut rng = Rng::new(seed + 99);
    let share = 1 + trace.events.len() as u64 / asked("DISKIMG_STRESS_STATES", 60);
    let sampling = Sampling { samples: asked("DISKIMG_STRESS_STATES", 60), seed };
    let visited = trace.explore(sampling, |state| {
        if state.story == "all written" && (state.position > closes || rng.below(share) > 0) {
            return Ok::<(), ()>(());
        }
        let what = format!("{what}: crash at {} of {closes}: {}", state.position, state.story);
        crashed(&world, (subject, options), state.disks, state.position, &what);
        Ok(())
    });
    visited.unwrap();
}

fn crashed(
    world: &World<'_>,
    (subject, options): (&dyn Subject, &[&str]),
    disks: Vec<Vec<u8>>,
    position: usize,
    what: &str,
) {
    let memory: Vec<Arc<MemDevice>> =
        disks.into_iter().map(|bytes| Arc::new(MemDevice::from(bytes))).collect();
    let disks = shared(&memory);
    let since = {
        let flushes = world.flushes.lock();
        flushes.iter().filter(|flush| flush.position <= position).map(|flush| flush.start).max().unwrap_or(0)
    };
    for write in [false, true] {
        let opened = subject.open(&disks, write).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        let image = &*opened.layers[0];
        let (corruptions, _, dirty, said) = checked(image);
        let only_flags = said.iter().all(|line| line.contains("OFLAG_COPIED") || line.starts_with("Leaked"));
        let lazy = options.contains(&"lazy_refcounts=on");
        assert!(corruptions == 0 || (dirty && (only_flags || lazy)), "{what}, {write}: {said:#?}");
        let mut found = vec![0; to_usize(CLUSTERS * world.cluster)];
        opened.device.read_at(0, &mut found).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        world.verify(&found, since, u64::MAX, position, what);
        for snapshot in image.as_snapshots().unwrap().snapshots() {
            world.look_at(image, &snapshot.name);
        }
    }
}

#[test]
fn nothing_is_lost_whoever_else_is_at_work() {
    let first: u64 = asked("DISKIMG_STRESS_SEED", 1);
    for round in 0..rounds(1u64) {
        for (number, (options, sort)) in (0..).zip(IMAGES) {
            let seed = first + round * 100 + number;
            run(options, *sort, seed, 0, asked("DISKIMG_STRESS_STEPS", 150));
            run(options, *sort, seed, 30, asked("DISKIMG_STRESS_STEPS", 150));
        }
    }
}
