//! Space that commands give back to the host: what the files take afterwards is what it is after qemu-img.

use crate::support::case::{Case, Files, Fixture};
use crate::support::suite::group;

/// All tables of this file.
pub fn cases() -> Vec<Case> {
    group("holes", IMAGES, LINES).into_iter().map(|case| case.files(Files::Snapshots).allocation()).collect()
}

/// With a snapshot that shares nothing any more; with data that a smaller disk cuts off in front of what stays; full; with
/// clusters that nothing refers to.
const IMAGES: Fixture = Fixture {
    name: "images",
    pick: true,
    script: "create -f qcow2 snap.qcow2 16M
             io snap.qcow2 'write -P 1 0 2M'
             img snapshot -c s snap.qcow2
             io snap.qcow2 'write -P 2 0 2M'
             create -f qcow2 cut.qcow2 16M
             io cut.qcow2 'write -P 1 8M 2M' 'write -P 2 0 1M'
             create -f qcow2 full.qcow2 4M
             io full.qcow2 'write -P 1 0 4M'
             create -f qcow2 -o data_file=d.raw data.qcow2 4M
             io data.qcow2 'write -P 1 0 4M'
             truncate zeros.raw 4M
             create -f qcow2 leak.qcow2 16M
             io leak.qcow2 'write -P 1 0 8M'
             fill leak.qcow2 0x40080 256 0",
};

const LINES: &[&str] = &[
    "snapshot -d s snap.qcow2",
    "snapshot -a s snap.qcow2",
    "snapshot -d s --image-opts driver=qcow2,pass-discard-snapshot=off,file.filename=snap.qcow2",
    "resize --shrink cut.qcow2 4M",
    "convert -n -f raw -O qcow2 zeros.raw full.qcow2",
    "convert -n -f raw --target-image-opts zeros.raw driver=qcow2,discard=ignore,file.filename=full.qcow2",
    "convert -n -f raw --target-image-opts zeros.raw driver=qcow2,pass-discard-request=off,file.filename=full.qcow2",
    "check -r leaks leak.qcow2",
    "check -r all leak.qcow2",
    "check -r all --image-opts driver=qcow2,discard=ignore,pass-discard-request=off,file.filename=leak.qcow2",
    "check -r all --image-opts driver=qcow2,file.driver=file,file.discard=ignore,file.filename=leak.qcow2",
];
