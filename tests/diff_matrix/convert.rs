//! `convert`: raw and qcow2 into each other with every option; several sources, backing files, sparse output.
//! What is refused, existing targets and broken sources are in `convert_more.rs`.

use crate::fixtures::{BITMAPS, CHAINS, LAYOUTS, SNAPSHOTS, SOURCE};
use crate::info::{IMAGES, OVERLAYS};
use crate::support::case::{Case, Files};
use crate::support::suite::group;

/// All tables of this file.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for name in IMAGES {
        let to_raw = group("convert", LAYOUTS, &[&format!("convert -O raw {name} out.raw")]);
        all.extend(to_raw.into_iter().map(Case::allocation));
        all.extend(images(
            Files::Images,
            group("convert", LAYOUTS, &[&format!("convert -O qcow2 {name} out.qcow2")]),
        ));
        let compressed = group("convert", LAYOUTS, &[&format!("convert -c -O qcow2 {name} out.qcow2")]);
        all.extend(images(Files::AnyLength, compressed));
        all.extend(group("convert", LAYOUTS, &[&format!("convert -p -O raw {name} out.raw")]));
        if *name != "c512.qcow2" {
            let compressed = &format!("convert -p -c -O qcow2 {name} out.qcow2");
            all.extend(images(Files::AnyLength, group("convert", LAYOUTS, &[compressed])));
        }
    }
    for name in OVERLAYS {
        all.extend(group("convert", CHAINS, &[&format!("convert -O raw {name} out.raw")]));
    }
    all.extend(images(Files::Images, group("convert", SOURCE, TARGET_OPTIONS)));
    all.extend(images(Files::AnyLength, group("convert", SOURCE, COMPRESSED)));
    all.extend(group("convert", SOURCE, RAW).into_iter().map(Case::allocation));
    all.extend(
        images(Files::Images, group("convert", SOURCE, PREALLOCATED)).into_iter().map(Case::allocation),
    );
    all.extend(images(Files::Images, group("convert", SOURCE, PROGRESS)));
    all.extend(images(Files::Images, group("convert", CHAINS, PROGRESS_CHAINS)));
    all.extend(images(Files::Images, group("convert", CHAINS, BACKING)));
    all.extend(images(Files::Images, group("convert", SNAPSHOTS, SNAPSHOT)));
    all.extend(images(Files::AnyLength, group("convert", BITMAPS, BITMAP)));
    all
}

/// The same cases with another way to compare what they leave behind.
pub fn images(files: Files, cases: Vec<Case>) -> Vec<Case> {
    cases.into_iter().map(|case| case.files(files)).collect()
}

const RAW: &[&str] = &[
    "convert s.raw out.raw",
    "convert -O raw s.raw out.raw",
    "convert -f raw s.raw out.raw",
    "convert -f raw -O raw s.raw out.raw",
    "convert s.qcow2 out.raw",
    "convert odd.raw out.raw",
    "convert empty.raw out.raw",
    "convert -S 0 s.raw out.raw",
    "convert -S 0 s.qcow2 out.raw",
    "convert -S 512 s.raw out.raw",
    "convert -S 4k s.raw out.raw",
    "convert -S 64k s.raw out.raw",
    "convert -S 1M s.raw out.raw",
    "convert -S 16M s.raw out.raw",
    "convert --sparse-size=4096 s.raw out.raw",
    "convert -o preallocation=off s.raw out.raw",
    "convert -o preallocation=falloc s.raw out.raw",
    "convert -o preallocation=full s.raw out.raw",
    "convert -W s.raw out.raw",
    "convert -m 1 s.raw out.raw",
    "convert -m 16 s.raw out.raw",
    "convert -m 4 -W s.qcow2 out.raw",
    "convert -U s.raw out.raw",
    "convert -U s.qcow2 out.raw",
    "convert -C s.raw out.raw",
    "convert -q s.raw out.raw",
    "convert -t none s.raw out.raw",
    "convert -t writeback s.raw out.raw",
    "convert -t writethrough s.raw out.raw",
    "convert -t directsync s.raw out.raw",
    "convert -t unsafe s.raw out.raw",
    "convert -T none s.raw out.raw",
    "convert -T directsync s.qcow2 out.raw",
    "convert -T none -t none s.qcow2 out.raw",
    "convert -T none -t none odd.raw out.raw",
    "convert --salvage s.raw out.raw",
    "convert -r 100M s.raw out.raw",
    "convert s.raw other.raw out.raw",
    "convert s.qcow2 other.raw odd.raw out.raw",
    "convert -f raw s.raw s.qcow2 out.raw",
    "convert empty.raw other.raw out.raw",
    "convert odd.raw other.raw out.raw",
    "convert --source-format=raw --target-format=raw s.raw out.raw",
    "convert s.raw file:out.raw",
    "convert s.raw ./out.raw",
];

const TARGET_OPTIONS: &[&str] = &[
    "convert -O qcow2 s.raw out.qcow2",
    "convert -f raw -O qcow2 s.raw out.qcow2 && info out.qcow2 && map --output=json out.qcow2 && check out.qcow2",
    "convert -f qcow2 -O qcow2 s.qcow2 out.qcow2",
    "convert -O qcow2 -o cluster_size=512 s.raw out.qcow2",
    "convert -O qcow2 -o cluster_size=4k s.raw out.qcow2",
    "convert -O qcow2 -o cluster_size=2M s.raw out.qcow2",
    "convert -O qcow2 -o compat=0.10 s.raw out.qcow2",
    "convert -O qcow2 -o refcount_bits=1 s.raw out.qcow2",
    "convert -O qcow2 -o refcount_bits=64 s.raw out.qcow2",
    "convert -O qcow2 -o lazy_refcounts=on s.raw out.qcow2",
    "convert -O qcow2 -o extended_l2=on s.raw out.qcow2 && map --output=json out.qcow2",
    "convert -O qcow2 -o extended_l2=on,cluster_size=16k s.raw out.qcow2",
    "convert -O qcow2 -o compression_type=zstd s.raw out.qcow2",
    "convert -O qcow2 -o data_file=d.raw s.raw out.qcow2 && map --output=json out.qcow2",
    "convert -O qcow2 -o data_file=d.raw,data_file_raw=on s.raw out.qcow2 && map --output=json out.qcow2",
    "convert -O qcow2 -o cluster_size=4k -o refcount_bits=8 s.raw out.qcow2",
    "convert -O qcow2 -o size=5M s.raw out.qcow2",
    "convert -O qcow2 -o size=1M s.raw out.qcow2",
    "convert -O raw -o size=5M s.raw out.raw",
    "convert -O raw -o size=1M s.raw out.raw",
    "convert -O qcow2 -S 0 s.raw out.qcow2",
    "convert -O qcow2 -S 0 s.qcow2 out.qcow2",
    "convert -O qcow2 -S 512 s.raw out.qcow2",
    "convert -O qcow2 -S 1M s.raw out.qcow2",
    "convert -O qcow2 -W s.raw out.qcow2",
    "convert -O qcow2 -m 1 s.raw out.qcow2",
    "convert -O qcow2 -m 16 -W s.raw out.qcow2",
    "convert -O qcow2 odd.raw out.qcow2",
    "convert -O qcow2 empty.raw out.qcow2",
    "convert -O qcow2 s.raw other.raw out.qcow2",
    "convert -O qcow2 odd.raw other.raw s.qcow2 out.qcow2",
    "convert -O qcow2 -t none s.raw out.qcow2",
    "convert -O qcow2 -t directsync -T none s.raw out.qcow2",
    "convert -O qcow2 -C s.raw out.qcow2",
    "convert -O qcow2 --target-options cluster_size=8k s.raw out.qcow2",
    "convert -O qcow2 -o help",
    "convert -O qcow2 -o help s.raw out.qcow2",
    "convert -O raw -o help s.raw out.raw",
    "convert -O qcow2 -o ? s.raw out.qcow2",
    "convert -O foo -o help s.raw out.raw",
    "convert -O qcow2 --target-is-zero s.raw out.qcow2",
    "convert -O qcow2 --bitmaps s.qcow2 out.qcow2",
];

const COMPRESSED: &[&str] = &[
    "convert -c -O qcow2 s.raw out.qcow2 && check out.qcow2",
    "convert -c -O qcow2 s.qcow2 out.qcow2",
    "convert -c -O qcow2 -o cluster_size=512 s.raw out.qcow2",
    "convert -c -O qcow2 -o cluster_size=4k s.raw out.qcow2",
    "convert -c -O qcow2 -o cluster_size=2M s.raw out.qcow2",
    "convert -c -O qcow2 -o compression_type=zstd s.raw out.qcow2",
    "convert -c -O qcow2 -o compression_type=zstd,cluster_size=4k s.raw out.qcow2",
    "convert -c -O qcow2 -o compression_type=zstd,extended_l2=on s.raw out.qcow2",
    "convert -c -O qcow2 -o extended_l2=on s.raw out.qcow2",
    "convert -c -O qcow2 -o compat=0.10 s.raw out.qcow2",
    "convert -c -O qcow2 -o refcount_bits=1 s.raw out.qcow2",
    "convert -c -O qcow2 -o refcount_bits=64 s.raw out.qcow2",
    "convert -c -O qcow2 -S 0 s.raw out.qcow2",
    "convert -c -O qcow2 -S 1M s.raw out.qcow2",
    "convert -c -O qcow2 -W s.raw out.qcow2",
    "convert -c -O qcow2 -m 1 s.raw out.qcow2",
    "convert -c -O qcow2 odd.raw out.qcow2",
    "convert -c -O qcow2 s.raw other.raw out.qcow2",
    "convert -c -O raw s.raw out.raw",
    "convert -c s.raw out.raw",
    "convert -c -O qcow2 -o data_file=d.raw s.raw out.qcow2",
    "convert -c -O qcow2 -o preallocation=metadata s.raw out.qcow2",
    "convert -c -C -O qcow2 s.raw out.qcow2",
    "convert -c -n -O qcow2 s.raw big.qcow2",
    "convert -c -n -O qcow2 other.raw small.qcow2",
    "convert --compress -O qcow2 s.raw out.qcow2",
];

const PREALLOCATED: &[&str] = &[
    "convert -O qcow2 -o preallocation=off s.raw out.qcow2",
    "convert -O qcow2 -o preallocation=metadata s.raw out.qcow2 && map --output=json out.qcow2",
    "convert -O qcow2 -o preallocation=falloc s.raw out.qcow2 && map --output=json out.qcow2",
    "convert -O qcow2 -o preallocation=full s.raw out.qcow2 && map --output=json out.qcow2",
    "convert -O qcow2 -o preallocation=metadata,cluster_size=4k s.raw out.qcow2",
    "convert -O qcow2 -S 0 -o preallocation=metadata s.raw out.qcow2",
];

const PROGRESS: &[&str] = &[
    "convert -p s.raw out.raw",
    "convert -p -O qcow2 s.raw out.qcow2",
    "convert -p s.qcow2 out.raw",
    "convert -p -q s.raw out.raw",
    "convert -q -p s.raw out.raw",
    "convert -p empty.raw out.raw",
    "convert --progress -W -O qcow2 s.raw out.qcow2",
    "convert -p nosuch out.raw",
    "convert -p s.raw other.raw out.raw",
    "convert -p s.raw s.qcow2 out.raw",
    "convert -p -S 0 s.raw out.raw",
    "convert -p -S 0 -O qcow2 s.qcow2 out.qcow2",
    "convert -p -S 3M -O qcow2 s.raw out.qcow2",
    "convert -p -C s.raw out.raw",
    "convert -p -O qcow2 -o cluster_size=2M s.raw out.qcow2",
    "create -q -f qcow2 out.qcow2 64M && convert -p -n -O qcow2 s.raw out.qcow2",
    "create -q -f qcow2 in.qcow2 64M && io in.qcow2 'write 1M 3M' 'write -z 4M 1M' 'write 6M 2560k' 'write 20M 9M' && \
     convert -p -O qcow2 in.qcow2 out.qcow2",
];

/// Progress with layers: what lies below is no work.
const PROGRESS_CHAINS: &[&str] = &[
    "convert -p -O raw top.qcow2 out.raw",
    "convert -p -O qcow2 -B mid.qcow2 -F qcow2 top.qcow2 out.qcow2",
    "convert -p -S 0 -O qcow2 -B mid.qcow2 -F qcow2 top.qcow2 out.qcow2",
];

/// Targets that are overlays.
const BACKING: &[&str] = &[
    "convert -O qcow2 -B base.qcow2 -F qcow2 top.qcow2 out.qcow2 && map --output=json out.qcow2",
    "convert -O qcow2 -B mid.qcow2 -F qcow2 top.qcow2 out.qcow2 && info --backing-chain out.qcow2",
    "convert -O qcow2 -B base.raw -F raw onraw.qcow2 out.qcow2 && map --output=json out.qcow2",
    "convert -O qcow2 -B base.raw -F raw base.raw out.qcow2 && map --output=json out.qcow2",
    "convert -O qcow2 -B base.raw -F raw base.qcow2 out.qcow2 && map --output=json out.qcow2",
    "convert -O qcow2 -B base.qcow2 -F qcow2 base.raw out.qcow2 && map --output=json out.qcow2",
    "convert -O qcow2 -B base.qcow2 top.qcow2 out.qcow2",
    "convert -O qcow2 -o backing_file=base.qcow2,backing_fmt=qcow2 top.qcow2 out.qcow2",
    "convert -O qcow2 -o backing_file=base.qcow2 -F qcow2 top.qcow2 out.qcow2",
    "convert -O qcow2 -B base.qcow2 -F qcow2 -o backing_file=mid.qcow2 top.qcow2 out.qcow2",
    "convert -O qcow2 -B base.qcow2 -F raw top.qcow2 out.qcow2",
    "convert -O qcow2 -B base.qcow2 -F qcow2 -S 0 top.qcow2 out.qcow2",
    "convert -O qcow2 -B base.raw -F raw -o extended_l2=on extover.qcow2 out.qcow2 && map --output=json out.qcow2",
    "convert -O qcow2 -B base.raw -F raw -o compat=0.10 v2over.qcow2 out.qcow2 && map --output=json out.qcow2",
    "convert -O qcow2 -B base.raw -F raw -o cluster_size=4k onraw.qcow2 out.qcow2 && map --output=json out.qcow2",
    "convert -O qcow2 -B missing.qcow2 -F qcow2 top.qcow2 out.qcow2",
    "convert -n -O qcow2 top.qcow2 mid.qcow2",
    "convert -n -B base.qcow2 -F qcow2 -O qcow2 top.qcow2 mid.qcow2",
    "convert -O qcow2 -B ../base.qcow2 -F qcow2 top.qcow2 sub/out.qcow2 && info --backing-chain sub/out.qcow2",
    "convert -O qcow2 -B base.qcow2 -F qcow2 top.qcow2 sub/out.qcow2",
    "convert -O qcow2 --image-opts driver=qcow2,file.filename=top.qcow2,backing= out.qcow2",
    "convert -O raw top.qcow2 mid.qcow2 base.qcow2 out.raw",
    "convert -O raw top.qcow2 missing.qcow2 out.raw",
    "convert -O raw top.qcow2 nosuch.qcow2 out.raw",
];

const SNAPSHOT: &[&str] = &[
    "convert -O raw a.qcow2 out.raw",
    "convert -O qcow2 a.qcow2 out.qcow2 && info out.qcow2",
    "convert -l first -O raw a.qcow2 out.raw",
    "convert -l second -O raw a.qcow2 out.raw",
    "convert -l 1 -O raw a.qcow2 out.raw",
    "convert -l snapshot.id=1 -O raw a.qcow2 out.raw",
    "convert -l snapshot.name=second -O raw a.qcow2 out.raw",
    "convert -l snapshot.id=1,snapshot.name=first -O raw a.qcow2 out.raw",
    "convert -l snapshot.id=1,snapshot.name=second -O raw a.qcow2 out.raw",
    "convert -l snapshot.id=9 -O raw a.qcow2 out.raw",
    "convert -l nosuch -O raw a.qcow2 out.raw",
    "convert -l snapshot.id=1,foo=1 -O raw a.qcow2 out.raw",
    "convert --source-snapshot first -O qcow2 a.qcow2 out.qcow2",
    "convert -l first -O raw a.qcow2 a.qcow2 out.raw",
];

const BITMAP: &[&str] = &[
    "convert -O raw a.qcow2 out.raw",
    "convert -O qcow2 a.qcow2 out.qcow2 && info out.qcow2",
    "convert -c -O qcow2 a.qcow2 out.qcow2",
];
