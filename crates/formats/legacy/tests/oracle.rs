//! Images of all kinds beside the installed `qemu-img`: the same contents, the same refusals. Without it the tests are
//! counted as ignored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use diskimg_core::driver::{Notices, OpenContext, OpenMode};
use diskimg_core::opener::NoReferences;
use diskimg_core::options::RuntimeOptions;
use diskimg_core::{FormatDriver, Image, MemDevice, Result, to_usize};
use diskimg_legacy::{BOCHS, CLOOP, DMG};
use diskimg_testkit::{Oracle, Rng, suite};

use common::Sample;

type Make = fn(&mut Rng) -> Sample;

/// Each kind of image, its driver, and where damage is done: anywhere below the first number of bytes from the start,
/// or the second from the end.
const KINDS: &[(&str, &FormatDriver, Make, (u64, u64))] = &[
    ("bochs 2", &BOCHS, |rng| common::bochs(rng, false), (600, 0)),
    ("bochs 1", &BOCHS, |rng| common::bochs(rng, true), (600, 0)),
    ("cloop", &CLOOP, common::cloop, (300, 200)),
    ("dmg with a list", &DMG, |rng| common::dmg(rng, &[0, 1, 2, 0x8000_0005], false), (0, 1500)),
    ("dmg with a fork", &DMG, |rng| common::dmg(rng, &[0, 1, 2, 0x8000_0005], true), (0, 1500)),
];

fn main() -> ExitCode {
    let mut tests = Vec::new();
    for (number, (name, driver, make, damage)) in KINDS.iter().enumerate() {
        let seed = number as u64 * 1000;
        tests.push(suite::with_oracle(format!("{name}: contents"), move |oracle| {
            for round in 0..20 {
                let sample = make(&mut Rng::new(seed + round));
                judge(oracle, driver, &sample.image, false, &format!("round {round}"));
                let mut disk = vec![0; sample.guest.len()];
                open(driver, &sample.image).unwrap().read_at(0, &mut disk).unwrap();
                assert!(disk == sample.guest, "round {round}: not what was put in");
            }
        }));
        tests.push(suite::with_oracle(format!("{name}: damage"), move |oracle| {
            for round in 0..diskimg_testkit::rounds(30) {
                let mut rng = Rng::new(seed + 500 + round);
                let mut image = make(&mut rng).image;
                let story = spoil(&mut rng, &mut image, *damage);
                judge(oracle, driver, &image, true, &format!("round {round}: {story}"));
            }
        }));
    }
    suite::run(tests)
}

fn spoil(rng: &mut Rng, image: &mut Vec<u8>, (head, tail): (u64, u64)) -> String {
    let len = image.len() as u64;
    if rng.chance(10) {
        let cut = to_usize(rng.below(len));
        image.truncate(cut);
        return format!("cut to {cut}");
    }
    let mut story = String::new();
    for _ in 0..=rng.below(2) {
        let from_start = head > 0 && (tail == 0 || rng.chance(50));
        let at = if from_start { rng.below(head) } else { len - 1 - rng.below(tail.min(len)) };
        let at = to_usize(at.min(len - 1));
        image[at] = *rng.pick(&[0, 1, 2, 4, 0x10, 0x40, 0x7f, 0x80, 0xff, b'<']);
        story.push_str(&format!("{at}={:#x} ", image[at]));
    }
    story
}

fn open(driver: &FormatDriver, image: &[u8]) -> Result<Arc<dyn Image>> {
    (driver.open)(OpenContext {
        storage: Arc::new(MemDevice::read_only(image.to_vec())),
        filename: "image",
        mode: OpenMode::default(),
        options: &mut RuntimeOptions::new(),
        opener: &NoReferences,
        notices: Notices::default(),
    })
}

/// What the oracle says: an error on opening, or the disk, or that it can't be read through.
fn theirs(oracle: &Oracle, folder: &Path, format: &str) -> Result<Option<Vec<u8>>, String> {
    let output = oracle.run(folder, &["convert", "-f", format, "-O", "raw", "image", "disk"]);
    if output.status.success() {
        return Ok(Some(std::fs::read(folder.join("disk")).unwrap()));
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    match text.split_once("Could not open 'image': ") {
        Some((_, error)) => Err(error.trim_end().to_owned()),
        None => Ok(None),
    }
}

fn judge(oracle: &Oracle, driver: &FormatDriver, image: &[u8], is_damaged: bool, story: &str) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("image"), image).unwrap();
    let theirs = theirs(oracle, folder.path(), driver.name);
    let ours = match open(driver, image) {
        Err(error) => Err(error.joined()),
        // Disks of many gigabytes are not worth their time.
        Ok(image) if image.len() > 64 << 20 => return,
        Ok(image) => {
            let mut disk = vec![0; to_usize(image.len())];
            Ok(image.read_at(0, &mut disk).is_ok().then_some(disk))
        }
    };
    // A length that overflows is refused at once; the oracle opens it, as shorter than it is.
    if ours.as_ref().is_err_and(|error| error.ends_with("File too large")) {
        return;
    }
    // Damaged chunks of a disk image may overlap: which of them is read is nobody's promise.
    if let (true, Ok(Some(ours)), Ok(Some(theirs))) = (driver.name == DMG.name && is_damaged, &ours, &theirs)
    {
        assert_eq!(ours.len(), theirs.len(), "{story}");
        return;
    }
    assert!(ours == theirs, "{story}: ours {}, theirs {}", short(&ours), short(&theirs));
}

fn short(outcome: &Result<Option<Vec<u8>>, String>) -> String {
    match outcome {
        Err(error) => error.clone(),
        Ok(None) => "a read error".to_owned(),
        Ok(Some(disk)) => format!("{} bytes", disk.len()),
    }
}
