//! `compare`: equal and different images, sizes, strict mode, and what can't be opened.

use crate::fixtures::{BITMAPS, CHAINS, LAYOUTS, SNAPSHOTS};
use crate::support::case::{Case, Fixture};
use crate::support::suite::group;

/// All tables of this file.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for name in ["plain", "v2", "c512", "c4k", "c2m", "zlib", "zstd", "extz"] {
        all.extend(group("compare", LAYOUTS, &[&format!("compare data.raw {name}.qcow2")]));
    }
    all.extend(group("compare", LAYOUTS, LAYOUT));
    all.extend(group("compare", CHAINS, CHAIN));
    all.extend(group("compare", DIFFERENT, DIFFERENCES));
    all.extend(group("compare", SNAPSHOTS, &["compare a.qcow2 a.qcow2"]));
    all.extend(group("compare", BITMAPS, &["compare -s a.qcow2 a.qcow2"]));
    all.extend(group("compare", LAYOUTS, PROGRESS).into_iter().map(Case::progress));
    all
}

/// Raw files that differ from `a` in one way each, and `q`, its copy.
const DIFFERENT: Fixture = Fixture {
    name: "different",
    pick: false,
    script: "truncate a 1M
             fill a 0 64k 1
             fill a 512k 4k 2
             img convert -f raw -O qcow2 a q
             copy a first
             fill first 0 1 9
             copy a second
             fill second 1 1 9
             copy a sector
             fill sector 512 1 9
             copy a sector1023
             fill sector1023 1023 1 9
             copy a page
             fill page 4096 1 9
             copy a mid
             fill mid 524300 1 9
             copy a last
             fill last 1048575 1 9
             copy a hole
             fill hole 700k 1 9
             copy a longer
             truncate longer 2M
             copy longer longerdata
             fill longerdata 1536k 1 7
             copy a odd
             truncate odd 1048577
             copy a odd0
             truncate odd0 1048676
             fill odd0 1048600 1 7
             truncate empty 0
             truncate zeros 1M
             fill zeros 0 1M 0
             truncate holes 1M
             img convert -f raw -O qcow2 longerdata longer.qcow2
             img convert -f raw -O qcow2 -c mid mid.qcow2
             create -f qcow2 blank.qcow2 1M
             create -f qcow2 z.qcow2 1M
             io z.qcow2 'write -z 0 1M'
             create -f qcow2 -o preallocation=metadata pre.qcow2 1M
             create -f qcow2 bad.qcow2 1M
             be32 bad.qcow2 4 9
             create -f qcow2 badl2.qcow2 1M
             io badl2.qcow2 'write 0 64k'
             be64 badl2.qcow2 0x40000 0x8000000000050200",
};

const DIFFERENCES: &[&str] = &[
    "compare a a",
    "compare a q",
    "compare q a",
    "compare -s a q",
    "compare a first",
    "compare a second",
    "compare a sector",
    "compare a sector1023",
    "compare a page",
    "compare a mid",
    "compare q mid.qcow2",
    "compare mid mid.qcow2",
    "compare a last",
    "compare a hole",
    "compare hole a",
    "compare q hole",
    "compare -s a mid",
    "compare -q a mid",
    "compare -q a a",
    "compare a longer",
    "compare longer a",
    "compare -s a longer",
    "compare -q a longer",
    "compare -q -s a longer",
    "compare a longerdata",
    "compare longerdata a",
    "compare a longer.qcow2",
    "compare longer.qcow2 a",
    "compare -s a longerdata",
    "compare a odd",
    "compare -s a odd",
    "compare a odd0",
    "compare odd odd0",
    "compare empty a",
    "compare a empty",
    "compare empty empty",
    "compare empty holes",
    "compare -s empty holes",
    "compare zeros holes",
    "compare -s zeros holes",
    "compare blank.qcow2 zeros",
    "compare -s blank.qcow2 zeros",
    "compare blank.qcow2 z.qcow2",
    "compare -s blank.qcow2 z.qcow2",
    "compare -s blank.qcow2 holes",
    "compare -s pre.qcow2 blank.qcow2",
    "compare pre.qcow2 blank.qcow2",
    "compare a bad.qcow2",
    "compare bad.qcow2 a",
    "compare bad.qcow2 bad.qcow2",
    "compare badl2.qcow2 blank.qcow2",
    "compare blank.qcow2 badl2.qcow2",
    "compare -f raw -F raw a q",
    "compare -f raw -F qcow2 a q",
    "compare -f qcow2 -F qcow2 a q",
    "compare -f qcow2 a q",
    "compare -F raw a q",
    "compare -F foo a q",
    "compare -f foo a q",
    "compare",
    "compare a",
    "compare a q mid",
    "compare -s",
    "compare -T none a a",
    "compare -T writethrough a a",
    "compare -T unsafe a a",
    "compare -T directsync a q",
    "compare -T foo a a",
    "compare -T '' a a",
    "compare -T",
    "compare -U a q",
    "compare --force-share a q",
    "compare --strict a longer",
    "compare --image-opts driver=raw,file.filename=a driver=qcow2,file.filename=q",
    "compare --image-opts -f raw a q",
    "compare --image-opts -F raw a q",
    "compare --image-opts driver=raw,file.filename=a q",
    "compare --image-opts driver=raw,offset=4k,file.filename=a driver=raw,offset=4k,file.filename=a",
    "compare --image-opts driver=raw,offset=4k,file.filename=a driver=qcow2,file.filename=q",
    "compare 'json:{\"driver\":\"raw\",\"file.filename\":\"a\"}' q",
    "compare --nosuch a q",
    "compare --object secret,id=x a q",
    "compare nosuch a",
    "compare a nosuch",
    "compare nosuch1 nosuch2",
    "compare . a",
    "compare a .",
    "compare null-co:// null-co://",
    "compare a null-co://",
];

const LAYOUT: &[&str] = &[
    "compare ext.qcow2 data.raw",
    "compare -s data.raw plain.qcow2",
    "compare -s data.raw zlib.qcow2",
    "compare -s v2.qcow2 c512.qcow2",
    "compare meta.qcow2 full.qcow2",
    "compare -s hole.raw full.qcow2",
    "compare data.qcow2 dataraw.qcow2",
    "compare dataraw.qcow2 dataraw.qcow2.d",
    "compare -s data.qcow2 dataraw.qcow2",
    "compare odd.raw zero.qcow2",
    "compare zero.qcow2 empty.raw",
    "compare tiny.qcow2 hole.raw",
    "compare sparse.qcow2 sparse.qcow2",
    "compare sparse.qcow2 lazy.qcow2",
];

const CHAIN: &[&str] = &[
    "compare top.qcow2 top.qcow2",
    "compare top.qcow2 mid.qcow2",
    "compare mid.qcow2 base.qcow2",
    "compare onraw.qcow2 base.raw",
    "compare shorter.qcow2 base.raw",
    "compare -s shorter.qcow2 base.raw",
    "compare base.raw byproto.qcow2",
    "compare down.qcow2 base.qcow2",
    "compare down.qcow2 noformat.qcow2",
    "compare missing.qcow2 base.raw",
    "compare base.raw missing.qcow2",
    "compare wrong.qcow2 base.raw",
    "compare badfmt.qcow2 base.raw",
    "compare -U top.qcow2 mid.qcow2",
];

const PROGRESS: &[&str] = &[
    "compare -p data.raw plain.qcow2",
    "compare -p data.raw ext.qcow2",
    "compare -p -q data.raw plain.qcow2",
];
