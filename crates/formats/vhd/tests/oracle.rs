//! VHD images beside the installed `qemu-img`: contents both ways, the same sizes, the same refusals. Without it the
//! tests are counted as ignored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::process::ExitCode;

use diskimg_testkit::exchange::{
    self, Kind, changed, folder_of, open_bytes, random_writes, theirs_made, theirs_read,
};
use diskimg_testkit::{FormatSubject, Oracle, Rng, suite};
use diskimg_vhd::DRIVER;

/// Options and sizes of images; the sizes are exact ones.
const KINDS: &[Kind] = &[
    (&[], 10_514_432),
    (&["force_size=on"], (5 << 20) + 512),
    (&["subformat=fixed"], 1_079_296),
    (&["subformat=fixed", "force_size=on"], 3 << 20),
    (&["force_size=on"], 512),
];

/// Sizes that are rounded.
const SIZES: &[u64] = &[
    0,
    1,
    513,
    1 << 20,
    (10 << 20) + 512,
    (100 << 20) - 1,
    504 << 20,
    (1 << 30) + 4096,
    31 << 30,
    (32 << 30) - 512,
    127 << 30,
    136_897_904_640,
    136_897_905_152,
    136_899_993_088,
    2040 << 30,
];

fn main() -> ExitCode {
    let mut tests = exchange::tests(KINDS, ours_is_read, theirs_is_read);
    tests.push(suite::with_oracle("sizes", sizes));
    tests.push(suite::with_oracle("damage", |oracle| {
        (0..diskimg_testkit::rounds(150)).for_each(|seed| damage(oracle, seed))
    }));
    suite::run(tests)
}

fn ours_is_read(oracle: &Oracle, (options, size): Kind, seed: u64) {
    let subject = FormatSubject::new(&DRIVER, size, options);
    let (bytes, disk) = changed(&subject, subject.fresh()[0].to_vec(), seed);
    assert!(bytes[bytes.len() - 512..].starts_with(b"conectix"), "the footer is not at the end");
    let folder = folder_of((bytes, disk));
    oracle.compare_raw(folder.path(), "vpc", "image", "disk").unwrap();
}

fn theirs_is_read(oracle: &Oracle, (options, size): Kind, seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    theirs_made(oracle, folder.path(), "vpc", options, size);
    let writes = random_writes(seed, size, false);
    theirs_read(oracle, folder.path(), (&DRIVER, "vpc"), &writes);
}

/// New images are those of the oracle but for the time, the identity and their checksum.
fn sizes(oracle: &Oracle) {
    for size in SIZES {
        for options in [&[] as &[&str], &["force_size=on"]] {
            let folder = tempfile::tempdir().unwrap();
            theirs_made(oracle, folder.path(), "vpc", options, *size);
            let mut theirs = std::fs::read(folder.path().join("image")).unwrap();
            let subject =
                FormatSubject::new(&DRIVER, *size, if options.is_empty() { &[] } else { &["force_size=on"] });
            let mut ours = subject.fresh()[0].to_vec();
            for image in [&mut theirs, &mut ours] {
                let end = image.len() - 512;
                for at in [0, end] {
                    for field in [24..28, 64..84] {
                        image[at + field.start..at + field.end].fill(0);
                    }
                }
            }
            assert!(ours == theirs, "{size} {options:?}: {} and {} bytes", ours.len(), theirs.len());
        }
    }
}

/// The sum that a footer or header should have.
fn seal(bytes: &mut [u8]) {
    bytes[64..68].fill(0);
    let sum = !bytes.iter().fold(0_u32, |sum, byte| sum.wrapping_add((*byte).into()));
    bytes[64..68].copy_from_slice(&sum.to_be_bytes());
}

/// The oracle does not accept the footer that it looked at.
fn refuses_start(theirs: &str) -> bool {
    ["invalid VPC image", "Incorrect header checksum"].iter().any(|text| theirs.contains(text))
}

/// An image with changed bytes in its footers, header or table: refused with the same words, or as long as there.
fn damage(oracle: &Oracle, seed: u64) {
    let mut rng = Rng::new(seed);
    let fixed = rng.below(4) == 0;
    let options: &'static [&'static str] = if fixed { &["subformat=fixed"] } else { &[] };
    let mut image = FormatSubject::new(&DRIVER, 1_079_296, options).fresh()[0].to_vec();
    let footer = if fixed { image.len() - 512 } else { 0 };
    for _ in 0..=rng.below(2) {
        let at = match rng.below(if fixed { 2 } else { 4 }) {
            0 | 1 => footer + rng.index(68),
            2 => 512 + rng.index(40),
            _ => 1536 + rng.index(4),
        };
        image[at] = *rng.pick(&[0, 1, 2, 4, 8, 0x40, 0x7f, 0x80, 0xfe, 0xff]);
    }
    if rng.below(4) > 0 {
        seal(&mut image[footer..footer + 512]);
    }
    if rng.below(8) == 0 {
        image.truncate(rng.index(image.len()));
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("image"), &image).unwrap();
    let output = oracle.run(folder.path(), &["info", "--output=json", "-f", "vpc", "image"]);
    let theirs = String::from_utf8_lossy(&output.stderr).into_owned();
    match open_bytes(&DRIVER, image) {
        Err(error) => {
            let ours = format!("qemu-img: Could not open 'image': {}\n", error.joined());
            // A differencing image does without its parent in the oracle, which does without the footer at the end.
            let beyond = ours.contains("does not name its parent") || (!fixed && refuses_start(&theirs));
            assert!(beyond || ours == theirs, "seed {seed}: ours {ours:.500}, theirs {theirs:.500}");
        }
        Ok(image) if theirs.is_empty() => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let length = format!("\n    \"virtual-size\": {},", image.len());
            assert!(text.contains(&length), "seed {seed}: {} in {text}", image.len());
        }
        // The footer at the end is enough.
        Ok(_) => assert!(refuses_start(&theirs) && !fixed, "seed {seed}: {theirs}"),
    }
}
