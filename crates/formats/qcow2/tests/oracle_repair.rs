//! Repairs beside the installed `qemu-img check -r`: images that it made are damaged at random, then repaired by both.
//!
//! Ours never panics nor hangs; where qemu-img's repair ends with a clean image, ours does; of the guest's data that was
//! right before a repair all is right after it; and at least as much is right as after qemu-img's repair. What simple
//! damage is said of is equal to the letter. `DISKIMG_REPAIR_IMAGES` asks for another number of images.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::cast_possible_truncation)]

mod damage;

use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use diskimg_core::driver::OpenMode;
use diskimg_core::{BlockDevice, CheckReport, Image, MemDevice, Repair, Result, Task};
use diskimg_qcow2::DRIVER;
use diskimg_testkit::{MemOpener, Oracle, Rng, open_image, suite};

use damage::*;

/// Longest time a repair of one of these small images may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of an image that are looked at after a repair.
const MOST: u64 = 64 << 20;
/// Unit in which guest data is compared, in bytes.
const UNIT: usize = 512;

/// Numbers of all images together.
static TOTAL: Mutex<Total> =
    Mutex::new(Total { images: 0, clean: 0, clean_there: 0, lost_there: 0, better: 0, same_words: 0 });

#[derive(Clone, Copy, Debug)]
struct Total {
    images: u64,
    /// Images that ours got clean.
    clean: u64,
    /// Images that the oracle got clean.
    clean_there: u64,
    /// Images of which the oracle lost something that was right before.
    lost_there: u64,
    /// Images of which ours kept more.
    better: u64,
    /// Images of which both say the same.
    same_words: u64,
}

fn images() -> u64 {
    diskimg_testkit::asked("DISKIMG_REPAIR_IMAGES", 160)
}

fn main() -> ExitCode {
    let mut tests = Vec::new();
    for case in CASES.iter().filter(|case| case.repaired) {
        for what in [Repair::Leaks, Repair::All] {
            tests.push(suite::with_oracle(format!("repair {what:?}: {}", case.name), move |oracle| {
                same_words(oracle, case, what);
            }));
        }
    }
    for case in CASES.iter().filter(|case| case.repaired && case.setup.bitmaps.len() > 1) {
        tests.push(suite::with_oracle(format!("repair, bits: {}", case.name), |oracle| {
            bits_kept(oracle, case)
        }));
    }
    for (number, setup) in SETUPS.iter().enumerate() {
        tests.push(suite::with_oracle(format!("repair: random damage {number}"), move |oracle| {
            let rounds = images().div_ceil(SETUPS.len() as u64);
            random_damage(oracle, setup, number as u64, rounds);
        }));
    }
    let code = suite::run(tests);
    println!("repairs: {:?}", *TOTAL.lock().unwrap());
    code
}

/// What a repair told, or the error that ended it; lines and then the numbers that count.
type Told = (Vec<String>, Result<Vec<u64>, String>);

fn opener(folder: &Path) -> MemOpener {
    let data = std::fs::read(folder.join("data")).unwrap_or_default();
    MemOpener::new([("data".to_owned(), Arc::new(MemDevice::read_only(data)) as Arc<dyn BlockDevice>)])
}

fn open(folder: &Path, bytes: &[u8], mode: OpenMode) -> Result<(Arc<dyn Image>, Arc<MemDevice>)> {
    let storage = Arc::new(if mode.write {
        MemDevice::from(bytes.to_vec())
    } else {
        MemDevice::read_only(bytes.to_vec())
    });
    Ok((open_image(&DRIVER, storage.clone(), mode, &opener(folder))?, storage))
}

/// Our repair as the command does it, and the image afterwards.
fn ours(folder: &Path, image: &Patch, what: Repair) -> (Told, Vec<u8>) {
    let mode = OpenMode { check: true, write: true, ..OpenMode::default() };
    let (opened, storage) = match open(folder, &image.0, mode) {
        Ok(opened) => opened,
        Err(error) => return ((Vec::new(), Err(error.joined())), image.0.clone()),
    };
    let mut lines = Vec::new();
    let mut say = |text: &str| lines.extend(text.lines().map(str::to_owned));
    let check = opened.as_check().unwrap();
    let start = Instant::now();
    let result = check.check(what, &mut say, &Task::quiet()).and_then(|report| {
        if report.corruptions_fixed == 0 && report.leaks_fixed == 0 {
            return Ok(report);
        }
        let again = check.check(Repair::Nothing, &mut say, &Task::quiet())?;
        Ok(CheckReport {
            corruptions_fixed: report.corruptions_fixed,
            leaks_fixed: report.leaks_fixed,
            ..again
        })
    });
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    let told = result.map(|report| {
        vec![
            report.corruptions,
            report.leaks,
            report.check_errors,
            report.corruptions_fixed,
            report.leaks_fixed,
            report.image_end_offset,
            report.allocated_clusters,
            report.fragmented_clusters,
            report.compressed_clusters,
        ]
    });
    drop(opened);
    ((lines, told.map_err(|error| error.strerror())), storage.to_vec())
}

const KEYS: [&str; 9] = [
    "corruptions",
    "leaks",
    "check-errors",
    "corruptions-fixed",
    "leaks-fixed",
    "image-end-offset",
    "allocated-clusters",
    "fragmented-clusters",
    "compressed-clusters",
];

fn theirs(oracle: &Oracle, folder: &Path, image: &Patch, what: Repair) -> (Told, Vec<u8>) {
    let path = folder.join("image");
    std::fs::write(&path, &image.0).unwrap();
    let mode = if what == Repair::All { "all" } else { "leaks" };
    let output = oracle.run(folder, &["check", "--output=json", "-f", "qcow2", "-r", mode, "image"]);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // It stores all bitmaps anew when it closes the image, and says this where it can't give back the old ones.
    let closing = |line: &&str| *line != "qcow2_free_clusters failed: Invalid argument";
    let mut lines: Vec<String> = err.lines().filter(closing).map(str::to_owned).collect();
    let told = if out.contains("total-clusters") {
        lines.retain(|line| line != "qemu-img: Check failed");
        let number = |key: &str| {
            let (_, rest) = out.split_once(&format!("\"{key}\": "))?;
            rest.split([',', '\n']).next()?.trim().parse().ok()
        };
        Ok(KEYS.iter().map(|key| number(key).unwrap_or(0)).collect())
    } else {
        let last = lines.pop().unwrap_or_default();
        lines.retain(|line| !line.starts_with("qemu-img: ") && !line.starts_with("You can force-remove"));
        Err(last.rsplit(": ").next().unwrap_or_default().to_owned())
    };
    // It makes files of terabytes.
    let mut bytes = Vec::new();
    std::fs::File::open(&path).unwrap().take(MOST).read_to_end(&mut bytes).unwrap();
    ((lines, told), bytes)
}

fn same_words(oracle: &Oracle, case: &Case, what: Repair) {
    let made = case.setup.make(oracle);
    let mut image = made.image.clone();
    (case.damage)(&mut image);
    let (told, bytes) = ours(made.folder.path(), &image, what);
    let (told_there, bytes_there) = theirs(oracle, made.folder.path(), &image, what);
    let differs = told.0.iter().zip(&told_there.0).find(|(ours, theirs)| ours != theirs);
    assert_eq!(differs, None, "{}", case.name);
    assert_eq!(told.0.len(), told_there.0.len(), "{}: lines", case.name);
    assert_eq!(told.1, told_there.1, "{}", case.name);
    assert_eq!(bytes[72..80], bytes_there[72..80], "{}: incompatible bits", case.name);
}

/// After a repair the image is sound, guest data is as it was, and each bitmap that can be used marks all that it
/// marked before it was damaged.
fn bits_kept(oracle: &Oracle, case: &Case) {
    let made = case.setup.make(oracle);
    let folder = made.folder.path();
    let mut image = made.image.clone();
    (case.damage)(&mut image);
    let (_, bytes) = ours(folder, &image, Repair::All);
    assert_eq!(content(folder, &bytes), content(folder, &made.image.0), "{}", case.name);
    let (before, _) = open(folder, &made.image.0, OpenMode::default()).unwrap();
    let (after, _) = open(folder, &bytes, OpenMode::default()).unwrap();
    let (before, after) = (before.as_bitmaps().unwrap(), after.as_bitmaps().unwrap());
    assert_eq!(after.bitmaps().len(), before.bitmaps().len());
    let mut in_use = false;
    for info in after.bitmaps() {
        in_use |= info.inconsistent;
        let bits = before.read_bitmap(&info.name).unwrap();
        let kept = info.inconsistent || {
            let now = after.read_bitmap(&info.name).unwrap();
            bits.ranges().all(|range| now.test(range.start) && now.test(range.start + range.len - 1))
        };
        assert!(kept, "{}: {} marks less than before", case.name, info.name);
    }
    std::fs::write(folder.join("image"), &bytes).unwrap();
    let check = oracle.run(folder, &["check", "-f", "qcow2", "image"]);
    // A bitmap that another program left behind is nobody's to mend.
    assert_eq!(check.status.code() == Some(0), !in_use, "{}: {check:?}", case.name);
}

/// Guest bytes by unit, `None` where they can't be read; `None` as a whole for an image that does not open.
fn guest(folder: &Path, bytes: &[u8], original: &[u8]) -> Vec<bool> {
    let mut right = vec![false; original.len() / UNIT];
    let Ok((image, _)) = open(folder, bytes, OpenMode::default()) else { return right };
    let mut buf = vec![0; 64 << 10];
    for (index, chunk) in original.chunks(buf.len()).enumerate() {
        let at = index * buf.len();
        if image.read_at(at as u64, &mut buf[..chunk.len()]).is_ok() {
            for (number, unit) in chunk.chunks(UNIT).enumerate() {
                right[at / UNIT + number] = buf[number * UNIT..][..unit.len()] == *unit;
            }
            continue;
        }
        for (number, unit) in chunk.chunks(UNIT).enumerate() {
            let mut one = vec![0; unit.len()];
            let place = at + number * UNIT;
            right[place / UNIT] = image.read_at(place as u64, &mut one).is_ok() && one == unit;
        }
    }
    right
}

fn content(folder: &Path, bytes: &[u8]) -> Vec<u8> {
    let (image, _) = open(folder, bytes, OpenMode::default()).unwrap();
    // What lies behind is empty in all images.
    let mut all = vec![0; image.len().min(4 << 20) as usize];
    image.read_at(0, &mut all).unwrap();
    all
}

fn random_damage(oracle: &Oracle, setup: &Setup, seed: u64, rounds: u64) {
    // With bitmaps qemu-img's repair drops all snapshots: every other image has none of them.
    let variants = [setup.make(oracle), Setup { bitmaps: &[], ..*setup }.make(oracle)];
    for round in 0..rounds {
        let made = &variants[(round % 2) as usize];
        let folder = made.folder.path();
        let original = content(folder, &made.image.0);
        let places = places(&made.image);
        let mut rng = Rng::new(seed << 32 | round);
        let mut image = made.image.clone();
        for _ in 0..1 + rng.below(5) {
            if rng.below(8) == 0 {
                damage_run(&mut image, &mut rng);
            } else {
                let group = rng.pick(&places).clone();
                let at = *rng.pick(&group);
                damage_entry(&mut image, at, &places, &mut rng);
            }
        }
        let name = format!("{} seed {seed} round {round}", setup.options);
        judge(oracle, folder, &original, &image, &name);
    }
}

/// Overwrites a part of a table, or the count of snapshots, or cuts the file.
fn damage_run(image: &mut Patch, rng: &mut Rng) {
    let (cluster, end) = (image.cluster(), image.0.len() as u64);
    match rng.below(4) {
        0 => {
            let at = (1 + rng.below((end / cluster).min(12))) * cluster + 8 * rng.below(16);
            (0..8).for_each(|index| image.set(at + 8 * index, 0));
        }
        1 => {
            let at = (1 + rng.below((end / cluster).min(12))) * cluster;
            (0..4).for_each(|index| image.set(at + 8 * index, rng.next_u64()));
        }
        2 => image.0.truncate((end - rng.below(end / 3)) as usize),
        _ => image.set(72, image.get(72) & !3 | rng.below(4)),
    }
}

fn judge(oracle: &Oracle, folder: &Path, original: &[u8], image: &Patch, name: &str) {
    let before = guest(folder, &image.0, original);
    let (told, bytes) = ours(folder, image, Repair::All);
    let (told_there, bytes_there) = theirs(oracle, folder, image, Repair::All);
    let clean = || oracle.run(folder, &["check", "-f", "qcow2", "image"]).status.code() == Some(0);
    let clean_there = clean();
    std::fs::write(folder.join("image"), &bytes).unwrap();
    let clean = clean();
    let keep = || {
        let path = std::env::temp_dir().join("diskimg-repair-failure.qcow2");
        std::fs::write(&path, &image.0).unwrap();
        let short = |told: &Told| {
            let (start, end) =
                (told.0.iter().take(12), told.0.iter().skip(12.max(told.0.len().saturating_sub(8))));
            format!("{:#?}\n{:?}", start.chain(end).collect::<Vec<_>>(), told.1)
        };
        format!("{name}, kept as {}\nours {}\ntheirs {}", path.display(), short(&told), short(&told_there))
    };
    // It drops all snapshots, and stores all bitmaps anew, of which nothing was damaged: no repair.
    let dropped = |at: std::ops::Range<usize>| image.0[at.clone()] != bytes_there[at];
    let other_image = dropped(60..64) || image.0[95] & 1 != 0;
    assert!(clean || !clean_there || other_image, "clean there and not here: {}", keep());
    let (after, after_there) = (guest(folder, &bytes, original), guest(folder, &bytes_there, original));
    let lost = before.iter().zip(&after).position(|(before, after)| *before && !*after);
    assert!(lost.is_none(), "guest unit {lost:?} was right: {}", keep());
    let right = |units: &[bool]| units.iter().filter(|right| **right).count();
    // An entry that takes data for a table lets it overwrite that data; what else it says is no measure then.
    let lost_there = before.iter().zip(&after_there).any(|(before, after)| *before && !*after);
    assert!(lost_there || right(&after) >= right(&after_there), "less is right than there: {}", keep());
    let mut total = TOTAL.lock().unwrap();
    total.images += 1;
    total.clean += u64::from(clean);
    total.clean_there += u64::from(clean_there);
    total.lost_there += u64::from(lost_there);
    total.better += u64::from(right(&after) > right(&after_there) || (clean && !clean_there));
    total.same_words += u64::from(told == told_there);
}
