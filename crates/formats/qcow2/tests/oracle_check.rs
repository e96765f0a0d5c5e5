//! The check of damaged images says what the installed `qemu-img check` says: every line, in its order, and the
//! numbers. Images are made by the oracle and then patched. Without it these tests are counted as ignored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::cast_possible_truncation)]

mod damage;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use diskimg_core::driver::OpenMode;
use diskimg_core::{BlockDevice, CheckReport, MemDevice, Repair, Task};
use diskimg_qcow2::DRIVER;
use diskimg_testkit::{MemOpener, Oracle, Rng, open_image, suite};

use damage::*;

fn main() -> ExitCode {
    let mut tests = Vec::new();
    for case in CASES {
        tests.push(suite::with_oracle(format!("check: {}", case.name), move |oracle| {
            same_check(oracle, &case.setup.make(oracle), case.name, case.damage);
        }));
    }
    for (number, setup) in SETUPS.iter().enumerate() {
        tests.push(suite::with_oracle(format!("check: random damage {number}"), move |oracle| {
            random_damage(oracle, setup, number as u64);
        }));
    }
    suite::run(tests)
}

struct Case {
    name: &'static str,
    setup: Setup,
    damage: fn(&mut Patch),
}

const fn case(name: &'static str, setup: Setup, damage: fn(&mut Patch)) -> Case {
    Case { name, setup, damage }
}

const CASES: &[Case] = &[
    case("sound", PLAIN, |_| {}),
    case("sound, with snapshots", SNAPSHOTS, |_| {}),
    case("sound, with bitmaps", BITMAPS, |_| {}),
    case("sound, small clusters", SMALL_CLUSTERS, |_| {}),
    case("refcount too high", PLAIN, |i| i.set_u16(i.refcount(5), 9)),
    case("refcount too low", SNAPSHOTS, |i| i.set_u16(i.refcount(5), 1)),
    case("refcount 0", PLAIN, |i| i.set_u16(i.refcount(0), 0)),
    case("refcount behind the end", PLAIN, |i| i.set_u16(i.refcount(40), 2)),
    case("L1 not COPIED", PLAIN, |i| i.xor(i.l1(), COPIED)),
    case("L1 reserved bits", PLAIN, |i| i.xor(i.l1(), 1 << 60 | 1)),
    case("L1 unaligned", PLAIN, |i| i.xor(i.l1(), 0x200)),
    case("L1 entry without an offset", PLAIN, |i| i.set(i.l1(), COPIED)),
    case("L2 table behind the end", PLAIN, |i| i.set(i.l1(), COPIED | FAR)),
    case("L2 table used twice", LARGE, |i| i.set(i.l1() + 8, i.get(i.l1()))),
    case("L1 table behind the end", PLAIN, |i| i.set(40, FAR)),
    case("data not COPIED", PLAIN, |i| i.xor(i.l2(1), COPIED)),
    case("data COPIED but shared", SNAPSHOTS, |i| i.xor(i.l2(0), COPIED)),
    case("data reserved bits", PLAIN, |i| i.xor(i.l2(1), 1 << 60 | 4)),
    case("data unaligned", PLAIN, |i| i.xor(i.l2(1), 0x200)),
    case("preallocated unaligned", PLAIN, |i| i.xor(i.l2(1), 0x201)),
    case("data used twice", PLAIN, |i| i.set(i.l2(1), i.get(i.l2(2)))),
    case("data used twice with one bit", ONE_BIT, |i| i.set(i.l2(1), i.get(i.l2(2)))),
    case("data used thrice with one bit", ONE_BIT, |i| {
        i.set(i.l2(1), i.get(i.l2(2)));
        i.set(i.l2(3), i.get(i.l2(2)));
    }),
    case("data over metadata", PLAIN, |i| i.set(i.l2(1), COPIED | 0x10000)),
    case("data at the end", PLAIN, |i| i.set(i.l2(1), COPIED | 0x90000)),
    case("data half behind the end", PLAIN, |i| i.set(i.l2(1), COPIED | 0x8fe00)),
    case("file cut", PLAIN, |i| i.0.truncate(0x60200)),
    case("compressed COPIED", COMPRESSING, |i| i.xor(i.l2(0), COPIED)),
    case("compressed behind the end", COMPRESSING, |i| i.set(i.l2(0), COMPRESSED | FAR | 3 << 54)),
    case("compressed over the header", COMPRESSING, |i| i.set(i.l2(0), COMPRESSED)),
    case("subclusters both", EXTENDED, |i| i.set(i.l2(3), 1 << 32 | 1)),
    case("subclusters nowhere", EXTENDED, |i| i.set(i.l2(2), 0)),
    case("subclusters unaligned", EXTENDED, |i| i.xor(i.l2(2), 0x200)),
    case("preallocated subclusters unaligned", EXTENDED, |i| {
        i.xor(i.l2(2), 0x200);
        i.set(i.l2(3), 0);
    }),
    case("compressed with subclusters", EXTENDED_COMPRESSING, |i| i.set(i.l2(1), 1)),
    case("data file, not COPIED", DATA_FILE, |i| i.xor(i.l2(1), COPIED)),
    case("data file, zeros at offset 0", DATA_FILE, |i| i.set(i.l2(0), COPIED | 1)),
    case("data file, unaligned", DATA_FILE, |i| i.xor(i.l2(1), 0x200)),
    case("data file, compressed", DATA_FILE, |i| i.set(i.l2(1), COPIED | COMPRESSED | 0x50000)),
    case("old, zero flag", OLD, |i| i.xor(i.l2(1), 1)),
    case("refcount table reserved bits", PLAIN, |i| i.xor(i.reftable(), 4)),
    case("refcount block unaligned", PLAIN, |i| i.xor(i.reftable(), 0x200)),
    case("refcount block unreachable", PLAIN, |i| i.xor(i.reftable(), 1 << 63)),
    case("refcount block outside", PLAIN, |i| i.set(i.reftable() + 8, FAR)),
    case("refcount block used twice", PLAIN, |i| i.set(i.reftable() + 8, i.get(i.reftable()))),
    case("refcount block over data", PLAIN, |i| i.set(i.reftable() + 8, 0x50000)),
    case("no refcount block", PLAIN, |i| i.set(i.reftable(), 0)),
    case("no refcount table", PLAIN, |i| i.set_u32(56, 0)),
    case("refcount table too long", PLAIN, |i| i.set_u32(56, 3)),
    case("snapshot L1 unaligned", SNAPSHOTS, |i| i.xor(i.snapshots(), 0x200)),
    case("snapshot L1 behind the end", SNAPSHOTS, |i| i.set(i.snapshots(), FAR)),
    case("snapshot L1 unreachable", SNAPSHOTS, |i| i.xor(i.snapshots(), 1 << 63)),
    case("snapshot L1 too large", SNAPSHOTS, |i| i.set_u32(i.snapshots() + 8, 0x50_0000)),
    case("snapshot L1 is the header", SNAPSHOTS, |i| i.set(i.snapshots(), 0)),
    case("snapshot table elsewhere", SNAPSHOTS, |i| i.set(64, FAR)),
    case("snapshot table with too much extra data", SNAPSHOTS, |i| i.set_u32(i.snapshots() + 36, 1025)),
    case("one snapshot more", SNAPSHOTS, |i| i.set_u32(60, 3)),
    case("snapshot data", SNAPSHOTS, |i| {
        let l2 = i.offset_at(i.get(i.snapshots()));
        i.xor(l2 + 24, 1 << 60 | 0x200);
    }),
    case("bitmap table elsewhere", BITMAPS, |i| i.set(i.bitmaps(), FAR)),
    case("bitmap data elsewhere", BITMAPS, |i| i.set(i.get(i.bitmaps()), FAR)),
    case("bitmap of ones", BITMAPS, |i| i.set(i.get(i.bitmaps()), 1)),
    case("bitmap in use with a bad entry", BITMAPS, |i| {
        i.set_u32(i.bitmaps() + 12, 1);
        i.set(i.get(i.bitmaps()), 0x50200);
    }),
];

/// What a check told: its lines and its numbers, or the error that ended it.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    lines: Vec<String>,
    numbers: Vec<(&'static str, u64)>,
}

fn numbers(report: &CheckReport) -> Vec<(&'static str, u64)> {
    vec![
        ("image-end-offset", report.image_end_offset),
        ("total-clusters", report.total_clusters),
        ("check-errors", report.check_errors),
        ("corruptions", report.corruptions),
        ("leaks", report.leaks),
        ("allocated-clusters", report.allocated_clusters),
        ("fragmented-clusters", report.fragmented_clusters),
        ("compressed-clusters", report.compressed_clusters),
    ]
}

fn ours(image: &Patch) -> Result<Told, String> {
    let data = MemDevice::new(0);
    let opener = MemOpener::new([("data".to_owned(), Arc::new(data) as Arc<dyn BlockDevice>)]);
    let storage = Arc::new(MemDevice::read_only(image.0.clone()));
    let mode = OpenMode { check: true, ..OpenMode::default() };
    let image = open_image(&DRIVER, storage, mode, &opener).map_err(|error| error.joined())?;
    let mut lines = Vec::new();
    let mut say = |text: &str| lines.extend(text.lines().map(str::to_owned));
    match image.as_check().unwrap().check(Repair::Nothing, &mut say, &Task::quiet()) {
        Ok(report) => Ok(Told { lines, numbers: numbers(&report) }),
        Err(error) => Err(format!("{lines:?} Check failed: {}", error.strerror())),
    }
}

fn theirs(oracle: &Oracle, folder: &Path, image: &Patch) -> Result<Told, String> {
    std::fs::write(folder.join("image"), &image.0).unwrap();
    let output = oracle.run(folder, &["check", "--output=json", "-f", "qcow2", "image"]);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let mut lines: Vec<String> = err.lines().map(str::to_owned).collect();
    if !out.contains("total-clusters") {
        let last = lines.pop().unwrap_or_default();
        lines.retain(|line| !line.starts_with("qemu-img: ") && !line.starts_with("You can force-remove"));
        let told = last.trim_start_matches("qemu-img: ").to_owned();
        let open = told.strip_prefix("Could not open 'image': ").map(str::to_owned);
        return Err(open.unwrap_or_else(|| {
            if told.starts_with("Check failed") {
                format!("{lines:?} {told}")
            } else {
                "Check failed: File too large".into()
            }
        }));
    }
    lines.retain(|line| line != "qemu-img: Check failed");
    let number = |key: &str| {
        let (_, rest) = out.split_once(&format!("\"{key}\": "))?;
        rest.split([',', '\n']).next()?.trim().parse().ok()
    };
    let numbers = numbers(&CheckReport::default());
    Ok(Told { lines, numbers: numbers.iter().map(|(key, _)| (*key, number(key).unwrap_or(0))).collect() })
}

fn same_check(oracle: &Oracle, made: &Made, name: &str, damage: impl FnOnce(&mut Patch)) {
    let mut image = made.image.clone();
    damage(&mut image);
    let theirs = theirs(oracle, made.folder.path(), &image);
    // Offsets beyond 2^63 are negative numbers there, and may end in a huge allocation.
    if theirs.as_ref().is_err_and(|told| told.contains("Cannot allocate memory")) {
        return;
    }
    let ours = ours(&image);
    if ours != theirs
        && let (Ok(ours), Ok(theirs)) = (&ours, &theirs)
    {
        let line = ours.lines.iter().zip(&theirs.lines).position(|(a, b)| a != b);
        let numbers: Vec<_> =
            ours.numbers.iter().zip(&theirs.numbers).filter(|(ours, theirs)| ours != theirs).collect();
        let line = line.unwrap_or(ours.lines.len().min(theirs.lines.len()));
        let (a, b) = (ours.lines.get(line), theirs.lines.get(line));
        panic!("{name}: {numbers:?}, line {line}:\nours:   {a:?}\ntheirs: {b:?}");
    }
    assert_eq!(ours, theirs, "{name}");
}

/// Damages entries of all tables in many ways.
fn random_damage(oracle: &Oracle, setup: &Setup, seed: u64) {
    let made = setup.make(oracle);
    let mut rng = Rng::new(seed);
    let places = places(&made.image);
    for round in 0..12 {
        let name = format!("{} (round {round})", setup.options);
        same_check(oracle, &made, &name, |image| {
            for _ in 0..1 + rng.below(4) {
                let group = rng.pick(&places).clone();
                let at = *rng.pick(&group);
                damage_entry(image, at, &places, &mut rng);
            }
        });
    }
}
