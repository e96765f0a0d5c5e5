//! What a crash leaves of dirty bitmaps: after every prefix of the writes, and sampled sets of those since the last
//! barrier, each bitmap is inconsistent, or marks all that differs from the disk as it was when the bitmap was last
//! cleared; none is lost, and the image is sound. `DISKIMG_CRASH_SAMPLES` asks for another number of samples.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::ops::Range;
use std::sync::Arc;

use diskimg_core::driver::OpenMode;
use diskimg_core::opener::NoReferences;
use diskimg_core::{
    Bitmaps, BlockDevice, ByteRange, Image, MemDevice, NewBitmap, Prealloc, Repair, Task, ZeroMode,
};
use diskimg_testkit::{CheckVerdict, CrashState, Oracle, Recorder, Rng, Sampling, open_image, pattern};

const WRITE: OpenMode = OpenMode { write: true, check: false, describe_only: false, guessed: false };
const READ: OpenMode = OpenMode { write: false, check: false, describe_only: false, guessed: false };

/// Create options and the disk's length in bytes.
const IMAGES: &[(&[&str], u64)] = &[
    (&[], 1 << 20),
    (&["cluster_size=512"], 100 << 10),
    (
        &[
            "cluster_size=4k",
            "backing_file=/a/base/whose/name/is/so/long/that/it/stands/in/two/sectors.raw",
            "backing_fmt=raw",
        ],
        300 << 10,
    ),
    (&["cluster_size=16k", "extended_l2=on", "refcount_bits=64"], 600 << 10),
];

fn samples() -> usize {
    diskimg_testkit::crash::samples(400)
}

/// When something began and ended, in recorded events.
type Moments = Range<usize>;

/// What happened to one bitmap, by name.
#[derive(Clone, Debug)]
struct Life {
    name: String,
    added: Moments,
    removed: Option<Moments>,
    /// Disk contents that its marks are relative to, and from when on.
    baselines: Vec<(Moments, Vec<u8>)>,
    /// It records from these moments on, or no more.
    enabled: Vec<(Moments, bool)>,
}

struct Story {
    recorder: Arc<Recorder>,
    storage: Arc<dyn BlockDevice>,
    image: Option<Arc<dyn Image>>,
    contents: Vec<u8>,
    lives: Vec<Life>,
}

impl Story {
    fn image(&self) -> &dyn Image {
        self.image.as_deref().unwrap()
    }

    fn bitmaps(&self) -> &dyn Bitmaps {
        self.image().as_bitmaps().unwrap()
    }

    fn timed(&self, what: impl FnOnce()) -> Moments {
        let start = self.recorder.position();
        what();
        start..self.recorder.position()
    }

    fn reopen(&mut self) {
        self.image = None;
        self.image = Some(
            open_image(&diskimg_qcow2::DRIVER, Arc::clone(&self.storage), WRITE, &NoReferences).unwrap(),
        );
    }

    fn step(&mut self, rng: &mut Rng, number: u64) {
        let len = self.image().len();
        let unit = self.image().limits().write_unit;
        let at = rng.below(len);
        let range = ByteRange::new(at, 1 + rng.below(unit * 2)).intersect(ByteRange::new(0, len));
        let pick = usize::try_from(rng.below(self.lives.len().max(1) as u64)).unwrap();
        let alive = self.lives.get(pick).filter(|life| life.removed.is_none()).map(|life| life.name.clone());
        match (rng.below(12), alive) {
            (0, _) => self.reopen(),
            (1, _) => self.image().flush().unwrap(),
            (2, _) => self.bitmaps().store_bitmaps().unwrap(),
            (3, _) if self.lives.len() < 6 => {
                let name = format!("bitmap{number}");
                let enabled = rng.chance(80);
                let new = NewBitmap { name: name.clone(), granularity: Some(512 << rng.below(5)), enabled };
                let added = self.timed(|| self.bitmaps().add_bitmap(&new).unwrap());
                let baselines = vec![(added.clone(), self.contents.clone())];
                self.lives.push(Life {
                    name,
                    added: added.clone(),
                    removed: None,
                    baselines,
                    enabled: vec![(added, enabled)],
                });
            }
            (4, Some(name)) => {
                let cleared = self.timed(|| self.bitmaps().clear_bitmap(&name).unwrap());
                self.lives[pick].baselines.push((cleared, self.contents.clone()));
            }
            (5, Some(name)) if rng.chance(40) => {
                self.lives[pick].removed = Some(self.timed(|| self.bitmaps().remove_bitmap(&name).unwrap()));
            }
            (6, Some(name)) if rng.chance(30) => {
                let done = self.timed(|| self.bitmaps().enable_bitmap(&name, false).unwrap());
                self.lives[pick].enabled.push((done, false));
            }
            (7, _) => {
                let zeroes = range.align_inwards(unit);
                if !zeroes.is_empty() {
                    self.image().write_zeroes(zeroes, ZeroMode::MayUnmap).unwrap();
                    let (from, to) =
                        (usize::try_from(zeroes.start).unwrap(), usize::try_from(zeroes.end()).unwrap());
                    self.contents[from..to].fill(0);
                }
            }
            (8, _) if rng.chance(30) && len < 700 << 10 => {
                self.image().set_len(len + 64 * 512, Prealloc::Off).unwrap();
                self.contents.resize(self.contents.len() + 64 * 512, 0);
            }
            _ => {
                let bytes = pattern(1 + number, range.start, range.len);
                self.image().write_at(range.start, &bytes).unwrap();
                let from = usize::try_from(range.start).unwrap();
                self.contents[from..from + bytes.len()].copy_from_slice(&bytes);
            }
        }
    }
}

#[derive(Default, Debug)]
struct Counts {
    states: usize,
    in_use: usize,
    usable: usize,
    oracle: usize,
}

fn judge(lives: &[Life], options: &[&str], state: &CrashState, counts: &mut Counts) {
    let disk = Arc::new(MemDevice::read_only(state.disks[0].clone()));
    let image = open_image(&diskimg_qcow2::DRIVER, disk, READ, &NoReferences).expect("the image opens");
    let backing = options.iter().find_map(|option| option.strip_prefix("backing_file="));
    assert_eq!(image.backing().map(|backing| backing.name).as_deref(), backing);
    let mut said = String::new();
    let report = image.as_check().unwrap();
    let report = report.check(Repair::Nothing, &mut |text| said.push_str(text), &Task::quiet()).unwrap();
    assert_eq!((report.corruptions, report.check_errors), (0, 0), "{said}");
    let mut contents = vec![0; usize::try_from(image.len()).unwrap()];
    image.read_at(0, &mut contents).unwrap();
    let bitmaps = image.as_bitmaps().unwrap();
    let found = bitmaps.bitmaps();
    counts.states += 1;
    for life in lives {
        let at = state.position;
        let is_there = found.iter().find(|info| info.name == life.name);
        let gone = life.removed.as_ref().is_some_and(|removed| removed.start < at);
        let Some(info) = is_there else {
            assert!(life.added.end > at || gone, "{} is lost", life.name);
            continue;
        };
        assert!(life.removed.as_ref().is_none_or(|removed| removed.end > at), "{} is back", life.name);
        if info.inconsistent {
            counts.in_use += 1;
            continue;
        }
        counts.usable += 1;
        // What it does not record any more is no one's business.
        if life.enabled.iter().any(|(done, enabled)| !enabled && done.start < at) {
            continue;
        }
        let bits = bitmaps.read_bitmap(&life.name).unwrap();
        let done = life.baselines.iter().rposition(|(done, _)| done.end <= at).unwrap_or(0);
        let holds = |(_, baseline): &(Moments, Vec<u8>)| {
            contents
                .iter()
                .zip(baseline)
                .enumerate()
                .step_by(1)
                .all(|(at, (now, then))| now == then || bits.test(at as u64))
        };
        let allowed = life.baselines[done..].iter().filter(|(done, _)| done.start <= at);
        assert!(
            allowed.clone().any(holds),
            "{} claims that nothing was written where something was",
            life.name
        );
    }
}

fn explore(options: &'static [&'static str], size: u64, seed: u64) {
    let subject = diskimg_testkit::FormatSubject::new(&diskimg_qcow2::DRIVER, size, options);
    let fresh = subject.fresh().remove(0).to_vec();
    let recorder = Arc::new(Recorder::new());
    let storage: Arc<dyn BlockDevice> = recorder.device(fresh);
    let contents = vec![0; usize::try_from(size).unwrap()];
    let mut story = Story { recorder, storage, image: None, contents, lives: Vec::new() };
    story.reopen();
    let mut rng = Rng::new(seed);
    for number in 0..60 {
        story.step(&mut rng, number);
    }
    story.image = None;
    let trace = story.recorder.trace();
    let mut counts = Counts::default();
    // It would look for the backing file.
    let oracle = Oracle::find().filter(|_| !options.iter().any(|option| option.starts_with("backing")));
    let visit = |state: CrashState| {
        let place = format!(
            "{options:?} seed {seed}: {} of {} events: {}",
            state.position,
            trace.events.len(),
            state.story
        );
        let run = || judge(&story.lives, options, &state, &mut counts);
        if let Some(text) = diskimg_testkit::panics(run) {
            return Err(format!("{place}: {text}"));
        }
        if let Some(oracle) = oracle.filter(|_| counts.states.is_multiple_of(150)) {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("image"), &state.disks[0]).unwrap();
            if let CheckVerdict::Bad(text) = oracle.check(folder.path(), "qcow2", "image") {
                return Err(format!("{place}: qemu-img check: {text}"));
            }
            counts.oracle += 1;
        }
        Ok(())
    };
    if let Err(text) = trace.explore(Sampling { samples: samples(), seed }, visit) {
        panic!("{text}");
    }
    println!("{options:?} seed {seed}: {counts:?}");
    assert!(counts.usable > 50 && counts.in_use > 50, "{counts:?}");
}

#[test]
fn a_bitmap_never_claims_less_than_was_written() {
    for (options, size) in IMAGES {
        for seed in 0..4 {
            explore(options, *size, seed);
        }
    }
}

/// Names, and whether they record, with what they mark.
type Marks = Vec<(String, bool, Vec<ByteRange>)>;

fn marks(image: &dyn Image) -> Marks {
    let bitmaps = image.as_bitmaps().unwrap();
    let all = bitmaps.bitmaps().into_iter().map(|info| {
        assert!(!info.inconsistent, "{}", info.name);
        let bits = bitmaps.read_bitmap(&info.name).unwrap();
        (info.name, info.enabled, bits.ranges().collect())
    });
    all.collect()
}

#[test]
fn changes_that_wait_are_made_together() {
    let subject = diskimg_testkit::FormatSubject::new(&diskimg_qcow2::DRIVER, 1 << 20, &["cluster_size=4k"]);
    let fresh = subject.fresh().remove(0).to_vec();
    let open = |disk| open_image(&diskimg_qcow2::DRIVER, disk, WRITE, &NoReferences).unwrap();
    let add = |image: &dyn Image, name: &str, granularity| {
        let new = NewBitmap { name: name.to_owned(), granularity: Some(granularity), enabled: true };
        image.as_bitmaps().unwrap().add_bitmap(&new).unwrap();
    };
    let first = Arc::new(MemDevice::from(fresh));
    let image = open(Arc::clone(&first) as _);
    add(&*image, "a", 512);
    add(&*image, "b", 4096);
    image.write_at(5000, &[1; 9000]).unwrap();
    drop(image);
    let recorder = Recorder::new();
    let image = open(recorder.device(first.to_vec()));
    let before = marks(&*image);
    let bitmaps = image.as_bitmaps().unwrap();
    bitmaps.defer_bitmap_changes();
    add(&*image, "c", 1024);
    bitmaps.merge_bitmap("c", &bitmaps.read_bitmap("a").unwrap()).unwrap();
    bitmaps.remove_bitmap("b").unwrap();
    bitmaps.enable_bitmap("a", false).unwrap();
    assert!(recorder.trace().events.is_empty(), "nothing is written yet");
    bitmaps.store_bitmaps().unwrap();
    let stored = recorder.position();
    drop(image);
    let (mut old, mut new) = (0, 0);
    let visit = |state: CrashState| {
        let disk = Arc::new(MemDevice::read_only(state.disks[0].clone()));
        let image = open_image(&diskimg_qcow2::DRIVER, disk, READ, &NoReferences).unwrap();
        let check = image.as_check().unwrap();
        let report = check.check(Repair::Nothing, &mut |_| {}, &Task::quiet()).unwrap();
        assert_eq!((report.corruptions, report.check_errors), (0, 0), "{}", state.story);
        let found = marks(&*image);
        if found == before {
            assert!(state.position < stored, "what is stored is there: {}", state.story);
            old += 1;
            return Ok::<_, ()>(());
        }
        let shape: Vec<_> = found.iter().map(|(name, enabled, _)| (name.as_str(), *enabled)).collect();
        assert_eq!(shape, [("a", false), ("c", true)], "{}", state.story);
        assert_eq!(found[0].2, before[0].2);
        assert!(
            found[0].2.iter().all(|range| found[1].2.iter().any(|over| over.intersect(*range) == *range))
        );
        new += 1;
        Ok(())
    };
    recorder.trace().explore(Sampling { samples: samples(), seed: 1 }, visit).unwrap();
    println!("{old} states with the old bitmaps, {new} with the new ones");
    assert!(old > 10 && new > 3);
}
