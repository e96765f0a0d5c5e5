//! `snapshot`: each operation on every layout, the state of the image afterwards, names and ids, damage, and what is
//! refused. Where clusters lie, and so where an image ends, is left to each: `check -q` says whether it is sound.

use crate::fixtures::{BACKED, BITMAPS, DATA_FILE, LAYOUTS, SNAPSHOTS, V3};
use crate::info::IMAGES;
use crate::support::case::{Case, EMPTY, Files, Fixture};
use crate::support::suite::{group, patched};

/// All tables of this file.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    // Raw ones below, with their format named: qemu-img warns twice of what it guessed.
    for name in IMAGES.iter().filter(|name| name.ends_with(".qcow2")) {
        let line = format!(
            "snapshot -c one {name} && check -q {name} && snapshot -c two {name} && snapshot -a one {name} && \
             snapshot -d one {name} && check -q {name} && convert -O raw -l two {name} out.raw && \
             snapshot -d two {name} && snapshot -l {name} && check -q {name}"
        );
        all.extend(group("snapshot", LAYOUTS, &[&line]));
    }
    all.extend(group("snapshot", SNAPSHOTS, OPERATIONS));
    all.extend(group("snapshot", NAMES, NAMED));
    all.extend(group("snapshot", BITMAPS, &["snapshot -a x a.qcow2"]));
    all.extend(group(
        "snapshot",
        BITMAPS,
        &["snapshot -c x a.qcow2 && check -q a.qcow2 && snapshot -a x a.qcow2"],
    ));
    all.extend(group("snapshot", BACKED, &["snapshot -c x a.qcow2 && check -q a.qcow2 && map a.qcow2"]));
    for line in
        ["snapshot -c x a.qcow2", "snapshot -a x a.qcow2", "snapshot -d x a.qcow2", "snapshot -l a.qcow2"]
    {
        all.extend(group("snapshot", DATA_FILE, &[line]));
        all.extend(group("snapshot", RAW, &[&line.replace("a.qcow2", "-f raw a.raw")]));
    }
    all.push(
        Case::new("snapshot/a data file and a bitmap", EMPTY, "snapshot -a x d.qcow2")
            .with("create -f qcow2 -o data_file=d.data d.qcow2 1M && img bitmap --add d.qcow2 b"),
    );
    all.extend(group("snapshot", V3, USAGE));
    all.extend(patched("snapshot -a", SNAPSHOTS, "snapshot -a first a.qcow2", DAMAGE));
    all.extend(patched("snapshot -d", SNAPSHOTS, "snapshot -d first a.qcow2", DAMAGE));
    all.extend(patched("snapshot -l", SNAPSHOTS, "convert -O raw -l first a.qcow2 out.raw", DAMAGE));
    all.extend(resized());
    for bits in [1, 2, 4, 8, 32, 64] {
        let set_up =
            format!("create -f qcow2 -o refcount_bits={bits} r.qcow2 4M && io r.qcow2 'write -P 1 0 128k'");
        let name = format!("snapshot/refcount_bits={bits}");
        let lines = "snapshot -c a r.qcow2 && snapshot -c b r.qcow2 && snapshot -c c r.qcow2 && snapshot -c d r.qcow2";
        all.push(Case::new(name, EMPTY, lines).with(&set_up));
    }
    all.into_iter().map(|case| case.files(Files::Snapshots)).collect()
}

const RAW: Fixture = Fixture { name: "raw", pick: false, script: "create -f raw a.raw 1M" };

/// Names that are ids of others, empty and double ones.
const NAMES: Fixture = Fixture {
    name: "names",
    pick: false,
    script: "create -f qcow2 a.qcow2 1M
             io a.qcow2 'write -P 1 0 64k'
             img snapshot -c 2 a.qcow2
             io a.qcow2 'write -P 2 0 64k'
             img snapshot -c 1 a.qcow2
             io a.qcow2 'write -P 3 0 64k'
             img snapshot -c '' a.qcow2
             io a.qcow2 'write -P 4 0 64k'
             img snapshot -c same a.qcow2
             io a.qcow2 'write -P 5 0 64k'
             img snapshot -c same a.qcow2
             io a.qcow2 'write -P 6 0 64k'",
};

const NAMED: &[&str] = &[
    "snapshot -l a.qcow2",
    "snapshot -a 1 a.qcow2 && convert -O raw a.qcow2 out.raw",
    "snapshot -a 2 a.qcow2 && convert -O raw a.qcow2 out.raw",
    "snapshot -a '' a.qcow2 && convert -O raw a.qcow2 out.raw",
    "snapshot -a same a.qcow2 && convert -O raw a.qcow2 out.raw",
    "snapshot -d 1 a.qcow2 && snapshot -l a.qcow2",
    "snapshot -d 2 a.qcow2 && snapshot -l a.qcow2",
    "snapshot -d 3 a.qcow2 && snapshot -l a.qcow2",
    "snapshot -d '' a.qcow2 && snapshot -l a.qcow2",
    "snapshot -d same a.qcow2 && snapshot -l a.qcow2 && snapshot -d same a.qcow2 && snapshot -l a.qcow2",
    "convert -O raw -l 1 a.qcow2 out.raw",
    "convert -O raw -l 2 a.qcow2 out.raw",
    "convert -O raw -l '' a.qcow2 out.raw",
    "convert -O raw -l same a.qcow2 out.raw",
    "convert -O raw -l snapshot.name=1 a.qcow2 out.raw",
    "convert -O raw -l snapshot.name=same a.qcow2 out.raw",
    "convert -O raw -l snapshot.id=5,snapshot.name=same a.qcow2 out.raw",
    "convert -O raw -l snapshot.id=3,snapshot.name= a.qcow2 out.raw",
];

const OPERATIONS: &[&str] = &[
    "snapshot a.qcow2",
    "snapshot -l a.qcow2",
    "snapshot --list a.qcow2",
    "snapshot -q -l a.qcow2",
    "snapshot -U -l a.qcow2",
    "snapshot -l --image-opts driver=qcow2,file.filename=a.qcow2",
    "snapshot -c third a.qcow2 && check -q a.qcow2 && map --output=json a.qcow2",
    "snapshot -a first a.qcow2 && check -q a.qcow2 && map a.qcow2 && convert -O raw a.qcow2 out.raw",
    "snapshot -a second a.qcow2 && check -q a.qcow2 && convert -O raw a.qcow2 out.raw",
    "snapshot -a 1 a.qcow2 && check -q a.qcow2 && snapshot -a 2 a.qcow2 && convert -O raw a.qcow2 out.raw",
    "snapshot -d first a.qcow2 && check -q a.qcow2 && snapshot -l a.qcow2 && map a.qcow2",
    "snapshot -d second a.qcow2 && check -q a.qcow2 && snapshot -l a.qcow2",
    "snapshot -d second a.qcow2 && snapshot -d first a.qcow2 && snapshot -l a.qcow2 && check -q a.qcow2",
    "snapshot -d nosuch a.qcow2",
    "snapshot -d 1 a.qcow2",
    "snapshot -a nosuch a.qcow2",
    "snapshot -q -a nosuch a.qcow2",
    "measure -O qcow2 -l 2 a.qcow2",
    "convert -O qcow2 -l first a.qcow2 out.qcow2",
];

const USAGE: &[&str] = &[
    "snapshot",
    "snapshot -l",
    "snapshot a.qcow2 b.qcow2",
    "snapshot -c",
    "snapshot -l -l a.qcow2",
    "snapshot -c a -c b a.qcow2",
    "snapshot -l -c a a.qcow2",
    "snapshot -a a -d a a.qcow2",
    "snapshot --f a.qcow2",
    "snapshot --nosuch a.qcow2",
    "snapshot -c x nosuch.qcow2",
    "snapshot -l nosuch.qcow2",
    "snapshot -c x -U a.qcow2",
    "snapshot -c x -U foo:bar",
    "snapshot -c x -U json:{",
    "snapshot -c x -U nbd:foo",
    "snapshot -c x -U nosuch",
    "snapshot -a x -U --image-opts a.qcow2",
    "snapshot -a x -U --image-opts driver=foo",
    "snapshot -a x -U --image-opts driver=qcow2",
    "snapshot -a x -U --image-opts driver=qcow2,file.filename=nosuch",
    "snapshot -l -f foo a.qcow2",
    "snapshot -l -f raw a.qcow2",
    "snapshot -c x -f raw a.qcow2",
    "snapshot -a x -f raw a.qcow2",
    "snapshot -d x -f raw a.qcow2",
    "snapshot -l -f qcow2 --image-opts driver=qcow2,file.filename=a.qcow2",
    "snapshot --object foo -l a.qcow2",
    "snapshot --object secret,id=s,data=x -l a.qcow2",
    "snapshot -c x -c",
    "snapshot -d x a.qcow2",
    "snapshot -l a.qcow2",
];

/// Table at 0xc0000; the first snapshot's L1 table at 0x60000.
const DAMAGE: &[(&str, &str)] = &[
    ("nothing patched", ""),
    ("l1 unaligned", "or64 a.qcow2 0xc0000 0x200"),
    ("l1 too large", "be32 a.qcow2 0xc0008 0x7fffffff"),
    ("l1 beyond all files", "be64 a.qcow2 0xc0000 0x7fffffffffff0000"),
    ("l2 unaligned", "or64 a.qcow2 0x60000 0x200"),
    ("l1 longer", "be32 a.qcow2 0xc0008 3"),
];

/// A disk that was resized between its snapshots.
fn resized() -> Vec<Case> {
    let set_up = "create -f qcow2 a.qcow2 1M && io a.qcow2 'write -P 1 0 1M' && img snapshot -c small a.qcow2 && \
                  img resize -q a.qcow2 1G && io a.qcow2 'write -P 2 900M 64k' && img snapshot -c large a.qcow2";
    let lines = [
        "snapshot -a small a.qcow2 && check -q a.qcow2 && convert -O raw a.qcow2 out.raw && measure -O raw a.qcow2",
        "snapshot -a small a.qcow2 && snapshot -a large a.qcow2 && check -q a.qcow2 && measure -O raw a.qcow2",
        "convert -O qcow2 -l small a.qcow2 out.qcow2 && measure -O raw -l small a.qcow2",
        "convert -O qcow2 -l large a.qcow2 out.qcow2 && measure -O raw -l large a.qcow2",
        "snapshot -d small a.qcow2 && check -q a.qcow2",
        "snapshot -d large a.qcow2 && check -q a.qcow2 && resize --shrink a.qcow2 2M && check -q a.qcow2",
    ];
    lines
        .iter()
        .map(|line| Case::new(format!("snapshot/resized: {line}"), EMPTY, line).with(set_up))
        .collect()
}
