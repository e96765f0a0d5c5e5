//! Dirty bitmaps beside a model: random writes, sizes, verbs and reopenings; every bitmap marks all that was written while
//! it recorded and nothing else, and the image stays clean.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;

use diskimg_core::driver::OpenMode;
use diskimg_core::opener::NoReferences;
use diskimg_core::{BlockDevice, DirtyBitmap, MemDevice, NewBitmap};
use diskimg_qcow2::DRIVER;
use diskimg_testkit::{Act, FormatSubject, OpMix, Play, Rng, Session, open_image, run_shrinking};

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

fn script(seed: u64, size: u64, unit: u64) -> Vec<Act> {
    let mut rng = Rng::new(seed);
    let mix = OpMix { read: 0, extents: 0, check: 2, reopen: 6, set_len: 3, ..OpMix::all(size + size / 2) };
    let mut steps = Vec::new();
    for _ in 0..120 {
        let number = rng.below(5);
        steps.push(match rng.below(20) {
            0 | 1 => Act::AddBitmap(number, 512 << rng.below(10), rng.chance(75)),
            2 => Act::ClearBitmap(number),
            3 => Act::EnableBitmap(number, rng.chance(60)),
            4 => Act::MergeBitmap(number, rng.below(5)),
            5 if rng.chance(50) => Act::RemoveBitmap(number),
            6 => Act::TakeBitmap(number),
            7 => Act::StoreBitmaps,
            10 => Act::DeferBitmaps,
            8 | 9 => Act::Compare,
            _ => Act::Guest(mix.next(&mut rng, size, unit)),
        });
    }
    steps
}

#[test]
fn bitmaps_follow_a_model() {
    for (number, (options, size)) in GEOMETRIES.iter().enumerate() {
        let subject = FormatSubject::new(&DRIVER, *size, options);
        let unit = Session::in_memory(&subject).opened().device.limits().write_unit;
        for round in 0..diskimg_testkit::rounds(6) {
            let seed = round + 1000 * number as u64;
            let steps = script(seed, *size, unit);
            run_shrinking(&steps, |steps| {
                let mut play = Play::new(&subject);
                steps.iter().for_each(|act| play.act(act));
                play.finish();
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

/// A backup that takes the marks and is cut short must not leave a bitmap that lacks them.
#[test]
fn marks_that_were_taken_are_not_missing_after_a_crash() {
    let subject = FormatSubject::new(&DRIVER, 1 << 20, &[]);
    let disk = subject.fresh().remove(0);
    let mode = OpenMode { write: true, ..OpenMode::default() };
    let open = |disk: &Arc<MemDevice>| {
        open_image(&DRIVER, Arc::<MemDevice>::clone(disk), mode, &NoReferences).unwrap()
    };
    for enabled in [true, false] {
        let name = format!("enabled {enabled}");
        let image = open(&disk);
        let bitmaps = image.as_bitmaps().unwrap();
        let new = NewBitmap { name: name.clone(), granularity: None, enabled: true };
        bitmaps.add_bitmap(&new).unwrap();
        image.write_at(70_000, &[1; 100]).unwrap();
        bitmaps.enable_bitmap(&name, enabled).unwrap();
        drop(image);
        let image = open(&disk);
        let bitmaps = image.as_bitmaps().unwrap();
        let taken = bitmaps.take_bitmap(&name).unwrap();
        assert!(taken.test(70_000), "{name}");
        let crashed = open(&Arc::new(MemDevice::from(disk.to_vec())));
        let found = crashed.as_bitmaps().unwrap().read_bitmap(&name);
        assert!(found.is_err() || found.is_ok_and(|marks| marks.test(70_000)), "{name}: marks are lost");
        drop(image);
        let closed = open(&disk);
        let left = closed.as_bitmaps().unwrap().read_bitmap(&name).unwrap();
        assert_eq!(left.ranges().count(), 0, "{name}: taken, and the image was closed");
    }
}
