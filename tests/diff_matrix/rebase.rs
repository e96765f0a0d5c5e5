//! `rebase`: safe and unsafe, onto another file and onto none, chains of different lengths and cluster sizes, and what
//! is refused. Where clusters lie is left to each; `map` shows which layer answers.

use crate::commit::CHAIN;
use crate::support::case::{Case, EMPTY, Files, Fixture};
use crate::support::suite::group;

/// Files that an image can be put on, and an image to put there.
const PLACES: Fixture = Fixture {
    name: "places",
    pick: false,
    script: "create -f raw old.raw 2M
             fill old.raw 0 1M 1
             create -f raw new.raw 3M
             fill new.raw 0 512k 1
             fill new.raw 512k 1M 2
             fill new.raw 2M 1M 3
             create -f raw short.raw 1000k
             fill short.raw 0 1000k 1
             create -f qcow2 new.qcow2 2M
             io new.qcow2 'write -P 1 256k 512k' 'write -z 1M 128k'
             create -f qcow2 -b old.raw -F raw a.qcow2 2560k
             io a.qcow2 'write -P 5 64k 64k' 'write -z 640k 64k' 'write -P 6 1500k 1k'
             mkdir sub
             create -f qcow2 -b ../old.raw -F raw sub/b.qcow2
             create -f raw sub/new.raw 2M
             fill sub/new.raw 0 64k 9
             create -f qcow2 alone.qcow2 1M",
};

/// All tables of this file.
pub fn cases() -> Vec<Case> {
    let mut all = group("rebase", PLACES, SAFE);
    all.extend(group("rebase", PLACES, UNSAFE));
    all.extend(group("rebase", CHAIN, CHAINS));
    all.extend(group("rebase", PLACES, PROGRESS).into_iter().map(Case::progress));
    all.extend(shapes());
    all.extend(held());
    all.extend(formats());
    let data_file = "create -f qcow2 -o data_file=d.raw,data_file_raw=on d.qcow2 1M && create -f raw new.raw 1M && \
                     create -f qcow2 -o data_file=e.raw e.qcow2 1M && fill new.raw 0 100k 7";
    let lines = [
        "rebase -u -b new.raw -F raw d.qcow2 && info d.qcow2",
        "rebase -b new.raw -F raw d.qcow2 && map d.qcow2",
        "rebase -b new.raw -F raw e.qcow2 && map e.qcow2",
        "rebase -b '' e.qcow2",
    ];
    all.extend(lines.map(|line| Case::new(format!("rebase/data file: {line}"), EMPTY, line).with(data_file)));
    all.extend(long_names());
    all.into_iter().map(|case| case.files(Files::AnyLength)).collect()
}

/// Overlays of each kind from and to files of different lengths.
fn shapes() -> Vec<Case> {
    let mut all = Vec::new();
    let overlays = [
        "cluster_size=64k",
        "cluster_size=512",
        "extended_l2=on",
        "extended_l2=on,cluster_size=16k",
        "cluster_size=2M",
        "compat=0.10",
    ];
    for (number, overlay) in overlays.iter().enumerate() {
        let sizes = [("1M", "1M"), ("1M", "3M"), ("3M", "1M"), ("1500k", "900k"), ("513k", "3M")];
        // Each overlay with three of them.
        for (old, new) in sizes.iter().cycle().skip(number).take(3) {
            for (kind, arguments) in [
                ("onto a file", "-b new.raw -F raw"),
                ("onto none", "-b ''"),
                ("compressed", "-c -b new.raw -F raw"),
            ] {
                if overlay.starts_with("extended") && kind == "compressed" {
                    continue; // qemu-img ends on an assertion
                }
                let set_up = format!(
                    "create -f raw old.raw {old} && noise old.raw 0 400k 7 && create -f raw new.raw {new} && \
                     noise new.raw 100k 600k 7 && create -f qcow2 -o {overlay} -b old.raw -F raw a.qcow2 2M && \
                     io a.qcow2 'write -P 5 64k 100k' 'write -P 6 900k 1k' && try-io a.qcow2 'write -z 256k 64k'"
                );
                let lines = format!("rebase {arguments} a.qcow2 && check -q a.qcow2");
                let name = format!("rebase/{overlay}, {old} to {new}, {kind}");
                all.push(Case::new(name, EMPTY, &lines).with(&set_up));
            }
        }
    }
    all
}

/// Images of other formats, most of which can't have another backing file.
fn formats() -> Vec<Case> {
    let mut all = Vec::new();
    // Parallels has another message, and each vmdk a number of its own. Where the backing file can't change, qemu-img
    // finds out when it has copied everything.
    let all_lines: &[&str] = &["-b new.raw -F raw", "-b new.qcow2 -F qcow2", "-b ''", "-c -b new.raw -F raw"];
    let names = ["-u -b new.raw -F raw", "-u -b new.qcow2 -F qcow2", "-u -b new.raw", "-u -b ''"];
    for (format, old, lines) in [
        ("qed", "raw", all_lines),
        ("qcow", "raw", &[]),
        ("vdi", "", &[]),
        ("vpc", "", &[]),
        ("vhdx", "", &[]),
    ] {
        let backing = if old.is_empty() { String::new() } else { format!("-b old.{old} -F {old}") };
        let set_up = format!(
            "create -f raw old.raw 8M && fill old.raw 0 1M 1 && \
             create -f raw new.raw 9M && fill new.raw 512k 3M 2 && create -f qcow2 new.qcow2 8M && \
             create -f {format} {backing} a 8M && io -f {format} a 'write -P 5 64k 64k'"
        );
        for line in lines.iter().chain(&names) {
            let line = format!("rebase -f {format} {line} a && map -f {format} --output=json a");
            all.push(Case::new(format!("rebase/{format}: {line}"), EMPTY, &line).with(&set_up));
        }
    }
    all
}

/// While somebody else has one of the images open.
fn held() -> Vec<Case> {
    let mut all = Vec::new();
    for holder in ["-f raw old.raw", "-f raw new.raw", "a.qcow2", "-r -f qcow2 a.qcow2", "new.qcow2"] {
        for line in [
            "rebase -b new.raw -F raw a.qcow2",
            "rebase -U -b new.raw -F raw a.qcow2",
            "rebase -b new.qcow2 -F qcow2 a.qcow2",
            "rebase -U -b new.qcow2 -F qcow2 a.qcow2",
            "rebase -u -b new.qcow2 -F qcow2 a.qcow2",
        ] {
            let name = format!("rebase/held {holder}: {line}");
            all.push(Case::new(name, PLACES, line).with(&format!("hold {holder}")));
        }
    }
    all
}

/// Names that fit, just fit and do not.
fn long_names() -> Vec<Case> {
    let mut all = Vec::new();
    for (size, len) in [("64k", 1023), ("64k", 1024), ("512", 300), ("512", 400), ("512", 408), ("4k", 1023)]
    {
        let name = "n".repeat(len);
        let line = format!(
            "rebase -u -b {name} -F raw a.qcow2 && info a.qcow2 && rebase -u a.qcow2 && info a.qcow2"
        );
        let set_up = format!("create -f qcow2 -o cluster_size={size} a.qcow2 1M");
        all.push(
            Case::new(format!("rebase/a name of {len} bytes, clusters of {size}"), EMPTY, &line)
                .with(&set_up),
        );
    }
    all
}

const SAFE: &[&str] = &[
    "rebase -b new.raw -F raw a.qcow2 && map --output=json a.qcow2 && info a.qcow2",
    "rebase -b new.qcow2 -F qcow2 a.qcow2 && map --output=json a.qcow2 && info a.qcow2",
    "rebase -b short.raw -F raw a.qcow2 && map --output=json a.qcow2",
    "rebase -b old.raw -F raw a.qcow2 && map --output=json a.qcow2",
    "rebase -b '' a.qcow2 && map --output=json a.qcow2 && info a.qcow2",
    "rebase -b '' -F raw a.qcow2 && info a.qcow2",
    "rebase -c -b new.raw -F raw a.qcow2 && check a.qcow2",
    "rebase -c -b '' a.qcow2 && check a.qcow2",
    "rebase -b new.raw a.qcow2",
    "rebase -b new.raw -F nosuch a.qcow2",
    "rebase -b new.raw -F '' a.qcow2",
    "rebase -b nosuch -F raw a.qcow2",
    "rebase -b new.raw -F qcow2 a.qcow2",
    "rebase -b new.qcow2 -F raw a.qcow2 && info a.qcow2",
    "rebase -b a.qcow2 -F qcow2 a.qcow2",
    "rebase -b new.raw -F file a.qcow2 && info a.qcow2",
    "rebase -b file:new.raw -F raw a.qcow2 && info a.qcow2",
    "rebase -b nosuch:new.raw -F raw a.qcow2",
    "rebase -b 'json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"new.raw\"}}' -F raw a.qcow2 && info a.qcow2",
    "rebase -b json:{} -F raw a.qcow2",
    "rebase -b new.raw -F raw sub/b.qcow2 && map sub/b.qcow2",
    "rebase -b ../new.raw -F raw sub/b.qcow2 && map sub/b.qcow2",
    "rebase -b new.raw -F raw alone.qcow2 && map --output=json alone.qcow2",
    "rebase -b '' alone.qcow2",
    "rebase -b new.qcow2 -F qcow2 new.raw",
    "rebase -f raw -b new.qcow2 -F qcow2 new.raw",
    "rebase -f raw -b '' new.raw",
    "rebase -c -f raw -b '' new.raw",
    "rebase -f raw -b new.qcow2 -F qcow2 a.qcow2",
    "rebase -f nosuch -b new.qcow2 -F qcow2 a.qcow2",
    "rebase -b new.raw -F raw nosuch",
    "rebase --image-opts -b new.raw -F raw driver=qcow2,file.filename=a.qcow2 && info a.qcow2",
    "rebase --image-opts -f qcow2 -b new.raw -F raw driver=qcow2,file.filename=a.qcow2",
    "rebase --image-opts -b '' driver=qcow2,file.filename=a.qcow2,backing.driver=raw,backing.file.filename=new.raw && map --output=json a.qcow2",
    "rebase -U -b new.raw -F raw a.qcow2",
    "rebase -t none -T none -b new.raw -F raw a.qcow2",
    "rebase -t unsafe -b new.raw -F raw a.qcow2",
    "rebase -t bogus -b new.raw -F raw nosuch",
    "rebase -T bogus -b new.raw -F raw nosuch",
    "rebase -t bogus -T bogus -b new.raw -F raw nosuch",
    "rebase --backing new.raw --backing-format raw --cache writeback --backing-cache writethrough --quiet a.qcow2 && info a.qcow2",
    "rebase a.qcow2",
    "rebase -F raw a.qcow2",
    "rebase -c a.qcow2",
    "rebase -b new.raw",
    "rebase -b new.raw a.qcow2 alone.qcow2",
    "rebase --object secret,id=s,data=x -b '' a.qcow2",
    "rebase --back x a.qcow2",
    "rebase -x",
];

const UNSAFE: &[&str] = &[
    "rebase -u -b new.raw -F raw a.qcow2 && info a.qcow2 && map --output=json a.qcow2",
    "rebase -u -b nosuch -F raw a.qcow2 && info a.qcow2 && map a.qcow2",
    "rebase -u -b nosuch a.qcow2",
    "rebase -u -b nosuch -F nosuch a.qcow2",
    "rebase -u -b '' a.qcow2 && info a.qcow2 && map --output=json a.qcow2",
    "rebase -u a.qcow2 && info a.qcow2",
    "rebase -u -F raw a.qcow2 && info a.qcow2",
    "rebase -u -F '' a.qcow2",
    "rebase -u -c -b new.raw -F raw a.qcow2 && info a.qcow2",
    "rebase -u -c -f raw -b x -F raw new.raw",
    "rebase -u -b a.qcow2 -F qcow2 a.qcow2 && info a.qcow2",
    "rebase -u -b x:y -F raw a.qcow2 && info a.qcow2",
    "rebase -u -b old.raw -F host_device a.qcow2 && info a.qcow2",
    "rebase -u -f raw -b x -F raw new.raw",
    "rebase -u -f raw new.raw",
    "rebase -u nosuch",
    "rebase -u -b new.raw -F raw sub/b.qcow2 && info sub/b.qcow2 && map sub/b.qcow2",
    "rebase -u --image-opts -b new.raw -F raw driver=qcow2,file.filename=a.qcow2 && info a.qcow2",
    "rebase -u -b nosuch -F raw a.qcow2 && rebase -b new.raw -F raw a.qcow2 && rebase -u -b old.raw -F raw a.qcow2",
];

const CHAINS: &[&str] = &[
    "rebase -b low.qcow2 -F qcow2 top.qcow2 && map --output=json top.qcow2",
    "rebase -b base.raw -F raw top.qcow2 && map --output=json top.qcow2",
    "rebase -b mid.qcow2 -F qcow2 top.qcow2 && map --output=json top.qcow2",
    "rebase -b '' top.qcow2 && compare top.qcow2 mid.qcow2",
    "rebase -b base.raw -F raw mid.qcow2 && map --output=json top.qcow2",
    "rebase -b '' mid.qcow2 && map --output=json top.qcow2",
    "rebase -b alone.qcow2 -F qcow2 top.qcow2",
    "rebase -b sub/over.qcow2 -F qcow2 top.qcow2 && map --output=json top.qcow2",
    "rebase -c -b low.qcow2 -F qcow2 top.qcow2 && check -q top.qcow2",
    "rebase -b top.qcow2 -F qcow2 mid.qcow2",
];

const PROGRESS: &[&str] = &[
    "rebase -p -b new.raw -F raw a.qcow2",
    "rebase -p -b '' a.qcow2",
    "rebase -p -q -b '' a.qcow2",
    "rebase -p -u -b '' a.qcow2",
    "rebase -p -b nosuch -F raw a.qcow2",
    "rebase -p -b '' nosuch",
    "rebase -p -t bogus -b '' nosuch",
    "rebase -p a.qcow2",
    "rebase --f a.qcow2",
];
