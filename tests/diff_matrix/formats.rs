//! Formats besides raw, qcow2 and luks: one table for all of them. A format says which kinds of images there are, what
//! is created and what is refused; every command is then run on every kind.
#![allow(clippy::indexing_slicing)]

use crate::support::case::{Case, Files, Fixture};
use crate::support::suite::{group, patched};

/// What is particular to a format.
struct Format {
    /// Its name, also the suffix of its images.
    name: &'static str,
    /// Options of the kinds of images, for `-o`.
    kinds: &'static [&'static str],
    /// Options that are taken, besides the kinds.
    taken: &'static [&'static str],
    /// Options that are refused.
    refused: &'static [&'static str],
    /// Sizes that are created with the first kind.
    sizes: &'static [&'static str],
    /// Command lines of its own; `%` is the first kind's image.
    more: &'static [&'static str],
    /// Changes to the first kind's image (`%`) after which it is looked at.
    damage: &'static [(&'static str, &'static str)],
}

const FORMATS: &[Format] = &[
    Format {
        name: "parallels",
        kinds: &["", "cluster_size=64k", "cluster_size=4k"],
        taken: &["cluster_size=512", "cluster_size=1M", "cluster_size=128M"],
        refused: &[
            "cluster_size=0",
            "cluster_size=511",
            "cluster_size=1000",
            "cluster_size=2T",
            "cluster_size=x",
            "foo=1",
            "preallocation=bad",
            "preallocation=metadata",
        ],
        sizes: &["0", "1", "512", "513", "5000", "1M", "1G", "10T", "9223372036854775807"],
        more: &["check -f parallels -r leaks %", "create -f parallels -o cluster_size=512 n.parallels 4T"],
        damage: &[
            ("version", "hex % 16 03"),
            ("magic", "hex % 0 00"),
            ("cluster", "hex % 28 00000000"),
            ("huge cluster", "hex % 28 ffffffff"),
            ("no table", "hex % 32 00000000"),
            ("large table", "hex % 32 ffffff7f"),
            ("in use", "hex % 44 746f6e59"),
            ("inuse mark wrong", "hex % 44 01020304"),
            ("data offset", "hex % 48 01000000"),
            ("flags", "hex % 52 01"),
            ("extension", "hex % 56 01"),
            ("tail", "grow % 3000000"),
        ],
    },
    Format {
        name: "vpc",
        kinds: &["force_size=on", "", "subformat=fixed,force_size=on"],
        taken: &["subformat=dynamic", "subformat=fixed", "force_size=off", "force_size", "noforce_size"],
        refused: &["subformat=foo", "subformat=", "force_size=maybe", "foo=1", "preallocation=bad"],
        sizes: &["0", "1", "512", "513", "5000", "1M", "504M", "1G", "32G", "127G", "2040G", "2041G", "3P"],
        more: &[
            "info --image-opts driver=vpc,force_size_calc=chs,file.filename=%",
            "info --image-opts driver=vpc,force_size_calc=current_size,file.filename=%",
            "info --image-opts driver=vpc,force_size_calc=foo,file.filename=%",
            "create -f vpc -o subformat=fixed n.vpc 2040G",
            "create -f vpc n.vpc 130559M",
            "create -f vpc n.vpc 130560M",
        ],
        damage: &[
            ("header cookie", "hex % 512 00"),
            ("block size", "hex % 544 00200001"),
            ("small block size", "hex % 544 00000100"),
            ("entries", "hex % 540 00000001"),
            ("many entries", "hex % 540 ffffffff"),
            ("table far away", "hex % 528 00000000ffffffff"),
            ("entry far away", "hex % 1536 7fffffff"),
            ("cut in the table", "truncate % 1540"),
            ("cut in the data", "grow % -700000"),
            ("cut in the header", "truncate % 600"),
            ("nothing left", "truncate % 0"),
        ],
    },
    Format {
        name: "vdi",
        kinds: &["", "static=on"],
        taken: &["static=off", "static", "preallocation=off"],
        refused: &[
            "static=foo",
            "preallocation=metadata",
            "preallocation=full",
            "preallocation=falloc",
            "preallocation=bad",
            "foo=1",
        ],
        sizes: &["0", "1", "512", "513", "5000", "1M", "1025k", "1G", "10T", "600T", "3P"],
        more: &[
            "create -f vdi -o static=on,preallocation=off n.vdi 1M",
            "create -f vdi -o static=on n.vdi 0",
        ],
        damage: &[
            ("signature", "hex % 64 00"),
            ("version", "hex % 68 02000100"),
            ("type", "hex % 76 07000000"),
            ("differencing", "hex % 76 04000000"),
            ("map offset", "hex % 340 01000000"),
            ("data offset", "hex % 344 01000000"),
            ("sector size", "hex % 360 00100000"),
            ("size", "hex % 368 01000000"),
            ("large size", "hex % 368 ffffffffffffff7f"),
            ("block size", "hex % 376 00001000"),
            ("blocks", "hex % 384 01000000"),
            ("many blocks", "hex % 384 ffffff7f"),
            ("allocated", "hex % 388 ffffff7f"),
            ("link", "hex % 424 01"),
            ("parent", "hex % 440 01"),
            ("entry far away", "hex % 512 ffffff7f"),
            ("entry twice", "hex % 516 00000000"),
            ("discarded", "hex % 512 feffffff"),
            ("cut in the data", "grow % -70000"),
            ("cut in the header", "truncate % 300"),
        ],
    },
    Format {
        name: "vhdx",
        kinds: &[
            "block_size=1M",
            "",
            "block_state_zero=off",
            "subformat=fixed,block_state_zero=off,log_size=2M",
        ],
        taken: &[
            "subformat=dynamic",
            "subformat=fixed",
            "log_size=100k",
            "log_size=17M",
            "block_size=1",
            "block_size=300M",
            "block_size=256M",
            "block_state_zero=on",
            "preallocation=falloc",
        ],
        refused: &[
            "subformat=foo",
            "subformat=",
            "subformat=differencing",
            "block_size=3M",
            "block_size=-1",
            "log_size=0",
            "log_size=4G",
            "block_state_zero=x",
            "foo=1",
            "preallocation=bad",
            "preallocation=metadata",
        ],
        sizes: &["0", "1", "512", "513", "5000", "1M", "1G", "1025M", "101G", "65T", "3P"],
        more: &[
            "check -f vhdx -r leaks %",
            "check --output=json -f vhdx -r all %",
            "create -f vhdx -o log_size=0,block_size=3M n.vhdx 65T",
            "rebase -u -b s.raw -F raw %",
            "commit %",
            "info k0.vhdx k1.vhdx",
            "create -f vhdx n.vhdx 0 && check n.vhdx && convert -f vhdx -O raw n.vhdx out.raw",
            "create -f vhdx -o block_size=1M,log_size=2M n.vhdx 0 && check n.vhdx",
            "create -f vhdx -o block_size=256M n.vhdx 0",
        ],
        damage: &[
            ("signature", "hex % 0 00"),
            ("first header", "hex % 65636 00ff"),
            ("second header", "hex % 131172 00ff"),
            ("metadata", "hex % 3145728 00"),
            ("no metadata", "hex % 3145738 0000"),
            ("many metadata", "hex % 3145738 0008"),
            ("an item in the table", "hex % 3145776 00000000"),
            ("block size", "hex % 3211264 00003000"),
            ("small block size", "hex % 3211264 00000800"),
            ("has a parent", "hex % 3211268 02"),
            ("sector size", "hex % 3211296 00040000"),
            ("odd size", "hex % 3211272 0102"),
            ("huge size", "hex % 3211272 0000000000000100"),
            ("block far away", "hex % 2097152 0600009000000000"),
            ("block in the metadata", "hex % 2097152 0600300000000000"),
            ("block that overflows", "hex % 2097152 0600f0ffffffff7f"),
            ("cut in the data", "grow % -700000"),
            ("cut in the metadata", "truncate % 3211264"),
            ("cut in the table", "truncate % 2097156"),
            ("nothing left", "truncate % 0"),
        ],
    },
    Format {
        name: "qed",
        kinds: &["", "cluster_size=4k,table_size=2", "cluster_size=1M,table_size=16"],
        taken: &["table_size=1", "table_size=16", "cluster_size=4k,table_size=8", "preallocation=full"],
        refused: &[
            "cluster_size=0",
            "cluster_size=2k",
            "cluster_size=128M",
            "cluster_size=5000",
            "cluster_size=x",
            "cluster_size=4M",
            "cluster_size=64M,table_size=2",
            "table_size=0",
            "table_size=3",
            "table_size=32",
            "table_size=x",
            "foo=1",
            "preallocation=bad",
            "backing_fmt=raw",
            "backing_fmt=foo",
        ],
        sizes: &["0", "1", "512", "513", "5000", "1M", "1G", "64T", "65T", "9223372036854775807"],
        more: &[
            "check -f qed -r leaks %",
            "resize -f qed % 5242881",
            "resize -f qed % 70T",
            "resize -f qed --preallocation=metadata % 70T",
            "resize -f qed --preallocation=off % 6M && convert -f qed -O raw % out.raw",
            "create -f qed -b s.raw -F raw o.qed && info o.qed && rebase -u -b '' o.qed && info o.qed",
            "create -f qed -b s.raw -F raw o.qed 6M && resize o.qed 8M && map --output=json o.qed",
            "create -f qed -b k1.qed -F qed o.qed && info o.qed && rebase -u -b s.raw -F raw o.qed && info o.qed && check o.qed",
            "create -f qed -b k1.qed -F qed o.qed && rebase -b s.raw -F raw o.qed && convert -f qed -O raw o.qed out.raw",
            "create -f qed -b k1.qed -F qed o.qed && commit o.qed && check k1.qed && map o.qed",
        ],
        damage: &[
            ("magic", "hex % 0 00"),
            ("cluster", "hex % 4 00000200"),
            ("odd cluster", "hex % 4 00000300"),
            ("tables", "hex % 8 01000000"),
            ("odd tables", "hex % 8 05000000"),
            ("header", "hex % 12 00000000"),
            ("huge header", "hex % 12 ffffffff"),
            ("features", "hex % 16 18"),
            ("need check", "hex % 16 02"),
            ("backing file", "hex % 16 01"),
            (
                "backing offset",
                "hex % 16 010000000000000000000000000000000000000000000000000001000000000000005000000000000000ffffffff",
            ),
            ("other features", "hex % 24 0100000000000000ff"),
            ("L1 table", "hex % 40 0000010000000001"),
            ("L1 table unaligned", "hex % 40 01"),
            ("size", "hex % 48 01"),
            ("huge size", "hex % 48 ffffffffffffff7f"),
            ("L1 entry", "hex % 65536 01"),
            ("L1 entry to itself", "hex % 65536 0000010000000000"),
            ("L1 entry far away", "hex % 65536 0000ffffffff0000"),
            ("L2 entry", "hex % 458752 0100000000000001"),
            ("L2 entry twice", "hex % 458752 000006000000000000000600"),
            ("cut in the data", "grow % -70000"),
            ("tail", "grow % 100000"),
            ("cut in the tables", "truncate % 300000"),
            ("cut in the header", "truncate % 40"),
            ("nothing left", "truncate % 0"),
        ],
    },
    Format {
        name: "qcow",
        kinds: &[""],
        taken: &["preallocation=full", "encryption=off"],
        refused: &[
            "cluster_size=4k",
            "encryption=on",
            "encryption=x",
            "encrypt.format=aes",
            "encrypt.format=luks",
            "encrypt.format=foo",
            "encrypt.format=",
            "encrypt.key-secret=s",
            "encrypt.format=aes,encrypt.key-secret=s",
            "encryption=on,encrypt.format=aes",
            "encrypt.iter-time=10",
            "foo=1",
            "preallocation=bad",
            "backing_fmt=raw",
            "backing_fmt=foo",
        ],
        sizes: &["0", "1", "512", "513", "5000", "1M", "1G", "64G"],
        more: &[
            "convert -c -f qcow -O raw % out.raw",
            "create -f qcow -b s.raw -F raw o.qcow && info o.qcow && map --output=json o.qcow",
            "create -f qcow -b s.raw -F raw o.qcow 6M && rebase -u -b '' o.qcow",
            "create -f qcow -b fat: -F raw -u o.qcow 6M && info o.qcow",
            "create -f qcow -b k0.qcow -F qcow o.qcow 6M && commit o.qcow && map o.qcow",
            "check -f qcow -r leaks %",
            "create --object secret,id=s,data=pw -f qcow -o encrypt.format=aes,encrypt.key-secret=s e.qcow 1M && info e.qcow && map e.qcow",
            "create --object secret,id=s,data=pw -f qcow -o encryption=on,encrypt.key-secret=s e.qcow 1M && info --output=json e.qcow",
            "create --object secret,id=s,data=pw -f qcow -o encrypt.format=luks,encrypt.key-secret=s n.qcow 1M",
            "create --object secret,id=s,data=pw -f qcow -o encrypt.format=aes,encryption=on,encrypt.key-secret=s e.qcow 1M",
            "convert --object secret,id=s,data=pw -f raw -O qcow -o encrypt.format=aes,encrypt.key-secret=s s.raw out.qcow && map --output=json --object secret,id=s,data=pw --image-opts driver=qcow,encrypt.key-secret=s,file.filename=out.qcow && convert --object secret,id=s,data=pw --image-opts driver=qcow,encrypt.format=aes,encrypt.key-secret=s,file.filename=out.qcow -O raw out.raw",
            "convert -c --object secret,id=s,data=pw -f raw -O qcow -o encrypt.format=aes,encrypt.key-secret=s s.raw out.qcow",
            "info --image-opts driver=qcow,encrypt.format=aes,encrypt.key-secret=s,file.filename=%",
            "info --image-opts driver=qcow,encrypt.key-secret=s,file.filename=%",
            "info --image-opts driver=qcow,encrypt.format=luks,file.filename=%",
        ],
        damage: &[
            ("magic", "hex % 0 00"),
            ("version", "hex % 7 02"),
            ("version 9", "hex % 7 09"),
            ("backing file", "hex % 8 000000000000003000000004"),
            ("long backing file", "hex % 8 000000000000003000000400"),
            ("time", "hex % 20 ffffffff"),
            ("size", "hex % 24 0000000000000001"),
            ("odd size", "hex % 24 0000000000500003"),
            ("huge size", "hex % 24 7fffffffffffffff"),
            ("largest size", "hex % 24 ffffffffffffffff"),
            ("cluster", "hex % 32 08"),
            ("large cluster", "hex % 32 11"),
            ("tables", "hex % 33 05"),
            ("large tables", "hex % 33 0e"),
            ("padding", "hex % 34 ffff"),
            ("encryption", "hex % 36 00000001"),
            ("unknown encryption", "hex % 36 00000002"),
            ("L1 table far away", "hex % 40 0000ffffffff0000"),
            ("L1 entry far away", "hex % 48 0000ffffffff0000"),
            ("L2 entry far away", "hex % 4096 0000ffffffff0000"),
            ("L2 entry compressed", "hex % 4096 8100000000002000"),
            ("cut in the data", "grow % -70000"),
            ("cut in the header", "truncate % 30"),
            ("nothing left", "truncate % 0"),
        ],
    },
    Format {
        name: "vmdk",
        kinds: &[
            "",
            "subformat=monolithicFlat",
            "subformat=twoGbMaxExtentSparse",
            "subformat=streamOptimized",
            "zeroed_grain=on",
        ],
        taken: &[
            "subformat=twoGbMaxExtentFlat",
            "adapter_type=lsilogic",
            "adapter_type=legacyESX",
            "hwversion=9",
            "toolsversion=2",
            "compat6=on",
            "compat6=off,hwversion=5",
        ],
        refused: &["subformat=foo", "adapter_type=foo", "compat6=on,hwversion=9", "zeroed_grain=x", "foo=1"],
        sizes: &["0", "1", "512", "513", "5000", "1M", "1G", "3T", "64T"],
        more: &[],
        damage: &[
            ("version", "hex % 4 09000000"),
            ("grain", "hex % 20 0100000000000000"),
            ("directory", "hex % 56 ffffffff00000000"),
            ("descriptor", "text % 540 XXXX"),
            ("cut in the data", "grow % -70000"),
            ("cut in the header", "truncate % 700"),
        ],
    },
];

/// On each kind of image (`%`; `@`: with its format).
const EACH: &[&str] = &[
    "info %",
    "info @ && info --output=json @",
    "map @ && map --output=json @",
    "check @ && check --output=json @ && check -r all @",
    "measure -O qcow2 @ && measure @ && measure -O $F @",
    "compare @ -F raw s.raw",
    "convert @ -O raw out.raw",
    "convert @ -O qcow2 out.qcow2",
    "resize @ 8M",
    "convert -n -f raw -O $F s.raw % && convert @ -O raw out.raw",
];

/// Once for each format, on the first kind.
const ONCE: &[&str] = &[
    "resize @ +0",
    "resize --shrink @ 1M",
    "resize --preallocation=full @ 8M",
    "snapshot -l %",
    "snapshot -c one %",
    "amend @ -o size=1M",
    "convert -n -f raw -O $F odd.raw % && convert @ -O raw out.raw",
    "check --image-opts driver=$F,file.filename=%",
    "map --output=json --image-opts driver=$F,file.filename=%,foo=1",
    "info -f raw %",
    "create -f $F -o help",
    "create -f $F -o help n.$F",
    "convert -O $F -o help",
    "amend -f $F -o help",
    "measure -O $F --size 1M",
    "create -q -f $F n.$F 1M",
    "create -f $F n.$F",
    "create -f $F n.$F -1",
    "create -f $F -b s.raw -F raw n.$F",
    "create -f $F -b s.raw -F raw n.$F 1M",
    "create -f $F -o backing_file=s.raw n.$F 1M",
    "create -f $F -o preallocation=full n.$F 1M",
    "create -f $F -o preallocation=falloc n.$F 1M",
    "create -f $F -o nocow=on n.$F 1M",
    "create -f $F s.raw 1M",
    "convert -f raw -O $F -c s.raw out.$F",
    "convert -f raw -O $F empty.raw out.$F && convert -f $F -O raw out.$F out.raw",
    "convert -f raw -O $F odd.raw out.$F && convert -f $F -O raw out.$F out.raw",
    "convert -f raw -O $F -S 0 s.raw out.$F && convert -f $F -O raw out.$F out.raw",
    "convert -f raw -O $F -B s.raw -F raw s.raw out.$F",
    "info -f $F s.raw",
    "info -f $F empty.raw",
    "info -f $F missing",
];

/// All tables of this file.
pub fn cases() -> Vec<Case> {
    FORMATS.iter().flat_map(of_format).collect()
}

fn of_format(format: &Format) -> Vec<Case> {
    let (name, images) = (format.name, images(format));
    let table = &format!("formats/{name}");
    let spelt = |line: &str, kind: usize| {
        line.replace('@', &format!("-f {name} k{kind}.{name}"))
            .replace('%', &format!("k{kind}.{name}"))
            .replace("$F", name)
    };
    let mut all = Vec::new();
    for kind in 0..format.kinds.len() {
        // A stream is written once. (The oracle's refusal comes with a line of its driver's.)
        let written_again = |line: &str| line.contains("-n ") && format.kinds[kind].contains("stream");
        for line in EACH.iter().filter(|line| !written_again(line)) {
            all.extend(group(table, images, &[&spelt(line, kind)]));
        }
    }
    let with = |options: &str, size: &str| match options {
        "" => format!("create -f {name} n.{name} {size}"),
        _ => format!("create -f {name} -o {options} n.{name} {size}"),
    };
    let options = || format.kinds.iter().chain(format.taken);
    for options in options().chain(format.refused) {
        all.extend(group(table, images, &[&with(options, "5M")]));
    }
    for size in format.sizes {
        all.extend(group(table, images, &[&with(format.kinds[0], size)]));
    }
    for options in options().filter(|options| !options.is_empty()) {
        let to = format!("convert -f raw -O {name} -o {options} s.raw out.{name}");
        all.extend(group(table, images, &[&format!("{to} && convert -f {name} -O raw out.{name} out.raw")]));
    }
    for line in ONCE.iter().chain(format.more) {
        all.extend(group(table, images, &[&spelt(line, 0)]));
    }
    let looks = "info @ && map --output=json @ && check @ && convert @ -O raw out.raw";
    let damage: Vec<(&str, String)> =
        format.damage.iter().map(|(what, change)| (*what, spelt(change, 0))).collect();
    for (what, change) in &damage {
        all.extend(patched(&format!("{table} damaged"), images, &spelt(looks, 0), &[(what, change)]));
    }
    all.into_iter().map(|case| compared(case, name)).collect()
}

/// How the files of a case are compared. Only a conversion may place clusters as it likes; the oracle's identifiers in
/// VMDK descriptors have any number of digits, so that what follows them moves.
fn compared(case: Case, format: &str) -> Case {
    let files = match (case.name.contains("streamOptimized"), case.name.contains(": convert")) {
        (true, _) => Files::AnyLength,
        _ if format == "vmdk" || format == "vhdx" => Files::AnyLength,
        (_, true) => Files::Images,
        _ => Files::Drawn,
    };
    if case.name.contains(": create ") { case.files(files).leftovers() } else { case.files(files) }
}

/// An image `kN` of each kind, with data that the oracle wrote in place, and raw files.
fn images(format: &Format) -> Fixture {
    let name = format.name;
    let mut script = "truncate s.raw 5M
        fill s.raw 0 100k 0x11
        noise s.raw 1300k 300k 7
        fill s.raw 4M 1 0x22
        truncate odd.raw 70001
        fill odd.raw 0 70001 0x44
        truncate empty.raw 0
        "
    .to_owned();
    for (number, options) in format.kinds.iter().enumerate() {
        let options = if options.is_empty() { String::new() } else { format!("-o {options}") };
        script += &format!("img convert -f raw -O {name} {options} s.raw k{number}.{name}\n");
        if !options.contains("stream") {
            script += &format!(
                "io -f {name} k{number}.{name} 'write -P 3 2M 70k' 'write -z 64k 64k' 'write -z 3M 1M'\n"
            );
        }
    }
    Fixture { name: "images", pick: false, script: script.leak() }
}
