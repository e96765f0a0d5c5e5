//! Cases that need something that is still to come: reported as ignored, and listed in `docs/COMPATIBILITY.md` under
//! "What is not there yet". A case leaves this list when what it needs arrives.

use crate::support::suite::Accepted;

/// By case.
pub const PENDING: &[Accepted] = &[
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

const BITMAPS: &str = "an image with dirty bitmaps is not resized yet";

const FORMAT: &str = "formats that ours does not have yet are unknown to it";
