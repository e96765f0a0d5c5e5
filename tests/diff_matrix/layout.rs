//! Differences in where things lie or which words are used for damage, with the same contents. Each has its paragraph in
//! `docs/COMPATIBILITY.md`.

use crate::support::suite::Accepted;

/// By case.
pub const LAYOUT: &[Accepted] = &[
    tables("resize/simple: resize --shrink c512.qcow2 100k && check c512.qcow2", LONGER),
    tables(
        "resize/simple: resize --shrink c512.qcow2 100k && resize c512.qcow2 1M && check c512.qcow2 && map c512.qcow2",
        LONGER,
    ),
    tables("resize/simple: resize --preallocation=falloc a.qcow2 2M && check a.qcow2", LONGER),
    tables("resize/simple: resize --preallocation=full a.qcow2 2M && check a.qcow2", LONGER),
    tables("resize/simple: resize --preallocation=falloc a.qcow2 +64M && check a.qcow2", LONGER),
    tables("resize/simple: resize --preallocation=full c512.qcow2 4M && check c512.qcow2", MOVED),
    tables("resize/simple: resize --preallocation=metadata c512.qcow2 8M && check c512.qcow2", LONGER),
    tables("resize/layouts: resize --preallocation=falloc c4k.qcow2 64M && check c4k.qcow2", MOVED),
    tables(
        "create qcow2/empty: create -f qcow2 -o preallocation=metadata,cluster_size=512 a.qcow2 16M",
        &["allocation", "bytes", "length"],
    ),
    tables("names/resize/driver=qcow2,file.filename=a.qcow2,cache.direct=on", &["length"]),
    tables("resize/bitmaps: resize a.qcow2 8M && check a.qcow2 && info a.qcow2", &["bytes", "stdout"]),
    tables("resize/bitmaps: resize a.qcow2 600M && check a.qcow2", &["bytes"]),
    tables(
        "resize/bitmaps: resize --shrink a.qcow2 1M && check a.qcow2 && info a.qcow2",
        &["bytes", "stdout"],
    ),
    tables("resize/bitmaps: resize --preallocation=metadata a.qcow2 8M && check a.qcow2", LONGER),
    tables("open/bitmaps/nothing patched", &["bytes"]),
    tables("open/bitmaps/in use", &["bytes"]),
    tables("open/bitmaps/granularity 9", &["bytes"]),
    Accepted {
        case: "open/bitmaps/table beyond the end",
        what: &["bytes", "length", "stderr"],
        reason: BEYOND,
    },
    Accepted { case: "open/v3/size 0", what: &["bytes"], reason: AREA },
    Accepted { case: "open/v3/size 1", what: &["bytes"], reason: AREA },
    Accepted {
        case: "open/v3/l1_size at limit",
        what: &["exit", "stdout", "stderr", "bytes"],
        reason: L1_OVER_TABLES,
    },
    Accepted { case: "open/v3/size 1000", what: &["bytes"], reason: STALE },
    Accepted { case: "open/backed/a longer file", what: &["bytes"], reason: HIDDEN },
    Accepted { case: "open/v3/cut before data", what: &["stdout"], reason: CUT },
    Accepted { case: "compare/different: compare odd odd0", what: &["stdout"], reason: TAIL },
    Accepted { case: "check/v3/everything noise", what: &["stderr"], reason: DAMAGE },
    Accepted {
        case: "check/extended/unallocated with allocation bits",
        what: &["stderr", "stdout"],
        reason: DAMAGE,
    },
    Accepted { case: "check/extended/allocated without offset", what: &["stderr", "stdout"], reason: DAMAGE },
];

const fn tables(case: &'static str, what: &'static [&'static str]) -> Accepted {
    Accepted { case, what, reason: TABLES }
}

const LONGER: &[&str] = &["bytes", "length", "stdout"];

const MOVED: &[&str] = &["bytes", "stdout"];

const TABLES: &str = "where its tables lie, and so where the file ends";

const AREA: &str = "a resize gives back what stands behind the end of the disk";

const L1_OVER_TABLES: &str =
    "what an L1 table that covers other tables holds of them is not given back: the write is refused";

const STALE: &str = "bytes that a shrunken disk left behind its end come back in qemu-img when it grows";

const HIDDEN: &str =
    "qemu-img zeroes all that a grown overlay gains; ours as much as the backing file would show";

const BEYOND: &str = "a bitmap whose table is behind the end of the file has no clusters to give back, and counts as written to";

const DAMAGE: &str = "which of the extents around a damaged table entry are told before it";

const CUT: &str = "whether clusters behind the end of a cut file are told as data or as zeros";

const TAIL: &str = "which byte of an incomplete last sector is named as the first difference";
