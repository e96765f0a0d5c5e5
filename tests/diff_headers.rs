//! Images with one byte of the header changed, beside the installed `qemu-img`: both refuse them in the same words, or
//! tell the same of them. `DISKIMG_MUTATIONS=N` looks at N changes of each format.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

#[path = "support/pair.rs"]
mod pair;

use std::ops::Range;
use std::path::Path;
use std::process::ExitCode;

use diskimg_testkit::{Oracle, Rng, asked, suite};
use pair::{OURS, Pair};

const PAIR: Pair = Pair { masked: &["disk size: "], unheard: &[] };

/// A kind of image whose header is changed.
struct Kind {
    name: &'static str,
    format: &'static str,
    create: &'static [&'static str],
    /// What is changed: bytes from the start, or from the end where `from_end` is set.
    bytes: Range<usize>,
    from_end: bool,
    /// Bytes that are left alone, since qemu-img's answer is at fault: see docs/COMPATIBILITY.md.
    but: &'static [Range<usize>],
    /// There is a check whose answers are equal.
    check: bool,
}

const USUAL: Kind =
    Kind { name: "", format: "", create: &[], bytes: 0..0, from_end: false, but: &[], check: true };

const KINDS: &[Kind] = &[
    Kind { name: "qcow2", format: "qcow2", bytes: 0..600, ..USUAL },
    Kind {
        name: "qcow2 with subclusters",
        format: "qcow2",
        create: &["-o", "extended_l2=on"],
        bytes: 0..600,
        ..USUAL
    },
    Kind { name: "qcow", format: "qcow", bytes: 0..64, check: false, ..USUAL },
    Kind { name: "qed", format: "qed", bytes: 0..80, ..USUAL },
    Kind { name: "vdi", format: "vdi", bytes: 0..512, ..USUAL },
    Kind {
        name: "vpc, fixed",
        format: "vpc",
        create: &["-o", "subformat=fixed"],
        bytes: 0..512,
        from_end: true,
        check: false,
        ..USUAL
    },
    // Capacities beyond 63 bits, metadata beyond them, and compression without its flag.
    Kind {
        name: "vmdk",
        format: "vmdk",
        bytes: 0..1400,
        but: &[0x0a..0x0b, 0x0f..0x14, 0x44..0x48, 0x4d..0x4f],
        ..USUAL
    },
    // Disks beyond 63 bits; qemu-img's check ends on an assertion.
    Kind {
        name: "parallels",
        format: "parallels",
        bytes: 0..96,
        but: &[0x1c..0x20, 0x28..0x2c],
        check: false,
        ..USUAL
    },
    Kind {
        name: "luks",
        format: "luks",
        create: &["--object", "secret,id=s,data=pw", "-o", "key-secret=s,iter-time=10"],
        bytes: 0..592,
        check: false,
        ..USUAL
    },
];

fn main() -> ExitCode {
    let tests = KINDS.iter().map(|kind| suite::with_oracle(kind.name, move |oracle| changed(oracle, kind)));
    suite::run(tests.collect())
}

/// Changes single bytes of a header, each alone.
fn changed(oracle: &Oracle, kind: &'static Kind) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let create = [&["create", "-q", "-f", kind.format], kind.create, &["base", "8M"]].concat();
    oracle.must(folder, &create);
    if !["luks", "vmdk"].contains(&kind.format) {
        oracle.qemu_io(folder, kind.format, "base", &["write -P 7 1M 300k", "write -P 9 5M 64k"]);
    }
    let whole = std::fs::read(folder.join("base")).unwrap();
    let first = if kind.from_end { whole.len() - kind.bytes.end } else { kind.bytes.start };
    let mut rng = Rng::new(kind.bytes.end as u64);
    let mut left: u32 = asked("DISKIMG_MUTATIONS", 60);
    while left > 0 {
        let at = first + rng.index(kind.bytes.len());
        let old = whole[at];
        let keep = kind.but.iter().any(|range| range.contains(&at)) || (old == 0 && rng.chance(60));
        let new = *rng.pick(&[0, 1, 0xff, old ^ 0x80, old.wrapping_add(1)]);
        if keep || new == old {
            continue;
        }
        left -= 1;
        let mut bytes = whole.clone();
        bytes[at] = new;
        let check = kind.check && left.is_multiple_of(2);
        same(
            folder,
            &bytes,
            &[if check { "check" } else { "info" }, "-f", kind.format, "x"],
            &format!("{at:#x} = {new:#x}"),
        );
    }
}

/// Both say the same of an image, unless qemu-img does not live to say anything.
fn same(folder: &Path, bytes: &[u8], args: &[&str], story: &str) {
    let told = |program| {
        std::fs::write(folder.join("x"), bytes).unwrap();
        PAIR.told(program, folder, args)
    };
    let (theirs, ours) = (told("qemu-img"), told(OURS));
    if theirs.ends_with("exit None") {
        assert!(!ours.ends_with("exit None"), "{args:?} {story}: {ours}");
    } else {
        assert_eq!(ours, theirs, "{args:?} {story}");
    }
}
