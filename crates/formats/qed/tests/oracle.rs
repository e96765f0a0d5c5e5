//! QED images beside the installed `qemu-img`: contents both ways, the same refusals, the same findings and repairs of a
//! check. Without it the tests are counted as ignored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::process::ExitCode;
use std::sync::Arc;

use diskimg_core::driver::OpenMode;
use diskimg_core::opener::NoReferences;
use diskimg_core::{BlockDevice, Image, MemDevice, Repair, Task};
use diskimg_qed::DRIVER;
use diskimg_testkit::exchange::{
    self, Kind, changed, folder_of, open_bytes, random_writes, theirs_made, theirs_read,
};
use diskimg_testkit::{FormatSubject, Oracle, Rng, Subject, open_image, suite};

/// Options and sizes of images.
const KINDS: &[Kind] = &[
    (&[], 10 << 20),
    (&["cluster_size=4k", "table_size=2"], (9 << 20) + 512),
    (&["cluster_size=4k", "table_size=16"], 1 << 20),
    (&["cluster_size=1M", "table_size=4"], 20 << 20),
    (&[], 512),
];

fn main() -> ExitCode {
    let mut tests = exchange::tests(KINDS, ours_is_read, theirs_is_read);
    tests.push(suite::with_oracle("damage", |oracle| (0..rounds()).for_each(|seed| damage(oracle, seed))));
    tests.push(suite::with_oracle("repairs", |oracle| {
        (0..rounds() / 2).for_each(|seed| repairs(oracle, seed));
    }));
    tests.push(suite::with_oracle("an interrupted image is repaired as it is opened", opened_dirty));
    suite::run(tests)
}

/// Damaged images; `DISKIMG_PROP_ROUNDS` asks for more.
fn rounds() -> u64 {
    diskimg_testkit::rounds(150)
}

fn ours_is_read(oracle: &Oracle, (options, size): Kind, seed: u64) {
    let subject = FormatSubject::new(&DRIVER, size, options);
    let folder = folder_of(changed(&subject, subject.fresh()[0].to_vec(), seed));
    oracle.compare_raw(folder.path(), "qed", "image", "disk").unwrap();
    let output = oracle.run(folder.path(), &["check", "-f", "qed", "image"]);
    assert!(output.status.success(), "{output:?}");
}

fn theirs_is_read(oracle: &Oracle, (options, size): Kind, seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    theirs_made(oracle, folder.path(), "qed", options, size);
    let writes = random_writes(seed, size, true);
    let image = theirs_read(oracle, folder.path(), (&DRIVER, "qed"), &writes);
    let report = image.as_check().unwrap().check(Repair::Nothing, &mut |_| {}, &Task::quiet()).unwrap();
    assert_eq!((report.corruptions, report.leaks), (0, 0));
}

/// An image of the smallest clusters, with data, and changed bytes in its header and tables.
fn damaged(seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let size = 9 << 20;
    let subject = FormatSubject::new(&DRIVER, size, &["cluster_size=4k", "table_size=2"]);
    let memory = subject.fresh();
    let shared = diskimg_testkit::shared(&memory);
    let opened = subject.open(&shared, true).unwrap().device;
    for at in [0, 5 << 20, (8 << 20) + 8192] {
        opened.write_at(at, &[7; 12_288]).unwrap();
    }
    drop(opened);
    let mut image = memory[0].to_vec();
    let tables: Vec<usize> = (0..3)
        .map(|index| {
            usize::try_from(u64::from_le_bytes(*image[4096 + index * 8..].first_chunk().unwrap())).unwrap()
        })
        .collect();
    for _ in 0..=rng.below(3) {
        let at = match rng.below(4) {
            0 => rng.index(64),
            1 => 4096 + rng.index(32),
            _ => *rng.pick(&tables) + rng.index(40) / 8 * 8,
        };
        match rng.below(3) {
            // Another place of the file, or one that is none.
            0 if at >= 4096 => {
                let offset = rng.below(20) * 4096 + if rng.below(4) == 0 { 512 } else { 0 };
                image[at / 8 * 8..at / 8 * 8 + 8].copy_from_slice(&offset.to_le_bytes());
            }
            _ => image[at] = *rng.pick(&[0, 1, 2, 4, 8, 0x10, 0x40, 0x7f, 0x80, 0xff]),
        }
    }
    image
}

/// What a report says, as the command's JSON does.
fn shown(image: &dyn Image, repair: Repair) -> Vec<(&'static str, u64)> {
    let report = image.as_check().unwrap().check(repair, &mut |_| {}, &Task::quiet()).unwrap();
    vec![
        ("corruptions", report.corruptions),
        ("corruptions-fixed", report.corruptions_fixed),
        ("leaks", report.leaks),
        ("leaks-fixed", report.leaks_fixed),
        ("allocated-clusters", report.allocated_clusters),
        ("fragmented-clusters", report.fragmented_clusters),
        ("total-clusters", report.total_clusters),
        ("check-errors", report.check_errors),
    ]
}

/// The same from the oracle's output, where what is 0 is left out.
fn theirs(output: &str) -> Vec<(&'static str, u64)> {
    let number = |name: &str| {
        let at = output.find(&format!("\"{name}\": "))?;
        let rest = &output[at + name.len() + 4..];
        rest.split([',', '\n', '}']).next()?.trim().parse().ok()
    };
    [
        "corruptions",
        "corruptions-fixed",
        "leaks",
        "leaks-fixed",
        "allocated-clusters",
        "fragmented-clusters",
        "total-clusters",
        "check-errors",
    ]
    .map(|name| (name, number(name).unwrap_or(0)))
    .into()
}

/// Refused with the same words, or checked with the same findings.
fn damage(oracle: &Oracle, seed: u64) {
    let image = damaged(seed);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("image"), &image).unwrap();
    let output = oracle.run(folder.path(), &["check", "-f", "qed", "--output=json", "image"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match open_bytes(&DRIVER, image) {
        Err(error) => {
            assert_eq!(
                format!("qemu-img: Could not open 'image': {}\n", error.joined()),
                said,
                "seed {seed}"
            );
        }
        Ok(image) => {
            let output = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(shown(&*image, Repair::Nothing), theirs(&output), "seed {seed}: {said}");
        }
    }
}

/// A repair changes the same bytes and says the same.
fn repairs(oracle: &Oracle, seed: u64) {
    let before = damaged(seed + 10_000);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    std::fs::write(&path, &before).unwrap();
    let memory = Arc::new(MemDevice::new(0));
    memory.write_at(0, &before).unwrap();
    let mode = OpenMode { write: true, check: true, ..OpenMode::default() };
    let Ok(image) = open_image(&DRIVER, Arc::clone(&memory) as _, mode, &NoReferences) else { return };
    let fixed = shown(&*image, Repair::All);
    let mut ours = shown(&*image, Repair::Nothing);
    if fixed[1].1 == 0 {
        ours = fixed;
    } else {
        ours[1].1 = fixed[1].1;
    }
    drop(image);
    let output = oracle.run(folder.path(), &["check", "-f", "qed", "-r", "all", "--output=json", "image"]);
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(ours, theirs(&output), "seed {seed}");
    assert!(std::fs::read(&path).unwrap() == memory.to_vec(), "seed {seed}: other bytes");
}

/// The need-check bit and an entry that refers to nothing: gone once the image was opened to be written to.
fn opened_dirty(oracle: &Oracle) {
    for seed in 0..40 {
        let mut before = damaged(seed + 20_000);
        before[16] |= 2;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        std::fs::write(&path, &before).unwrap();
        let memory = Arc::new(MemDevice::new(0));
        memory.write_at(0, &before).unwrap();
        let mode = OpenMode { write: true, ..OpenMode::default() };
        let opened = open_image(&DRIVER, Arc::clone(&memory) as _, mode, &NoReferences);
        if opened.is_err() {
            continue;
        }
        drop(opened);
        oracle.qemu_io(folder.path(), "qed", "image", &["flush"]);
        assert!(std::fs::read(&path).unwrap() == memory.to_vec(), "seed {seed}: other bytes");
    }
}
