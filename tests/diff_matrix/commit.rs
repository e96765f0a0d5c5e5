//! `commit`: chains of many shapes, sizes and cluster sizes, to the backing file and further down, and what is refused.
//! What is
//! allocated in the base is left to each (qemu-img copies whole blocks of 64 KiB): `map` of a top that was cut off its
//! chain shows whether it was emptied.

use crate::support::case::{Case, EMPTY, Files, Fixture};
use crate::support::suite::group;

/// A chain of four with different cluster sizes, the third of another length; an image without a chain; a copy of the
/// top in a folder of its own.
pub const CHAIN: Fixture = Fixture {
    name: "chain",
    pick: false,
    script: "create -f raw base.raw 4M
             noise base.raw 0 3M 1
             create -f qcow2 -b base.raw -F raw low.qcow2
             io low.qcow2 'write -P 2 512k 1M' 'write -z 3M 64k' 'write -P 3 3800k 20k'
             create -f qcow2 -o cluster_size=4k -b low.qcow2 -F qcow2 mid.qcow2 3M
             io mid.qcow2 'write -P 4 1M 300k' 'write -z 700k 64k' 'write -P 5 2999k 9k'
             create -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2 5M
             io top.qcow2 'write -P 6 0 64k' 'write -P 7 1100k 3k' 'write -z 1280k 128k' 'write -P 8 4500k 100k'
             create -f qcow2 alone.qcow2 1M
             mkdir sub
             create -f qcow2 -b ../low.qcow2 -F qcow2 sub/over.qcow2
             io sub/over.qcow2 'write -P 9 2M 1M'
             link mid.qcow2 to-mid",
};

/// All tables of this file.
pub fn cases() -> Vec<Case> {
    let mut all = group("commit", CHAIN, COMMITS);
    all.extend(group("commit", CHAIN, PROGRESS).into_iter().map(Case::progress));
    all.extend(shapes());
    all.extend(kinds());
    all.extend(formats());
    all.extend(
        group("commit", CHAIN, &["commit top.qcow2", "commit -b low.qcow2 top.qcow2"])
            .into_iter()
            .flat_map(held),
    );
    all.into_iter().map(|case| case.files(Files::AnyLength)).collect()
}

/// The same while somebody else has one of the images open.
fn held(case: Case) -> Vec<Case> {
    let holders =
        ["mid.qcow2", "-r -f qcow2 mid.qcow2", "-r -f qcow2 low.qcow2", "top.qcow2", "-r -f raw base.raw"];
    let with = |holder: &&str| {
        let mut case = case.clone().with(&format!("hold {holder}"));
        case.name = format!("{} (held: {holder})", case.name);
        case
    };
    holders.iter().map(with).collect()
}

/// An overlay with each cluster size over bases of each kind, shorter, as long and longer.
fn shapes() -> Vec<Case> {
    let mut all = Vec::new();
    let bases = [
        ("raw", "-f raw", "raw"),
        ("qcow2", "-f qcow2", "qcow2"),
        ("small clusters", "-f qcow2 -o cluster_size=512", "qcow2"),
        ("subclusters", "-f qcow2 -o extended_l2=on", "qcow2"),
        ("version 2", "-f qcow2 -o compat=0.10", "qcow2"),
    ];
    let overlays =
        ["cluster_size=64k", "cluster_size=512", "extended_l2=on", "cluster_size=2M", "compat=0.10"];
    let sizes = ["1M", "2M", "3584k"].iter().cycle();
    let pairs = bases.iter().flat_map(|base| overlays.iter().map(move |overlay| (base, overlay)));
    for (((name, options, format), overlay), size) in pairs.zip(sizes) {
        let set_up = format!(
            "create {options} base {size} && io -f {format} base 'write -P 1 100k 700k' && \
             create -f qcow2 -o {overlay} -b base -F {format} top 2M && \
             io top 'write -P 2 0 1k' 'write -P 3 700k 200k' 'write -P 4 1900k 100k' && \
             try-io top 'write -z 300k 100k'"
        );
        let lines = "commit top && check -q top && rebase -u top && map --output=json top";
        let name = format!("commit/{overlay} over {name} of {size}");
        all.push(Case::new(name, EMPTY, lines).with(&set_up));
    }
    all
}

/// Overlays and bases of other formats, some of which can't be longer or be emptied.
fn formats() -> Vec<Case> {
    let mut all = Vec::new();
    for (base, overlay) in [
        ("qed", "qcow2"),
        ("qcow", "qcow2"),
        ("vdi", "qcow2"),
        ("vpc", "qcow2"),
        ("vhdx", "qcow2"),
        ("raw", "qed"),
        ("qcow2", "qed"),
        ("raw", "qcow"),
    ] {
        for size in ["", " 12M"] {
            let set_up = format!(
                "create -f {base} base.{base} 8M && io -f {base} base.{base} 'write -P 1 1M 2M' && \
                 create -f {overlay} -b base.{base} -F {base} top{size} && \
                 io -f {overlay} top 'write -P 2 64k 300k' 'write -P 3 2M 70k' && try-io -f {overlay} top 'write -z 1M 64k'"
            );
            let name = format!("commit/{overlay} over {base}{size}");
            let line = format!(
                "commit -f {overlay} top && commit -d -f {overlay} top && compare -f {overlay} -F {base} top base.{base}"
            );
            all.push(Case::new(name, EMPTY, &line).with(&set_up));
        }
    }
    all
}

/// Overlays and bases with more in them than data.
fn kinds() -> Vec<Case> {
    let rows = [
        ("a snapshot in the overlay", "img snapshot -c s top.qcow2"),
        ("a snapshot in the base", "img snapshot -c s mid.qcow2"),
        ("a bitmap in the base", "img bitmap --add mid.qcow2 b"),
        ("a disabled bitmap in the base", "img bitmap --add --disable mid.qcow2 b"),
        ("a broken base", "be32 mid.qcow2 20 5"),
        ("a missing base", "remove low.qcow2"),
        ("a read-only base", "remove mid.qcow2 && mkdir mid.qcow2"),
        ("a base of another format", "img rebase -u -b mid.qcow2 -F raw top.qcow2"),
    ];
    let lines = "commit top.qcow2 && check -q mid.qcow2 && check -q top.qcow2 && rebase -u top.qcow2 && map top.qcow2";
    let mut all: Vec<Case> = rows
        .iter()
        .map(|(name, change)| Case::new(format!("commit/{name}"), CHAIN, lines).with(change))
        .collect();
    let data_file = "create -f qcow2 -o data_file=top.raw -b base.raw -F raw top.qcow2 && \
                     io top.qcow2 'write -P 5 64k 64k'";
    let set_up = format!("create -f raw base.raw 1M && {data_file}");
    all.push(
        Case::new("commit/a data file", EMPTY, "commit top.qcow2 && rebase -u top.qcow2 && map top.qcow2")
            .with(&set_up),
    );
    let guessed = "create -f qcow2 base.qcow2 1M && create -f qcow2 -b base.qcow2 -F qcow2 top.qcow2 && \
                   io top.qcow2 'write -P 5 64k 64k' && remove base.qcow2 && create -f raw base.qcow2 1M";
    all.push(Case::new("commit/a base that is another one now", EMPTY, "commit top.qcow2").with(guessed));
    all
}

const COMMITS: &[&str] = &[
    "commit top.qcow2 && rebase -u top.qcow2 && map --output=json top.qcow2",
    "commit -d top.qcow2 && rebase -u top.qcow2 && map --output=json top.qcow2",
    "commit -q top.qcow2 && commit -q mid.qcow2 && commit -q low.qcow2",
    "commit -b mid.qcow2 top.qcow2 && rebase -u top.qcow2 && map --output=json top.qcow2",
    "commit -b low.qcow2 top.qcow2 && compare low.qcow2 top.qcow2",
    "commit -b base.raw top.qcow2 && compare -F raw top.qcow2 base.raw",
    "commit -d -b base.raw top.qcow2",
    "commit -b to-mid top.qcow2",
    "commit -b ./mid.qcow2 top.qcow2",
    "commit -b sub/../low.qcow2 top.qcow2",
    "commit -b file:mid.qcow2 top.qcow2",
    "commit -b top.qcow2 top.qcow2",
    "commit -b nosuch top.qcow2",
    "commit -b alone.qcow2 top.qcow2",
    "commit -b '' top.qcow2",
    "commit -b x alone.qcow2",
    "commit alone.qcow2",
    "commit base.raw",
    "commit -f raw base.raw",
    "commit nosuch",
    "commit -f raw top.qcow2",
    "commit -f nosuch top.qcow2",
    "commit -f qcow2 top.qcow2",
    "commit --image-opts driver=qcow2,file.filename=top.qcow2",
    "commit --image-opts -f qcow2 driver=qcow2,file.filename=top.qcow2",
    "commit --image-opts driver=qcow2,file.filename=top.qcow2,read-only=on",
    "commit --image-opts driver=qcow2,file.filename=top.qcow2,backing.driver=raw,backing.file.filename=base.raw",
    "commit --image-opts driver=qcow2,file.filename=top.qcow2,backing.driver=qcow2,backing.file.filename=low.qcow2,backing.read-only=on",
    "commit 'json:{\"driver\":\"qcow2\",\"file\":{\"filename\":\"top.qcow2\"}}'",
    "commit sub/over.qcow2 && map sub/over.qcow2",
    "commit -b ../base.raw sub/over.qcow2",
    "commit -b base.raw sub/over.qcow2",
    "commit -b ../low.qcow2 sub/over.qcow2",
    "commit -b low.qcow2 sub/over.qcow2",
    "commit -t none top.qcow2",
    "commit -t unsafe top.qcow2",
    "commit -t directsync top.qcow2",
    "commit -t bogus nosuch",
    "commit -t '' top.qcow2",
    "commit -r 1G top.qcow2",
    "commit -r 0 top.qcow2",
    "commit -r -1 top.qcow2",
    "commit -r 1x top.qcow2",
    "commit -r '' top.qcow2",
    "commit -r 9223372036854775808 top.qcow2",
    "commit --rate 64M --drop --quiet --base low.qcow2 --format qcow2 --cache writeback top.qcow2",
    "commit -U top.qcow2",
    "commit -b",
    "commit top.qcow2 mid.qcow2",
    "commit --object secret,id=s,data=x top.qcow2",
    "commit --object nosuch,id=s top.qcow2",
    "commit --d top.qcow2",
    "commit --ra 5G top.qcow2",
];

const PROGRESS: &[&str] = &[
    "commit -p top.qcow2",
    "commit -p -q top.qcow2",
    "commit -p -d top.qcow2",
    "commit -p -b base.raw top.qcow2",
    "commit -p -b nosuch top.qcow2",
    "commit -p nosuch",
    "commit -p alone.qcow2",
];
