//! Dirty bitmaps beside a model: random writes, sizes, verbs and reopenings; every bitmap marks all that was written while
//! it recorded and nothing else, and the image stays clean.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;

use diskimg_core::driver::OpenMode;
use diskimg_core::opener::NoReferences;
use diskimg_core::{Bitmaps, BlockDevice, ByteRange, DirtyBitmap, Image, MemDevice, NewBitmap};
use diskimg_qcow2::DRIVER;
use diskimg_testkit::{Applied, FormatSubject, Op, OpMix, Rng, Session, open_image, run_shrinking};

/// Create options and the disk's length in bytes.
const GEOMETRIES: &[(&[&str], u64)] = &[
    (&[], 3 << 20),
    (&["cluster_size=512"], 300 << 10),
    (&["cluster_size=4k", "refcount_bits=8"], 1 << 20),
    (&["cluster_size=16k", "extended_l2=on"], 500 << 10),
    (&["cluster_size=2M"], 13 << 20),
    (&["cluster_size=4k", "data_file=data"], 1 << 20),
    (&["cluster_size=4k", "data_file=data", "data_file_raw=on"], 1 << 20),
    (&["cluster_size=1k", "refcount_bits=64"], (1 << 20) + 512),
];

/// A step: an operation of the guest, or one on bitmaps.
#[derive(Clone, Debug)]
enum Step {
    Guest(Op),
    Add(u64, u64, bool),
    Remove(u64),
    Clear(u64),
    Enable(u64, bool),
    Merge(u64, u64),
    Take(u64),
    Store,
    Defer,
    Compare,
}

/// What a bitmap must mark, and what it may mark besides.
#[derive(Clone, Debug)]
struct Expected {
    name: String,
    enabled: bool,
    must: DirtyBitmap,
    may: DirtyBitmap,
}

impl Expected {
    fn verify(&self, found: &DirtyBitmap) {
        assert_eq!(
            (found.len(), found.granularity()),
            (self.must.len(), self.must.granularity()),
            "{}",
            self.name
        );
        for range in self.must.ranges() {
            for at in (range.start..range.end()).step_by(512) {
                assert!(found.test(at), "{}: {at:#x} is not marked", self.name);
            }
        }
        for range in found.ranges() {
            for at in (range.start..range.end()).step_by(512) {
                assert!(self.may.test(at), "{}: {at:#x} is marked", self.name);
            }
        }
    }
}

struct Run<'s> {
    session: Session<'s>,
    expected: Vec<Expected>,
    unit: u64,
}

impl Run<'_> {
    fn image(&self) -> Arc<dyn Image> {
        Arc::clone(&self.session.opened().layers[0])
    }

    fn len(&self) -> u64 {
        self.session.opened().device.len()
    }

    fn wrote(&mut self, range: ByteRange, done: bool) {
        for expected in self.expected.iter().filter(|expected| expected.enabled) {
            if done {
                expected.must.set(range);
            }
            expected.may.set(range.align_outwards(self.unit));
        }
    }

    fn guest(&mut self, op: &Op) {
        let disk = ByteRange::new(0, self.len());
        let done = self.session.must(op) == Applied::Done;
        match op {
            Op::Write(range, _) | Op::Zero(range, _) => self.wrote(range.intersect(disk), done),
            // What is not a whole unit stays as it is.
            Op::Discard(range) => {
                self.wrote(range.intersect(disk), false);
                self.wrote(range.intersect(disk).align_inwards(self.unit), done);
            }
            Op::Reserve(range, _, commit) => self.wrote(range.intersect(disk), done && *commit),
            Op::Compress(cluster, _) => {
                let cluster_len = self.image().as_compressed().unwrap().cluster_len();
                self.wrote(ByteRange::new(cluster * cluster_len, cluster_len).intersect(disk), done);
            }
            Op::SetLen(_) if done => {
                let len = self.len();
                for expected in &mut self.expected {
                    expected.must.resize(len).unwrap();
                    expected.may.resize(len).unwrap();
                }
            }
            _ => {}
        }
    }

    fn step(&mut self, step: &Step) {
        let image = self.image();
        let bitmaps = image.as_bitmaps().unwrap();
        let len = self.len();
        let count = self.expected.len() as u64;
        let pick = |number: &u64| usize::try_from(number % count.max(1)).unwrap();
        match step {
            Step::Guest(op) => {
                drop(image);
                self.guest(op);
            }
            Step::Add(number, granularity, enabled) => {
                let name = format!("b{number}");
                let new =
                    NewBitmap { name: name.clone(), granularity: Some(*granularity), enabled: *enabled };
                let known = self.expected.iter().any(|expected| expected.name == name);
                assert_eq!(bitmaps.add_bitmap(&new).is_err(), known);
                if !known {
                    let must = DirtyBitmap::new(len, *granularity).unwrap();
                    self.expected.push(Expected { name, enabled: *enabled, may: must.clone(), must });
                }
            }
            Step::Defer => bitmaps.defer_bitmap_changes(),
            _ if count == 0 => {}
            Step::Remove(number) => {
                let gone = self.expected.remove(pick(number));
                bitmaps.remove_bitmap(&gone.name).unwrap();
            }
            Step::Clear(number) => {
                let expected = &mut self.expected[pick(number)];
                bitmaps.clear_bitmap(&expected.name).unwrap();
                expected.must.clear_all();
                expected.may.clear_all();
            }
            Step::Enable(number, enabled) => {
                let expected = &mut self.expected[pick(number)];
                bitmaps.enable_bitmap(&expected.name, *enabled).unwrap();
                expected.enabled = *enabled;
            }
            Step::Merge(to, from) => {
                let from = self.expected[pick(from)].clone();
                let to = &mut self.expected[pick(to)];
                bitmaps.merge_bitmap(&to.name, &bitmaps.read_bitmap(&from.name).unwrap()).unwrap();
                to.must.merge(&from.must).unwrap();
                to.may.merge(&from.may).unwrap();
            }
            Step::Take(number) => {
                let expected = &mut self.expected[pick(number)];
                expected.verify(&bitmaps.take_bitmap(&expected.name).unwrap());
                expected.must.clear_all();
                expected.may.clear_all();
            }
            Step::Store => bitmaps.store_bitmaps().unwrap(),
            Step::Compare => self.compare(bitmaps),
        }
    }

    fn compare(&self, bitmaps: &dyn Bitmaps) {
        let found = bitmaps.bitmaps();
        let names = |(name, enabled, granularity)| (name, enabled, granularity, false);
        let all: Vec<_> = found
            .iter()
            .map(|info| (info.name.clone(), info.enabled, info.granularity, info.inconsistent))
            .collect();
        let wanted: Vec<_> = self
            .expected
            .iter()
            .map(|one| names((one.name.clone(), one.enabled, one.must.granularity())))
            .collect();
        assert_eq!(all, wanted);
        for expected in &self.expected {
            expected.verify(&bitmaps.read_bitmap(&expected.name).unwrap());
        }
    }
}

fn script(seed: u64, size: u64, unit: u64) -> Vec<Step> {
    let mut rng = Rng::new(seed);
    let mix = OpMix { read: 0, extents: 0, check: 2, reopen: 6, set_len: 3, ..OpMix::all(size + size / 2) };
    let mut steps = Vec::new();
    for _ in 0..120 {
        let number = rng.below(5);
        steps.push(match rng.below(20) {
            0 | 1 => Step::Add(number, 512 << rng.below(10), rng.chance(75)),
            2 => Step::Clear(number),
            3 => Step::Enable(number, rng.chance(60)),
            4 => Step::Merge(number, rng.below(5)),
            5 if rng.chance(50) => Step::Remove(number),
            6 => Step::Take(number),
            7 => Step::Store,
            10 => Step::Defer,
            8 | 9 => Step::Compare,
            _ => Step::Guest(mix.next(&mut rng, size, unit)),
        });
    }
    steps.extend([Step::Compare, Step::Guest(Op::Reopen), Step::Compare, Step::Guest(Op::Check)]);
    steps
}

fn rounds() -> u64 {
    std::env::var("DISKIMG_PROP_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(6)
}

#[test]
fn bitmaps_follow_a_model() {
    for (number, (options, size)) in GEOMETRIES.iter().enumerate() {
        let subject = FormatSubject::new(&DRIVER, *size, options);
        let unit = Session::in_memory(&subject).opened().device.limits().write_unit;
        for round in 0..rounds() {
            let seed = round + 1000 * number as u64;
            let steps = script(seed, *size, unit);
            run_shrinking(&steps, |steps| {
                let mut run = Run { session: Session::in_memory(&subject), expected: Vec::new(), unit };
                assert!(seed < u64::MAX, "{options:?}");
                steps.iter().for_each(|step| run.step(step));
            });
        }
    }
}

#[test]
fn many_threads_lose_no_write() {
    const SIZE: u64 = 32 << 20;
    let subject = FormatSubject::new(&DRIVER, SIZE, &["cluster_size=4k"]);
    let disk = subject.fresh().remove(0);
    let mode = OpenMode { write: true, ..OpenMode::default() };
    let open = || open_image(&DRIVER, Arc::<MemDevice>::clone(&disk), mode, &NoReferences).unwrap();
    let image = open();
    let bitmaps = image.as_bitmaps().unwrap();
    bitmaps.add_bitmap(&NewBitmap { name: "b".into(), granularity: Some(512), enabled: true }).unwrap();
    let taken = DirtyBitmap::new(SIZE, 512).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let image = &image;
            scope.spawn(move || {
                let mut rng = Rng::new(thread);
                for _ in 0..600 {
                    let at = rng.below(SIZE / 512) / 4 * 4 + thread;
                    image.write_at(at * 512, &[1; 512]).unwrap();
                }
            });
        }
        // Whoever takes the bits meanwhile gets each write once, now or later.
        for _ in 0..20 {
            taken.merge(&bitmaps.take_bitmap("b").unwrap()).unwrap();
            assert!(bitmaps.enable_bitmap("b", true).is_ok());
        }
    });
    taken.merge(&bitmaps.read_bitmap("b").unwrap()).unwrap();
    let mut all = vec![0; usize::try_from(SIZE).unwrap()];
    image.read_at(0, &mut all).unwrap();
    for (number, part) in (0u64..).zip(all.chunks(512)) {
        assert_eq!(part[0] == 1, taken.test(number * 512), "sector {number}");
    }
    let left = bitmaps.read_bitmap("b").unwrap();
    drop(image);
    let image = open();
    let stored = image.as_bitmaps().unwrap().read_bitmap("b").unwrap();
    assert_eq!(stored.ranges().collect::<Vec<_>>(), left.ranges().collect::<Vec<_>>());
}
