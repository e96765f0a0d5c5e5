//! VDI images beside the installed `qemu-img`: contents both ways, the same refusals, the same findings of a check.
//! Without it the tests are counted as ignored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::process::ExitCode;
use std::sync::Arc;

use diskimg_core::driver::OpenMode;
use diskimg_core::opener::NoReferences;
use diskimg_core::{BlockDevice, Image, MemDevice, Repair, Result, Task, to_usize};
use diskimg_testkit::{FormatSubject, Oracle, Rng, Session, open_image, suite};
use diskimg_testkit::{OpMix, Subject};
use diskimg_vdi::DRIVER;

/// Options and sizes of images.
const KINDS: &[(&[&str], u64)] =
    &[(&[], 10 << 20), (&[], (5 << 20) + 512), (&["static=on"], 3 << 20), (&[], 512)];

fn main() -> ExitCode {
    let mut tests = Vec::new();
    for (options, size) in KINDS {
        let name = format!("{} {size}", options.join(","));
        tests.push(suite::with_oracle(format!("ours is read: {name}"), move |oracle| {
            (0..4).for_each(|seed| ours_is_read(oracle, options, *size, seed));
        }));
        tests.push(suite::with_oracle(format!("theirs is read: {name}"), move |oracle| {
            (0..4).for_each(|seed| theirs_is_read(oracle, options, *size, seed));
        }));
    }
    tests.push(suite::with_oracle("damage", |oracle| (0..rounds()).for_each(|seed| damage(oracle, seed))));
    suite::run(tests)
}

/// Damaged images; `DISKIMG_PROP_ROUNDS` asks for more.
fn rounds() -> u64 {
    std::env::var("DISKIMG_PROP_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(120)
}

fn ours_is_read(oracle: &Oracle, options: &'static [&'static str], size: u64, seed: u64) {
    let subject = FormatSubject::new(&DRIVER, size, options);
    let memory = subject.fresh();
    let shared: Vec<Arc<dyn BlockDevice>> = memory.iter().map(|disk| Arc::clone(disk) as _).collect();
    let mut session = Session::open(&subject, shared.clone(), subject.initial(), || 0).unwrap();
    for op in OpMix::changes(size).script(seed, 40, size, 1 << 20) {
        session.must(&op);
    }
    drop(session);
    let mut disk = vec![0; to_usize(size)];
    subject.open(&shared, false).unwrap().device.read_at(0, &mut disk).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("image"), memory[0].to_vec()).unwrap();
    std::fs::write(folder.path().join("disk"), disk).unwrap();
    oracle.compare_raw(folder.path(), "vdi", "image", "disk").unwrap();
    let output = oracle.run(folder.path(), &["check", "-f", "vdi", "image"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn open(image: Vec<u8>) -> Result<Arc<dyn Image>> {
    open_image(&DRIVER, Arc::new(MemDevice::read_only(image)), OpenMode::default(), &NoReferences)
}

fn theirs_is_read(oracle: &Oracle, options: &[&str], size: u64, seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let mut args = vec!["create", "-q", "-f", "vdi"];
    let joined = options.join(",");
    if !options.is_empty() {
        args.extend(["-o", &joined]);
    }
    let length = size.to_string();
    args.extend(["image", &length]);
    oracle.must(folder.path(), &args);
    let mut rng = Rng::new(seed);
    let writes: Vec<String> = (0..12)
        .map(|_| {
            let at = rng.below(size / 512) * 512;
            let len = (1 + rng.below(3000)) * 512;
            format!("write -P {} {at} {}", 1 + rng.below(250), len.min(size - at))
        })
        .collect();
    let commands: Vec<&str> = writes.iter().map(String::as_str).collect();
    oracle.qemu_io(folder.path(), "vdi", "image", &commands);
    oracle.must(folder.path(), &["convert", "-f", "vdi", "-O", "raw", "image", "disk"]);
    let image = open(std::fs::read(folder.path().join("image")).unwrap()).unwrap();
    let mut disk = vec![0; to_usize(size)];
    image.read_at(0, &mut disk).unwrap();
    assert!(disk == std::fs::read(folder.path().join("disk")).unwrap(), "{writes:?}");
    let report = image.as_check().unwrap().check(Repair::Nothing, &mut |_| {}, &Task::quiet()).unwrap();
    assert_eq!(report.corruptions, 0);
}

/// An image with changed bytes in its header or table: refused with the same words, or checked with the same findings.
fn damage(oracle: &Oracle, seed: u64) {
    let mut rng = Rng::new(seed);
    let memory = FormatSubject::new(&DRIVER, 6 << 20, &[]).fresh();
    let mut image = memory[0].to_vec();
    for block in 0..3 {
        image[512 + block * 4..516 + block * 4]
            .copy_from_slice(&u32::try_from(2 - block).unwrap().to_le_bytes());
    }
    image[0x184] = 3;
    for _ in 0..=rng.below(2) {
        let at = match rng.below(3) {
            0 => 0x40 + rng.index(0x10),
            1 => 0x154 + rng.index(0x74),
            _ => 512 + rng.index(24),
        };
        image[at] = *rng.pick(&[0, 1, 2, 4, 8, 0x40, 0x7f, 0x80, 0xfe, 0xff]);
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("image"), &image).unwrap();
    let output = oracle.run(folder.path(), &["check", "-f", "vdi", "image"]);
    let theirs = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut ours = String::new();
    match open(image) {
        // The oracle reads what is missing of the table as block 0.
        Err(error) if error.to_string() == "the block map is cut short" => return,
        Err(error) => ours = format!("qemu-img: Could not open 'image': {}\n", error.joined()),
        Ok(image) => {
            let mut say = |line: &str| {
                ours.push_str(line);
                ours.push('\n');
            };
            image.as_check().unwrap().check(Repair::Nothing, &mut say, &Task::quiet()).unwrap();
        }
    }
    assert!(ours == theirs, "seed {seed}: ours {:.500}, theirs {:.500}", ours, theirs);
}
