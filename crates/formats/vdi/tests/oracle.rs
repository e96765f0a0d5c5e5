//! VDI images beside the installed `qemu-img`: contents both ways, the same refusals, the same findings of a check.
//! Without it the tests are counted as ignored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::process::ExitCode;

use diskimg_core::{Repair, Task};
use diskimg_testkit::exchange::{
    self, Kind, changed, folder_of, open_bytes, random_writes, theirs_made, theirs_read,
};
use diskimg_testkit::{FormatSubject, Oracle, Rng, suite};
use diskimg_vdi::DRIVER;

/// Options and sizes of images.
const KINDS: &[Kind] = &[(&[], 10 << 20), (&[], (5 << 20) + 512), (&["static=on"], 3 << 20), (&[], 512)];

fn main() -> ExitCode {
    let mut tests = exchange::tests(KINDS, ours_is_read, theirs_is_read);
    tests.push(suite::with_oracle("damage", |oracle| {
        (0..diskimg_testkit::rounds(120)).for_each(|seed| damage(oracle, seed))
    }));
    suite::run(tests)
}

fn ours_is_read(oracle: &Oracle, (options, size): Kind, seed: u64) {
    let subject = FormatSubject::new(&DRIVER, size, options);
    let folder = folder_of(changed(&subject, subject.fresh()[0].to_vec(), seed));
    oracle.compare_raw(folder.path(), "vdi", "image", "disk").unwrap();
    let output = oracle.run(folder.path(), &["check", "-f", "vdi", "image"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn theirs_is_read(oracle: &Oracle, (options, size): Kind, seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    theirs_made(oracle, folder.path(), "vdi", options, size);
    let writes = random_writes(seed, size, false);
    let image = theirs_read(oracle, folder.path(), (&DRIVER, "vdi"), &writes);
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
    match open_bytes(&DRIVER, image) {
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
