//! A damaged image must not make a write hit metadata: it is refused with the words of the installed `qemu-io`, before
//! anything is harmed, and the image is marked. Without the oracle its part is counted as ignored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};

use diskimg_core::driver::{Notices, OpenContext, OpenMode};
use diskimg_core::opener::NoReferences;
use diskimg_core::options::{RuntimeOptions, RuntimeValue};
use diskimg_core::{BlockDevice, ByteRange, Device, Image, MemDevice, ZeroMode, to_usize};
use diskimg_qcow2::DRIVER;
use diskimg_testkit::{FormatSubject, Oracle, Rng, suite};

/// How an image is made: create options, and `qemu-img` commands between guest writes (`io …`).
type Base = (&'static str, &'static [&'static str]);

/// Header, refcount table, refcount block, L1, L2, one cluster of data.
const PLAIN: Base = ("", &["io write -P 1 0 64k"]);
const OLD: Base = ("compat=0.10", &["io write -P 1 0 64k"]);
/// The snapshot's L1 at 0x60000, the snapshot table at 0x70000; the active L2 is then copied from 0x40000 to 0x80000.
const SHARED: Base = ("", &["io write -P 1 0 64k", "snapshot -c s image", "io write -P 2 64k 64k"]);
/// The bitmap's directory at 0xd0000 when closed.
const MARKED: Base = ("", &["io write -P 1 0 64k", "bitmap --add image b", "io write -P 2 0 64k"]);
const SMALL: Base = ("cluster_size=512", &["io write -P 1 0 8k"]);

/// What a row damages: bytes (hexadecimal) at an offset.
type Patch = (u64, &'static str);

/// Base, damage, option `overlap-check…` (or none), and what is then done, in the words of `qemu-io`.
type Row = (Base, &'static [Patch], &'static str, &'static str);

const L1_CLUSTER: &str = "8000000000030000";

const ROWS: &[Row] = &[
    // Entries that say that guest data is where metadata is.
    (PLAIN, &[(0x4_0000, "8000000000010000")], "", "write -P 9 0 4k"),
    (PLAIN, &[(0x4_0000, "8000000000020000")], "", "write -P 9 0 4k"),
    (PLAIN, &[(0x4_0000, L1_CLUSTER)], "", "write -P 9 0 4k"),
    (PLAIN, &[(0x4_0000, "8000000000040000")], "", "write -P 9 0 4k"),
    (OLD, &[(0x4_0000, L1_CLUSTER)], "", "write -P 9 0 4k"),
    (PLAIN, &[(0x4_0000, L1_CLUSTER)], "overlap-check=constant", "write -P 9 0 4k"),
    (PLAIN, &[(0x4_0000, "8000000000040000")], "overlap-check=constant", "write -P 9 0 4k"),
    (PLAIN, &[(0x4_0000, "8000000000020000")], "overlap-check.refcount-block=off", "write -P 9 0 4k"),
    (PLAIN, &[(0x4_0000, L1_CLUSTER)], "overlap-check=none,overlap-check.active-l1=on", "write -P 9 0 4k"),
    (SHARED, &[(0x8_0000, "8000000000060000")], "", "write -P 9 0 4k"),
    (SHARED, &[(0x8_0000, "8000000000070000")], "", "write -P 9 0 4k"),
    (SHARED, &[(0x8_0000, "8000000000040000")], "overlap-check=all", "write -P 9 0 4k"),
    (SHARED, &[(0x8_0000, "8000000000040000")], "", "write -P 9 0 4k"),
    (SHARED, &[(0x8_0000, "8000000000040000")], "overlap-check.inactive-l2=on", "write -P 9 0 4k"),
    // Refcounts that say that clusters of metadata are free.
    (PLAIN, &[(0x2_0000, "0000")], "", "write -P 9 64k 4k"),
    (PLAIN, &[(0x2_0000, "0000")], "", "write -P 9 1G 4k"),
    (PLAIN, &[(0x2_0000, "0000")], "", "write -c -P 9 64k 64k"),
    (PLAIN, &[(0x2_0002, "0000")], "", "write -P 9 64k 4k"),
    (PLAIN, &[(0x2_0002, "0000")], "", "write -c -P 9 64k 64k"),
    (PLAIN, &[(0x2_0004, "0000")], "", "write -P 9 64k 4k"),
    (PLAIN, &[(0x2_0006, "0000")], "", "write -P 9 64k 4k"),
    (PLAIN, &[(0x2_0006, "0000")], "", "write -P 9 1G 4k"),
    (PLAIN, &[(0x2_0008, "0000")], "", "write -P 9 64k 4k"),
    (OLD, &[(0x2_0006, "0000")], "", "write -P 9 64k 4k"),
    (SHARED, &[(0x2_000c, "0000")], "", "write -P 9 128k 4k"),
    (SHARED, &[(0x2_000e, "0000")], "", "write -P 9 128k 4k"),
    (SHARED, &[(0x2_0008, "0000")], "overlap-check=all", "write -P 9 128k 4k"),
    (SHARED, &[(0x2_000c, "0000")], "overlap-check=all", "write -P 9 1G 4k"),
    (SMALL, &[(0x400, "0000")], "", "write -P 9 8k 512"),
    (SMALL, &[(0x402, "0000")], "", "write -P 9 900k 512"),
    // Tables that stand where other metadata is.
    (PLAIN, &[(0x3_0000, "8000000000010000")], "", "write -P 9 1M 4k"),
    (PLAIN, &[(0x3_0000, "8000000000020000")], "", "write -P 9 1M 4k"),
    (PLAIN, &[(0x3_0000, L1_CLUSTER)], "", "write -P 9 1M 4k"),
    (PLAIN, &[(0x1_0000, "0000000000000000")], "", "write -P 9 64k 4k"),
    (PLAIN, &[(0x1_0000, "0000000000030000")], "", "write -P 9 64k 4k"),
    (PLAIN, &[(0x1_0000, "0000000000040000")], "", "write -P 9 64k 4k"),
    // What writes nothing into it.
    (PLAIN, &[(0x4_0000, L1_CLUSTER)], "", "write -z 0 64k"),
    (PLAIN, &[(0x4_0000, L1_CLUSTER)], "", "write -z 0 4k"),
    (PLAIN, &[], "overlap-check=all", "write -P 9 0 1M"),
    (SHARED, &[], "overlap-check=all", "write -P 9 0 1M"),
    (MARKED, &[], "overlap-check=all", "write -P 9 0 1M"),
];

fn main() -> ExitCode {
    suite::run(vec![
        suite::with_oracle("as qemu-io refuses it", |oracle| {
            ROWS.iter().for_each(|row| same_refusal(oracle, *row));
        }),
        suite::plain("metadata that is not counted is never overwritten", || {
            (0..diskimg_testkit::rounds(120)).for_each(uncounted);
        }),
    ])
}

fn patch(bytes: &mut [u8], at: u64, hex: &str) {
    for (index, pair) in hex.as_bytes().chunks_exact(2).enumerate() {
        bytes[to_usize(at) + index] = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    }
}

fn made(oracle: &Oracle, (options, steps): Base, folder: &Path) -> Vec<u8> {
    let options = if options.is_empty() { "compat=1.1" } else { options };
    oracle.must(folder, &["create", "-q", "-f", "qcow2", "-o", options, "image", "2G"]);
    for step in steps {
        match step.strip_prefix("io ") {
            Some(command) => oracle.qemu_io(folder, "qcow2", "image", &[command]),
            None => drop(oracle.must(folder, &step.split(' ').collect::<Vec<_>>())),
        }
    }
    std::fs::read(folder.join("image")).unwrap()
}

fn corrupt_bit(image: &[u8]) -> bool {
    image[7] > 2 && image[79] & 2 != 0
}

fn same_refusal(oracle: &Oracle, (base, patches, option, action): Row) {
    let story = format!("{base:?} {patches:x?} {option} {action}");
    let folder = tempfile::tempdir().unwrap();
    let mut image = made(oracle, base, folder.path());
    for (at, hex) in patches {
        patch(&mut image, *at, hex);
    }
    std::fs::write(folder.path().join("image"), &image).unwrap();
    let spec =
        format!("driver=qcow2,file.filename=image{}{option}", if option.is_empty() { "" } else { "," });
    let output = Command::new(&oracle.io)
        .current_dir(folder.path())
        .args(["--image-opts", "-c", action, "-c", "flush", &spec])
        .output()
        .unwrap();
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let theirs: Vec<String> =
        said.lines().filter(|line| line.starts_with("qcow2: ")).map(str::to_owned).collect();
    let their_image = std::fs::read(folder.path().join("image")).unwrap();
    let (ours, our_image) = ours(&image, option, action);
    assert_eq!(ours, theirs, "{story}");
    assert_eq!(corrupt_bit(&our_image), corrupt_bit(&their_image), "{story}");
    if !ours.is_empty() {
        let mut marked = image.clone();
        marked[79] |= if image[7] > 2 { 2 } else { 0 };
        // Bytes of the guest may stand in clusters behind it, which nothing refers to.
        assert!(our_image.starts_with(&marked), "{story}: something was overwritten");
    }
}

fn open(storage: Arc<MemDevice>, option: &str, heard: &Arc<Mutex<Vec<String>>>) -> Arc<dyn Image> {
    let mut options = RuntimeOptions::new();
    for (name, value) in option.split(',').filter_map(|item| item.split_once('=')) {
        options.set(name, RuntimeValue::Str(value.to_owned()));
    }
    let heard = Arc::clone(heard);
    (DRIVER.open)(OpenContext {
        storage,
        filename: "image",
        mode: OpenMode { write: true, ..OpenMode::default() },
        options: &mut options,
        opener: &NoReferences,
        notices: Notices::to(move |_, text| heard.lock().unwrap().push(text.to_owned())),
    })
    .unwrap()
}

fn number(text: &str) -> u64 {
    let (digits, unit) = text.split_at(text.trim_end_matches(['k', 'M', 'G']).len());
    let shift = match unit {
        "k" => 10,
        "M" => 20,
        "G" => 30,
        _ => 0,
    };
    digits.parse::<u64>().unwrap() << shift
}

/// Does what the words of `qemu-io` say, with a flush: what was reported, and the image afterwards.
fn ours(image: &[u8], option: &str, action: &str) -> (Vec<String>, Vec<u8>) {
    let storage = Arc::new(MemDevice::from(image.to_vec()));
    let heard = Arc::default();
    let opened = open(Arc::clone(&storage), option, &heard);
    let words: Vec<&str> = action.split(' ').collect();
    let (offset, len) = (number(words[words.len() - 2]), number(words[words.len() - 1]));
    let device = Device::new(opened.clone());
    let done = if words.contains(&"-z") {
        device.write_zeroes(ByteRange::new(offset, len), ZeroMode::KeepAllocated)
    } else if words.contains(&"-c") {
        let clusters = opened.as_compressed().unwrap();
        let mut payload = Vec::new();
        let encoded = clusters.encoder().unwrap().encode(&vec![9; to_usize(len)], &mut payload);
        assert!(encoded.unwrap());
        clusters.reserve_encoded(offset, payload.len() as u64).and_then(|place| {
            place.write_at(0, &payload)?;
            place.commit()
        })
    } else {
        device.write_at(offset, &vec![9; to_usize(len)])
    };
    let flushed = device.flush();
    drop((device, opened));
    let heard = heard.lock().unwrap().clone();
    assert_eq!(heard.is_empty(), done.is_ok() && flushed.is_ok(), "{action}: {heard:?} {done:?} {flushed:?}");
    (heard, storage.to_vec())
}

/// Create options.
const SORTS: [&[&str]; 4] = [
    &["cluster_size=512"],
    &["cluster_size=512", "refcount_bits=8"],
    &["cluster_size=4k", "compat=0.10"],
    &["cluster_size=16k", "extended_l2=on"],
];

/// An image whose metadata lost some of its refcounts is written to at random: what was there can be read afterwards.
fn uncounted(seed: u64) {
    let mut rng = Rng::new(seed + 1);
    let options: &[&str] = SORTS[rng.index(SORTS.len())];
    let bits = if options.contains(&"refcount_bits=8") { 8 } else { 16 };
    let size = 1 << 20;
    let disks = FormatSubject::new(&DRIVER, size, options).fresh();
    let heard = Arc::default();
    let half = vec![7; to_usize(size / 2)];
    open(Arc::clone(&disks[0]), "", &heard).write_at(0, &half).unwrap();
    let mut bytes = disks[0].to_vec();
    for cluster in metadata(&bytes) {
        if rng.chance(30) {
            forget_count(&mut bytes, cluster, bits);
        }
    }
    let storage = Arc::new(MemDevice::from(bytes));
    let image = open(Arc::clone(&storage), "", &heard);
    for _ in 0..6 {
        let (at, len) = (size / 2 + rng.below(size / 2 - 9000), 1 + rng.below(8000));
        let _ = image.write_at(at, &vec![9; to_usize(len)]);
        if rng.chance(30) {
            let _ = image.flush();
        }
    }
    drop(image);
    let storage = Arc::new(MemDevice::read_only(storage.to_vec()));
    let mut options = RuntimeOptions::new();
    let reopened = (DRIVER.open)(OpenContext {
        storage,
        filename: "image",
        mode: OpenMode::default(),
        options: &mut options,
        opener: &NoReferences,
        notices: Notices::default(),
    });
    let mut found = vec![0; half.len()];
    reopened.unwrap().read_at(0, &mut found).unwrap();
    assert!(found == half, "seed {seed}: {heard:?}");
}

fn be(bytes: &[u8], at: u64, len: usize) -> u64 {
    bytes[to_usize(at)..to_usize(at) + len].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Header, tables, refcount blocks, L2 tables: their clusters.
fn metadata(bytes: &[u8]) -> Vec<u64> {
    let cluster_bits = be(bytes, 20, 4);
    let (l1, l1_size) = (be(bytes, 40, 8), be(bytes, 36, 4));
    let (table, table_clusters) = (be(bytes, 48, 8), be(bytes, 56, 4));
    let mut found = vec![0, l1 >> cluster_bits];
    found.extend((0..table_clusters).map(|index| (table >> cluster_bits) + index));
    let entries = (0..l1_size).map(|index| be(bytes, l1 + index * 8, 8) & 0x00ff_ffff_ffff_fe00);
    found.extend(entries.filter(|offset| *offset != 0).map(|offset| offset >> cluster_bits));
    found.push(be(bytes, table, 8) >> cluster_bits);
    found
}

/// Sets the refcount of `cluster` to 0, if the first refcount block has it.
fn forget_count(bytes: &mut [u8], cluster: u64, bits: u64) {
    let (table, cluster_size) = (be(bytes, 48, 8), 1 << be(bytes, 20, 4));
    let at = cluster * bits / 8;
    if at < cluster_size {
        let place = to_usize(be(bytes, table, 8) + at);
        bytes[place..place + to_usize(bits / 8)].fill(0);
    }
}
