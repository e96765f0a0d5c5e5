//! Contents both ways: an image that ours wrote is read by the installed `qemu-img`, and the other way round.
//!
//! Everything happens in a folder of its own, where `image` is the image and `disk` what it holds. Scripts follow from
//! their seed alone.

use std::path::Path;
use std::sync::Arc;

use diskimg_core::driver::OpenMode;
use diskimg_core::opener::NoReferences;
use diskimg_core::{BlockDevice, FormatDriver, Image, MemDevice, Result, to_usize};
use tempfile::TempDir;

use crate::ops::OpMix;
use crate::oracle::Oracle;
use crate::rng::Rng;
use crate::session::Session;
use crate::subject::{FormatSubject, Subject, open_image};
use crate::suite::{self, Test};

/// Create options and a size in bytes.
pub type Kind = (&'static [&'static str], u64);
/// A test of a kind of image that follows from a seed.
pub type Way = fn(&Oracle, Kind, u64);

/// Both ways for each kind of image, with four seeds each.
#[must_use]
pub fn tests(kinds: &'static [Kind], ours: Way, theirs: Way) -> Vec<Test> {
    let mut tests = Vec::new();
    for kind in kinds {
        for (who, way) in [("ours", ours), ("theirs", theirs)] {
            let name = format!("{who} is read: {} {}", kind.0.join(","), kind.1);
            tests.push(suite::with_oracle(name, move |oracle| {
                (0..4).for_each(|seed| way(oracle, *kind, seed));
            }));
        }
    }
    tests
}

/// Opens an image that stands in memory, for reading.
///
/// # Errors
/// The driver's.
pub fn open_bytes(driver: &FormatDriver, image: Vec<u8>) -> Result<Arc<dyn Image>> {
    open_image(driver, Arc::new(MemDevice::read_only(image)), OpenMode::default(), &NoReferences)
}

/// Changes a disk of `subject`, empty up to now, at random. The image then, and what its disk holds.
///
/// # Panics
/// If an operation fails.
#[must_use]
pub fn changed(subject: &FormatSubject, image: Vec<u8>, seed: u64) -> (Vec<u8>, Vec<u8>) {
    let memory = Arc::new(MemDevice::from(image));
    let shared: Vec<Arc<dyn BlockDevice>> = vec![Arc::clone(&memory) as _];
    let mut session = Session::open(subject, shared.clone(), subject.initial(), || 0).expect("opens");
    for op in OpMix::changes(subject.size).script(seed, 40, subject.size, 1 << 20) {
        session.must(&op);
    }
    drop(session);
    let opened = subject.open(&shared, false).expect("opens again").device;
    let mut disk = vec![0; to_usize(opened.len())];
    opened.read_at(0, &mut disk).expect("reads");
    (memory.to_vec(), disk)
}

/// A folder with the files `image` and `disk`.
///
/// # Panics
/// If it can't be made.
#[must_use]
pub fn folder_of((image, disk): (Vec<u8>, Vec<u8>)) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("image"), image).expect("image");
    std::fs::write(folder.path().join("disk"), disk).expect("disk");
    folder
}

/// Random `write` commands of `qemu-io` on a disk of `size` bytes; with `zeroes`, some of them write zeros.
#[must_use]
pub fn random_writes(seed: u64, size: u64, zeroes: bool) -> Vec<String> {
    let mut rng = Rng::new(seed);
    let write = |_| {
        let at = rng.below(size / 512) * 512;
        let len = ((1 + rng.below(3000)) * 512).min(size - at);
        let is_zero = zeroes && rng.below(4) == 0;
        let what = if is_zero { "-z".to_owned() } else { format!("-P {}", 1 + rng.below(250)) };
        format!("write {what} {at} {len}")
    };
    (0..12).map(write).collect()
}

/// The oracle makes `image`, in its format `format` with `options`.
///
/// # Panics
/// If it does not.
pub fn theirs_made(oracle: &Oracle, folder: &Path, format: &str, options: &[&str], size: u64) {
    let (joined, length) = (options.join(","), size.to_string());
    let mut args = vec!["create", "-q", "-f", format];
    if !options.is_empty() {
        args.extend(["-o", &joined]);
    }
    args.extend(["image", &length]);
    oracle.must(folder, &args);
}

/// The oracle writes to `image` at random; ours then reads what it reads. The image, open.
///
/// # Panics
/// If something fails or the contents differ.
pub fn theirs_read(
    oracle: &Oracle,
    folder: &Path,
    (driver, format): (&FormatDriver, &str),
    writes: &[String],
) -> Arc<dyn Image> {
    let commands: Vec<&str> = writes.iter().map(String::as_str).collect();
    oracle.qemu_io(folder, format, "image", &commands);
    oracle.must(folder, &["convert", "-f", format, "-O", "raw", "image", "disk"]);
    let image = open_bytes(driver, std::fs::read(folder.join("image")).expect("image")).expect("opens");
    let expected = std::fs::read(folder.join("disk")).expect("disk");
    let mut disk = vec![0; expected.len()];
    image.read_at(0, &mut disk).expect("reads");
    assert!(image.len() == expected.len() as u64 && disk == expected, "{writes:?}");
    image
}
