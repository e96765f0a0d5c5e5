//! Cases that need something that is still to come: reported as ignored, and listed in `docs/COMPATIBILITY.md` under
//! "What is not there yet". A case leaves this list when what it needs arrives.

use crate::support::suite::Accepted;

/// By case.
pub const PENDING: &[Accepted] = &[pending("open/v3/version 1", FORMAT)];

const fn pending(case: &'static str, reason: &'static str) -> Accepted {
    Accepted { case, what: &[], reason }
}

const FORMAT: &str = "formats that ours does not have yet are unknown to it";
