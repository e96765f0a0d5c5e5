//! `dd`: operands, what is copied, formats, and what is refused.

use crate::fixtures::CHAINS;
use crate::support::case::{Case, Files, Fixture};
use crate::support::suite::group;

/// All tables of this file.
pub fn cases() -> Vec<Case> {
    let mut all = group("dd", DISKS, OPERANDS);
    all.extend(group("dd", DISKS, REFUSED));
    all.extend(group("dd", DISKS, FORMATS).into_iter().map(|case| case.files(Files::Images)));
    all.extend(group("dd", CHAINS, CHAIN).into_iter().map(|case| case.files(Files::Images)));
    all
}

const DISKS: Fixture = Fixture {
    name: "disks",
    pick: false,
    script: "truncate odd.raw 1500000
             fill odd.raw 0 100k 1
             fill odd.raw 700k 60k 2
             fill odd.raw 1499000 1000 3
             create -f qcow2 a.qcow2 1500160
             io a.qcow2 'write -P 4 0 64k' 'write -P 5 900k 1k' 'write -z 128k 64k'
             create -f qcow2 old.qcow2 4M
             truncate empty.raw 0",
};

const OPERANDS: &[&str] = &[
    "dd if=odd.raw of=out.raw",
    "dd if=a.qcow2 of=out.raw",
    "dd -f raw if=a.qcow2 of=out.raw",
    "dd if=odd.raw of=out.raw bs=1k",
    "dd if=odd.raw of=out.raw bs=1.5k count=3",
    "dd if=odd.raw of=out.raw bs=1000 count=7",
    "dd if=odd.raw of=out.raw bs=1000 skip=1",
    "dd if=odd.raw of=out.raw bs=7 skip=3 count=100000",
    "dd if=odd.raw of=out.raw bs=1M count=1",
    "dd if=odd.raw of=out.raw bs=2147483647",
    "dd if=odd.raw of=out.raw bs=64k skip=2 count=11",
    "dd if=odd.raw of=out.raw count=0",
    "dd if=odd.raw of=out.raw skip=0",
    "dd if=odd.raw of=out.raw skip=1 count=2",
    "dd if=odd.raw of=out.raw skip=2 count=2",
    "dd if=odd.raw of=out.raw skip=3 count=2",
    "dd if=odd.raw of=out.raw bs=1k skip=1464",
    "dd if=odd.raw of=out.raw bs=1k skip=1465",
    "dd if=odd.raw of=out.raw bs=1k skip=1466",
    "dd if=odd.raw of=out.raw skip=9223372036854775807",
    "dd if=odd.raw of=out.raw count=9223372036854775807",
    "dd if=odd.raw of=out.raw count=0x10",
    "dd if=odd.raw of=out.raw count=010",
    "dd if=odd.raw of=out.raw 'count= 3'",
    "dd if=odd.raw of=out.raw bs=0x400 count=2",
    "dd of=out.raw if=odd.raw bs=1M bs=512 count=3 count=1",
    "dd if=a.qcow2 if=odd.raw of=x of=out.raw",
    "dd if=empty.raw of=out.raw",
    "dd -f raw if=empty.raw of=out.raw bs=1 count=1",
    "dd -f raw -O raw if=odd.raw of=odd2.raw && dd -f raw if=odd2.raw of=odd3.raw skip=100",
    "dd if=odd.raw of=old.qcow2 bs=64k count=2",
    "dd -U if=a.qcow2 of=out.raw",
    "dd --force-share --output-format raw --format qcow2 if=a.qcow2 of=out.raw",
    "dd --image-opts if=driver=qcow2,file.filename=a.qcow2 of=out.raw",
    "dd --image-opts if=driver=raw,offset=64k,size=128k,file.filename=odd.raw of=out.raw skip=1",
    "dd --image-opts if=driver=raw,file.filename=odd.raw of=driver=raw,file.filename=zz",
    "dd if='json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"a.qcow2\"}}' of=out.raw",
    "dd --image-opts if=driver=null-co,read-zeroes=on,size=1M of=out.raw bs=64k count=16",
    "dd -- if=odd.raw of=out.raw",
    "dd if=odd.raw -O raw of=out.raw -f raw",
];

const REFUSED: &[&str] = &[
    "dd if=odd.raw",
    "dd of=out.raw",
    "dd bs=1k",
    "dd if=odd.raw of=out.raw foo",
    "dd if=odd.raw of=out.raw foo=1",
    "dd if=odd.raw of=out.raw =1",
    "dd if=odd.raw of=out.raw ''",
    "dd odd.raw out.raw",
    "dd if of=out.raw",
    "dd if=odd.raw of=out.raw count",
    "dd if=odd.raw of=out.raw seek=1",
    "dd if=odd.raw of=out.raw bs=",
    "dd if=odd.raw of=out.raw bs=0",
    "dd if=odd.raw of=out.raw bs=-1",
    "dd if=odd.raw of=out.raw bs=2G",
    "dd if=odd.raw of=out.raw bs=64kB",
    "dd if=odd.raw of=out.raw bs=99E",
    "dd if=odd.raw of=out.raw count=-1",
    "dd if=odd.raw of=out.raw count=1k",
    "dd if=odd.raw of=out.raw count=foo",
    "dd if=odd.raw of=out.raw count=9223372036854775808",
    "dd if=odd.raw of=out.raw skip=1.5",
    "dd if=odd.raw of=out.raw skip=-1",
    "dd skip=foo",
    "dd -O nosuch skip=foo",
    "dd if= of=out.raw",
    "dd if=odd.raw of=",
    "dd if=odd.raw of=nosuch/out.raw",
    "dd if=odd.raw of=.",
    "dd if=nosuch of=out.raw",
    "dd -O nosuch if=nosuch of=out.raw",
    "dd -O bochs if=nosuch of=out.raw",
    "dd -O nosuch if=odd.raw of=out.raw",
    "dd -O bochs if=odd.raw of=out.raw",
    "dd -O null-co if=odd.raw of=out.raw",
    "dd -O host_device if=odd.raw of=out.raw",
    "dd -O qcow2 if=odd.raw of=nosuchprotocol:b",
    "dd if=odd.raw of=null-co://",
    "dd -f qcow2 if=odd.raw of=out.raw",
    "dd -f nosuch if=odd.raw of=out.raw",
    "dd -f raw --image-opts if=odd.raw of=out.raw",
    "dd -f raw --image-opts of=out.raw",
    "dd --image-opts if=odd.raw of=out.raw",
    "dd --image-opts if=driver=nosuch of=out.raw",
    "dd -O qcow2 if=a.qcow2 of=a.qcow2",
    "dd -f",
    "dd -O",
    "dd -x",
    "dd -h",
    "dd --object foo if=odd.raw of=out.raw",
    "dd --object nosuch,id=a if=odd.raw of=out.raw",
];

const FORMATS: &[&str] = &[
    "dd -O qcow2 if=odd.raw of=out.qcow2 && map --output=json out.qcow2",
    "dd -O qcow2 if=a.qcow2 of=out.qcow2 bs=1000 && check out.qcow2",
    "dd -O qcow2 if=odd.raw of=out.qcow2 bs=1000 count=7 && check out.qcow2",
    "dd -O qcow2 if=odd.raw of=out.qcow2 bs=1000 skip=77 && check out.qcow2",
    "dd -O qcow2 if=odd.raw of=out.qcow2 skip=5000",
    "dd -O vdi if=odd.raw of=out.vdi",
    "dd -O vdi if=a.qcow2 of=out.vdi bs=1000 skip=3",
    "dd -O parallels if=odd.raw of=out.parallels",
    "dd -O file if=odd.raw of=out.raw",
];

const CHAIN: &[&str] =
    &["dd if=top.qcow2 of=out.raw", "dd -O qcow2 if=top.qcow2 of=out.qcow2 bs=64k skip=1 count=12"];
