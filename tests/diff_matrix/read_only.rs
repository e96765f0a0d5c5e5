//! bochs, cloop and dmg, which are only read: every command on an image of each, and damage.

use crate::support::case::{Case, Files, Fixture};
use crate::support::suite::{Accepted, group, patched};

/// Names of formats, with their images.
const IMAGES: &[(&str, &[&str])] =
    &[("bochs", &["a.bochs", "b.bochs"]), ("cloop", &["a.cloop"]), ("dmg", &["a.dmg", "b.dmg"])];

const FIXTURE: Fixture = Fixture {
    name: "images",
    pick: true,
    script: "sample a.bochs bochs
             sample b.bochs bochs1
             sample a.cloop cloop
             sample a.dmg dmg
             sample b.dmg dmg-fork
             truncate s.raw 64k
             fill s.raw 0 5000 0x11",
};

/// `@` is the image, `$F` its format.
const EACH: &[&str] = &[
    "info @",
    "info -f $F @",
    "info --output=json -f $F @",
    "info --backing-chain -f $F @",
    "info --image-opts driver=$F,file.driver=file,file.filename=@",
    "info --image-opts driver=$F,file.filename=@,foo=1",
    "info --image-opts driver=$F,file.filename=@,read-only=off",
    "info --image-opts driver=$F,file.filename=@,auto-read-only=on",
    "map -f $F @",
    "map --output=json -f $F @",
    "map --output=json -s 4k -l 9k -f $F @",
    "check -f $F @",
    "check --output=json -f $F @",
    "check -r all -f $F @",
    "measure -f $F -O qcow2 @",
    "measure --output=json -f $F -O raw @",
    "convert @ -O raw out.raw",
    "convert -f $F @ -O raw out.raw",
    "convert -f $F -S 0 @ -O raw out.raw",
    "convert -m 4 -W -f $F @ -O qcow2 out.qcow2",
    "convert -c -f $F @ -O qcow2 out.qcow2",
    "convert -f $F @ s.raw -O raw out.raw",
    "convert -f $F -r 1M @ -O raw out.raw",
    "convert -f raw s.raw -O $F out.$F",
    "convert -n -f raw s.raw -O $F @",
    "convert -f $F @ -O raw out.raw && compare -f $F -F raw @ out.raw",
    "convert -f $F @ -O raw out.raw && compare -s -f raw -F $F out.raw @",
    "compare -f $F @ s.raw",
    "compare -f $F -F $F @ @",
    "dd -f $F -O raw bs=1k skip=3 count=9 if=@ of=out.raw",
    "create -f $F n.$F 1M",
    "create -f $F @ 1M",
    "create -f $F -o help",
    "convert -O $F -o help",
    "create -f qcow2 -b @ -F $F out.qcow2",
    "create -f qcow2 -b @ -F $F out.qcow2 && map --output=json out.qcow2 && convert out.qcow2 -O raw out.raw",
    "create -f qcow2 -b @ -F $F out.qcow2 && commit out.qcow2",
    "create -f qcow2 -b @ -F $F out.qcow2 && rebase -b '' out.qcow2 && check out.qcow2",
    "create -f qcow2 -b @ -F $F out.qcow2 && info --backing-chain --output=json out.qcow2",
    "resize -f $F @ 1M",
    "resize -f $F --shrink @ 512",
    "resize -f $F @ +1M",
    "amend -f $F -o size=1M @",
    "amend -f $F -o help",
    "snapshot -l @",
    "snapshot -c s @",
    "snapshot -a s @",
    "snapshot -d s @",
    "bitmap -f $F --add @ b",
    "rebase -u -f $F -b s.raw -F raw @",
    "rebase -f $F -b s.raw -F raw @",
    "commit -f $F @",
];

/// What is done with a damaged image.
const LOOKS: &str = "info -f $F @ && map --output=json -f $F @ && convert -f $F @ -O raw out.raw";

const BOCHS: &[(&str, &str)] = &[
    ("magic", "hex @ 0 00"),
    ("type", "hex @ 32 00"),
    ("subtype", "hex @ 48 00"),
    ("version", "hex @ 64 00000300"),
    ("header size", "hex @ 68 00000000"),
    ("large header", "hex @ 68 ffffffff"),
    ("no extents", "hex @ 72 00000000"),
    ("too few extents", "hex @ 72 06000000"),
    ("many extents", "hex @ 72 01001000"),
    ("extents beyond count", "hex @ 72 ffffffff"),
    ("large bitmap", "hex @ 76 ffffffff"),
    ("no extent size", "hex @ 80 00000000"),
    ("small extents", "hex @ 80 00010000"),
    ("odd extents", "hex @ 80 00030000"),
    ("large extents", "hex @ 80 00008000"),
    ("huge extents", "hex @ 80 00000001"),
    ("no disk", "hex @ 88 0000000000000000"),
    ("odd disk", "hex @ 88 01100000"),
    ("large disk", "hex @ 88 00000000000000ff"),
    ("greatest disk", "hex @ 88 ffffffffffffffff"),
    ("an extent behind the end", "hex @ 520 07000000"),
    ("an extent far away", "hex @ 520 feffffff"),
    ("cut in the extents", "truncate @ 6000"),
    ("cut in the catalog", "truncate @ 520"),
    ("cut in the header", "truncate @ 200"),
    ("nothing left", "truncate @ 0"),
];

const CLOOP: &[(&str, &str)] = &[
    ("magic", "hex @ 0 00"),
    ("no block size", "be32 @ 128 0"),
    ("odd block size", "be32 @ 128 4097"),
    ("small blocks", "be32 @ 128 512"),
    ("large blocks", "be32 @ 128 0x4000000"),
    ("too large blocks", "be32 @ 128 0x4000200"),
    ("huge blocks", "be32 @ 128 0xfffffe00"),
    ("no blocks", "be32 @ 132 0"),
    ("more blocks", "be32 @ 132 7"),
    ("many blocks", "be32 @ 132 0x10000000"),
    ("most blocks", "be32 @ 132 0xffffffff"),
    ("an offset too small", "be64 @ 152 0"),
    ("an offset too large", "be64 @ 152 0x7fffffff00000000"),
    ("offsets swapped", "be64 @ 152 9000"),
    ("the last offset behind the end", "be64 @ 184 0x7000"),
    ("a broken block", "hex @ 4500 ffffffffffffffff"),
    ("a broken sum", "hex @ 4297 ffff"),
    ("no zlib", "hex @ 192 ffff"),
    ("cut in the blocks", "truncate @ 9000"),
    ("cut in the offsets", "truncate @ 150"),
    ("cut in the header", "truncate @ 130"),
    ("nothing left", "truncate @ 0"),
];

/// On `b.dmg`, whose tables stand in a fork.
const DMG: &[(&str, &str)] = &[
    ("trailer", "hex @ 40960 00"),
    ("a fork behind the end", "be64 @ 0xa028 0xa200"),
    ("a fork far away", "be64 @ 0xa028 0x7fffffff00000000"),
    ("no fork", "be64 @ 0xa030 0"),
    ("a long fork", "be64 @ 0xa030 0x7fffffff00000000"),
    ("a short fork", "be64 @ 0xa030 100"),
    ("first resource", "be32 @ 0x8000 0"),
    ("resources far away", "be32 @ 0x8000 0xffffffff"),
    ("no resources", "be32 @ 0x8008 0"),
    ("long resources", "be32 @ 0x8008 0xffffffff"),
    ("short resources", "be32 @ 0x8008 250"),
    ("no table", "be32 @ 0x8100 0"),
    ("a long table", "be32 @ 0x8100 0x7fffffff"),
    ("a short table", "be32 @ 0x8100 300"),
    ("not mish", "hex @ 0x8104 00"),
    ("first sector", "be64 @ 0x810c 7"),
    ("first sector far away", "be64 @ 0x810c 0x7fffffff00000000"),
    ("data offset", "be64 @ 0x811c 7"),
    ("data offset far away", "be64 @ 0x811c 0x7fffffff00000000"),
    ("chunks of the table", "be32 @ 0x81cc 0xffffffff"),
    ("type of a chunk", "be32 @ 0x81d0 0x12345678"),
    ("comment", "be32 @ 0x81d0 0x7ffffffe"),
    ("types of chunks", "be32 @ 0x81d0 0x12345678 && be32 @ 0x81f8 0x23456789"),
    ("zlib instead of raw", "be32 @ 0x81d0 0x80000005"),
    ("sector of a chunk", "be64 @ 0x81d8 8"),
    ("sector of a chunk far away", "be64 @ 0x81d8 0x7fffffff00000000"),
    ("no sectors", "be64 @ 0x81e0 0"),
    ("more sectors", "be64 @ 0x81e0 17"),
    ("many sectors", "be64 @ 0x81e0 131073"),
    ("most sectors", "be64 @ 0x81e0 0x7fffffffffffffff"),
    ("offset of a chunk", "be64 @ 0x81e8 100"),
    ("offset of a chunk far away", "be64 @ 0x81e8 0x7fffffff00000000"),
    ("length of a chunk", "be64 @ 0x81f0 100"),
    ("long chunk", "be64 @ 0x81f0 67108865"),
    ("longest chunk", "be64 @ 0x81f0 0x7fffffffffffffff"),
    ("sectors of zlib", "be64 @ 0x8208 15"),
    ("length of zlib", "be64 @ 0x8218 100"),
    ("a broken chunk", "hex @ 9000 ffffffffffffffffffff"),
    ("sectors of zeros", "be64 @ 0x8230 0x100000"),
    ("all sectors of zeros", "be64 @ 0x8230 0x7fffffffffffffff"),
    ("sectors of the disk", "be64 @ 0xa1ec 9"),
    ("more sectors of the disk", "be64 @ 0xa1ec 900"),
    ("cut in the trailer", "truncate @ 41300"),
    ("behind the trailer", "grow @ 512"),
    ("far behind the trailer", "grow @ 700"),
    ("nothing left", "truncate @ 0"),
];

/// On `a.dmg`, whose tables stand in a list.
const DMG_LIST: &[(&str, &str)] = &[
    ("a list behind the end", "be64 @ 0xa0d8 0xa200"),
    ("a list far away", "be64 @ 0xa0d8 0x7fffffff00000000"),
    ("no list", "be64 @ 0xa0e0 0"),
    ("a long list", "be64 @ 0xa0e0 0x7fffffff00000000"),
    ("a short list", "be64 @ 0xa0e0 300"),
    ("no base64", "hex @ 0x8070 2a2a2a2a"),
    ("no end", "be64 @ 0xa0e0 0x150"),
];

/// Differences that are meant; see `docs/COMPATIBILITY.md`.
pub const ACCEPTED: &[Accepted] = &[
    reopening("read_only/images: create -f qcow2 -b a.bochs -F bochs out.qcow2 && commit out.qcow2"),
    reopening("read_only/images: create -f qcow2 -b b.bochs -F bochs out.qcow2 && commit out.qcow2"),
    reopening("read_only/images: create -f qcow2 -b a.cloop -F cloop out.qcow2 && commit out.qcow2"),
    reopening("read_only/images: create -f qcow2 -b a.dmg -F dmg out.qcow2 && commit out.qcow2"),
    reopening("read_only/images: create -f qcow2 -b b.dmg -F dmg out.qcow2 && commit out.qcow2"),
    first_byte("read_only damaged/a.cloop/images/offsets swapped"),
    first_byte("read_only damaged/a.cloop/images/a broken block"),
    first_byte("read_only damaged/a.cloop/images/cut in the blocks"),
    first_byte("read_only damaged/b.dmg/images/data offset"),
    first_byte("read_only damaged/b.dmg/images/data offset far away"),
    first_byte("read_only damaged/b.dmg/images/length of zlib"),
    first_byte("read_only damaged/b.dmg/images/sectors of zlib"),
    first_byte("read_only damaged/b.dmg/images/a broken chunk"),
    first_byte("read_only damaged/b.dmg/images/more sectors of the disk"),
    Accepted {
        case: "read_only damaged/b.dmg/images/more sectors",
        what: &["bytes"],
        reason: "dmg: chunks that overlap",
    },
];

const fn reopening(case: &'static str) -> Accepted {
    Accepted { case, what: &["stderr"], reason: "`commit` into a format that is only read" }
}

const fn first_byte(case: &'static str) -> Accepted {
    Accepted {
        case,
        what: &["stderr"],
        reason: "`convert` of an image in a format that is only read, which is damaged",
    }
}

/// All tables of this file.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (format, images) in IMAGES {
        for (number, image) in images.iter().enumerate() {
            // A line without an image is asked once for each format.
            for line in EACH.iter().filter(|line| number == 0 || line.contains('@')) {
                let line = line.replace('@', image).replace("$F", format);
                all.extend(
                    group("read_only", FIXTURE, &[&line]).into_iter().map(|case| compared(case, &line)),
                );
            }
        }
    }
    for (format, image, damage) in [
        ("bochs", "a.bochs", BOCHS),
        ("cloop", "a.cloop", CLOOP),
        ("dmg", "b.dmg", DMG),
        ("dmg", "a.dmg", DMG_LIST),
    ] {
        let looks = LOOKS.replace('@', image).replace("$F", format);
        let changes: Vec<_> =
            damage.iter().map(|(what, change)| (*what, change.replace('@', image))).collect();
        let changes: Vec<_> = changes.iter().map(|(what, change)| (*what, change.as_str())).collect();
        all.extend(patched(&format!("read_only damaged/{image}"), FIXTURE, &looks, &changes));
    }
    all
}

/// A conversion may place clusters as it likes.
fn compared(case: Case, line: &str) -> Case {
    let compressed = line.contains(" -c ");
    if compressed { case.files(Files::AnyLength) } else { case.files(Files::Images) }
}
