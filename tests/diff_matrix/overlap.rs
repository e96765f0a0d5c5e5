//! Images whose damage would make a write hit metadata: each command refuses it, with the words of qemu-img, and marks the
//! image as corrupt.

use crate::fixtures::V3;
use crate::support::case::{Case, Files, Fixture};
use crate::support::suite::patched;

/// All tables of this file.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for options in ["-n", "-n -c"] {
        let line = format!("convert {options} -f raw -O qcow2 s.raw a.qcow2");
        all.extend(patched(&format!("overlap convert {options}"), TARGET, &line, UNCOUNTED));
    }
    all.extend(patched("overlap snapshot", V3, "snapshot -c s a.qcow2", NO_BLOCK));
    all.extend(patched("overlap snapshot", V3, "snapshot -c s a.qcow2", UNCOUNTED));
    // Where it is refused otherwise qemu-img leaves clusters counted: what its check says differs.
    all.extend(patched("overlap resize", V3, "resize a.qcow2 2T", NO_BLOCK));
    all.extend(patched("overlap options", TARGET, OPTIONS, ENTRY));
    all.into_iter().map(|case| case.files(Files::Images)).collect()
}

/// Something to convert, and an empty image of that size.
const TARGET: Fixture = Fixture {
    name: "target",
    pick: false,
    script: "create -f qcow2 a.qcow2 1M
             io a.qcow2 'write -P 1 64k 64k'
             truncate s.raw 1M
             fill s.raw 0 64k 0x31",
};

/// The refcounts of header, refcount table, refcount block, L1 and L2 table.
const UNCOUNTED: &[(&str, &str)] = &[
    ("header", "be16 a.qcow2 0x20000 0"),
    ("refcount table", "be16 a.qcow2 0x20002 0"),
    ("refcount block", "be16 a.qcow2 0x20004 0"),
    ("l1", "be16 a.qcow2 0x20006 0"),
    ("l2", "be16 a.qcow2 0x20008 0"),
];

/// No cluster is counted any more.
const NO_BLOCK: &[(&str, &str)] = &[("refcount table entry", "be64 a.qcow2 0x10000 0")];

/// Guest cluster 0 in the cluster of the L1 table.
const ENTRY: &[(&str, &str)] = &[("entry to l1", "be64 a.qcow2 0x40000 0x8000000000030000")];

const OPTIONS: &str = "convert -n -f raw --target-image-opts s.raw driver=qcow2,overlap-check=foo,file.filename=a.qcow2
                       convert -n -f raw --target-image-opts s.raw driver=qcow2,overlap-check=constant,file.filename=a.qcow2
                       convert -n -f raw --target-image-opts s.raw driver=qcow2,file.filename=a.qcow2";
