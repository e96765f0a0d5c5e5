//! `check` (without repair): clean images of every layout, and each kind of damage, in text and JSON.

use crate::fixtures::{BITMAPS, CHAINS, DATA_FILE, LAYOUTS, SNAPSHOTS, V2, V3};
use crate::info::{IMAGES, OVERLAYS};
use crate::support::case::{Case, EMPTY, Fixture};
use crate::support::suite::{group, patched};

/// Text, JSON and quiet.
const ALL: &str = "check a.qcow2
                   check --output=json a.qcow2
                   check -q a.qcow2
                   map --output=json a.qcow2
                   convert -O raw a.qcow2 out.raw";

/// All tables of this file.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for name in IMAGES {
        all.extend(group("check", LAYOUTS, &[&format!("check {name} && check --output=json {name}")]));
    }
    for name in OVERLAYS {
        all.extend(group("check", CHAINS, &[&format!("check {name}")]));
    }
    all.extend(group("check", V3, OPTIONS));
    all.extend(patched("check", V3, ALL, REFCOUNTS));
    all.extend(patched("check", V3, ALL, TABLES));
    all.extend(patched("check", V2, ALL, OLD));
    all.extend(patched("check", COMPRESSED, ALL, COMPRESSED_ENTRIES));
    all.extend(patched("check", EXTENDED, ALL, BITMAPS_OF_SUBCLUSTERS));
    all.extend(patched("check", SNAPSHOTS, ALL, SNAPSHOT_TREES));
    all.extend(patched("check", BITMAPS, ALL, BITMAP_TABLES));
    all.extend(patched("check", DATA_FILE, ALL, DATA_FILE_ENTRIES));
    for (bits, damage) in WIDTHS {
        let name = format!("check/refcount_bits={bits}/{}", damage.trim());
        let case = Case::new(name, EMPTY, "check r.qcow2 && check --output=json r.qcow2");
        let set_up =
            format!("create -f qcow2 -o refcount_bits={bits} r.qcow2 4M && io r.qcow2 'write -P 1 0 128k'");
        all.push(case.with(&set_up).with(damage));
    }
    all
}

/// Two compressed clusters that share a host cluster; L2 at 0x40000, payloads from 0x50000 on.
const COMPRESSED: Fixture = Fixture {
    name: "compressed",
    pick: false,
    script: "truncate s 4M
             fill s 0 128k 0x31
             noise s 128k 20k 3
             img convert -f raw -O qcow2 -c s a.qcow2
             remove s",
};

/// Subclusters: cluster 0 partly allocated, cluster 1 zero, cluster 2 full, cluster 3 unallocated.
const EXTENDED: Fixture = Fixture {
    name: "extended",
    pick: false,
    script: "create -f qcow2 -o extended_l2=on a.qcow2 4M
             io a.qcow2 'write -P 1 0 4k' 'write -z 64k 64k' 'write -P 2 128k 64k'",
};

const OPTIONS: &[&str] = &[
    "check",
    "check a.qcow2 extra",
    "check -f",
    "check --output=xml a.qcow2",
    "check --output= a.qcow2",
    "check --output=human a.qcow2",
    "check --output json -q a.qcow2",
    "check -q a.qcow2",
    "check -U a.qcow2",
    "check --force-share a.qcow2",
    "check -T none a.qcow2",
    "check -T directsync a.qcow2",
    "check -T writethrough a.qcow2",
    "check -T unsafe a.qcow2",
    "check -T off a.qcow2",
    "check -T bogus a.qcow2",
    "check -T '' a.qcow2",
    "check -T",
    "check -r foo a.qcow2",
    "check -r",
    "check --repair=foo a.qcow2",
    "check -r '' a.qcow2",
    "check -U -r all a.qcow2",
    "check --nosuch a.qcow2",
    "check -p a.qcow2",
    "check -u a.qcow2",
    "check --image-opts driver=qcow2,file.filename=a.qcow2",
    "check --image-opts --output=json driver=qcow2,file.filename=a.qcow2",
    "check --image-opts -f qcow2 a.qcow2",
    "check 'json:{\"driver\":\"qcow2\",\"file.filename\":\"a.qcow2\"}'",
    "check --output=json 'json:{\"driver\":\"qcow2\",\"file.filename\":\"a.qcow2\"}'",
    "check --object secret,id=x a.qcow2",
    "check -f qcow2 a.qcow2",
    "check -f raw --output=json a.qcow2",
    "check . ",
    "check ''",
    "check null-co://",
];

/// The block lies at 0x20000, 16 bits an entry: header, table, block, L1, L2, data, data.
const REFCOUNTS: &[(&str, &str)] = &[
    ("header too low", "be16 a.qcow2 0x20000 0"),
    ("table too high", "be16 a.qcow2 0x20002 2"),
    ("block too low", "be16 a.qcow2 0x20004 0"),
    ("l1 too low", "be16 a.qcow2 0x20006 0"),
    ("l2 too low", "be16 a.qcow2 0x20008 0"),
    ("l2 too high", "be16 a.qcow2 0x20008 2"),
    ("data too low", "be16 a.qcow2 0x2000a 0"),
    ("data too high", "be16 a.qcow2 0x2000a 2"),
    ("data highest", "be16 a.qcow2 0x2000c 65535"),
    ("leak at the end", "be16 a.qcow2 0x2000e 1"),
    (
        "leak within a longer file",
        "be16 a.qcow2 0x2000e 1 && be16 a.qcow2 0x20012 3 && truncate a.qcow2 0xa0000",
    ),
    ("leak beyond the end", "be16 a.qcow2 0x20100 1"),
    ("leaks and errors", "be16 a.qcow2 0x2000a 0 && be16 a.qcow2 0x2000c 4"),
    ("all zero", "fill a.qcow2 0x20000 64k 0"),
    ("all ones", "fill a.qcow2 0x20000 64k 0xff"),
    ("no block", "be64 a.qcow2 0x10000 0"),
    ("block unaligned", "be64 a.qcow2 0x10000 0x20200"),
    ("block unaligned in two entries", "be64 a.qcow2 0x10000 0x20200 && be64 a.qcow2 0x10008 0x30400"),
    ("block entry reserved bits", "be64 a.qcow2 0x10000 0x20001"),
    ("block outside", "be64 a.qcow2 0x10008 0x10000000"),
    ("block far outside", "be64 a.qcow2 0x10008 0x7ffffffffffe0000"),
    ("block is the header", "be64 a.qcow2 0x10000 0x0"),
    ("block twice", "be64 a.qcow2 0x10008 0x20000"),
    ("block is l1", "be64 a.qcow2 0x10000 0x30000"),
    ("block is the table", "be64 a.qcow2 0x10008 0x10000"),
    ("table of two clusters", "be32 a.qcow2 56 2"),
    ("table is l1", "be64 a.qcow2 48 0x30000"),
    ("dirty bit", "be64 a.qcow2 72 1 && be16 a.qcow2 0x2000a 0"),
    ("corrupt bit", "be64 a.qcow2 72 2 && be16 a.qcow2 0x2000a 0"),
];

/// L1 at 0x30000, L2 at 0x40000, data at 0x50000 and 0x60000.
const TABLES: &[(&str, &str)] = &[
    ("l1 not copied", "be64 a.qcow2 0x30000 0x40000"),
    ("l1 reserved bits low", "or64 a.qcow2 0x30000 0x100"),
    ("l1 reserved bits high", "or64 a.qcow2 0x30000 0x4000000000000000"),
    ("l1 unaligned", "or64 a.qcow2 0x30000 0x200"),
    ("l1 beyond the end", "be64 a.qcow2 0x30000 0x8000000010000000"),
    ("l1 far beyond the end", "be64 a.qcow2 0x30000 0x80fffffffff00000"),
    ("l1 to header", "be64 a.qcow2 0x30000 0x8000000000000000"),
    ("l1 to refcount table", "be64 a.qcow2 0x30000 0x8000000000010000"),
    ("l1 to data", "be64 a.qcow2 0x30000 0x8000000000050000"),
    ("l1 empty", "be64 a.qcow2 0x30000 0"),
    ("data not copied", "be64 a.qcow2 0x40000 0x50000"),
    ("data copied and shared", "be64 a.qcow2 0x40008 0x8000000000050000"),
    (
        "data shared and counted",
        "be64 a.qcow2 0x40000 0x50000 && be64 a.qcow2 0x40008 0x50000 && be16 a.qcow2 0x2000a 2",
    ),
    ("data reserved bits low", "or64 a.qcow2 0x40000 0x2"),
    ("data reserved bits high", "or64 a.qcow2 0x40000 0x3f00000000000000"),
    ("data unaligned", "or64 a.qcow2 0x40000 0x200"),
    ("data unaligned not copied", "be64 a.qcow2 0x40000 0x50200"),
    ("data beyond the end", "be64 a.qcow2 0x40000 0x8000000010000000"),
    ("data at the end", "be64 a.qcow2 0x40000 0x8000000000070000"),
    ("data past the end by one", "be64 a.qcow2 0x40000 0x8000000000080000"),
    ("data far beyond the end", "be64 a.qcow2 0x40000 0x80fffffffff00000"),
    ("data to header", "be64 a.qcow2 0x40000 0x8000000000000000"),
    ("data to l1", "be64 a.qcow2 0x40000 0x8000000000030000"),
    ("data to l2", "be64 a.qcow2 0x40000 0x8000000000040000"),
    ("data to refcounts", "be64 a.qcow2 0x40000 0x8000000000020000"),
    ("zero with space", "or64 a.qcow2 0x40000 1"),
    ("zero with space not copied", "be64 a.qcow2 0x40000 0x50001"),
    ("zero unaligned", "be64 a.qcow2 0x40000 0x8000000000050201"),
    ("zero copied without space", "be64 a.qcow2 0x40020 0x8000000000000001"),
    ("zero with reserved bits", "or64 a.qcow2 0x40020 2"),
    ("compressed", "be64 a.qcow2 0x40000 0x4000000000050000"),
    ("compressed copied", "be64 a.qcow2 0x40000 0xc000000000050000"),
    ("compressed beyond the end", "be64 a.qcow2 0x40000 0x4000000010000000"),
    ("compressed far", "be64 a.qcow2 0x40000 0x40ffffffffffffff"),
    ("compressed longest", "be64 a.qcow2 0x40000 0x7fc0000000050000"),
    ("beyond the disk", "be64 a.qcow2 0x41000 0x8000000000050000"),
    ("everything ones", "fill a.qcow2 0x40000 64k 0xff"),
    ("everything noise", "noise a.qcow2 0x40000 4096 5"),
    ("many leaks", "truncate a.qcow2 0x400000 && fill a.qcow2 0x20010 100 1"),
    ("fragmented", "be64 a.qcow2 0x40000 0x8000000000060000 && be64 a.qcow2 0x40008 0x8000000000050000"),
    ("entry lost", "be64 a.qcow2 0x40000 0"),
    ("a hole in the file at the table", "truncate a.qcow2 0x30000"),
];

const OLD: &[(&str, &str)] = &[
    ("nothing patched", ""),
    ("zero flag", "or64 a.qcow2 0x40000 1"),
    ("data too low", "be16 a.qcow2 0x2000a 0"),
    ("data unaligned", "or64 a.qcow2 0x40000 0x200"),
    ("l1 reserved bits", "or64 a.qcow2 0x30000 0x100"),
];

const COMPRESSED_ENTRIES: &[(&str, &str)] = &[
    ("nothing patched", ""),
    ("copied flag", "or64 a.qcow2 0x40000 0x8000000000000000"),
    ("shared count too low", "be16 a.qcow2 0x2000a 1"),
    ("shared count too high", "be16 a.qcow2 0x2000a 9"),
    ("cut file", "truncate a.qcow2 0x50200"),
    ("cut at a payload", "truncate a.qcow2 0x50000"),
    ("payload zeroed", "fill a.qcow2 0x50000 64 0"),
    ("payload noise", "noise a.qcow2 0x50000 64 5"),
    ("payload ends early", "hex a.qcow2 0x50000 0300"),
    ("longer sector count", "or64 a.qcow2 0x40000 0x3fc0000000000000"),
    ("offset beyond the end", "or64 a.qcow2 0x40000 0x10000000"),
    ("same payload twice", "copy a.qcow2 b.qcow2 && be64 a.qcow2 0x40100 0x4000000000050000"),
    ("entry lost", "be64 a.qcow2 0x40000 0"),
];

/// 16-byte entries at 0x40000: entry, bitmap.
const BITMAPS_OF_SUBCLUSTERS: &[(&str, &str)] = &[
    ("nothing patched", ""),
    ("allocated and zero", "be64 a.qcow2 0x40008 0x100000003"),
    ("allocated without offset", "be64 a.qcow2 0x40018 0xffffffff00000001"),
    ("unallocated with allocation bits", "be64 a.qcow2 0x40038 1"),
    ("unallocated with zero bits", "be64 a.qcow2 0x40038 0x8000000000000000"),
    ("zero flag of plain entries", "or64 a.qcow2 0x40000 1"),
    ("no bits", "be64 a.qcow2 0x40008 0"),
    ("all zero bits", "be64 a.qcow2 0x40008 0xffffffff00000000"),
    ("compressed with bits", "be64 a.qcow2 0x40030 0x4000000000050000 && be64 a.qcow2 0x40038 1"),
    ("unaligned", "or64 a.qcow2 0x40000 0x200"),
    ("unaligned with zero bits", "or64 a.qcow2 0x40000 0x200 && be64 a.qcow2 0x40008 0xffffffff00000000"),
    ("not copied", "be64 a.qcow2 0x40000 0x50000"),
    ("reserved bits", "or64 a.qcow2 0x40000 0x3e"),
    ("every other subcluster", "be64 a.qcow2 0x40028 0xaaaaaaaa55555555"),
];

/// Table at 0xc0000; first snapshot's L1 as the table says.
const SNAPSHOT_TREES: &[(&str, &str)] = &[
    ("nothing patched", ""),
    ("table overlaps l1", "be64 a.qcow2 64 0x30000"),
    ("l1 unaligned", "or64 a.qcow2 0xc0000 0x200"),
    ("l1 is the active one", "be64 a.qcow2 0xc0000 0x30000"),
    ("l1 at 0", "be64 a.qcow2 0xc0000 0"),
    ("l1 beyond the end", "be64 a.qcow2 0xc0000 0x10000000"),
    ("l1 too large", "be32 a.qcow2 0xc0008 0x7fffffff"),
    ("l1 longer", "be32 a.qcow2 0xc0008 3"),
    ("incomplete entry", "be32 a.qcow2 0xc0024 8"),
    ("fewer snapshots", "be32 a.qcow2 60 1"),
    ("no snapshots", "be32 a.qcow2 60 0 && be64 a.qcow2 64 0"),
    ("more snapshots", "be32 a.qcow2 60 3"),
    ("refcount of shared data too low", "be16 a.qcow2 0x2000a 1"),
    ("refcounts all zero", "fill a.qcow2 0x20000 64k 0"),
    ("extra data of 2000", "be32 a.qcow2 0xc0024 2000"),
];

/// Directory at 0xd0000.
const BITMAP_TABLES: &[(&str, &str)] = &[
    ("nothing patched", ""),
    ("autoclear bit off", "be64 a.qcow2 88 0"),
    ("in use", "be32 a.qcow2 0xd000c 3"),
    ("table overlaps l1", "be64 a.qcow2 0xd0000 0x30000"),
    ("table beyond the end", "be64 a.qcow2 0xd0000 0x10000000"),
    ("count 1", "be32 a.qcow2 512 1"),
    ("directory overlaps l2", "be64 a.qcow2 528 0x40000"),
];

const DATA_FILE_ENTRIES: &[(&str, &str)] = &[
    ("nothing patched", ""),
    ("not copied", "be64 a.qcow2 0x40008 0x10000"),
    ("wrong offset", "be64 a.qcow2 0x40008 0x8000000000020000"),
    ("beyond the data file", "truncate d.raw 64k"),
    ("unaligned", "or64 a.qcow2 0x40008 0x200"),
    ("compressed", "be64 a.qcow2 0x40008 0x4000000000010000"),
    ("zero flag", "or64 a.qcow2 0x40008 1"),
    ("reserved bits", "or64 a.qcow2 0x40008 2"),
];

/// Entries of the block at 0x20000 for other widths: the fifth and sixth are data.
const WIDTHS: &[(u32, &str)] = &[
    (1, ""),
    (2, ""),
    (4, ""),
    (8, ""),
    (32, ""),
    (64, ""),
    (1, "hex r.qcow2 0x20000 5f"),
    (1, "hex r.qcow2 0x20000 ff"),
    (2, "hex r.qcow2 0x20000 5551"),
    (2, "hex r.qcow2 0x20000 55d7"),
    (4, "hex r.qcow2 0x20000 1111f1"),
    (4, "hex r.qcow2 0x20000 11110111"),
    (8, "hex r.qcow2 0x20000 010101010100ff"),
    (32, "be32 r.qcow2 0x20014 0"),
    (32, "be32 r.qcow2 0x20014 0xffffffff"),
    (64, "be64 r.qcow2 0x20028 0"),
    (64, "be64 r.qcow2 0x20028 0xffffffffffffffff"),
    (64, "be64 r.qcow2 0x20028 0x7fffffffffffffff"),
];
