//! What is checked when a qcow2 image is opened: each header field and extension patched to something that is
//! refused, or just accepted, and every reading command (and `resize`, which opens for writing) run on it.

use crate::fixtures::{BACKED, BITMAPS, DATA_FILE, SNAPSHOTS, V2, V3};
use crate::support::case::{Case, Fixture};
use crate::support::suite::patched;

/// Every way to open an image.
const ALL: &str = "info a.qcow2
                   info --output=json a.qcow2
                   check a.qcow2
                   map a.qcow2
                   map --output=json a.qcow2
                   convert -O raw a.qcow2 out.raw
                   measure -O qcow2 a.qcow2
                   compare a.qcow2 a.qcow2
                   resize a.qcow2 8M";

/// For fields whose check does not depend on how the image is opened.
const SOME: &str = "info a.qcow2
                    check --output=json a.qcow2
                    map a.qcow2
                    convert -O raw a.qcow2 out.raw
                    resize a.qcow2 8M";

/// All tables of this file.
pub fn cases() -> Vec<Case> {
    let mut all = patched("open", V3, ALL, FIELDS);
    all.extend(patched("open", V3, SOME, FIELDS_MORE));
    all.extend(patched("open", V3, SOME, EXTENSIONS));
    all.extend(patched("open", V2, SOME, OLD));
    all.extend(patched("open", BACKED, SOME, BACKING));
    all.extend(patched("open", SNAPSHOTS, SOME, SNAPSHOT_TABLE));
    all.extend(patched("open", BITMAPS, SOME, BITMAP_FIELDS));
    all.extend(patched("open", DATA_FILE, ALL, DATA_FILE_FIELDS));
    all.extend(as_other_format(V3));
    all
}

fn as_other_format(fixture: Fixture) -> Vec<Case> {
    const COMMANDS: &[&str] = &[
        "info -f raw a.qcow2",
        "info -f qcow2 a.qcow2",
        "info -f qcow2 plain.raw",
        "check -f raw a.qcow2",
        "check -f qcow2 plain.raw",
        "check plain.raw",
        "map -f raw a.qcow2",
        "map -f qcow2 plain.raw",
        "measure -f qcow2 plain.raw",
        "measure -f raw a.qcow2",
        "compare -f qcow2 -F qcow2 a.qcow2 plain.raw",
        "compare -f qcow2 -F qcow2 plain.raw a.qcow2",
        "compare -f raw a.qcow2 a.qcow2",
        "convert -f qcow2 -O raw plain.raw out.raw",
        "convert -f raw -O raw a.qcow2 out.raw",
        "resize -f qcow2 plain.raw 8M",
        "info -f foo a.qcow2",
        "check -f foo a.qcow2",
        "map -f foo a.qcow2",
        "measure -f foo a.qcow2",
        "compare -f foo a.qcow2 a.qcow2",
        "compare -F foo a.qcow2 a.qcow2",
        "convert -f foo -O raw a.qcow2 out.raw",
        "resize -f foo a.qcow2 8M",
        "info -f '' a.qcow2",
        "info -f file a.qcow2",
        "map -f file a.qcow2",
        "info empty",
        "info --output=json empty",
        "check empty",
        "map empty",
        "info -f qcow2 empty",
        "info .",
        "info ''",
        "map ''",
        "info nosuch",
        "check nosuch",
        "map nosuch",
        "measure nosuch",
        "compare nosuch a.qcow2",
        "compare a.qcow2 nosuch",
        "convert -O raw nosuch out.raw",
        "resize nosuch 8M",
        "info nosuch/a.qcow2",
        "info a.qcow2/nosuch",
        "info foo:a.qcow2",
        "info file:a.qcow2",
        "info host_device:a.qcow2",
        "info -f raw /dev/null",
        "info /dev/zero",
        "info plain.raw",
        "info -f raw short",
        "map -f raw short",
        "info short",
    ];
    crate::support::suite::group("open", fixture, COMMANDS)
        .into_iter()
        .map(|case| case.with("create -f raw plain.raw 1M && truncate empty 0 && text short 0 QFI"))
        .collect()
}

const FIELDS: &[(&str, &str)] = &[
    ("nothing patched", ""),
    ("magic", "hex a.qcow2 0 51464900"),
    ("version 0", "be32 a.qcow2 4 0"),
    ("version 1", "be32 a.qcow2 4 1"),
    ("version 4", "be32 a.qcow2 4 4"),
    ("version 2^32-1", "be32 a.qcow2 4 0xffffffff"),
    ("cluster_bits 8", "be32 a.qcow2 20 8"),
    ("cluster_bits 22", "be32 a.qcow2 20 22"),
    ("cluster_bits 63", "be32 a.qcow2 20 63"),
    ("cluster_bits 2^32-1", "be32 a.qcow2 20 0xffffffff"),
    ("header_length 96", "be32 a.qcow2 100 96"),
    ("header_length 0", "be32 a.qcow2 100 0"),
    ("header_length over cluster", "be32 a.qcow2 100 65537"),
    ("header_length 104", "be32 a.qcow2 100 104"),
    ("header_length 120", "be32 a.qcow2 100 120"),
    ("header_length 504", "be32 a.qcow2 100 504"),
    ("header_length 512", "be32 a.qcow2 100 512"),
    ("backing_file_offset over cluster", "be64 a.qcow2 8 65537 && be32 a.qcow2 16 4"),
    ("backing_file_offset 2^63", "be64 a.qcow2 8 0x8000000000000000"),
    ("compression type 2", "hex a.qcow2 104 02"),
    ("compression type 2 with its bit", "hex a.qcow2 104 02 && be64 a.qcow2 72 8"),
    ("compression bit alone", "be64 a.qcow2 72 8"),
    ("compression type 1 without bit", "hex a.qcow2 104 01"),
    ("compression type 1", "hex a.qcow2 104 01 && be64 a.qcow2 72 8"),
    ("unknown incompatible bit", "be64 a.qcow2 72 0x20"),
    ("unknown incompatible bits", "be64 a.qcow2 72 0xff00000000000060"),
    (
        "named unknown incompatible bit",
        "hex a.qcow2 360 0007 && text a.qcow2 362 'time travel\\0' && be64 a.qcow2 72 0x80",
    ),
    (
        "named and unnamed unknown bits",
        "hex a.qcow2 360 0007 && text a.qcow2 362 'time travel\\0' && be64 a.qcow2 72 0x180",
    ),
    ("dirty bit", "be64 a.qcow2 72 1"),
    ("corrupt bit", "be64 a.qcow2 72 2"),
    ("dirty and corrupt", "be64 a.qcow2 72 3"),
    ("extended L2 bit on 64k", "be64 a.qcow2 72 16"),
    ("unknown compatible bit", "be64 a.qcow2 80 0x100"),
    ("lazy refcounts", "be64 a.qcow2 80 1"),
    ("unknown autoclear bit", "be64 a.qcow2 88 0x100"),
    ("bitmaps bit without bitmaps", "be64 a.qcow2 88 1"),
    ("raw external bit alone", "be64 a.qcow2 88 2"),
    ("data file bit without a name", "be64 a.qcow2 72 4"),
    (
        "data file bit and name",
        "be64 a.qcow2 72 4 && hex a.qcow2 504 4441544100000005 && text a.qcow2 512 nosuc",
    ),
];

const FIELDS_MORE: &[(&str, &str)] = &[
    ("extended L2 with small clusters", "be64 a.qcow2 72 16 && be32 a.qcow2 20 13"),
    ("refcount_order 7", "be32 a.qcow2 96 7"),
    ("refcount_order 2^32-1", "be32 a.qcow2 96 0xffffffff"),
    ("refcount_order 3", "be32 a.qcow2 96 3"),
    ("crypt_method 3", "be32 a.qcow2 32 3"),
    ("crypt_method 2 without extension", "be32 a.qcow2 32 2"),
    ("no refcount table", "be32 a.qcow2 56 0"),
    ("refcount table 129 clusters", "be32 a.qcow2 56 129"),
    ("refcount table 2^32-1 clusters", "be32 a.qcow2 56 0xffffffff"),
    ("refcount table 2 clusters", "be32 a.qcow2 56 2"),
    ("refcount table unaligned", "be64 a.qcow2 48 0x10200"),
    ("refcount table far", "be64 a.qcow2 48 0x7fffffffffff0000"),
    ("refcount table at 2^63", "be64 a.qcow2 48 0x8000000000000000"),
    ("refcount table beyond the end", "be64 a.qcow2 48 0x100000000"),
    ("refcount table at 0", "be64 a.qcow2 48 0"),
    ("refcount block unaligned", "be64 a.qcow2 0x10000 0x20200"),
    ("snapshots 65537", "be32 a.qcow2 60 65537"),
    ("snapshots 65536", "be32 a.qcow2 60 65536"),
    ("snapshots 1 at 0", "be32 a.qcow2 60 1"),
    ("snapshots offset unaligned", "be64 a.qcow2 64 0x200"),
    ("snapshots offset far", "be32 a.qcow2 60 1 && be64 a.qcow2 64 0x7fffffffffff0000"),
    ("snapshots beyond the end", "be32 a.qcow2 60 1 && be64 a.qcow2 64 0x100000000"),
    ("l1_size over limit", "be32 a.qcow2 36 4194305"),
    ("l1_size at limit", "be32 a.qcow2 36 4194304"),
    ("l1_size 2^32-1", "be32 a.qcow2 36 0xffffffff"),
    ("l1_size 0", "be32 a.qcow2 36 0"),
    ("l1_size 2", "be32 a.qcow2 36 2"),
    ("l1 offset unaligned", "be64 a.qcow2 40 0x30200"),
    ("l1 offset far", "be64 a.qcow2 40 0x7fffffffffff0000"),
    ("l1 offset 2^63", "be64 a.qcow2 40 0x8000000000000000"),
    ("l1 beyond the end", "be64 a.qcow2 40 0x100000000"),
    ("l1 at 0", "be64 a.qcow2 40 0"),
    ("size 0", "be64 a.qcow2 24 0"),
    ("size 1", "be64 a.qcow2 24 1"),
    ("size 1000", "be64 a.qcow2 24 1000"),
    ("size needs more l1", "be64 a.qcow2 24 0x40000000"),
    ("size 2^63", "be64 a.qcow2 24 0x8000000000000000"),
    ("size 2^63-1", "be64 a.qcow2 24 0x7fffffffffffffff"),
    ("size 2^64-1", "be64 a.qcow2 24 0xffffffffffffffff"),
    ("size 2^62", "be64 a.qcow2 24 0x4000000000000000"),
    ("cut to 4 bytes", "truncate a.qcow2 4"),
    ("cut to 71 bytes", "truncate a.qcow2 71"),
    ("cut to 104 bytes", "truncate a.qcow2 104"),
    ("cut to 512 bytes", "truncate a.qcow2 512"),
    ("cut before the refcount table", "truncate a.qcow2 0x10000"),
    ("cut before the refcount block", "truncate a.qcow2 0x20000"),
    ("cut before l1", "truncate a.qcow2 0x30000"),
    ("cut before l2", "truncate a.qcow2 0x40000"),
    ("cut in l2", "truncate a.qcow2 0x40008"),
    ("cut before data", "truncate a.qcow2 0x50000"),
    ("cut in data", "truncate a.qcow2 0x58000"),
    ("cut unaligned in data", "truncate a.qcow2 0x58001"),
    ("longer file", "grow a.qcow2 1000"),
];

/// The area for more extensions begins at 504, after the feature table.
const EXTENSIONS: &[(&str, &str)] = &[
    ("unknown", "hex a.qcow2 504 1234567800000005 && text a.qcow2 512 hello"),
    (
        "two unknown",
        "hex a.qcow2 504 123456780000000568656c6c6f000000 && hex a.qcow2 520 87654321000000025858000000000000",
    ),
    ("overruns the cluster", "hex a.qcow2 504 123456780000ffff"),
    ("length 2^32-1", "hex a.qcow2 504 12345678ffffffff"),
    ("reaches the end exactly", "hex a.qcow2 504 123456780000fe00"),
    ("backing format", "hex a.qcow2 504 e2792aca00000003 && text a.qcow2 512 raw"),
    ("backing format of 15", "hex a.qcow2 504 e2792aca0000000f && text a.qcow2 512 fifteenletters1"),
    ("backing format of 16", "hex a.qcow2 504 e2792aca00000010 && text a.qcow2 512 sixteenletters12"),
    ("backing format empty", "hex a.qcow2 504 e2792aca00000000"),
    ("data file name without bit", "hex a.qcow2 504 4441544100000005 && text a.qcow2 512 other"),
    (
        "crypto on plain image",
        "hex a.qcow2 504 0537be7700000010 && be64 a.qcow2 512 0x70000 && be64 a.qcow2 520 0x1000",
    ),
    ("crypto of 24", "be32 a.qcow2 32 2 && hex a.qcow2 504 0537be7700000018"),
    ("crypto unaligned", "be32 a.qcow2 32 2 && hex a.qcow2 504 0537be7700000010 && be64 a.qcow2 512 66048"),
    ("bitmaps length 16", "hex a.qcow2 504 2385287500000010"),
    ("bitmaps reserved", "be64 a.qcow2 88 1 && hex a.qcow2 504 23852875000000180000000100000001"),
    ("bitmaps none", "be64 a.qcow2 88 1 && hex a.qcow2 504 23852875000000180000000000000000"),
    ("bitmaps 65536", "be64 a.qcow2 88 1 && hex a.qcow2 504 23852875000000180001000000000000"),
    (
        "bitmaps directory unaligned",
        "be64 a.qcow2 88 1 && hex a.qcow2 504 2385287500000018000000010000000000000000000000200000000000000200",
    ),
    (
        "bitmaps directory at 0",
        "be64 a.qcow2 88 1 && hex a.qcow2 504 2385287500000018000000010000000000000000000000200000000000000000",
    ),
    (
        "bitmaps directory too big",
        "be64 a.qcow2 88 1 && hex a.qcow2 504 2385287500000018000000010000000000000000400000000000000000060000",
    ),
    (
        "bitmaps directory empty",
        "be64 a.qcow2 88 1 && hex a.qcow2 504 2385287500000018000000010000000000000000000000000000000000060000",
    ),
    (
        "bitmaps without autoclear bit",
        "hex a.qcow2 504 2385287500000018000000010000000000000000000000200000000000060000",
    ),
    ("feature table cut", "be32 a.qcow2 116 50"),
    ("feature table empty", "be32 a.qcow2 116 0"),
    (
        "feature table twice",
        "hex a.qcow2 504 6803f85700000030 && hex a.qcow2 512 0009 && text a.qcow2 514 second && be64 a.qcow2 72 0x200",
    ),
    (
        "feature name not ended",
        "be64 a.qcow2 72 0x80 && hex a.qcow2 360 0007 && text a.qcow2 362 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ),
];

/// A version 2 image has no feature bits, but may hold anything in their place.
const OLD: &[(&str, &str)] = &[
    ("nothing patched", ""),
    ("cluster_bits 22", "be32 a.qcow2 20 22"),
    ("refcount table 0", "be32 a.qcow2 56 0"),
    ("snapshots too many", "be32 a.qcow2 60 65537"),
    ("extension overruns", "hex a.qcow2 72 123456780000ffff"),
    ("unknown extension", "hex a.qcow2 72 1234567800000005 && text a.qcow2 80 hello"),
    ("backing format of 16", "hex a.qcow2 72 e2792aca00000010 && text a.qcow2 80 sixteenletters12"),
    ("bitmaps", "hex a.qcow2 72 2385287500000018000000010000000000000000000000200000000000060000"),
    ("zero flag in an entry", "or64 a.qcow2 0x40000 1"),
    ("now version 3", "be32 a.qcow2 4 3"),
    ("crypt_method 3", "be32 a.qcow2 32 3"),
    ("size 2^63", "be64 a.qcow2 24 0x8000000000000000"),
    ("l1_size 0", "be32 a.qcow2 36 0"),
];

/// Format extension at 112, name at 528 (see `BACKED`).
const BACKING: &[(&str, &str)] = &[
    ("nothing patched", ""),
    ("name too long", "be32 a.qcow2 16 1024"),
    ("name of 1023", "be32 a.qcow2 16 1023"),
    ("name length 0", "be32 a.qcow2 16 0"),
    ("name over the cluster", "be64 a.qcow2 8 65530 && be32 a.qcow2 16 8"),
    ("name with a zero byte", "hex a.qcow2 530 00"),
    ("name not UTF-8", "hex a.qcow2 530 ff"),
    ("name in the header", "be64 a.qcow2 8 4"),
    ("missing file", "text a.qcow2 528 'none'"),
    ("unknown protocol", "text a.qcow2 528 'foo:'"),
    ("format unknown", "text a.qcow2 120 foo"),
    ("format empty", "hex a.qcow2 120 000000"),
    ("wrong format", "be32 a.qcow2 116 5 && text a.qcow2 120 qcow2"),
    ("no format", "hex a.qcow2 112 12345678"),
    ("a folder", "text a.qcow2 528 './/.'"),
    ("an empty file", "truncate base 0"),
    ("a short file", "truncate base 513"),
    ("a longer file", "truncate base 6M"),
    ("base is a broken qcow2", "text base 0 'QFI' && hex base 3 fb00000009 && hex a.qcow2 112 12345678"),
];

/// One table at the place that the header names; see `SNAPSHOTS`.
const SNAPSHOT_TABLE: &[(&str, &str)] = &[
    ("nothing patched", ""),
    ("fewer", "be32 a.qcow2 60 1"),
    ("more than the table has", "be32 a.qcow2 60 3"),
    ("extra data too big", "be32 a.qcow2 0xc0024 1025"),
    ("extra data at limit", "be32 a.qcow2 0xc0024 1024"),
    ("extra data 2^32-1", "be32 a.qcow2 0xc0024 0xffffffff"),
    ("no extra data", "be32 a.qcow2 0xc0024 0"),
    ("extra data of 8", "be32 a.qcow2 0xc0024 8"),
    ("l1 unaligned", "be64 a.qcow2 0xc0000 0x80200"),
    ("l1 far", "be64 a.qcow2 0xc0000 0x7fffffffffff0000"),
    ("l1 too big", "be32 a.qcow2 0xc0008 4194305"),
    ("l1 empty", "be32 a.qcow2 0xc0008 0"),
    ("disk size 0", "be64 a.qcow2 0xc0030 0"),
    ("disk size 2^63", "be64 a.qcow2 0xc0030 0x8000000000000000"),
    ("vm state", "be32 a.qcow2 0xc0020 0x12345 && be64 a.qcow2 0xc0028 0x12345"),
    ("vm state of terabytes", "be64 a.qcow2 0xc0028 0x7fffffffffffffff"),
    ("vm clock", "be64 a.qcow2 0xc0018 3723004000000"),
    ("date 2^32-1", "be32 a.qcow2 0xc0010 0xffffffff"),
    ("icount", "be64 a.qcow2 0xc0038 1000"),
    ("icount unknown", "be64 a.qcow2 0xc0038 0xffffffffffffffff"),
    ("id length 0", "be16 a.qcow2 0xc000c 0"),
    ("name length 65535", "be16 a.qcow2 0xc000e 65535"),
    ("name with control bytes", "hex a.qcow2 0xc0041 0a09"),
];

/// The extension lies at 504, the directory and tables where `BITMAPS` says.
const BITMAP_FIELDS: &[(&str, &str)] = &[
    ("nothing patched", ""),
    ("autoclear bit off", "be64 a.qcow2 88 0"),
    ("reserved field", "be32 a.qcow2 516 1"),
    ("count 0", "be32 a.qcow2 512 0"),
    ("count 1", "be32 a.qcow2 512 1"),
    ("count 3", "be32 a.qcow2 512 3"),
    ("count 65536", "be32 a.qcow2 512 65536"),
    ("directory size 0", "be64 a.qcow2 520 0"),
    ("directory size 31", "be64 a.qcow2 520 31"),
    ("directory size 2^30", "be64 a.qcow2 520 0x40000000"),
    ("directory unaligned", "or64 a.qcow2 528 0x200"),
    ("directory at 0", "be64 a.qcow2 528 0"),
    ("directory beyond the end", "be64 a.qcow2 528 0x100000000"),
    ("in use", "be32 a.qcow2 0xd000c 3"),
    ("unknown flag", "be32 a.qcow2 0xd000c 4"),
    ("type 2", "hex a.qcow2 0xd0010 02"),
    ("granularity 8", "hex a.qcow2 0xd0011 08"),
    ("granularity 32", "hex a.qcow2 0xd0011 20"),
    ("granularity 9", "hex a.qcow2 0xd0011 09"),
    ("name length 0", "be16 a.qcow2 0xd0012 0"),
    ("name length 1024", "be16 a.qcow2 0xd0012 1024"),
    ("extra data", "be32 a.qcow2 0xd0014 8"),
    ("same names", "text a.qcow2 0xd0018 b1"),
    ("table size 0", "be32 a.qcow2 0xd0008 0"),
    ("table size 2", "be32 a.qcow2 0xd0008 2"),
    ("table size 2^32-1", "be32 a.qcow2 0xd0008 0xffffffff"),
    ("table unaligned", "or64 a.qcow2 0xd0000 0x200"),
    ("table at 0", "be64 a.qcow2 0xd0000 0"),
    ("table beyond the end", "be64 a.qcow2 0xd0000 0x100000000"),
];

const DATA_FILE_FIELDS: &[(&str, &str)] = &[
    ("nothing patched", ""),
    ("missing", "remove d.raw"),
    ("empty", "truncate d.raw 0"),
    ("longer", "truncate d.raw 8M"),
    ("raw bit", "be64 a.qcow2 88 2"),
    ("bit off", "be64 a.qcow2 72 0"),
    ("offset mismatch", "be64 a.qcow2 0x40000 0x8000000000010000"),
    ("compressed entry", "be64 a.qcow2 0x40000 0x4000000000010000"),
    ("not copied", "be64 a.qcow2 0x40000 0"),
];
