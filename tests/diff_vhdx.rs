//! VHDX images beside the installed `qemu-img`: every kind of image, made by either, is told, mapped, checked and read by
//! both with equal words and contents; refusals of bad options and of damaged structures are equal. How much space a file
//! takes is the host's matter and is masked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

#[path = "support/pair.rs"]
mod pair;

use std::process::ExitCode;

use diskimg_testkit::{Oracle, suite};
use pair::{OURS, Pair, patches};

/// What the host decides, or chance.
const PAIR: Pair = Pair { masked: &["disk size: ", "\"actual-size\": "], unheard: &[] };
/// A disk that does not end with a block.
const SIZE: usize = (19 << 20) + 5120;
/// Kinds of images.
const KINDS: &[&str] = &[
    "block_size=1M",
    "block_size=4M,log_size=2M",
    "block_state_zero=off",
    "subformat=fixed",
    "subformat=fixed,block_state_zero=off",
    "block_size=256M",
];
/// Options and sizes of images that are made or refused.
const CREATES: &[(&str, &str)] = &[
    ("block_size=3M", "1M"),
    ("block_size=1", "1M"),
    ("block_size=300M", "1M"),
    ("block_size=5G", "1M"),
    ("block_size=-1", "1M"),
    ("log_size=0", "1M"),
    ("log_size=100k", "1M"),
    ("log_size=4G", "1M"),
    ("log_size=17M", "1M"),
    ("log_size=0,block_size=3M", "1M"),
    ("subformat=x", "1M"),
    ("subformat=differencing", "1M"),
    ("subformat=x,log_size=0", "65T"),
    ("block_state_zero=x", "1M"),
    ("block_state_zero=on", "513"),
    ("preallocation=metadata", "1M"),
    ("preallocation=falloc", "1M"),
    ("preallocation=full,subformat=fixed", "1M"),
    ("subformat=dynamic", "64T"),
    ("subformat=dynamic", "65T"),
    ("subformat=dynamic", "1G"),
    ("subformat=dynamic", "1025M"),
    ("subformat=dynamic", "101G"),
    ("unknown=1", "1M"),
];

const MIB: usize = 1 << 20;
/// Where structures of new images stand.
const HEADERS: [usize; 2] = [64 << 10, 128 << 10];
const REGIONS: [usize; 2] = [192 << 10, 256 << 10];
const BAT: usize = 2 * MIB;
const METADATA: usize = 3 * MIB;

/// A structure and bytes to be changed in it: in both copies, where it has two.
#[derive(Clone, Copy)]
enum Damage {
    Identifier(usize, &'static [u8]),
    Headers(usize, &'static [u8]),
    Regions(usize, &'static [u8]),
    Metadata(usize, &'static [u8]),
    Entry(usize, u64),
    Cut(usize),
}

use Damage::{Cut, Entry, Headers, Identifier, Metadata, Regions};

const DAMAGES: &[Damage] = &[
    Identifier(0, b"X"),
    Headers(0, b"X"),
    Headers(66, &[2]),
    Headers(64, &[1]),
    Headers(68, &[0; 4]),
    Headers(68, &[0, 0x10, 0, 0]),
    Headers(70, &[0x30]),
    Headers(72, &[0; 8]),
    Headers(72, &[0, 2, 0x10]),
    Headers(48, &[1; 16]),
    Headers(100, b"xx"),
    Headers(8, &[5, 0, 0, 0, 0, 0, 0, 0]),
    Regions(0, b"X"),
    Regions(8, &[1]),
    Regions(8, &[3]),
    Regions(9, &[8]),
    Regions(32, &[0, 0, 8]),
    Regions(32, &[0, 0x10, 0x20]),
    Regions(40, &[0; 4]),
    Regions(40, &[0, 0x10, 0, 0]),
    Regions(42, &[0x20]),
    Regions(32, &[0, 0, 0x10]),
    Regions(44, &[1]),
    Metadata(0, b"X"),
    Metadata(10, &[0]),
    Metadata(11, &[8]),
    Metadata(10, &[6]),
    Metadata(48, &[0, 0, 0]),
    Metadata(50, &[0x40]),
    Metadata(56, &[0xff]),
    Metadata(65_536, &[0; 4]),
    Metadata(65_538, &[8]),
    Metadata(65_538, &[0x30]),
    Metadata(65_539, &[0x20]),
    Metadata(65_536 + 4, &[1]),
    Metadata(65_536 + 4, &[2]),
    Metadata(65_536 + 4, &[0xfc]),
    Metadata(65_536 + 8, &[1, 2]),
    Metadata(65_536 + 13, &[0x40]),
    Metadata(65_536 + 32, &[1]),
    Metadata(65_536 + 36, &[1]),
    Entry(0, (100 << 20) | 6),
    Entry(0, 6),
    Entry(0, (1 << 20) | 6),
    Entry(0, (2 << 20) | 6),
    Entry(0, 0xffff_ffff_fff0_0006),
    Entry(0, 0x7fff_ffff_fff0_0006),
    Entry(1, (9 << 20) | 0xff06),
    Entry(1, (9 << 20) | 4),
    Entry(1, (9 << 20) | 5),
    Entry(1, (9 << 20) | 7),
    Cut(0),
    Cut(65_536),
    Cut(69_632),
    Cut(200_000),
    Cut(1 << 20),
    Cut((3 << 20) + 65_536 + 20),
    Cut((3 << 20) + 65_536 + 64),
    Cut(8 << 20),
    Cut((8 << 20) + 512),
];

fn main() -> ExitCode {
    let mut tests = vec![
        suite::with_oracle("options", |_| options()),
        suite::with_oracle("damage", damage),
        suite::with_oracle("a log to be replayed", log),
        suite::plain("differencing disks", differencing),
    ];
    for kind in KINDS {
        tests.push(suite::with_oracle(format!("contents of {kind}"), move |oracle| contents(oracle, kind)));
    }
    suite::run(tests)
}

fn source() -> Vec<u8> {
    patches(SIZE, 3_000_001, 300_000)
}

fn contents(oracle: &Oracle, kind: &str) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("src.raw"), source()).unwrap();
    for (program, name) in [("qemu-img", "q.vhdx"), (OURS, "o.vhdx")] {
        PAIR.must(program, folder, &["convert", "-f", "raw", "-O", "vhdx", "-o", kind, "src.raw", name]);
        PAIR.same_of(folder, "vhdx", name, kind);
        for args in [
            &["resize", name, "64M"][..],
            &["amend", "-o", "size=1M", name],
            &["compare", "-f", "raw", "-F", "vhdx", "src.raw", name],
        ] {
            PAIR.same_in(folder, args, kind);
        }
        // What the one wrote the other one writes on.
        oracle.qemu_io(
            folder,
            "vhdx",
            name,
            &["write -P 7 100k 70k", "write -z 10M 1M", "write -P 9 18M 1M"],
        );
        PAIR.must(OURS, folder, &["convert", "-O", "raw", name, "x.raw"]);
        PAIR.must("qemu-img", folder, &["compare", "-F", "raw", name, "x.raw"]);
        PAIR.must(OURS, folder, &["convert", "-n", "-f", "raw", "-O", "vhdx", "src.raw", name]);
        PAIR.must("qemu-img", folder, &["compare", "-f", "raw", "-F", "vhdx", "src.raw", name]);
        PAIR.must("qemu-img", folder, &["check", name]);
    }
    let len = |name| std::fs::metadata(folder.join(name)).unwrap().len();
    if kind.contains("fixed") && !kind.contains("off") {
        // qemu-img writes behind the space that it set aside.
        assert!(len("o.vhdx") <= len("q.vhdx"));
    } else {
        assert_eq!(len("o.vhdx"), len("q.vhdx"), "length of {kind}");
    }
}

fn options() {
    for (options, size) in CREATES {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        PAIR.same_in(folder, &["create", "-f", "vhdx", "-o", options, "n.vhdx", size], "");
        let len = |name| std::fs::metadata(folder.join(name)).map_or(0, |data| data.len());
        let (theirs, ours) = (("t.vhdx", "qemu-img"), ("n.vhdx", OURS));
        for (name, program) in [theirs, ours] {
            let _ = std::fs::remove_file(folder.join(name));
            PAIR.told(program, folder, &["create", "-q", "-f", "vhdx", "-o", options, name, size]);
        }
        assert_eq!(len("n.vhdx"), len("t.vhdx"), "{options} {size}");
    }
    let folder = tempfile::tempdir().unwrap();
    PAIR.same_in(folder.path(), &["create", "-f", "vhdx", "-o", "help"], "");
    PAIR.same_in(folder.path(), &["create", "-f", "vhdx", "-o", "help", "x"], "");
}

fn put(image: &mut [u8], places: &[usize], at: usize, bytes: &[u8]) {
    for place in places {
        image[place + at..place + at + bytes.len()].copy_from_slice(bytes);
    }
}

/// Makes the checksums of headers and region tables right.
fn seal(image: &mut [u8]) {
    let summed = HEADERS.map(|at| (at, 4096)).into_iter().chain(REGIONS.map(|at| (at, 64 << 10)));
    for (at, len) in summed {
        let bytes = &mut image[at..at + len];
        bytes[4..8].fill(0);
        let crc = crc32c::crc32c(bytes);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    }
}

fn damage(oracle: &Oracle) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    oracle.must(folder, &["create", "-q", "-f", "vhdx", "-o", "block_size=1M", "a.vhdx", "3M"]);
    oracle.qemu_io(folder, "vhdx", "a.vhdx", &["write -P 1 0 64k", "write -P 2 1M 64k"]);
    let good = std::fs::read(folder.join("a.vhdx")).unwrap();
    for (number, damage) in DAMAGES.iter().enumerate() {
        let mut image = good.clone();
        match *damage {
            Identifier(at, bytes) => put(&mut image, &[0], at, bytes),
            Headers(at, bytes) => put(&mut image, &HEADERS, at, bytes),
            Regions(at, bytes) => put(&mut image, &REGIONS, at, bytes),
            Metadata(at, bytes) => put(&mut image, &[METADATA], at, bytes),
            Entry(index, value) => put(&mut image, &[BAT], index * 8, &value.to_le_bytes()),
            Cut(_) => {}
        }
        seal(&mut image);
        if let Cut(len) = *damage {
            image.truncate(len);
        }
        std::fs::write(folder.join("m.vhdx"), &image).unwrap();
        let story = format!("damage {number}");
        for args in [&["info", "-f", "vhdx", "m.vhdx"][..], &["check", "-f", "vhdx", "m.vhdx"]] {
            PAIR.same_in(folder, args, &story);
        }
        if matches!(damage, Entry(_, value) if matches!(value & 7, 4 | 7)) {
            // Ours names the block that can't be read, theirs the place where the read began.
            continue;
        }
        for args in [
            ["convert", "-f", "vhdx", "-O", "raw", "m.vhdx", "x.raw"],
            ["compare", "-f", "vhdx", "-F", "vhdx", "m.vhdx", "a.vhdx"],
        ] {
            PAIR.same_in(folder, &args, &story);
        }
    }
}

/// An entry in the log that changes the first sector of the block table.
fn log(oracle: &Oracle) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    oracle.must(folder, &["create", "-q", "-f", "vhdx", "-o", "block_size=1M", "a.vhdx", "3M"]);
    oracle.qemu_io(folder, "vhdx", "a.vhdx", &["write -P 1 0 64k", "write -P 2 1M 64k"]);
    let mut image = std::fs::read(folder.join("a.vhdx")).unwrap();
    // The last entry is still in the log, and the header knew its GUID; the table is put back to what it was before.
    let guid = image[MIB + 8192 + 32..MIB + 8192 + 48].to_vec();
    put(&mut image, &HEADERS, 48, &guid);
    put(&mut image, &[BAT], 8, &[0; 8]);
    seal(&mut image);
    for damaged in [false, true] {
        if damaged {
            image[MIB + 8192 + 5000] ^= 1;
        }
        for name in ["m.vhdx", "n.vhdx"] {
            std::fs::write(folder.join(name), &image).unwrap();
        }
        for args in [&["info", "m.vhdx"][..], &["check", "m.vhdx"], &["map", "m.vhdx"]] {
            PAIR.same_in(folder, args, "log");
        }
        PAIR.same_in(folder, &["convert", "-O", "raw", "m.vhdx", "x.raw"], "log");
        let theirs = PAIR.must("qemu-img", folder, &["check", "-r", "all", "n.vhdx"]);
        assert_eq!(PAIR.must(OURS, folder, &["check", "-r", "all", "m.vhdx"]), theirs);
        assert!(damaged || theirs.contains("1 corruptions"), "{theirs}");
        PAIR.must("qemu-img", folder, &["compare", "m.vhdx", "n.vhdx"]);
        PAIR.same_in(folder, &["check", "-r", "leaks", "--output=json", "m.vhdx"], "log");
    }
}

/// Disks that qemu-img does not know: made, read through, written, and left alone by another parent.
fn differencing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("src.raw"), source()).unwrap();
    PAIR.must(OURS, folder, &["convert", "-O", "vhdx", "src.raw", "base.vhdx"]);
    PAIR.must(OURS, folder, &["create", "-q", "-f", "vhdx", "-b", "base.vhdx", "-F", "vhdx", "top.vhdx"]);
    PAIR.must(OURS, folder, &["create", "-q", "-f", "vhdx", "-b", "top.vhdx", "-F", "vhdx", "tip.vhdx"]);
    PAIR.must(OURS, folder, &["compare", "-f", "raw", "-F", "vhdx", "src.raw", "tip.vhdx"]);
    let info = PAIR.must(OURS, folder, &["info", "tip.vhdx"]);
    assert!(info.contains("backing file: ./top.vhdx"), "{info}");
    let mut changed = source();
    changed[5_000_000..5_300_000].fill(7);
    std::fs::write(folder.join("changed.raw"), &changed).unwrap();
    PAIR.must(OURS, folder, &["convert", "-n", "-f", "raw", "-O", "vhdx", "changed.raw", "tip.vhdx"]);
    PAIR.must(OURS, folder, &["compare", "-f", "raw", "-F", "vhdx", "changed.raw", "tip.vhdx"]);
    PAIR.must(OURS, folder, &["check", "tip.vhdx"]);
    PAIR.must(OURS, folder, &["compare", "-f", "raw", "-F", "vhdx", "src.raw", "top.vhdx"]);
    PAIR.must(OURS, folder, &["convert", "-O", "qcow2", "tip.vhdx", "flat.qcow2"]);
    if Oracle::find().is_some() {
        PAIR.must("qemu-img", folder, &["compare", "-f", "raw", "changed.raw", "flat.qcow2"]);
    }
    // The parent that a commit changed is still the overlay's.
    PAIR.must(OURS, folder, &["commit", "tip.vhdx"]);
    PAIR.must(OURS, folder, &["compare", "-f", "raw", "-F", "vhdx", "changed.raw", "tip.vhdx"]);
    PAIR.must(OURS, folder, &["compare", "-f", "raw", "-F", "vhdx", "changed.raw", "top.vhdx"]);
    let map = PAIR.must(OURS, folder, &["map", "--output=json", "tip.vhdx"]);
    assert!(!map.contains("\"depth\": 0"), "{map}");
    PAIR.must(OURS, folder, &["check", "tip.vhdx"]);
}
