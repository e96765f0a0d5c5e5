//! `measure`: sizes and images, for raw and qcow2 targets with every option.

use crate::fixtures::{BITMAPS, CHAINS, LAYOUTS, SNAPSHOTS};
use crate::info::{IMAGES, OVERLAYS};
use crate::support::case::{Case, EMPTY};
use crate::support::suite::group;

/// All tables of this file.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for name in IMAGES {
        all.extend(group(
            "measure",
            LAYOUTS,
            &[
                &format!("measure {name} && measure -O qcow2 {name}"),
                &format!("measure -O qcow2 -o cluster_size=4k --output=json {name}"),
            ],
        ));
    }
    for name in OVERLAYS {
        all.extend(group("measure", CHAINS, &[&format!("measure -O qcow2 {name}")]));
    }
    all.extend(group("measure size", EMPTY, SIZES));
    all.extend(group("measure refused", LAYOUTS, REFUSED));
    all.extend(group("measure", SNAPSHOTS, SNAPSHOT));
    all.extend(group("measure", BITMAPS, BITMAP));
    all
}

const SIZES: &[&str] = &[
    "measure --size 1M",
    "measure -s 1M",
    "measure --size 0",
    "measure --size 1",
    "measure --size 513 -O raw",
    "measure --size 1M -O qcow2",
    "measure --size 0 -O qcow2",
    "measure --size 1 -O qcow2",
    "measure --size 513 -O qcow2",
    "measure --size 1G -O qcow2",
    "measure --size 1G -O qcow2 --output=json",
    "measure --size 1T -O qcow2",
    "measure --size 1P -O qcow2",
    "measure --size 2P -O qcow2",
    "measure --size 3P -O qcow2",
    "measure --size 8E -O qcow2",
    "measure --size 8E",
    "measure --size 9223372036854775807",
    "measure --size 9223372036854775807 -O qcow2",
    "measure --size 1G -O qcow2 -o cluster_size=512",
    "measure --size 1G -O qcow2 -o cluster_size=1k",
    "measure --size 1G -O qcow2 -o cluster_size=4k",
    "measure --size 1G -O qcow2 -o cluster_size=32k",
    "measure --size 1G -O qcow2 -o cluster_size=2M",
    "measure --size 129G -O qcow2 -o cluster_size=512",
    "measure --size 128G -O qcow2 -o cluster_size=512",
    "measure --size 2E -O qcow2 -o cluster_size=2M",
    "measure --size 1G -O qcow2 -o refcount_bits=1",
    "measure --size 1G -O qcow2 -o refcount_bits=8",
    "measure --size 1G -O qcow2 -o refcount_bits=64",
    "measure --size 1T -O qcow2 -o refcount_bits=64,cluster_size=512",
    "measure --size 16G -O qcow2 -o refcount_bits=64,cluster_size=512",
    "measure --size 1G -O qcow2 -o compat=0.10",
    "measure --size 1G -O qcow2 -o extended_l2=on",
    "measure --size 1G -O qcow2 -o extended_l2=on,cluster_size=16k",
    "measure --size 2P -O qcow2 -o extended_l2=on",
    "measure --size 1G -O qcow2 -o preallocation=off",
    "measure --size 1G -O qcow2 -o preallocation=metadata",
    "measure --size 1G -O qcow2 -o preallocation=falloc",
    "measure --size 1G -O qcow2 -o preallocation=full",
    "measure --size 1G -O qcow2 -o preallocation=foo",
    "measure --size 1G -O qcow2 -o lazy_refcounts=on",
    "measure --size 1G -O qcow2 -o compression_type=zstd",
    "measure --size 1G -O qcow2 -o data_file=d.raw",
    "measure --size 1G -O qcow2 -o backing_file=nosuch,backing_fmt=raw",
    "measure --size 1G -O qcow2 -o backing_file=nosuch",
    "measure --size 1G -O qcow2 -o size=1M",
    "measure --size 1G -O qcow2 -o cluster_size=3",
    "measure --size 1G -O qcow2 -o cluster_size=8k,extended_l2=on",
    "measure --size 1G -O qcow2 -o refcount_bits=3",
    "measure --size 1G -O qcow2 -o refcount_bits=8,compat=0.10",
    "measure --size 1G -O qcow2 -o compat=0.10,extended_l2=on",
    "measure --size 1G -O qcow2 -o compat=foo",
    "measure --size 1G -O qcow2 -o lazy_refcounts=on,compat=0.10",
    "measure --size 1G -O qcow2 -o compression_type=foo",
    "measure --size 1G -O qcow2 -o foo=bar",
    "measure --size 1G -O qcow2 -o ''",
    "measure --size 1G -O qcow2 -o cluster_size=x",
    "measure --size 1G -O raw -o preallocation=full",
    "measure --size 1G -O raw -o preallocation=metadata",
    "measure --size 1G -O raw -o nosuch=1",
    "measure --size 1G -O raw -o nocow=on",
    "measure --size 1G -O raw --output=json",
    "measure --size 1.5k",
    "measure --size 1.5",
    "measure --size foo",
    "measure --size -1",
    "measure --size=-1",
    "measure --size 16E",
    "measure --size ''",
    "measure --size 1M -O foo",
    "measure --size 1M -O ''",
    "measure --size 1M -O bochs",
    "measure --size 1M -O file",
    "measure --size 1M -f raw",
    "measure --size 1M --image-opts",
    "measure --size 1M -l x",
    "measure --size 1M --output=xml",
    "measure --size 1M extra",
    "measure",
    "measure -O qcow2",
    "measure --size",
    "measure --nosuch",
    "measure -U --size 1M",
    "measure -o help --size 1M",
];

const REFUSED: &[&str] = &[
    "measure nosuch.raw",
    "measure data.raw extra",
    "measure -f raw",
    "measure -f raw data.raw",
    "measure -f qcow2 data.raw",
    "measure -f raw -O qcow2 plain.qcow2",
    "measure --size 1M data.raw",
    "measure -O foo data.raw",
    "measure -o cluster_size=4k data.raw",
    "measure -O qcow2 -o cluster_size=4k data.raw",
    "measure -O qcow2 -o preallocation=full data.raw",
    "measure -O qcow2 -o backing_file=data.raw,backing_fmt=raw data.raw",
    "measure -O qcow2 -o backing_file=nosuch data.raw",
    "measure -O qcow2 -o extended_l2=on ext.qcow2",
    "measure -O qcow2 -o extended_l2=on data.raw",
    "measure -O qcow2 -o cluster_size=2M sparse.qcow2",
    "measure -U -O qcow2 plain.qcow2",
    "measure --image-opts -O qcow2 driver=qcow2,file.filename=plain.qcow2",
    "measure --image-opts -f qcow2 driver=qcow2,file.filename=plain.qcow2",
    "measure -O qcow2 'json:{\"driver\":\"qcow2\",\"file.filename\":\"plain.qcow2\"}'",
    "measure -l nosuch plain.qcow2",
    "measure --output=json plain.qcow2",
];

const SNAPSHOT: &[&str] = &[
    "measure a.qcow2",
    "measure -O qcow2 a.qcow2",
    "measure -O qcow2 -l first a.qcow2",
    "measure -O qcow2 -l second a.qcow2",
    "measure -O qcow2 -l 1 a.qcow2",
    "measure -O qcow2 -l snapshot.id=2 a.qcow2",
    "measure -O qcow2 -l snapshot.name=first a.qcow2",
    "measure -O qcow2 -l nosuch a.qcow2",
    "measure -O qcow2 -l snapshot.foo=1 a.qcow2",
    "measure -O qcow2 -l '' a.qcow2",
];

const BITMAP: &[&str] = &[
    "measure a.qcow2",
    "measure -O qcow2 a.qcow2",
    "measure -O qcow2 --output=json a.qcow2",
    "measure -O qcow2 -o cluster_size=512 a.qcow2",
    "measure -O qcow2 -o compat=0.10 a.qcow2",
];
