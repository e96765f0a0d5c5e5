//! `bench`: what it says it does, what it writes, and what is refused.

use crate::support::case::{Case, Files, Fixture};
use crate::support::suite::group;

/// All tables of this file.
pub fn cases() -> Vec<Case> {
    let mut all = group("bench", DISKS, GOOD);
    all.extend(group("bench", DISKS, REFUSED));
    all.extend(group("bench", DISKS, WRITES).into_iter().map(|case| case.files(Files::Images)));
    all
}

const DISKS: Fixture = Fixture {
    name: "disks",
    pick: false,
    script: "truncate a.raw 8M
             truncate odd.raw 1000
             truncate empty.raw 0
             create -f qcow2 a.qcow2 8M",
};

const GOOD: &[&str] = &[
    "bench a.raw",
    "bench -c 10 a.qcow2",
    "bench -c 3 -d 1000 a.qcow2",
    "bench -c 010 -d 0x10 -f raw a.raw",
    "bench -q -c 3 -f raw a.raw",
    "bench -c 3 -s 512 -f raw odd.raw",
    "bench -c 3 -s 1000 -f raw a.raw",
    "bench -c 3 -S 0 -f raw a.raw",
    "bench -c 3 -S 100 -f raw a.raw",
    "bench -c 9 -S 3M -s 1M -f raw a.raw",
    "bench -c 2 -S 8M -s 1M -f raw a.raw",
    "bench -c 3 -o 8384512 -f raw a.raw",
    "bench -c 1 -o 1.5k -f raw a.raw",
    "bench -c 3 --no-drain -f raw a.raw",
    "bench -c 3 --pattern=3 -f raw a.raw",
    "bench -c 3 -t none -f raw a.raw",
    "bench -c 3 -t none -n -f raw a.raw",
    "bench -c 3 -t directsync -i native a.qcow2",
    "bench -c 3 -i threads a.qcow2",
    "bench -c 3 -i io_uring a.qcow2",
    "bench -c 3 -i native null-co://",
    "bench -c 3 -U a.qcow2",
    "bench -c 3 --image-opts driver=raw,file.filename=a.raw",
    "bench -c 3 --count 4 --depth 2 --offset 1M --buffer-size 8k --step-size 16k --aio threads a.qcow2",
];

/// One request at a time where they overlap.
const WRITES: &[&str] = &[
    "bench -w -c 10 -f raw a.raw",
    "bench -w -c 3 a.raw",
    "bench -w -c 12 -s 1M -S 3M -d 1 --pattern 5 -f raw a.raw",
    "bench -w -c 6 -s 64k -S 3M -o 512 --pattern 0x20 a.qcow2",
    "bench -w -c 100 -d 64 --flush-interval 100 -f raw a.raw",
    "bench -w -c 10 -d 2 --flush-interval 3 --pattern 7 a.qcow2",
    "bench -w -c 10 -d 2 --flush-interval 3 --no-drain --pattern 7 a.qcow2",
    "bench -w -c 10 -d 2 --flush-interval 0 --no-drain -f raw a.raw",
    "bench -w -c 2 -o 100 -s 10 -S 10 --pattern 1 -f raw a.raw",
    "bench -w -c 1 -t unsafe -f raw a.raw",
    "bench -w -c 1 -t writethrough a.qcow2",
    "bench -w -c 40 -s 512 -S 100k -t none --pattern 9 -f raw a.raw",
];

const REFUSED: &[&str] = &[
    "bench a.raw a.qcow2",
    "bench nosuch",
    "bench -c 3 -f raw empty.raw",
    "bench -c 3 -f raw odd.raw",
    "bench -c 2 -s 16M -f raw a.raw",
    "bench -c 3 -o 8M -f raw a.raw",
    "bench -c 3 -o 9M -s 512 -S 512 -f raw a.raw",
    "bench -c 1 -s 1 -o 7.9999999M -f raw a.raw",
    "bench -c 1 -w -s 1M -o 7.5M -f raw a.raw",
    "bench -c 0 a.raw",
    "bench -c -1 a.raw",
    "bench -c foo a.raw",
    "bench -c 1k a.raw",
    "bench -c 2147483648 a.raw",
    "bench -d 0 a.raw",
    "bench -d foo a.raw",
    "bench -d 5000000000 a.raw",
    "bench -i foo a.raw",
    "bench -i native -c 3 a.raw",
    "bench -n -c 3 -f raw a.raw",
    "bench -n -i threads -c 3 -f raw a.raw",
    "bench -n nosuch",
    "bench -n -f qcow2 a.raw",
    "bench -i native --image-opts driver=file,filename=a.raw",
    "bench -o foo a.raw",
    "bench -o -1 a.raw",
    "bench -s 0 a.raw",
    "bench -s foo a.raw",
    "bench -s 3G a.raw",
    "bench -S foo a.raw",
    "bench -S 2G a.raw",
    "bench -S -1 a.raw",
    "bench -t foo a.raw",
    "bench -t foo -i foo a.raw",
    "bench -i foo -t foo a.raw",
    "bench -w --pattern=256 a.raw",
    "bench -w --pattern=-1 a.raw",
    "bench -w --pattern=foo a.raw",
    "bench -w --flush-interval=foo a.raw",
    "bench -w --flush-interval=-1 a.raw",
    "bench -w --flush-interval=63 a.raw",
    "bench -w --flush-interval=10 -d 11 a.raw",
    "bench --flush-interval=64 a.raw",
    "bench -U -w -c 2 a.qcow2",
    "bench -f qcow2 -c 2 a.raw",
    "bench -f nosuch a.raw",
    "bench -f raw --image-opts driver=raw,file.filename=a.raw",
    "bench --image-opts driver=qcow2,file.filename=a.qcow2,foo=1",
    "bench -x a.raw",
    "bench -p a.raw",
];
