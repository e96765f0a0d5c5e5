//! VMDK images beside the installed `qemu-img`: every kind of image, made by either, is told, mapped, checked and read by
//! both with equal words and contents; refusals of bad options and damaged files are equal. Content identifiers are
//! random, and how much space a file takes is the host's matter: both are masked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

#[path = "support/pair.rs"]
mod pair;

use std::process::ExitCode;

use diskimg_testkit::{Oracle, pattern, suite};
use pair::{OURS, Pair, patches};

/// What the host decides, or chance.
const PAIR: Pair = Pair {
    masked: &["cid: ", "\"cid\": ", "parent-cid\": ", "disk size: ", "\"actual-size\": "],
    unheard: &[],
};
/// A disk that does not end with a grain, over more than one grain table.
const SIZE: usize = (35 << 20) + 5120;
/// Kinds of images.
const KINDS: &[&str] = &[
    "subformat=monolithicSparse",
    "subformat=monolithicSparse,zeroed_grain=on",
    "subformat=monolithicFlat",
    "subformat=twoGbMaxExtentSparse",
    "subformat=twoGbMaxExtentFlat",
    "subformat=streamOptimized",
    "subformat=streamOptimized,zeroed_grain=on",
    "adapter_type=lsilogic,hwversion=7,toolsversion=9",
    "compat6=on",
];
/// Options and sizes of images that are made or refused.
const CREATES: &[(&str, &str)] = &[
    ("adapter_type=foo", "1M"),
    ("adapter_type=IDE", "1M"),
    ("subformat=x", "1M"),
    ("compat6=on,hwversion=5", "1M"),
    ("hwversion=undefined,compat6=on", "1M"),
    ("subformat=monolithicFlat,zeroed_grain=on", "1M"),
    ("backing_file=src.raw,backing_fmt=raw", "1M"),
    ("backing_file=none.vmdk,backing_fmt=vmdk", "1M"),
    ("preallocation=bad", "1M"),
    ("preallocation=metadata", "1M"),
    ("preallocation=full", "1M"),
    ("zeroed_grain=x", "1M"),
    ("subformat=twoGbMaxExtentFlat", "5G"),
    ("subformat=twoGbMaxExtentSparse", "4G"),
    ("subformat=monolithicFlat", "1000"),
    ("subformat=monolithicSparse", "64T"),
];
/// Changes to the header of a sparse image: offset and bytes.
const DAMAGES: &[(usize, &[u8])] = &[
    (4, &[4]),
    (4, &[0]),
    (4, &[3]),
    (20, &[1, 0, 0x20, 0]),
    (20, &[0, 0, 0, 0]),
    (44, &[1, 2]),
    (44, &[0, 0]),
    (64, &[0xff, 0xff]),
    (12, &[0xff; 4]),
    (56, &[0xff; 8]),
    (523, b"xx"),
    (544, b"XX"),
    (560, b"zzzzzzzzzzzz"),
    (28, &[0]),
    (28, &[0x81]),
    (35, &[0x80]),
    (0x223, &[0xff]),
    (56, &[0xff, 0xff, 0xff, 0x7f]),
];

fn main() -> ExitCode {
    let mut tests = vec![
        suite::with_oracle("options", |_| options()),
        suite::with_oracle("damaged headers", damaged),
        suite::with_oracle("descriptors by hand", |_| descriptors()),
        suite::with_oracle("extents of other programs", |_| foreign_extents()),
        suite::with_oracle("descriptors that are no UTF-8", |_| foreign_text()),
        suite::with_oracle("overlays", overlays),
        suite::plain("an interrupted or cut stream is not taken for a whole one", cut_stream),
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
    for (program, name) in [("qemu-img", "q.vmdk"), (OURS, "o.vmdk")] {
        PAIR.must(program, folder, &["convert", "-f", "raw", "-O", "vmdk", "-o", kind, "src.raw", name]);
        PAIR.same_of(folder, "vmdk", name, kind);
        PAIR.same_in(folder, &["resize", name, "64M"], kind);
        PAIR.same_in(folder, &["compare", "-f", "raw", "-F", "vmdk", "src.raw", name], kind);
        // What the one wrote the other one writes on, where it takes writes at all.
        if !kind.contains("stream") {
            oracle.qemu_io(folder, "vmdk", name, &["write -P 7 100k 70k", "write -z 10M 1M"]);
            PAIR.must(OURS, folder, &["convert", "-O", "raw", name, "x.raw"]);
            PAIR.must("qemu-img", folder, &["compare", "-F", "raw", name, "x.raw"]);
        }
        let again = format!("again-{name}");
        PAIR.must(OURS, folder, &["convert", "-O", "vmdk", "-o", "subformat=streamOptimized", name, &again]);
        PAIR.must("qemu-img", folder, &["compare", name, &again]);
    }
}

fn options() {
    for (options, size) in CREATES {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("src.raw"), [1; 1024]).unwrap();
        PAIR.same(folder.path(), &["create", "-f", "vmdk", "-o", options, "n.vmdk", size]);
    }
    let folder = tempfile::tempdir().unwrap();
    PAIR.same(folder.path(), &["create", "-f", "vmdk", "-o", "help"]);
    PAIR.same(folder.path(), &["create", "-f", "vmdk", "-o", "help", "x.vmdk"]);
}

fn damaged(oracle: &Oracle) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    oracle.must(folder, &["create", "-q", "-f", "vmdk", "a.vmdk", "1M"]);
    let whole = std::fs::read(folder.join("a.vmdk")).unwrap();
    for (at, bytes) in DAMAGES {
        let mut image = whole.clone();
        image[*at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(folder.join("m.vmdk"), image).unwrap();
        PAIR.same(folder, &["info", "-f", "vmdk", "m.vmdk"]);
    }
    for len in [3, 4, 100, 511, 600, 10_000] {
        std::fs::write(folder.join("m.vmdk"), &whole[..len]).unwrap();
        PAIR.same(folder, &["info", "-f", "vmdk", "m.vmdk"]);
    }
}

fn descriptors() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("flat.raw"), pattern(1, 0, 20_480)).unwrap();
    let head = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n";
    let line = "RW 20 FLAT \"flat.raw\" 10\n";
    let texts = [
        format!("{head}createType=\"monolithicFlat\"\n{line}"),
        format!("{head}createType=\"twoGbMaxExtentFlat\"\n{line}{line}"),
        format!("{head}createType=\"vmfs\"\nRW 40 VMFS \"flat.raw\"\n").replace('\n', "\r\n"),
        format!("{head}createType=\"fullDevice\"\n{line}"),
        format!("{head}createType=\"vmfsSparse\"\nRW 40 VMFSSPARSE \"flat.raw\"\n"),
        format!("{head}createType=\"monolithicFlat\"\nRW 20 FLAT \"gone.raw\" 0\n"),
        format!("{head}createType=\"monolithicFlat\"\nRW 20 FLAT \"flat.raw\"\n"),
        format!("{head}createType=\"monolithicFlat\"\nRW 20 SPARSE \"flat.raw\" 0\n"),
        format!("{head}{line}"),
        format!("version=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n{line}"),
        format!("version=1\nCID=1\ncreateType=\"monolithicFlat\"\n{line}"),
        format!("{head}createType=\"monolithicFlat\"\nparentFileNameHint=\"x\n{line}"),
    ];
    for text in texts {
        std::fs::write(folder.join("d.vmdk"), &text).unwrap();
        PAIR.same(folder, &["info", "d.vmdk"]);
        PAIR.same(folder, &["info", "--output=json", "-f", "vmdk", "d.vmdk"]);
    }
    std::fs::write(folder.join("d.vmdk"), format!("{head}createType=\"monolithicFlat\"\n{line}")).unwrap();
    PAIR.same(folder, &["map", "--output=json", "d.vmdk"]);
    PAIR.must(OURS, folder, &["convert", "-O", "raw", "d.vmdk", "x.raw"]);
    PAIR.must("qemu-img", folder, &["compare", "-F", "raw", "d.vmdk", "x.raw"]);
    // A gate sees each extent.
    let up = format!("{head}createType=\"monolithicFlat\"\nRW 1 FLAT \"/etc/hostname\" 0\n");
    std::fs::write(folder.join("up.vmdk"), up).unwrap();
    let refused = PAIR.told(OURS, folder, &["--references=same-dir", "info", "up.vmdk"]);
    assert!(refused.contains("not allowed") && refused.ends_with("exit Some(1)"), "{refused}");
}

/// A COWD extent of 8192 sectors with one table, which has the first sector alone.
fn cowd() -> Vec<u8> {
    let mut bytes = b"COWD".to_vec();
    for field in [1, 3, 8192, 1, 4, 1, 38_u32] {
        bytes.extend(field.to_le_bytes());
    }
    bytes.resize(38 * 512, 0);
    bytes[2048..2052].copy_from_slice(&5_u32.to_le_bytes());
    bytes[5 * 512..5 * 512 + 4].copy_from_slice(&37_u32.to_le_bytes());
    bytes[37 * 512..].fill(7);
    bytes
}

fn foreign_extents() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("flat.raw"), pattern(1, 0, 20_480)).unwrap();
    std::fs::write(folder.join("cow.vmdk"), cowd()).unwrap();
    // Whole grains: what follows an extent that ends within one is not seen by qemu-img.
    let len = 5 << 20;
    std::fs::write(folder.join("src.raw"), patches(len, 1_000_001, 100_000)).unwrap();
    let sparse = "subformat=twoGbMaxExtentSparse";
    PAIR.must("qemu-img", folder, &["convert", "-O", "vmdk", "-o", sparse, "src.raw", "s.vmdk"]);
    let head = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n";
    let (flat, cow) = ("RW 40 FLAT \"flat.raw\" 0\n", "RW 8192 VMFSSPARSE \"cow.vmdk\"\n");
    let split = format!("RW {} SPARSE \"s-s001.vmdk\"\n", len / 512);
    for (kind, lines) in [
        ("twoGbMaxExtentSparse", format!("{split}{flat}")),
        ("twoGbMaxExtentSparse", format!("{split}{split}")),
        ("twoGbMaxExtentFlat", format!("{flat}{flat}")),
        // A directory that is too short for its extent.
        ("vmfsSparse", cow.to_owned()),
        ("vmfsSparse", format!("{cow}{split}")),
    ] {
        let text = format!("{head}createType=\"{kind}\"\n{lines}");
        std::fs::write(folder.join("d.vmdk"), text).unwrap();
        for args in [
            &["info", "d.vmdk"][..],
            &["info", "--output=json", "d.vmdk"],
            &["map", "--output=json", "d.vmdk"],
            &["convert", "-O", "raw", "d.vmdk", "x.raw"],
        ] {
            PAIR.same_in(folder, args, &lines);
        }
        if kind != "vmfsSparse" {
            // There qemu-img takes its "no place" for an error number.
            PAIR.same_in(folder, &["check", "d.vmdk"], &lines);
        }
    }
}

/// A descriptor in another encoding gets its new identifier like any other.
fn foreign_text() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("flat.raw"), [5; 20_480]).unwrap();
    // An identifier of one digit has to move what follows it.
    for cid in ["12345678", "1"] {
        let mut text =
            format!("# Disk DescriptorFile\nversion=1\nCID={cid}\nparentCID=ffffffff\n").into_bytes();
        text.extend(b"encoding=\"windows-1252\"\ncreateType=\"vmfs\"\nRW 40 VMFS \"flat.raw\"\nddb.x = \"gr\xf6\xdfe\"\n");
        std::fs::write(folder.join("d.vmdk"), &text).unwrap();
        let write = ["bench", "-w", "-c", "1", "-s", "4096", "-f", "vmdk", "--pattern", "65", "d.vmdk"];
        PAIR.must(OURS, folder, &write);
        let after = std::fs::read(folder.join("d.vmdk")).unwrap();
        let tail = text.split(|byte| *byte == b'\n').skip(3).collect::<Vec<_>>().join(&b'\n');
        assert!(after.windows(tail.len()).any(|window| window == tail), "{}", after.escape_ascii());
        assert!(
            !after.windows(13).any(|window| window == b"CID=12345678\n" || window.starts_with(b"CID=1\n"))
        );
        for args in [&["info", "d.vmdk"][..], &["map", "--output=json", "d.vmdk"]] {
            PAIR.same_in(folder, args, cid);
        }
    }
}

fn overlays(oracle: &Oracle) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    oracle.must(folder, &["create", "-q", "-f", "vmdk", "base.vmdk", "10M"]);
    oracle.qemu_io(folder, "vmdk", "base.vmdk", &["write -P 3 0 1M", "write -P 4 5M 100k"]);
    PAIR.same(folder, &["create", "-f", "vmdk", "-b", "base.vmdk", "ov.vmdk"]);
    PAIR.same(folder, &["create", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", "ov.vmdk"]);
    oracle.qemu_io(folder, "vmdk", "ov.vmdk", &["read -P 3 0 1M", "write -P 9 64k 1000"]);
    for args in [
        &["info", "--backing-chain", "ov.vmdk"][..],
        &["map", "--output=json", "ov.vmdk"],
        &["compare", "ov.vmdk", "base.vmdk"],
    ] {
        PAIR.same(folder, args);
    }
    // The parent's new identifier is that which the overlay names.
    PAIR.must(OURS, folder, &["commit", "-q", "ov.vmdk"]);
    PAIR.must("qemu-img", folder, &["compare", "ov.vmdk", "base.vmdk"]);
    PAIR.must(OURS, folder, &["compare", "ov.vmdk", "base.vmdk"]);
    // Another parent than the one it was made over: what it does not hold itself can't be read.
    oracle.qemu_io(folder, "vmdk", "base.vmdk", &["write -P 5 0 512"]);
    PAIR.same(folder, &["convert", "-O", "raw", "ov.vmdk", "x.raw"]);
    PAIR.same(folder, &["map", "ov.vmdk"]);
}

fn cut_stream() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("src.raw"), source()).unwrap();
    let kind = "subformat=streamOptimized";
    PAIR.must(OURS, folder, &["convert", "-f", "raw", "-O", "vmdk", "-o", kind, "src.raw", "s.vmdk"]);
    let whole = std::fs::read(folder.join("s.vmdk")).unwrap();
    for len in [whole.len() - 512, whole.len() / 2, 70_000] {
        std::fs::write(folder.join("cut.vmdk"), &whole[..len]).unwrap();
        let refused = PAIR.told(OURS, folder, &["info", "cut.vmdk"]);
        assert!(refused.contains("Invalid footer"), "{refused}");
    }
    // What the last sector lacks is zeros.
    std::fs::write(folder.join("cut.vmdk"), &whole[..whole.len() - 500]).unwrap();
    PAIR.must(OURS, folder, &["compare", "-f", "raw", "-F", "vmdk", "src.raw", "cut.vmdk"]);
}
