//! Cases that need something that is still to come: reported as ignored, and listed in `docs/COMPATIBILITY.md` under
//! "What is not there yet". A case leaves this list when what it needs arrives.

use crate::support::suite::Accepted;

/// By case.
pub const PENDING: &[Accepted] = &[
    pending("convert/snapshots: convert -l first -O raw a.qcow2 out.raw", SNAPSHOT),
    pending("convert/snapshots: convert -l second -O raw a.qcow2 out.raw", SNAPSHOT),
    pending("convert/snapshots: convert -l 1 -O raw a.qcow2 out.raw", SNAPSHOT),
    pending("convert/snapshots: convert -l snapshot.id=1 -O raw a.qcow2 out.raw", SNAPSHOT),
    pending("convert/snapshots: convert -l snapshot.id=9 -O raw a.qcow2 out.raw", SNAPSHOT),
    pending("convert/snapshots: convert -l snapshot.name=second -O raw a.qcow2 out.raw", SNAPSHOT),
    pending(
        "convert/snapshots: convert -l snapshot.id=1,snapshot.name=first -O raw a.qcow2 out.raw",
        SNAPSHOT,
    ),
    pending(
        "convert/snapshots: convert -l snapshot.id=1,snapshot.name=second -O raw a.qcow2 out.raw",
        SNAPSHOT,
    ),
    pending("convert/snapshots: convert -l nosuch -O raw a.qcow2 out.raw", SNAPSHOT),
    pending("convert/source: convert -l nosuch s.qcow2 out.raw", SNAPSHOT),
    pending("convert/source: convert -l '' s.qcow2 out.raw", SNAPSHOT),
    pending("measure refused/layouts: measure -l nosuch plain.qcow2", SNAPSHOT),
    pending("measure/snapshots: measure -O qcow2 -l first a.qcow2", SNAPSHOT),
    pending("measure/snapshots: measure -O qcow2 -l second a.qcow2", SNAPSHOT),
    pending("measure/snapshots: measure -O qcow2 -l 1 a.qcow2", SNAPSHOT),
    pending("measure/snapshots: measure -O qcow2 -l snapshot.name=first a.qcow2", SNAPSHOT),
    pending("measure/snapshots: measure -O qcow2 -l snapshot.id=2 a.qcow2", SNAPSHOT),
    pending("measure/snapshots: measure -O qcow2 -l nosuch a.qcow2", SNAPSHOT),
    pending("measure/snapshots: measure -O qcow2 -l '' a.qcow2", SNAPSHOT),
    pending("resize/bitmaps: resize a.qcow2 8M && check a.qcow2 && info a.qcow2", BITMAPS),
    pending("resize/bitmaps: resize a.qcow2 600M && check a.qcow2", BITMAPS),
    pending("resize/bitmaps: resize --shrink a.qcow2 1M && check a.qcow2 && info a.qcow2", BITMAPS),
    pending("resize/bitmaps: resize --preallocation=metadata a.qcow2 8M && check a.qcow2", BITMAPS),
    pending("open/bitmaps/nothing patched", BITMAPS),
    pending("open/bitmaps/in use", BITMAPS),
    pending("open/bitmaps/granularity 9", BITMAPS),
    pending("open/bitmaps/table beyond the end", BITMAPS),
    pending("open/v3/version 1", FORMAT),
];

const fn pending(case: &'static str, reason: &'static str) -> Accepted {
    Accepted { case, what: &[], reason }
}

const SNAPSHOT: &str = "an internal snapshot is not read as a source (`-l`) yet";

const BITMAPS: &str = "an image with dirty bitmaps is not resized yet";

const FORMAT: &str = "formats that ours does not have yet are unknown to it";
