//! `convert`: targets that exist, what is refused, wrong command lines, sources that can't be read.

use crate::convert::images;
use crate::fixtures::{SOURCE, V3};
use crate::support::case::{Case, Files, Fixture};
use crate::support::suite::group;

/// All tables of this file.
pub fn cases() -> Vec<Case> {
    let mut all = images(Files::Images, group("convert", SOURCE, EXISTING));
    all.extend(images(Files::Images, group("convert", SOURCE, REFUSED)));
    all.extend(images(Files::Images, group("convert", SOURCE, USAGE)));
    all.extend(group("convert", BROKEN, DAMAGED));
    all.extend(images(Files::Images, group("convert", V3, ONTO_ITSELF)));
    all
}

const EXISTING: &[&str] = &[
    "convert -n s.raw other.raw",
    "convert -n -O raw other.raw s.raw",
    "convert -n -O qcow2 s.raw big.qcow2 && check big.qcow2",
    "convert -n -O qcow2 s.raw small.qcow2",
    "convert -n -O qcow2 other.raw small.qcow2 && check small.qcow2",
    "convert -n -O qcow2 --target-is-zero other.raw small.qcow2",
    "convert -n -O qcow2 -W other.raw small.qcow2",
    "convert -n --target-is-zero other.raw s.raw",
    "convert --target-is-zero other.raw out.raw",
    "convert -n other.raw nosuch.raw",
    "convert -n -O qcow2 other.raw s.raw",
    "convert -n -O raw other.raw s.qcow2",
    "convert -n -S 0 -O qcow2 s.raw big.qcow2",
    "convert -n -o cluster_size=4k -O qcow2 s.raw big.qcow2",
    "convert -n -B s.raw -F raw -O qcow2 s.raw big.qcow2",
    "convert -n -B s.raw -F raw -O qcow2 s.raw s.raw nosuch",
    "convert -n --bitmaps -B s.raw -O foo s.raw s.raw big.qcow2",
    "convert -n odd.raw other.raw",
    "convert -n empty.raw other.raw",
    "convert s.raw other.raw",
    "convert -O qcow2 s.raw big.qcow2",
    "convert -O qcow2 s.raw other.raw",
    "convert -n -C s.raw big.qcow2",
    "convert -n -f raw -O raw s.raw s.qcow2",
];

const REFUSED: &[&str] = &[
    "convert nosuch out.raw",
    "convert -f qcow2 s.raw out.raw",
    "convert -f qcow2 s.raw s.qcow2 out.raw",
    "convert -f foo s.raw out.raw",
    "convert -O foo s.raw out.raw",
    "convert -O bochs s.raw out.raw",
    "convert -O file s.raw out.raw",
    "convert -O '' s.raw out.raw",
    "convert -f '' s.raw out.raw",
    "convert -O qcow2 s.raw nosuchdir/out.qcow2",
    "convert -O raw s.raw nosuchdir/out.raw",
    "convert -O qcow2 s.raw .",
    "convert s.raw foo:out.raw",
    "convert -O qcow2 -o cluster_size=3 s.raw out.qcow2",
    "convert -O qcow2 -o foo=bar s.raw out.qcow2",
    "convert -O qcow2 -o compat=0.9 s.raw out.qcow2",
    "convert -O qcow2 -o extended_l2=on,cluster_size=4k s.raw out.qcow2",
    "convert -O qcow2 -o '' s.raw out.qcow2",
    "convert -O qcow2 -o preallocation=foo s.raw out.qcow2",
    "convert -O qcow2 -o refcount_bits=x s.raw out.qcow2",
    "convert -O raw -o cluster_size=4k s.raw out.raw",
    "convert -O qcow2 -o cluster_size=3 s.raw big.qcow2",
    "convert -S foo s.raw out.raw",
    "convert -S 1 s.raw out.raw",
    "convert -S 513 s.raw out.raw",
    "convert -S 32M s.raw out.raw",
    "convert -S -1 s.raw out.raw",
    "convert -S '' s.raw out.raw",
    "convert -S 16E s.raw out.raw",
    "convert -m 0 s.raw out.raw",
    "convert -m 17 s.raw out.raw",
    "convert -m -1 s.raw out.raw",
    "convert -m foo s.raw out.raw",
    "convert -m 4k s.raw out.raw",
    "convert -m '' s.raw out.raw",
    "convert -t bogus s.raw out.raw",
    "convert -T bogus s.raw out.raw",
    "convert -t '' s.raw out.raw",
    "convert -r foo s.raw out.raw",
    "convert -r -1 s.raw out.raw",
    "convert -r 0 s.raw out.raw",
    "convert -l nosuch s.qcow2 out.raw",
    "convert -l nosuch s.raw out.raw",
    "convert -l '' s.qcow2 out.raw",
    "convert -l snapshot.foo=bar s.qcow2 out.raw",
    "convert -l a s.qcow2 s.qcow2 out.raw",
    "convert --bitmaps s.raw out.raw",
    "convert --bitmaps -O qcow2 s.raw out.qcow2",
    "convert --bitmaps s.qcow2 out.raw",
    "convert --skip-broken-bitmaps s.qcow2 out.raw",
    "convert --bitmaps -O qcow2 s.qcow2 s.qcow2 out.qcow2",
    "convert -S 4k -C s.raw out.raw",
    "convert -c -S 0 -C s.raw out.raw",
    "convert --salvage -C s.raw out.raw",
    "convert -C --target-is-zero -n s.raw other.raw",
    "convert -F raw -O qcow2 s.raw out.qcow2",
    "convert -B nosuch -F raw -O qcow2 s.raw out.qcow2",
    "convert -B s.raw -O qcow2 s.raw out.qcow2",
    "convert -B s.raw -F foo -O qcow2 s.raw out.qcow2",
    "convert -B s.raw -F raw -O raw s.raw out.raw",
    "convert -B s.raw -F raw -O qcow2 other.raw out.qcow2",
    "convert -B '' -F raw -O qcow2 s.raw out.qcow2",
    "convert -o backing_file=s.raw -O qcow2 s.raw out.qcow2",
    "convert -B s.raw -F raw -O qcow2 s.raw s.raw out.qcow2",
    "convert -B s.raw -F raw -c -O qcow2 s.raw out.qcow2",
    "convert --target-image-opts -O raw s.raw driver=raw,file.filename=other.raw",
    "convert --target-image-opts s.raw driver=raw,file.filename=other.raw",
    "convert -n --target-image-opts -o size=1M s.raw driver=raw,file.filename=other.raw",
];

const USAGE: &[&str] = &[
    "convert",
    "convert s.raw",
    "convert -O qcow2",
    "convert -O",
    "convert -f",
    "convert -o",
    "convert --nosuch s.raw out.raw",
    "convert -Z s.raw out.raw",
    "convert -6 s.raw out.raw",
    "convert -e s.raw out.raw",
    "convert --object secret s.raw out.raw",
    "convert --object nosuch,id=a s.raw out.raw",
    "convert -s x s.raw out.raw",
    "convert --image-opts -f raw s.raw out.raw",
    "convert -O raw -O qcow2 s.raw out",
    "convert -- s.raw out.raw",
    "convert s.raw out.raw -O qcow2",
];

/// Images of which some parts can't be read.
const BROKEN: Fixture = Fixture {
    name: "broken",
    pick: false,
    script: "create -f qcow2 l2.qcow2 4M
             io l2.qcow2 'write -P 1 0 64k' 'write -P 2 1M 64k' 'write -P 3 2M 64k'
             be64 l2.qcow2 0x40080 0x8000000000060200
             truncate s 2M
             fill s 0 2M 0x31
             img convert -f raw -O qcow2 -c s comp.qcow2
             copy comp.qcow2 comp2.qcow2
             hex comp.qcow2 0x50000 ffffffff
             truncate comp2.qcow2 0x50100
             img convert -f raw -O qcow2 -c -o compression_type=zstd s zstd.qcow2
             hex zstd.qcow2 0x50000 ffffffff
             create -f qcow2 -o extended_l2=on ext.qcow2 1M
             io ext.qcow2 'write -P 1 0 64k' 'write -P 2 128k 64k'
             be64 ext.qcow2 0x40008 0x1ffffffff
             create -f qcow2 cut.qcow2 4M
             io cut.qcow2 'write -P 1 0 64k' 'write -P 2 1M 64k'
             truncate cut.qcow2 0x60000
             remove s",
};

const DAMAGED: &[&str] = &[
    "convert -O raw l2.qcow2 out.raw",
    "convert -m 1 -O raw l2.qcow2 out.raw",
    "convert -m 1 --salvage -O raw l2.qcow2 out.raw",
    "convert -q -m 1 --salvage -O raw l2.qcow2 out.raw",
    "convert -m 1 -O raw comp.qcow2 out.raw",
    "convert -m 1 --salvage -O raw comp.qcow2 out.raw",
    "convert -m 1 -O raw comp2.qcow2 out.raw",
    "convert -m 1 -O raw zstd.qcow2 out.raw",
    "convert -m 1 --salvage -O raw zstd.qcow2 out.raw",
    "convert -m 1 -O raw ext.qcow2 out.raw",
    "convert -m 1 --salvage -O raw ext.qcow2 out.raw",
    "convert -O raw cut.qcow2 out.raw",
    "compare l2.qcow2 l2.qcow2",
    "compare comp.qcow2 comp.qcow2",
    "compare comp.qcow2 l2.qcow2",
    "compare cut.qcow2 cut.qcow2",
    "map l2.qcow2",
    "map --output=json l2.qcow2",
    "map comp.qcow2",
    "map --output=json ext.qcow2",
    "measure -O qcow2 l2.qcow2",
    "measure -O qcow2 comp.qcow2",
];

const ONTO_ITSELF: &[&str] = &[
    "convert -O qcow2 a.qcow2 a.qcow2",
    "convert -n -O qcow2 a.qcow2 a.qcow2",
    "convert -n -O raw -f raw a.qcow2 a.qcow2",
    "convert -U -n -O qcow2 a.qcow2 a.qcow2",
];
