//! `amend`: every option on images of every kind, what is refused, and what is left behind by a refusal.

use crate::fixtures::{BACKED, DATA_FILE, LAYOUTS, SNAPSHOTS, V2, V3};
use crate::support::case::{Case, Files, Fixture};
use crate::support::suite::group;

/// All tables of this file.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    // Images with bitmaps are left out: qemu-img writes those anew elsewhere whenever it closes an image.
    for fixture in [V3, V2, BACKED, DATA_FILE, SNAPSHOTS, ODD] {
        for options in OPTIONS {
            let line = format!("amend -o {options} a.qcow2 && check a.qcow2 && info a.qcow2");
            all.extend(group("amend", fixture, &[line.as_str()]));
        }
    }
    for name in ["plain", "v2", "c512", "zlib", "zstd", "extz", "ext", "lazy", "tiny", "zero"] {
        for options in [
            "compat=v2",
            "compat=v3",
            "refcount_bits=32",
            "size=8M",
            "lazy_refcounts=on",
            "compat=v2,lazy_refcounts=on",
        ] {
            let line = format!("amend -o {options} {name}.qcow2 && check {name}.qcow2 && info {name}.qcow2");
            all.extend(group("amend", LAYOUTS, &[line.as_str()]));
        }
    }
    all.extend(group("amend", V3, USAGE));
    all.into_iter().map(|case| case.files(Files::Images)).collect()
}

/// Narrow counts and small clusters.
const ODD: Fixture = Fixture {
    name: "odd",
    pick: false,
    script: "create -f qcow2 -o cluster_size=4k,refcount_bits=1 a.qcow2 4M
             io a.qcow2 'write -P 1 0 128k' 'write -z 256k 64k'",
};

const OPTIONS: &[&str] = &[
    "compat=v2",
    "compat=v3",
    "compat=0.10",
    "compat=1.1",
    "compat=0.9",
    "lazy_refcounts=on",
    "lazy_refcounts=off",
    "refcount_bits=1",
    "refcount_bits=2",
    "refcount_bits=8",
    "refcount_bits=16",
    "refcount_bits=64",
    "refcount_bits=3",
    "size=8M",
    "size=1000",
    "data_file=",
    "data_file=e.raw",
    "data_file_raw=on",
    "data_file_raw=off",
    "backing_file=base",
    "backing_file=base,backing_fmt=raw",
    "backing_fmt=raw",
    "encrypt.state=active",
    "cluster_size=64k",
    "compat=v3,refcount_bits=32,lazy_refcounts=on",
    "compat=v2,refcount_bits=16,lazy_refcounts=off",
    "compat=v2,lazy_refcounts=on",
    "compat=v2,refcount_bits=8",
    "refcount_bits=32,backing_file=x",
];

const USAGE: &[&str] = &[
    "amend a.qcow2",
    "amend -o compat=v3",
    "amend -o compat=v3 a.qcow2 b",
    "amend -o compat=v3 nosuch",
    "amend -o , a.qcow2",
    "amend -o nosuch=1 a.qcow2",
    "amend -o size a.qcow2",
    "amend -o size=foo a.qcow2",
    "amend -o lazy_refcounts=maybe a.qcow2",
    "amend -o lazy_refcounts a.qcow2 && info a.qcow2",
    "amend -o nolazy_refcounts a.qcow2 && info a.qcow2",
    "amend -o compat=v2 -o compat=v3 a.qcow2",
    "amend -t none -o size=8M a.qcow2",
    "amend -t foo -o size=8M a.qcow2",
    "amend -f qcow2 -o size=8M a.qcow2",
    "amend -f raw -o size=8M a.qcow2",
    "amend -f file -o size=8M a.qcow2",
    "amend -o size=8M --image-opts driver=file,filename=a.qcow2",
    "amend -f nosuch -o size=8M a.qcow2",
    "amend -q -p -o size=8M a.qcow2",
    "amend -p -o lazy_refcounts=on a.qcow2",
    "amend -p -o compat=v3 a.qcow2",
    "amend -p -o compat=nosuch a.qcow2",
    "amend --force -o size=8M a.qcow2",
    "amend --image-opts -o size=8M driver=qcow2,file.filename=a.qcow2",
    "amend --image-opts -f qcow2 -o size=8M a.qcow2",
    "amend -o help a.qcow2",
    "amend -o help nosuch",
    "amend -f qcow2 -o help nosuch",
    "amend -f raw -o help",
    "amend --o help",
    "amend --f x",
    "amend -o size=0 a.qcow2 && info a.qcow2",
    "amend -o size=3P a.qcow2 && info a.qcow2",
    "amend -o size=9E a.qcow2 && info a.qcow2",
];
