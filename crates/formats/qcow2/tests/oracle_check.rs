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
