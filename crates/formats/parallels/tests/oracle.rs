//! Parallels images beside the installed `qemu-img`: contents both ways, the same refusals, the same findings and repairs
//! of a check. Without it the tests are counted as ignored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use diskimg_core::driver::OpenMode;
use diskimg_core::opener::NoReferences;
use diskimg_core::{CheckReport, MemDevice, Repair, Task};
use diskimg_parallels::DRIVER;
use diskimg_testkit::exchange::{changed, folder_of, open_bytes, random_writes, theirs_made, theirs_read};
use diskimg_testkit::{FormatSubject, Oracle, Rng, open_image, suite};
use md5::{Digest, Md5};

/// Options and sizes of images, and whether their entries count sectors.
const KINDS: &[(&[&str], u64, bool)] = &[
    (&[], 10 << 20, false),
    (&[], (5 << 20) + 512, true),
    (&["cluster_size=65536"], 3 << 20, false),
    (&["cluster_size=3584"], 1 << 20, true),
    (&["cluster_size=512"], 512, false),
];

fn main() -> ExitCode {
    let mut tests = Vec::new();
    for kind in KINDS {
        let name = format!("{} {} {}", kind.0.join(","), kind.1, if kind.2 { "old" } else { "new" });
        tests.push(suite::with_oracle(format!("ours is read: {name}"), move |oracle| {
            (0..4).for_each(|seed| ours_is_read(oracle, *kind, seed));
        }));
        tests.push(suite::with_oracle(format!("theirs is read: {name}"), move |oracle| {
            (0..4).for_each(|seed| theirs_is_read(oracle, *kind, seed));
        }));
    }
    for repair in [Repair::Nothing, Repair::Leaks, Repair::All] {
        tests.push(suite::with_oracle(format!("damage {repair:?}"), move |oracle| {
            (0..rounds()).for_each(|seed| damage(oracle, seed, repair));
        }));
    }
    tests.push(suite::with_oracle("open for writing repairs", |oracle| {
        (0..rounds()).for_each(|seed| repaired_when_written(oracle, seed));
    }));
    tests.push(suite::with_oracle("extensions", extensions));
    suite::run(tests)
}

/// Damaged images; `DISKIMG_PROP_ROUNDS` asks for more.
fn rounds() -> u64 {
    diskimg_testkit::rounds(60)
}

/// Makes an image old: entries and all else that is 0 or in sectors stay as they are.
fn make_old(image: &mut [u8]) {
    image[..16].copy_from_slice(b"WithoutFreeSpace");
}

fn ours_is_read(oracle: &Oracle, (options, size, old): (&'static [&'static str], u64, bool), seed: u64) {
    let subject = FormatSubject::new(&DRIVER, size, options);
    let mut image = subject.fresh()[0].to_vec();
    if old {
        make_old(&mut image);
    }
    let folder = folder_of(changed(&subject, image, seed));
    oracle.compare_raw(folder.path(), "parallels", "image", "disk").unwrap();
    let output = oracle.run(folder.path(), &["check", "-f", "parallels", "image"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn theirs_is_read(oracle: &Oracle, (options, size, old): (&'static [&'static str], u64, bool), seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    theirs_made(oracle, folder.path(), "parallels", options, size);
    let mut image = std::fs::read(&path).unwrap();
    let made = FormatSubject::new(&DRIVER, size, options).fresh()[0].to_vec();
    assert!(image == made, "a new image differs");
    if old {
        make_old(&mut image);
        std::fs::write(&path, image).unwrap();
    }
    let writes = random_writes(seed, size, true);
    let image = theirs_read(oracle, folder.path(), (&DRIVER, "parallels"), &writes);
    let report = image.as_check().unwrap().check(Repair::Nothing, &mut |_| {}, &Task::quiet()).unwrap();
    assert_eq!(report.corruptions, 0);
    let theirs = oracle.run(folder.path(), &["check", "-f", "parallels", "image"]);
    assert_eq!(statistics(&report), last_lines(&String::from_utf8_lossy(&theirs.stdout)));
}

/// The last lines of a check as the command prints them.
fn statistics(report: &CheckReport) -> String {
    let part = |count: u64, of: u64| count as f64 * 100.0 / of as f64;
    let (all, taken, torn) = (report.total_clusters, report.allocated_clusters, report.fragmented_clusters);
    let mut text = String::new();
    if taken > 0 {
        let (taken_part, torn_part) = (part(taken, all), part(torn, taken));
        text = format!(
            "{taken}/{all} = {taken_part:.2}% allocated, {torn_part:.2}% fragmented, 0.00% compressed clusters\n"
        );
    }
    format!("{text}Image end offset: {}\n", report.image_end_offset)
}

fn last_lines(text: &str) -> String {
    let wanted = |line: &&str| line.contains("% allocated") || line.starts_with("Image end");
    text.lines().filter(wanted).map(|line| format!("{line}\n")).collect()
}

/// An image of ten clusters of 4 KiB, six of them allocated, that is damaged in some ways. Only ways that the oracle
/// survives: a double use is not reported by it but repaired only.
fn damaged(rng: &mut Rng, doubles: bool) -> Vec<u8> {
    let old = rng.below(3) == 0;
    let mut image = FormatSubject::new(&DRIVER, 40 << 10, &["cluster_size=4096"]).fresh()[0].to_vec();
    let unit = if old { 8 } else { 1 };
    if old {
        make_old(&mut image);
    }
    let mut set = |at: usize, value: u32| image[at..at + 4].copy_from_slice(&value.to_le_bytes());
    for (place, guest) in [4, 2, 3, 9, 0, 7].into_iter().enumerate() {
        set(64 + guest * 4, (u32::try_from(place).unwrap() + 1) * unit);
    }
    for _ in 0..=rng.below(3) {
        match rng.below(5) {
            0 => set(44, *rng.pick(&[0x746f_6e59, 1, 0x312e_3276])),
            // Where clusters of an old image lie across the oracle's own ones, its copies overlap others.
            1 if doubles && old => {}
            1 if doubles => set(48, 1000),
            1 => set(48, *rng.pick(&[0, 1, 3, 7, 8, 9, 20, 1000])),
            2 if !doubles => set(64 + rng.index(10) * 4, (9 + u32::try_from(rng.below(20)).unwrap()) * unit),
            3 if doubles => set(64 + rng.index(10) * 4, (1 + u32::try_from(rng.below(6)).unwrap()) * unit),
            4 if rng.below(3) == 0 => set(*rng.pick(&[16, 28, 32, 40, 60]), *rng.pick(&[0, 9, 600_000_000])),
            _ => {}
        }
    }
    image.resize(7 * 4096, 0);
    for (index, byte) in image.iter_mut().enumerate().skip(4096) {
        *byte = u8::try_from(index / 512 % 251).unwrap();
    }
    if rng.below(3) == 0 {
        image.resize(image.len() + rng.index(20_000), 7);
    }
    image
}

/// Damaged images: refused with the same words, or checked and repaired with the same findings, to the same image.
fn damage(oracle: &Oracle, seed: u64, repair: Repair) {
    let image = damaged(&mut Rng::new(seed), repair == Repair::All);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("image"), &image).unwrap();
    let how: &[&str] = match repair {
        Repair::Nothing => &[],
        Repair::Leaks => &["-r", "leaks"],
        Repair::All => &["-r", "all"],
    };
    let output = oracle.run(folder.path(), &[&["check", "-f", "parallels", "image"], how].concat());
    let theirs = String::from_utf8_lossy(&output.stderr).into_owned();
    if gave_up(&theirs) {
        return;
    }
    let memory = Arc::new(MemDevice::from(image));
    let mode = OpenMode { write: repair != Repair::Nothing, check: true, ..OpenMode::default() };
    let mut ours = String::new();
    let mut fixed = false;
    match open_image(&DRIVER, memory.clone(), mode, &NoReferences) {
        Err(error) if error.to_string() == "the block allocation table is cut short" => return,
        Err(error) => ours = format!("qemu-img: Could not open 'image': {}\n", error.joined()),
        Ok(image) => {
            let mut say = |line: &str| {
                ours.push_str(line);
                ours.push('\n');
            };
            let check = image.as_check().unwrap();
            let mut report = check.check(repair, &mut say, &Task::quiet()).unwrap();
            fixed = report.corruptions_fixed + report.leaks_fixed > 0;
            if fixed {
                report = check.check(Repair::Nothing, &mut say, &Task::quiet()).unwrap();
            }
            let printed = last_lines(&String::from_utf8_lossy(&output.stdout));
            assert_eq!(statistics(&report), printed, "seed {seed}: {ours}");
        }
    }
    let wanted: String =
        theirs.lines().filter(|line| relevant(line)).map(|line| format!("{line}\n")).collect();
    assert!(ours == wanted, "seed {seed}: ours {ours:.700}, theirs {wanted:.700}");
    if repair == Repair::All && fixed {
        let theirs = std::fs::read(folder.path().join("image")).unwrap();
        assert!(memory.to_vec() == theirs, "seed {seed}: repaired differently: {ours}");
    }
}

/// Some damage is too much for the oracle.
fn gave_up(said: &str) -> bool {
    said.contains("Assertion") || said.contains("Device or resource busy")
}

fn relevant(line: &str) -> bool {
    // The warning is a notice here.
    ["ERROR", "Repairing", "qemu-img: Could"].iter().any(|start| line.starts_with(start))
}

/// What a writable open does by itself.
fn repaired_when_written(oracle: &Oracle, seed: u64) {
    let image = damaged(&mut Rng::new(seed), true);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("image"), &image).unwrap();
    let memory = Arc::new(MemDevice::from(image));
    let mode = OpenMode { write: true, ..OpenMode::default() };
    let Ok(image) = open_image(&DRIVER, memory.clone(), mode, &NoReferences) else { return };
    if image.len() < 512 {
        return;
    }
    image.write_at(0, &[5; 512]).unwrap();
    drop(image);
    let probe = oracle.run(folder.path(), &["check", "-f", "parallels", "-r", "all", "image"]);
    if gave_up(&String::from_utf8_lossy(&probe.stderr)) {
        return;
    }
    oracle.qemu_io(folder.path(), "parallels", "image", &["write -P 5 0 512"]);
    let image = memory.to_vec();
    assert!(image == std::fs::read(folder.path().join("image")).unwrap(), "seed {seed}");
}

/// A feature of an extension.
fn feature(magic: u64, flags: u64, data: &[u8], len: Option<u32>) -> Vec<u8> {
    let mut bytes = magic.to_le_bytes().to_vec();
    bytes.extend(flags.to_le_bytes());
    bytes.extend(len.unwrap_or(u32::try_from(data.len()).unwrap()).to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// A dirty bitmap.
fn bitmap(sectors: u64, count: u32, pieces: &[u64]) -> Vec<u8> {
    let mut bytes = sectors.to_le_bytes().to_vec();
    bytes.extend(0..16_u8);
    bytes.extend(128_u32.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    pieces.iter().for_each(|piece| bytes.extend(piece.to_le_bytes()));
    bytes
}

/// An image of 10 MiB with an extension, cluster 2 of the file, and a cluster for a bitmap behind it.
fn with_extension(features: &[u8], sum: u8) -> Vec<u8> {
    let mut image = FormatSubject::new(&DRIVER, 10 << 20, &[]).fresh()[0].to_vec();
    image.resize(4 << 20, 0);
    image[68] = 1;
    image[56..64].copy_from_slice(&4096_u64.to_le_bytes());
    let cluster = &mut image[2 << 20..3 << 20];
    cluster[24..24 + features.len()].copy_from_slice(features);
    cluster[..8].copy_from_slice(&0xab23_4cef_23dc_ea87_u64.to_le_bytes());
    let digest = Md5::digest(&cluster[24..]);
    cluster[8..24].copy_from_slice(&digest);
    cluster[8] ^= sum;
    image
}

fn extensions(oracle: &Oracle) {
    const BITMAP: u64 = 0x2038_5fae_252c_b34a;
    let good = feature(BITMAP, 0, &bitmap(20480, 1, &[6144]), None);
    let cases = [
        with_extension(&good, 0),
        with_extension(&good, 1),
        with_extension(&[good.clone(), good.clone()].concat(), 0),
        with_extension(&feature(BITMAP, 1, &bitmap(20480, 1, &[0]), None), 0),
        with_extension(&feature(0x1234, 0, b"abc", None), 0),
        with_extension(&feature(0x1234, 0, b"abc", Some(1 << 21)), 0),
        with_extension(&feature(BITMAP, 0, &[1; 20], None), 0),
        with_extension(&feature(BITMAP, 0, &bitmap(20479, 1, &[0]), None), 0),
        with_extension(&feature(BITMAP, 0, &bitmap(20480, 4, &[0]), None), 0),
        with_extension(&feature(BITMAP, 0, &bitmap(20480, 2, &[0, 0]), None), 0),
        with_extension(&feature(0, 1, b"", None), 0),
    ];
    for (number, image) in cases.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("image"), &image).unwrap();
        let theirs = refusal(oracle, folder.path());
        let ours = open_bytes(&DRIVER, image.clone()).err().map(|error| error.joined());
        assert_eq!(ours, theirs, "case {number}");
        if ours.is_none() {
            ours_keeps_it(image);
        }
    }
}

fn refusal(oracle: &Oracle, folder: &Path) -> Option<String> {
    let output = oracle.run(folder, &["info", "-f", "parallels", "image"]);
    let text = String::from_utf8_lossy(&output.stderr);
    Some(text.trim_end().strip_prefix("qemu-img: Could not open 'image': ")?.to_owned())
}

/// The clusters of an extension are neither leaked nor written to, and stay when the image is closed.
fn ours_keeps_it(image: Vec<u8>) {
    let memory = Arc::new(MemDevice::from(image));
    let mode = OpenMode { write: true, ..OpenMode::default() };
    let open = || open_image(&DRIVER, memory.clone(), mode, &NoReferences).unwrap();
    open().write_at(5 << 20, &[1; 512]).unwrap();
    let before = memory.to_vec();
    let report = open().as_check().unwrap().check(Repair::All, &mut |_| {}, &Task::quiet()).unwrap();
    assert_eq!((report.leaks, report.corruptions, report.image_end_offset), (0, 0, 5 << 20));
    assert!(memory.to_vec() == before);
    assert!(open_image(&DRIVER, memory.clone(), OpenMode::default(), &NoReferences).is_ok());
}
