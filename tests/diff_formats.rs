//! All formats to all formats: what ours converts from each one to each other one is read alike by ours and by the
//! installed `qemu-img`, for several sizes, one beyond 2 TiB among them; and images of other producers read as the sums
//! that come with them say (`DISKIMG_IMAGES` names their folder, `../shared/images` if unset; without it these are ignored).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use diskimg_testkit::{Oracle, pattern, suite};

const OURS: &str = env!("CARGO_BIN_EXE_qemu-img-rs");
/// Each side's password, for LUKS.
const SECRET: [&str; 2] = ["--object", "secret,id=s,data=pw"];

/// A kind of image that ours writes.
struct Kind {
    format: &'static str,
    options: &'static str,
    /// Disks beyond 2 TiB, most of which take no space.
    huge: bool,
    empty: Empty,
}

/// Who opens images of empty disks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Empty {
    Both,
    OursAlone,
    /// They are not made.
    Nobody,
}

const fn kind(format: &'static str, options: &'static str) -> Kind {
    Kind { format, options, huge: true, empty: Empty::Both }
}

const KINDS: &[Kind] = &[
    kind("raw", ""),
    kind("qcow2", ""),
    Kind { huge: false, ..kind("qcow2", "cluster_size=512") },
    Kind { huge: false, empty: Empty::Nobody, ..kind("qcow", "") },
    kind("qed", ""),
    Kind { empty: Empty::OursAlone, ..kind("vmdk", "") },
    Kind { empty: Empty::OursAlone, ..kind("vmdk", "subformat=streamOptimized") },
    kind("vdi", ""),
    // These end at 2040 GiB.
    Kind { huge: false, ..kind("vpc", "force_size=on") },
    Kind { huge: false, empty: Empty::OursAlone, ..kind("vpc", "force_size=on,subformat=fixed") },
    Kind { empty: Empty::OursAlone, ..kind("vhdx", "") },
    kind("parallels", ""),
    // All of it is encrypted.
    Kind { huge: false, ..kind("luks", "key-secret=s,iter-time=10") },
];

/// Bytes of the disks.
const SIZES: &[u64] = &[0, 512, 70_001, (5 << 20) + 1536];
/// Bytes of the disk beyond 2 TiB.
const HUGE: u64 = (2 << 40) + (3 << 30) + 512;
/// Bytes of each piece of its data, and what they are.
const HUGE_LEN: u64 = 300_032;
const FILL: u8 = 0x5a;

/// Images of other producers: file (packed), format, and the sum of the whole disk.
const IMAGES: &[(&str, &str, &str)] = &[
    ("parallels-v1", "parallels", "15faf41ebc93b5f734341cb7a2d909001e3f7306960f9d8bc63894f2a8e5bc45"),
    ("parallels-v2", "parallels", "15faf41ebc93b5f734341cb7a2d909001e3f7306960f9d8bc63894f2a8e5bc45"),
    ("empty.bochs", "bochs", "85e614bc2ef17bec493b849dbeea34687ba52d7b1fedc4e5fc3729b0fb059aad"),
    ("simple-pattern.cloop", "cloop", "7c77af2771e0f86b7ec9707374c7416037fedae45cb0e6e27fbdf55688a5dd12"),
    ("simple-dmg.dmg", "dmg", "20647e0a98a830a6a250b91e0e6d7200a872caea07b87a3c19611f3dd031c9df"),
    ("iotest-dynamic-1G.vhdx", "vhdx", "d3d112d8dab7fd360609f7d5a7b769904b7a2a7d7b6b8c535f65a23293c05478"),
];

fn main() -> ExitCode {
    let mut tests = Vec::new();
    for from in KINDS {
        let name = [from.format, from.options].join(" ");
        for size in SIZES.iter().filter(|size| **size > 0 || from.empty != Empty::Nobody) {
            tests.push(suite::with_oracle(format!("{name} {size} to all"), move |oracle| {
                to_all(oracle, from, *size, &|to| *size > 0 || to.empty != Empty::Nobody);
            }));
        }
        if from.huge {
            tests.push(suite::with_oracle(format!("{name} beyond 2 TiB to all"), move |oracle| {
                to_all(oracle, from, HUGE, &|to| to.huge);
            }));
        }
    }
    for (name, format, sum) in IMAGES {
        if images().join(format!("{name}.bz2")).is_file() {
            tests.push(suite::with_tool(format!("image {name}"), "bunzip2", || image(name, format, sum)));
        }
    }
    if images().join("virtualpc-dynamic.vhd.bz2").is_file() {
        tests.push(suite::with_tool("image virtualpc-dynamic.vhd", "bunzip2", empty_image));
    }
    suite::run(tests)
}

fn images() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/images");
    std::env::var_os("DISKIMG_IMAGES").map_or_else(beside, PathBuf::from)
}

/// What a command prints; it must succeed.
fn must(program: &str, folder: &Path, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(folder).output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {text}");
    text
}

/// An image as `--image-opts` names it.
fn spec(kind: &Kind, file: &str) -> String {
    let key = if kind.format == "luks" { "key-secret=s," } else { "" };
    format!("driver={},{key}file.filename={file}", kind.format)
}

/// A disk with data at its start, at its end, and in a few places between.
fn write_source(path: &Path, size: u64) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    if size >= HUGE {
        for at in places(size) {
            file.write_all_at(&vec![FILL; usize::try_from(HUGE_LEN).unwrap()], at).unwrap();
        }
        return;
    }
    for (number, at) in [0, size / 3, size / 2, size.saturating_sub(5000)].into_iter().enumerate() {
        let len = (size - at).min([70_000, 512, 300_000, 5000][number]);
        file.write_all_at(&pattern(number as u64 + 1, 0, len), at).unwrap();
    }
}

/// Where a huge disk has data.
fn places(size: u64) -> [u64; 3] {
    [0, 2 << 40, size - (1 << 20)]
}

fn convert(folder: &Path, from: &Kind, file: &str, to: &Kind, target: &str) {
    let source = spec(from, file);
    let mut args = vec!["convert", "-O", to.format];
    args.extend(SECRET);
    if !to.options.is_empty() {
        args.extend(["-o", to.options]);
    }
    args.extend(["--image-opts", &source, target]);
    must(OURS, folder, &args);
}

fn to_all(oracle: &Oracle, from: &Kind, size: u64, wanted: &dyn Fn(&Kind) -> bool) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_source(&folder.join("s.raw"), size);
    convert(folder, &KINDS[0], "s.raw", from, "from");
    let source = spec(&KINDS[0], "s.raw");
    for (number, to) in KINDS.iter().enumerate().filter(|(_, to)| wanted(to)) {
        let target = format!("to{number}");
        convert(folder, from, "from", to, &target);
        let image = spec(to, &target);
        let compare = ["compare", SECRET[0], SECRET[1], "--image-opts", &source, &image];
        must(OURS, folder, &compare);
        if size >= HUGE {
            // The oracle takes minutes to compare such disks, or aborts.
            for at in places(size) {
                let read = format!("read -P {FILL} {at} {}", HUGE_LEN);
                oracle.qemu_io(
                    folder,
                    to.format,
                    &target,
                    &[&read, &format!("read -P 0 {} 4k", at + 400_384)],
                );
            }
        } else if to.empty == Empty::Both || size > 0 {
            oracle.must(folder, &compare);
        }
        let checked = to.format != "vmdk" && to.format != "raw" && to.format != "vpc" && to.format != "luks";
        if checked && to.format != "qcow" && size < HUGE && (to.empty == Empty::Both || size > 0) {
            oracle.must(folder, &["check", "--image-opts", &image]);
        }
    }
}

/// Unpacks an image of another producer.
fn unpack(folder: &Path, name: &str) {
    let packed = images().join(format!("{name}.bz2"));
    let to = File::create(folder.join(name)).unwrap();
    let status = Command::new("bunzip2").arg("-c").arg(packed).stdout(Stdio::from(to)).status().unwrap();
    assert!(status.success(), "bunzip2 {name}");
}

fn image(name: &str, format: &str, sum: &str) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    unpack(folder, name);
    let info = must(OURS, folder, &["info", name]);
    assert!(info.contains(&format!("file format: {format}\n")), "{info}");
    must(OURS, folder, &["convert", "-O", "raw", name, "disk"]);
    let found = must("sha256sum", folder, &["disk"]);
    assert!(found.starts_with(sum), "{name}: {found}");
}

/// 127 GiB without any data.
fn empty_image() {
    let folder = tempfile::tempdir().unwrap();
    let name = "virtualpc-dynamic.vhd";
    unpack(folder.path(), name);
    let map = must(OURS, folder.path(), &["map", "--output=json", name]);
    let expected = "[{ \"start\": 0, \"length\": 136363130880, \"depth\": 0, \"present\": true, \"zero\": true, \
                    \"data\": false, \"compressed\": false}]\n";
    assert_eq!(map, expected);
    // What it reads as, by both: the oracle finds ours equal to a file of zeros, and ours the oracle's.
    must(OURS, folder.path(), &["convert", "-f", "vpc", "-O", "raw", name, "ours.raw"]);
    assert_eq!(std::fs::metadata(folder.path().join("ours.raw")).unwrap().len(), 136_363_130_880);
    must("qemu-img", folder.path(), &["compare", "-f", "vpc", "-F", "raw", name, "ours.raw"]);
    must(OURS, folder.path(), &["compare", "-f", "vpc", "-F", "raw", name, "ours.raw"]);
}
