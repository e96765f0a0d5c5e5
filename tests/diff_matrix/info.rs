//! `info`: every layout in text and JSON, chains, snapshots, bitmaps, odd names.

use crate::fixtures::{BITMAPS, CHAINS, LAYOUTS, SNAPSHOTS, V3};
use crate::support::case::Case;
use crate::support::suite::group;

/// All tables of this file.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for name in IMAGES {
        all.extend(group("info", LAYOUTS, &[&format!("info {name} && info --output=json {name}")]));
    }
    for name in OVERLAYS {
        all.extend(group("info", CHAINS, &[&format!("info {name} && info --output=json {name}")]));
        all.extend(group("info chain", CHAINS, &[&format!("info --backing-chain {name}")]));
    }
    all.extend(group("info chain", CHAINS, CHAIN_MORE));
    all.extend(group("info options", V3, OPTIONS));
    all.extend(group("info", SNAPSHOTS, &["info a.qcow2", "info --output=json a.qcow2"]));
    all.extend(group("info", BITMAPS, &["info a.qcow2", "info --output=json a.qcow2"]));
    for (what, name) in ODD_NAMES {
        let commands = format!("info \"{name}\" && info --output=json \"{name}\" && map \"{name}\"");
        all.push(
            Case::new(format!("info/name/{what}"), V3, &commands).with(&format!("move a.qcow2 \"{name}\"")),
        );
    }
    for (what, changes) in SNAPSHOT_FIELDS {
        let case = Case::new(
            format!("info/snapshots/{what}"),
            SNAPSHOTS,
            "info a.qcow2 && info --output=json a.qcow2",
        );
        all.push(case.with(changes));
    }
    all
}

/// The images of `LAYOUTS`.
pub const IMAGES: &[&str] = &[
    "data.raw",
    "odd.raw",
    "empty.raw",
    "hole.raw",
    "plain.qcow2",
    "v2.qcow2",
    "c512.qcow2",
    "c4k.qcow2",
    "c2m.qcow2",
    "zlib.qcow2",
    "zstd.qcow2",
    "extz.qcow2",
    "ext.qcow2",
    "meta.qcow2",
    "full.qcow2",
    "lazy.qcow2",
    "data.qcow2",
    "dataraw.qcow2",
    "sparse.qcow2",
    "zero.qcow2",
    "tiny.qcow2",
];

/// The overlays of `CHAINS`, the broken ones too. Those that refer to themselves are only asked for their `info`:
/// qemu-img opens them until it runs out of file descriptors.
pub const OVERLAYS: &[&str] = &[
    "base.qcow2",
    "mid.qcow2",
    "top.qcow2",
    "onraw.qcow2",
    "shorter.qcow2",
    "extover.qcow2",
    "bigover.qcow2",
    "v2over.qcow2",
    "sub/up.qcow2",
    "down.qcow2",
    "dotted.qcow2",
    "byproto.qcow2",
    "noformat.qcow2",
    "noformatraw.qcow2",
    "missing.qcow2",
    "missing2.qcow2",
    "wrong.qcow2",
    "asraw.qcow2",
    "badfmt.qcow2",
    "badproto.qcow2",
    "viajson.qcow2",
    "viaoffset.qcow2",
    "sub/totop",
    "totop",
    "other/lonely.qcow2",
];

const CHAIN_MORE: &[&str] = &[
    "info loop.qcow2",
    "info loopa.qcow2",
    "info --backing-chain loop.qcow2",
    "info --backing-chain loopa.qcow2",
    "info --backing-chain --output=json loopa.qcow2",
    "info --backing-chain --output=json top.qcow2",
    "info --backing-chain --output=json down.qcow2",
    "info --backing-chain --output=json missing2.qcow2",
    "info --backing-chain --output=json base.raw",
    "info --backing-chain base.raw",
    "info --backing-chain -f qcow2 top.qcow2",
    "info --backing-chain -f raw top.qcow2",
    "info --backing-chain $DIR/top.qcow2",
    "info --backing-chain $DIR/sub/up.qcow2",
    "info --backing-chain ./top.qcow2",
    "info --backing-chain sub/../top.qcow2",
    "info -b top.qcow2",
    "info -bU top.qcow2",
    "info --backing-chain -U top.qcow2",
    "info --backing-chain file:top.qcow2",
    "info --backing-chain --image-opts driver=qcow2,file.filename=top.qcow2",
    "info --backing-chain 'json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"top.qcow2\"}}'",
];

const OPTIONS: &[&str] = &[
    "info",
    "info a.qcow2 extra",
    "info -f",
    "info -f qcow2",
    "info --output",
    "info --output=xml a.qcow2",
    "info --output xml a.qcow2",
    "info --output= a.qcow2",
    "info --output=human a.qcow2",
    "info --output json a.qcow2",
    "info --out=json a.qcow2",
    "info --output=JSON a.qcow2",
    "info --output=json --output=human a.qcow2",
    "info -U a.qcow2",
    "info --force-share a.qcow2",
    "info -f qcow2 -U --output=json a.qcow2",
    "info -q a.qcow2",
    "info -z a.qcow2",
    "info --nosuch a.qcow2",
    "info a.qcow2 -f qcow2",
    "info -- a.qcow2",
    "info --object secret,id=x,data=y a.qcow2",
    "info --object nosuch,id=x a.qcow2",
    "info --object secret a.qcow2",
    "info --object id=x a.qcow2",
    "info --format qcow2 --image-opts driver=qcow2,file.filename=a.qcow2",
    "info --image-opts -f qcow2 a.qcow2",
    "info $DIR/a.qcow2",
    "info ./a.qcow2",
    "info .//a.qcow2",
    "info -f qcow2 -f raw a.qcow2",
    "info -r a.qcow2",
    "info --limits a.qcow2",
];

/// Names that need care in a protocol, in JSON or on a terminal.
const ODD_NAMES: &[(&str, &str)] = &[
    ("space", "with space.qcow2"),
    ("colon", "./co:lon.qcow2"),
    ("colon without folder", "co:lon.qcow2"),
    ("comma", "com,ma.qcow2"),
    ("quote", "quo'te.qcow2"),
    ("backslash", "back\\slash.qcow2"),
    ("equals", "a=b.qcow2"),
    ("percent", "100%s.qcow2"),
    ("utf-8", "größe-日本.qcow2"),
    ("beyond the basic plane", "😀.qcow2"),
    ("tab", "ta\tb.qcow2"),
    ("json", "json.qcow2"),
    ("json prefix", "json:{}"),
    ("dash", "./-f.qcow2"),
    ("dmg", "a.dmg"),
    (
        "long",
        "loooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooong",
    ),
];

const SNAPSHOT_FIELDS: &[(&str, &str)] = &[
    ("vm state 1", "be32 a.qcow2 0xc0020 1 && be64 a.qcow2 0xc0028 1"),
    ("vm state 1023", "be64 a.qcow2 0xc0028 1023"),
    ("vm state 1024", "be64 a.qcow2 0xc0028 1024"),
    ("vm state 1.5M", "be64 a.qcow2 0xc0028 1572864"),
    ("vm state 10G", "be64 a.qcow2 0xc0028 0x280000000"),
    ("vm state 999.95k", "be64 a.qcow2 0xc0028 1023949"),
    ("clock 1 ms", "be64 a.qcow2 0xc0018 1000000"),
    ("clock 100 h", "be64 a.qcow2 0xc0018 360000000000000"),
    ("clock 10000 h", "be64 a.qcow2 0xc0018 36000000000000000"),
    ("clock 2^64-1", "be64 a.qcow2 0xc0018 0xffffffffffffffff"),
    ("date nanoseconds", "be32 a.qcow2 0xc0014 123456789"),
    ("date 0", "be32 a.qcow2 0xc0010 0"),
    ("date 2^31", "be32 a.qcow2 0xc0010 0x80000000"),
    ("icount", "be64 a.qcow2 0xc0038 1234567890123"),
];
