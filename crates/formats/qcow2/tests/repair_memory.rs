//! Checks and repairs of damaged images cost little memory and little time: at most 64 MiB and the stated bytes for each
//! cluster of the host file, beside the file itself. One test in a program of its own, because it measures the memory of
//! the whole program; a watchdog ends it when one image takes too long. `DISKIMG_REPAIR_IMAGES` asks for another number
//! of images, `DISKIMG_REPAIR_ONLY=SORT:NUMBER` for one of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use diskimg_core::driver::OpenMode;
use diskimg_core::opener::NoReferences;
use diskimg_core::{BlockDevice, MemDevice, NewSnapshot, Repair, Task};
use diskimg_qcow2::DRIVER;
use diskimg_testkit::{FormatSubject, Rng, open_image, pattern};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bytes that a check or a repair may take in any case.
const BASE: u64 = 64 << 20;
/// Bytes for each cluster of the host file: two numbers of a byte while references are counted, and as much again for
/// what the refcounts are to become.
const PER_CLUSTER: u64 = 4;
/// Longest time for one image.
const PATIENCE: Duration = Duration::from_secs(60);

/// Create options, and the disk's length in bytes.
const IMAGES: &[(&[&str], u64)] = &[
    (&["cluster_size=512"], 2 << 20),
    (&["cluster_size=512", "refcount_bits=64"], 1 << 20),
    (&["cluster_size=512", "compat=0.10"], 1 << 20),
    (&["cluster_size=1k", "refcount_bits=1"], 1 << 20),
    (&["cluster_size=16k", "extended_l2=on"], 4 << 20),
    (&[], 8 << 20),
];

static DONE: AtomicU64 = AtomicU64::new(0);

fn images() -> u64 {
    diskimg_testkit::asked("DISKIMG_REPAIR_IMAGES", 240)
}

/// False for all but the one image that was asked for.
fn wanted(sort: usize, number: u64) -> bool {
    std::env::var("DISKIMG_REPAIR_ONLY").map_or(true, |only| only == format!("{sort}:{number}"))
}

/// Ends the program when nothing was done for too long.
fn watch() {
    std::thread::spawn(|| {
        loop {
            let before = DONE.load(Ordering::Relaxed);
            std::thread::sleep(PATIENCE);
            if DONE.load(Ordering::Relaxed) == before {
                eprintln!("image {before} takes more than {PATIENCE:?}");
                std::process::abort();
            }
        }
    });
}

/// An image with data all over, and a snapshot where it can have one.
fn sound(options: &[&'static str], size: u64) -> Vec<u8> {
    let subject = FormatSubject::new(&DRIVER, size, options);
    let storage = Arc::new(MemDevice::from(subject.fresh().swap_remove(0).to_vec()));
    let mode = OpenMode { write: true, ..OpenMode::default() };
    let image = open_image(&DRIVER, storage.clone(), mode, &NoReferences).unwrap();
    for at in (0..size - 65536).step_by(150_000) {
        image.write_at(at, &pattern(at, 0, 40_000)).unwrap();
    }
    let snapshots = image.as_snapshots().unwrap();
    // With counts of one bit nothing can be shared.
    let made = snapshots.create_snapshot(&NewSnapshot { name: "one".to_owned(), ..NewSnapshot::default() });
    assert!(made.is_ok() || options.contains(&"refcount_bits=1"));
    image.write_at(0, &pattern(7, 0, 90_000)).unwrap();
    image.flush().unwrap();
    drop(image);
    storage.to_vec()
}

/// Numbers of metadata, or what may be metadata, replaced.
fn damage(bytes: &mut Vec<u8>, cluster: usize, rng: &mut Rng) {
    for _ in 0..1 + rng.below(8) {
        let near = rng.index((bytes.len() / 8).min(24 * cluster / 8)) * 8;
        let at = [near, rng.index(bytes.len() / 8) * 8, 24 + rng.index(12) * 8][rng.index(3)];
        let old = u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
        let end = bytes.len() as u64;
        let new = match rng.below(8) {
            0 => old ^ (1 << rng.below(64)),
            1 => 0,
            2 => rng.next_u64(),
            3 => (1 << 63) | (rng.below(end) / 512 * 512),
            4 => (1 << 62) | rng.below(end),
            5 => (1 << 63) | (rng.below(1 << 52) / 512 * 512),
            6 => old.wrapping_add(1 << rng.below(40)),
            _ => u64::MAX,
        };
        bytes[at..at + 8].copy_from_slice(&new.to_be_bytes());
    }
    if rng.chance(10) {
        bytes.truncate(bytes.len() - rng.index(bytes.len() / 3));
    }
}

/// Checks, repairs and checks again; gives the most memory taken, without the file and the bytes for each cluster.
fn run(bytes: &[u8], cluster: u64, story: &dyn Fn() -> String) -> Option<u64> {
    let storage = Arc::new(MemDevice::from(bytes.to_vec()));
    let before = MEMORY.current_usage() as u64;
    MEMORY.reset_peak_usage();
    let mode = OpenMode { write: true, check: true, ..OpenMode::default() };
    let Ok(image) = open_image(&DRIVER, storage.clone(), mode, &NoReferences) else { return None };
    for repair in [Repair::Nothing, Repair::Leaks, Repair::All, Repair::Nothing] {
        // An error is an answer too.
        let _ = image.as_check().unwrap().check(repair, &mut |_| {}, &Task::quiet());
    }
    let len = storage.len();
    let peak = (MEMORY.peak_usage() as u64).saturating_sub(before);
    // The file in memory is copied when it grows.
    let grown = if len > bytes.len() as u64 { 3 * len } else { 0 };
    let stated = PER_CLUSTER * (len.max(bytes.len() as u64) / cluster) + grown;
    let most = BASE + stated;
    assert!(peak <= most, "{}: {peak} bytes instead of {most}", story());
    Some(peak.saturating_sub(stated))
}

#[test]
fn checks_and_repairs_of_damage_are_cheap() {
    watch();
    let (mut checked, mut greatest, mut slowest) = (0, 0, Duration::ZERO);
    let mut slowest_is = String::new();
    for (sort, (options, size)) in IMAGES.iter().enumerate() {
        let original = sound(options, *size);
        let cluster = 1_u64 << original[23];
        for number in 0..images().div_ceil(IMAGES.len() as u64) {
            if !wanted(sort, number) {
                continue;
            }
            let mut rng = Rng::new(1000 * sort as u64 + number);
            let mut bytes = original.clone();
            damage(&mut bytes, usize::try_from(cluster).unwrap(), &mut rng);
            let start = std::time::Instant::now();
            let peak = run(&bytes, cluster, &|| format!("{options:?}, damage {number}"));
            if start.elapsed() > slowest {
                slowest = start.elapsed();
                slowest_is = format!("{options:?}, damage {number}");
            }
            checked += u64::from(peak.is_some());
            greatest = greatest.max(peak.unwrap_or(0));
            DONE.fetch_add(1, Ordering::Relaxed);
        }
    }
    let all = DONE.load(Ordering::Relaxed);
    println!(
        "{all} images, {checked} of them open; most memory {greatest} bytes beside what is stated for each \
         cluster, longest {slowest:?} ({slowest_is})"
    );
    assert!(checked * 4 > all, "too few images open");
}
