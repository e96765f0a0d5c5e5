//! Differences that are meant. Each has its paragraph in `docs/COMPATIBILITY.md`.

use crate::support::suite::Accepted;

/// By case. An entry whose case no longer differs is a failure, as is one that differs in anything else.
pub const ACCEPTED: &[Accepted] = &[
    Accepted {
        case: "create over/bases: create -f qcow2 -o cluster_size=100 base.qcow2 1M",
        what: &["names"],
        reason: KEPT,
    },
    Accepted { case: "create over/bases: create -f qcow2 base.qcow2 3P", what: &["names"], reason: KEPT },
    Accepted {
        case: "create over/bases: create -f raw -o preallocation=metadata base.raw 1M",
        what: &["names"],
        reason: KEPT,
    },
    Accepted {
        case: "convert/source: convert -O qcow2 -o cluster_size=3 s.raw big.qcow2",
        what: &["names"],
        reason: KEPT,
    },
];

const KEPT: &str =
    "qemu-img deletes an image that was there before when it refuses to create another in its place";
