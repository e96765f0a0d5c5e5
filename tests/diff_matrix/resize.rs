//! `resize`: growing, shrinking, preallocation, and what is refused.

use crate::fixtures::{BITMAPS, CHAINS, LAYOUTS, SNAPSHOTS};
use crate::support::case::{Case, Fixture};
use crate::support::suite::group;

/// All tables of this file.
pub fn cases() -> Vec<Case> {
    let mut all = group("resize", SIMPLE, SIMPLE_SIZES);
    all.extend(group("resize", SIMPLE, PREALLOCATION).into_iter().map(Case::allocation));
    all.extend(group("resize", SIMPLE, USAGE));
    for name in [
        "plain", "v2", "c512", "c4k", "c2m", "zlib", "extz", "ext", "meta", "full", "lazy", "data", "dataraw",
    ] {
        all.extend(group(
            "resize",
            LAYOUTS,
            &[
                &format!("resize {name}.qcow2 +2M && check {name}.qcow2"),
                &format!("resize --shrink {name}.qcow2 1M && check {name}.qcow2"),
            ],
        ));
    }
    all.extend(group("resize", LAYOUTS, LAYOUT));
    all.extend(group("resize", CHAINS, CHAIN));
    all.extend(group("resize", SNAPSHOTS, SNAPSHOT));
    all.extend(group("resize", BITMAPS, SNAPSHOT));
    all
}

const SIMPLE: Fixture = Fixture {
    name: "simple",
    pick: false,
    script: "create -f raw a.raw 1M
             fill a.raw 0 64k 1
             fill a.raw 900k 4k 1
             truncate odd.raw 1025
             create -f qcow2 a.qcow2 1M
             io a.qcow2 'write -P 1 0 64k' 'write -P 2 960k 64k'
             create -f qcow2 -o cluster_size=512 c512.qcow2 1M
             io c512.qcow2 'write -P 1 0 64k' 'write -P 2 960k 64k'",
};

const SIMPLE_SIZES: &[&str] = &[
    "resize a.qcow2 2M",
    "resize a.qcow2 +1M",
    "resize a.qcow2 1M",
    "resize a.qcow2 +0",
    "resize a.qcow2 600M",
    "resize a.qcow2 1T && check a.qcow2",
    "resize a.qcow2 1P",
    "resize a.qcow2 3P",
    "resize a.qcow2 512k",
    "resize --shrink a.qcow2 512k && check a.qcow2",
    "resize --shrink a.qcow2 512 && check a.qcow2",
    "resize --shrink a.qcow2 -512k && check a.qcow2",
    "resize a.qcow2 --shrink -512k",
    "resize a.qcow2 -512k",
    "resize a.qcow2 -- -512k",
    "resize --shrink a.qcow2 -1M",
    "resize --shrink a.qcow2 -2M",
    "resize --shrink a.qcow2 0",
    "resize a.qcow2 0",
    "resize a.qcow2 +1000",
    "resize a.qcow2 1000",
    "resize --shrink a.qcow2 1000",
    "resize --shrink a.qcow2 70000",
    "resize --shrink a.qcow2 70144",
    "resize a.qcow2 +8E",
    "resize a.qcow2 9223372036854775807",
    "resize a.qcow2 +9223372036854775807",
    "resize a.qcow2 16E",
    "resize a.qcow2 foo",
    "resize a.qcow2 ''",
    "resize a.qcow2 +",
    "resize a.qcow2 ++1M",
    "resize a.qcow2 +-1M",
    "resize a.qcow2 1.5",
    "resize a.qcow2 1.5M",
    "resize a.qcow2 0x200000",
    "resize a.qcow2 +0x100000",
    "resize a.qcow2 ' 2M'",
    "resize a.qcow2 2MB",
    "resize c512.qcow2 2M && check c512.qcow2",
    "resize c512.qcow2 1G && check c512.qcow2",
    "resize c512.qcow2 200G",
    "resize --shrink c512.qcow2 100k && check c512.qcow2",
    "resize --shrink c512.qcow2 100k && resize c512.qcow2 1M && check c512.qcow2 && map c512.qcow2",
    "resize --shrink a.qcow2 64k && resize a.qcow2 1M && map a.qcow2 && check a.qcow2",
    "resize -f raw a.raw 2M",
    "resize -f raw a.raw +1",
    "resize -f raw a.raw +513",
    "resize a.raw 2M",
    "resize a.raw +0",
    "resize -f raw a.raw 512k",
    "resize -f raw --shrink a.raw 512k",
    "resize -f raw --shrink a.raw 1000",
    "resize -f raw --shrink a.raw -1M",
    "resize -f raw --shrink a.raw 0",
    "resize -f raw a.raw 8E",
    "resize -f raw a.raw 9223372036854775807",
    "resize -f raw a.raw 4E",
    "resize -f raw odd.raw 2000",
    "resize -f raw odd.raw +1",
    "resize -f raw odd.raw +1k",
    "resize -f raw --shrink odd.raw 600",
    "resize -f raw odd.raw 1026",
    "resize -f raw odd.raw 1025",
    "resize -q a.qcow2 2M",
    "resize -q a.qcow2 512k",
    "resize -q a.raw 2M",
    "resize -q --shrink a.qcow2 512k",
    "resize -f qcow2 a.raw 2M",
    "resize -f raw a.qcow2 +1M",
];

const PREALLOCATION: &[&str] = &[
    "resize --preallocation off a.qcow2 2M",
    "resize --preallocation=metadata a.qcow2 2M && check a.qcow2 && map --output=json a.qcow2",
    "resize --preallocation=falloc a.qcow2 2M && check a.qcow2",
    "resize --preallocation=full a.qcow2 2M && check a.qcow2",
    "resize --preallocation=metadata a.qcow2 600M && check a.qcow2",
    "resize --preallocation=falloc a.qcow2 +64M && check a.qcow2",
    "resize --preallocation=metadata c512.qcow2 8M && check c512.qcow2",
    "resize --preallocation=full c512.qcow2 4M && check c512.qcow2",
    "resize --preallocation=metadata a.qcow2 +0",
    "resize --preallocation=metadata --shrink a.qcow2 512k",
    "resize --preallocation=off --shrink a.qcow2 512k",
    "resize --preallocation=full a.qcow2 512k",
    "resize --preallocation=foo a.qcow2 2M",
    "resize --preallocation= a.qcow2 2M",
    "resize --preallocation",
    "resize -f raw --preallocation=falloc a.raw 2M",
    "resize -f raw --preallocation=full a.raw 2M",
    "resize -f raw --preallocation=metadata a.raw 2M",
    "resize -f raw --preallocation=off a.raw 2M",
    "resize -f raw --preallocation=full --shrink a.raw 512k",
    "resize -f raw --preallocation=full odd.raw 5000",
];

const USAGE: &[&str] = &[
    "resize",
    "resize a.qcow2",
    "resize 2M",
    "resize a.qcow2 2M extra",
    "resize a.qcow2 2M 3M",
    "resize -f",
    "resize --nosuch a.qcow2 2M",
    "resize -z a.qcow2 2M",
    "resize -f qcow2 -q --shrink a.qcow2 512k",
    "resize --image-opts driver=qcow2,file.filename=a.qcow2 2M",
    "resize --image-opts file.filename=a.raw 2M",
    "resize --image-opts driver=raw,offset=4k,file.filename=a.raw 2M",
    "resize --image-opts driver=raw,size=512k,file.filename=a.raw 2M",
    "resize --image-opts driver=raw,size=512k,offset=64k,file.filename=a.raw 2M",
    "resize --image-opts driver=qcow2,file.filename=a.qcow2,read-only=on 2M",
    "resize --image-opts -f qcow2 a.qcow2 2M",
    "resize 'json:{\"driver\":\"qcow2\",\"file.filename\":\"a.qcow2\"}' 2M",
    "resize --object secret,id=x a.qcow2 2M",
    "resize nosuch 2M",
    "resize . 2M",
    "resize '' 2M",
    "resize null-co:// 2M",
    "resize a.qcow2 -f qcow2 2M",
    "resize -U a.qcow2 2M",
];

const LAYOUT: &[&str] = &[
    "resize sparse.qcow2 2T && check sparse.qcow2",
    "resize --shrink sparse.qcow2 1G && check sparse.qcow2",
    "resize --shrink sparse.qcow2 32k && check sparse.qcow2",
    "resize zero.qcow2 1M && check zero.qcow2",
    "resize tiny.qcow2 1M && check tiny.qcow2",
    "resize tiny.qcow2 +1M",
    "resize --preallocation=metadata tiny.qcow2 1M && check tiny.qcow2",
    "resize --preallocation=metadata v2.qcow2 8M && check v2.qcow2",
    "resize --preallocation=metadata ext.qcow2 8M && check ext.qcow2",
    "resize --preallocation=falloc data.qcow2 8M && check data.qcow2",
    "resize --preallocation=full dataraw.qcow2 8M && check dataraw.qcow2",
    "resize --preallocation=falloc c4k.qcow2 64M && check c4k.qcow2",
    "resize --shrink zstd.qcow2 1M && check zstd.qcow2",
    "resize --shrink zlib.qcow2 1088k && check zlib.qcow2 && map zlib.qcow2",
    "resize empty.raw 1M",
    "resize -f raw empty.raw 1M",
    "resize -f raw hole.raw +1M",
];

const CHAIN: &[&str] = &[
    "resize top.qcow2 8M && map top.qcow2",
    "resize --shrink top.qcow2 1M && map top.qcow2",
    "resize shorter.qcow2 2M && map --output=json shorter.qcow2",
    "resize shorter.qcow2 128k && map --output=json shorter.qcow2",
    "resize shorter.qcow2 96512 && map --output=json shorter.qcow2",
    "resize bigover.qcow2 16M && map --output=json bigover.qcow2",
    "resize v2over.qcow2 4M && map --output=json v2over.qcow2",
    "resize extover.qcow2 4M && map --output=json extover.qcow2",
    "resize --preallocation=metadata top.qcow2 8M",
    "resize --preallocation=metadata extover.qcow2 4M && map --output=json extover.qcow2",
    "resize base.raw 4M",
    "resize missing.qcow2 8M",
    "resize wrong.qcow2 8M",
    "resize badfmt.qcow2 8M",
    "resize noformatraw.qcow2 8M",
];

const SNAPSHOT: &[&str] = &[
    "resize a.qcow2 8M && check a.qcow2 && info a.qcow2",
    "resize a.qcow2 600M && check a.qcow2",
    "resize --shrink a.qcow2 1M && check a.qcow2 && info a.qcow2",
    "resize --preallocation=metadata a.qcow2 8M && check a.qcow2",
];
