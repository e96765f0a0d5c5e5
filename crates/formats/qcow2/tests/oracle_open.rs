//! Damaged headers, tables and directories are refused with the words of the installed `qemu-img`, or opened where it
//! opens them. Without the oracle these tests are counted as ignored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use diskimg_core::driver::{OpenContext, OpenMode};
use diskimg_core::opener::NoReferences;
use diskimg_core::options::{RuntimeOptions, RuntimeValue};
use diskimg_core::{Error, MemDevice, to_usize};
use diskimg_qcow2::DRIVER;
use diskimg_testkit::{Oracle, Rng, suite};

/// A change of an image: at this offset these bytes (hexadecimal).
type Patch = (u64, &'static str);

/// How an image to be damaged is made: create options, size, and commands run on it afterwards.
const BASES: &[(&str, &str, &[&[&str]])] = &[
    ("", "64M", &[]),
    ("compat=0.10", "64M", &[]),
    ("cluster_size=512,refcount_bits=8", "1M", &[]),
    ("cluster_size=2M,lazy_refcounts=on,compression_type=zstd", "1G", &[]),
    ("extended_l2=on,cluster_size=16k", "10M", &[]),
    ("backing_file=base,backing_fmt=raw", "64M", &[]),
    ("data_file=data", "1M", &[]),
    ("", "64M", &[&["snapshot", "-c", "one", "image"], &["snapshot", "-c", "two", "image"]]),
    (
        "cluster_size=4k",
        "64M",
        &[&["bitmap", "--add", "image", "b0"], &["bitmap", "--add", "-g", "512", "image", "b1"]],
    ),
];

/// Patches of a default image.
const PLAIN: &[&[Patch]] = &[
    &[(0, "00")],
    &[(4, "00000001")],
    &[(4, "00000004")],
    &[(20, "00000008")],
    &[(20, "00000016")],
    &[(100, "00000067")],
    &[(100, "00010001")],
    &[(100, "00000078")],
    &[(8, "0000000000010001")],
    &[(104, "02")],
    &[(79, "08")],
    &[(104, "01")],
    &[(104, "01"), (79, "08")],
    &[(78, "01")],
    &[(72, "80")],
    &[(78, "01"), (122, "0008"), (124, "666f6f00")],
    &[(78, "01"), (74, "01"), (120, "0008"), (122, "666f6f00")],
    &[(79, "02")],
    &[(79, "01")],
    &[(79, "10"), (20, "0000000d")],
    &[(99, "07")],
    &[(32, "00000003")],
    &[(56, "00000000")],
    &[(56, "00000081")],
    &[(48, "0000000000010200")],
    &[(48, "7fffffffffff0000")],
    &[(48, "7fffffffc0000000")],
    &[(60, "00010001")],
    &[(64, "0000000000000200")],
    &[(64, "7fffffffc0000000"), (60, "00000001")],
    &[(36, "00400001")],
    &[(36, "00000000")],
    &[(40, "0000000000030200")],
    &[(40, "7fffffffffff0000")],
    &[(40, "7fffffffc0000000")],
    &[(40, "7fffffffbfff0000")],
    &[(24, "7fffffffffffffff")],
    &[(24, "8000000000000000")],
    &[(24, "ffffffffffffffff")],
    &[(24, "0000000004000001")],
    &[(24, "0000000020000001")],
    &[(116, "00010000")],
    &[(112, "e2792aca00000010")],
    &[(112, "e2792aca0000000f")],
    &[(112, "0537be7700000010")],
    &[(32, "00000002"), (112, "0537be7700000018")],
    &[(32, "00000002"), (112, "0537be7700000010"), (120, "0000000000010200")],
    &[(32, "00000002")],
    &[(32, "00000001")],
    &[(8, "000000000000fff0"), (16, "00000011")],
    &[(8, "0000000000000300"), (16, "00000400")],
    &[(8, "0000000000000300"), (16, "00000000")],
    &[(8, "0000000000000010"), (16, "00000004")],
    &[(8, "0000000000000078"), (16, "00000004")],
    &[(79, "04")],
    &[(95, "02")],
    &[(95, "01")],
    &[(88, "8000")],
    &[(80, "8000")],
    &[(112, "2385287500000010")],
    &[(112, "2385287500000018"), (95, "01")],
    &[(112, "2385287500000018"), (95, "01"), (120, "0000000100000000")],
    &[(112, "2385287500000018"), (95, "01"), (120, "00010000")],
    &[(112, "23852875000000180000000100000000000000000000002000000000000002")],
];

/// Patches of the image with two bitmaps; directory and tables are found through its header.
const BITMAPS: &[(Where, &str)] = &[
    (Where::Extension(0), "00000001"),
    (Where::Extension(0), "00000003"),
    (Where::Extension(0), "00000000"),
    (Where::Extension(0), "00020000"),
    (Where::Extension(4), "00000001"),
    (Where::Extension(8), "0000000000000000"),
    (Where::Extension(8), "0000000000000018"),
    (Where::Extension(8), "000000000000003f"),
    (Where::Extension(8), "0000000000000050"),
    (Where::Extension(8), "0000000003fffc00"),
    (Where::Extension(8), "0000000003fffc01"),
    (Where::Extension(16), "0000000000000200"),
    (Where::Extension(16), "7fffffffc0000000"),
    (Where::Extension(16), "00000000ffff0000"),
    (Where::Directory(0), "0000000000000000"),
    (Where::Directory(0), "0000000000000200"),
    (Where::Directory(0), "7fffffffc0000000"),
    (Where::Directory(0), "0000000000ff0000"),
    (Where::Directory(8), "00000000"),
    (Where::Directory(8), "00000002"),
    (Where::Directory(8), "00020000"),
    (Where::Directory(8), "00020001"),
    (Where::Directory(12), "00000001"),
    (Where::Directory(12), "00000000"),
    (Where::Directory(12), "00000004"),
    (Where::Directory(16), "02"),
    (Where::Directory(17), "08"),
    (Where::Directory(17), "09"),
    (Where::Directory(17), "1f"),
    (Where::Directory(17), "20"),
    (Where::Directory(18), "0000"),
    (Where::Directory(18), "0400"),
    (Where::Directory(20), "00000008"),
    (Where::Directory(0x39), "30"),
    (Where::Table(0), "0000000000000001"),
    (Where::Table(0), "0000000000010001"),
    (Where::Table(0), "0100000000010000"),
    (Where::Table(0), "0000000000000002"),
    (Where::Table(0), "0000000000010200"),
    (Where::Header(88), "0000000000000000"),
    (Where::Header(24), "0000001000000000"),
];

/// Runtime options of a default image.
const OPTIONS: &[&str] = &[
    "overlap-check=foo",
    "overlap-check.template=foo",
    "overlap-check=all,overlap-check.template=foo",
    "overlap-check=none,overlap-check.template=none",
    "overlap-check.main-header=x",
    "lazy-refcounts=x",
    "pass-discard-request=x",
    "discard-no-unref=on",
    "cache-size=1",
    "l2-cache-size=1,cache-size=1,refcount-cache-size=1",
    "l2-cache-size=2M,cache-size=1M",
    "refcount-cache-size=2M,cache-size=1M",
    "l2-cache-size=x",
    "l2-cache-entry-size=3",
    "l2-cache-entry-size=256",
    "l2-cache-entry-size=128k",
    "l2-cache-entry-size=3,cache-clean-interval=-1",
    "cache-clean-interval=-1",
    "cache-clean-interval=5000000000",
    "cache-clean-interval=x",
    "encrypt.format=luks",
    "encrypt.format=foo,overlap-check=foo",
    "overlap-check=foo,lazy-refcounts=x",
];

#[derive(Clone, Copy, Debug)]
enum Where {
    Header(u64),
    Extension(u64),
    Directory(u64),
    Table(u64),
}

fn main() -> ExitCode {
    let mut tests = vec![
        suite::with_oracle("each check of the header", |oracle| {
            let image = make(oracle, BASES[0]);
            for patches in PLAIN {
                let mut bytes = image.clone();
                for (at, hex) in *patches {
                    patch(&mut bytes, *at, hex);
                }
                judge(oracle, &bytes, &format!("{patches:?}"));
            }
        }),
        suite::with_oracle("files cut short", |oracle| {
            let image = make(oracle, BASES[0]);
            for len in [4, 7, 8, 50, 72, 100, 104, 112, 200, 512, 65536, 0x20000, 0x30004] {
                judge(oracle, &image[..len], &format!("{len} bytes"));
            }
        }),
        suite::with_oracle("each check of the bitmaps", bitmaps),
        suite::with_oracle("runtime options", options),
    ];
    for (number, base) in BASES.iter().enumerate() {
        tests.push(suite::with_oracle(format!("random damage: {} {number}", base.0), move |oracle| {
            random_damage(oracle, *base, number as u64);
        }));
    }
    suite::run(tests)
}

fn make(oracle: &Oracle, (options, size, commands): (&str, &str, &[&[&str]])) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let mut args = vec!["create", "-q", "-u", "-f", "qcow2"];
    if !options.is_empty() {
        args.extend(["-o", options]);
    }
    args.extend(["image", size]);
    oracle.must(folder.path(), &args);
    for command in commands {
        oracle.must(folder.path(), command);
    }
    std::fs::read(folder.path().join("image")).unwrap()
}

fn patch(bytes: &mut [u8], at: u64, hex: &str) {
    for (index, pair) in hex.as_bytes().chunks_exact(2).enumerate() {
        let digits = std::str::from_utf8(pair).unwrap();
        bytes[to_usize(at) + index] = u8::from_str_radix(digits, 16).unwrap();
    }
}

fn number(bytes: &[u8], at: u64) -> u64 {
    u64::from_be_bytes(bytes[to_usize(at)..to_usize(at) + 8].try_into().unwrap())
}

/// What opening to describe says: nothing, or the error with its hint.
fn ours(bytes: &[u8], options: &str) -> Result<(), Error> {
    let mut given = RuntimeOptions::new();
    for (name, value) in options.split(',').filter_map(|item| item.split_once('=')) {
        given.set(name, RuntimeValue::Str(value.to_owned()));
    }
    (DRIVER.open)(OpenContext {
        storage: Arc::new(MemDevice::read_only(bytes.to_vec())),
        filename: "image",
        mode: OpenMode { describe_only: true, ..OpenMode::default() },
        options: &mut given,
        opener: &NoReferences,
        notices: diskimg_core::driver::Notices::default(),
    })
    .map(drop)
}

fn theirs(oracle: &Oracle, folder: &Path, name: &[&str]) -> Option<String> {
    let output = oracle.run(folder, &[&["info"], name].concat());
    if output.status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let error = text.split_once("Could not open '").unwrap_or_else(|| panic!("{text}")).1;
    Some(error.split_once("': ").unwrap().1.trim_end().to_owned())
}

fn words(error: &Error) -> String {
    let hint = error.hint().map(|hint| format!("\n{hint}")).unwrap_or_default();
    error.joined() + &hint
}

fn judge(oracle: &Oracle, bytes: &[u8], story: &str) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("image"), bytes).unwrap();
    let theirs = theirs(oracle, folder.path(), &["-f", "qcow2", "image"]);
    let ours = ours(bytes, "").err().as_ref().map(words);
    assert_eq!(ours, theirs, "{story}");
}

fn bitmaps(oracle: &Oracle) {
    let image = make(oracle, BASES[8]);
    let extension =
        image.windows(8).position(|bytes| bytes == [0x23, 0x85, 0x28, 0x75, 0, 0, 0, 24]).unwrap();
    let extension = extension as u64 + 8;
    let directory = number(&image, extension + 16);
    let table = number(&image, directory);
    for (place, hex) in BITMAPS {
        let at = match place {
            Where::Header(at) => *at,
            Where::Extension(at) => extension + at,
            Where::Directory(at) => directory + at,
            Where::Table(at) => table + at,
        };
        for in_use in [false, true] {
            let mut bytes = image.clone();
            if in_use {
                patch(&mut bytes, directory + 12, "00000001");
            }
            patch(&mut bytes, at, hex);
            judge(oracle, &bytes, &format!("{place:?} {hex} in use {in_use}"));
        }
    }
}

fn options(oracle: &Oracle) {
    let folder = tempfile::tempdir().unwrap();
    for base in [BASES[0], BASES[1]] {
        let image = make(oracle, base);
        std::fs::write(folder.path().join("image"), &image).unwrap();
        for options in OPTIONS {
            let spec = format!("driver=qcow2,{options},file.filename=image");
            let theirs = theirs(oracle, folder.path(), &["--image-opts", &spec]);
            let ours = ours(&image, options).err().as_ref().map(words);
            assert_eq!(ours, theirs, "{options} on {}", base.0);
        }
    }
}

/// Changes in the first bytes, in the snapshot table, anywhere in the first kilobytes.
fn random_damage(oracle: &Oracle, base: (&str, &str, &[&[&str]]), seed: u64) {
    let image = make(oracle, base);
    let mut rng = Rng::new(seed + 77);
    let table = number(&image, 64);
    for _ in 0..diskimg_testkit::rounds(60) {
        let mut bytes = image.clone();
        let mut story = Vec::new();
        for _ in 0..=rng.below(2) {
            let (start, len) = *rng.pick(&[(4, 108), (104, 500), (table, 120)]);
            let at = to_usize(start + rng.below(len)).min(bytes.len() - 1);
            let value = *rng.pick(&[0, 1, 2, 4, 0x10, 0x40, 0x7f, 0x80, 0xff]);
            bytes[at] = value;
            story.push((at, value));
        }
        judge(oracle, &bytes, &format!("{story:x?}"));
    }
}
