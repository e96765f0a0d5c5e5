//! `bitmap`: every action alone and in rows, other sources, what is refused; `convert --bitmaps`; what is left is told
//! by `info`, and by the bits that another bitmap gets.

use crate::fixtures::{BITMAPS, CHAINS, V2};
use crate::support::case::{Case, Files, Fixture};
use crate::support::suite::group;

/// All tables of this file.
pub fn cases() -> Vec<Case> {
    let mut all = group("bitmap", BITMAPS, ACTIONS);
    all.extend(group("bitmap", BITMAPS, USAGE));
    all.extend(group("bitmap", MARKED, MARKS));
    all.extend(group("bitmap", MARKED, RESIZES));
    all.extend(group("bitmap", CRASHED, BROKEN));
    all.extend(group("bitmap", V2, &["bitmap --clear a.qcow2 b", "bitmap --remove a.qcow2 b"]));
    all.extend(group("bitmap", CHAINS, &["bitmap --add top.qcow2 b"]));
    all.into_iter().map(|case| case.files(Files::AnyLength)).collect()
}

/// Bitmaps of two granularities that mark the same writes, and another image with one of its own.
const MARKED: Fixture = Fixture {
    name: "marked",
    pick: false,
    script: "create -f qcow2 a.qcow2 4M
             img bitmap --add a.qcow2 b0
             img bitmap --add -g 512 a.qcow2 b1
             img bitmap --add --disable a.qcow2 off
             io a.qcow2 'write -P 1 100k 10k' 'write -z 2M 4k' 'discard 1M 64k'
             create -f qcow2 other.qcow2 4M
             img bitmap --add -g 4k other.qcow2 c
             io other.qcow2 'write -P 1 3M 1k'
             create -f qcow2 short.qcow2 1M
             img bitmap --add short.qcow2 c
             create -f qcow2 -o compat=0.10 old.qcow2 4M
             create -f qcow2 empty.qcow2 4M",
};

/// Bitmaps that were not closed cleanly.
const CRASHED: Fixture = Fixture {
    name: "crashed",
    pick: false,
    script: "create -f qcow2 a.qcow2 4M
             img bitmap --add a.qcow2 b0
             img bitmap --add --disable a.qcow2 b1
             try-io a.qcow2 'write -P 1 100k 10k' abort",
};

const ACTIONS: &[&str] = &[
    "bitmap --add a.qcow2 new",
    "bitmap --add -g 1M a.qcow2 new",
    "bitmap --add -g 512 a.qcow2 new",
    "bitmap --add -g 2G a.qcow2 new",
    "bitmap --add -g 0 a.qcow2 new",
    "bitmap --add --disable a.qcow2 new",
    "bitmap --add --remove a.qcow2 new",
    "bitmap --remove --add -g 8k a.qcow2 b0",
    "bitmap --remove a.qcow2 b0",
    "bitmap --remove a.qcow2 b0 && bitmap --remove a.qcow2 b1",
    "bitmap --clear a.qcow2 b0",
    "bitmap --enable a.qcow2 b1",
    "bitmap --enable a.qcow2 b0",
    "bitmap --disable a.qcow2 b0",
    "bitmap --disable --enable --clear a.qcow2 b1",
    "bitmap --merge b0 a.qcow2 b1",
    "bitmap --add --merge b0 --merge b1 --disable a.qcow2 all",
    "bitmap --add --enable --image-opts driver=qcow2,file.filename=a.qcow2 new",
    "bitmap -f qcow2 --add a.qcow2 'a name'",
];

const USAGE: &[&str] = &[
    "bitmap a.qcow2 b0",
    "bitmap --add a.qcow2",
    "bitmap --add a.qcow2 b0 extra",
    "bitmap --add a.qcow2 b0",
    "bitmap --add a.qcow2 ''",
    "bitmap --add --add a.qcow2 new",
    "bitmap --remove a.qcow2 nosuch",
    "bitmap --clear a.qcow2 nosuch",
    "bitmap --enable a.qcow2 nosuch",
    "bitmap --disable a.qcow2 nosuch",
    "bitmap --remove --clear a.qcow2 b0",
    "bitmap --merge nosuch a.qcow2 b0",
    "bitmap --merge b0 a.qcow2 nosuch",
    "bitmap --add -g 100 a.qcow2 new",
    "bitmap --add -g 3k a.qcow2 new",
    "bitmap --add -g 4G a.qcow2 new",
    "bitmap --add -g foo a.qcow2 new",
    "bitmap --add -g -1 a.qcow2 new",
    "bitmap --add -g 9E a.qcow2 new",
    "bitmap --clear -g 4k a.qcow2 b0",
    "bitmap --clear -g 4k",
    "bitmap --clear -F qcow2 a.qcow2 b0",
    "bitmap --clear -b a.qcow2 a.qcow2 b0",
    "bitmap --clear -F qcow2 -b a.qcow2 a.qcow2 b0 more",
    "bitmap --merge b0 -b nosuch a.qcow2 b1",
    "bitmap --merge b0 -b a.qcow2 a.qcow2 b1",
    "bitmap --merge b0 -b a.qcow2 -F foo a.qcow2 b1",
    "bitmap --add nosuch b",
    "bitmap --clear -f raw a.qcow2 b0",
    "bitmap --remove -f raw a.qcow2 b0",
    "bitmap --add --image-opts -f qcow2 a.qcow2 b0",
    "bitmap --object foo --add a.qcow2 new",
];

const MARKS: &[&str] = &[
    "bitmap --merge c -b other.qcow2 a.qcow2 b0",
    "bitmap --merge c -b other.qcow2 -F qcow2 a.qcow2 b1",
    "bitmap --merge c -b short.qcow2 a.qcow2 b0",
    "bitmap --add --merge c --merge nosuch -b other.qcow2 a.qcow2 new",
    "convert --bitmaps -O qcow2 a.qcow2 out.qcow2",
    "convert --bitmaps -c -O qcow2 -o cluster_size=4k a.qcow2 out.qcow2",
    "convert --bitmaps -n -O qcow2 a.qcow2 empty.qcow2",
    "convert --bitmaps -n -O qcow2 other.qcow2 a.qcow2",
    "convert --bitmaps -n -O qcow2 a.qcow2 a.qcow2",
    "convert --bitmaps -n -O qcow2 short.qcow2 a.qcow2",
    "convert --bitmaps -n -O qcow2 a.qcow2 old.qcow2",
    "convert --bitmaps -O qcow2 -o compat=v2 a.qcow2 out.qcow2",
    "convert --bitmaps -O raw a.qcow2 out.raw",
    "measure -O qcow2 a.qcow2",
    "measure -O qcow2 -o compat=0.10 a.qcow2",
];

const RESIZES: &[&str] =
    &["resize a.qcow2 20M", "resize a.qcow2 600M", "resize --shrink a.qcow2 1M && resize a.qcow2 4M"];

const BROKEN: &[&str] = &[
    "info a.qcow2",
    "check a.qcow2",
    "bitmap --clear a.qcow2 b0",
    "bitmap --enable a.qcow2 b0",
    "bitmap --disable a.qcow2 b0",
    "bitmap --merge b1 a.qcow2 b0",
    "bitmap --add a.qcow2 b0",
    "bitmap --add --merge b0 a.qcow2 new",
    "bitmap --remove a.qcow2 b0",
    "bitmap --remove a.qcow2 b0 && bitmap --remove a.qcow2 b1",
    "convert --bitmaps -O qcow2 a.qcow2 out.qcow2",
    "convert --bitmaps --skip-broken-bitmaps -O qcow2 a.qcow2 out.qcow2",
    "resize a.qcow2 5M",
];
