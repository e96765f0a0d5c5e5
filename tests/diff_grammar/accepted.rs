//! Differences that are meant: told by the command line and what differs, each with a reason that
//! `docs/COMPATIBILITY.md` has too.

use crate::support::suite::Env;

/// A kind of difference.
pub struct Accepted {
    /// Why.
    pub reason: &'static str,
    /// Whether a difference is of this kind: the command line, what differs, the oracle's text, ours.
    pub fits: fn(&[String], &str, &str, &str) -> bool,
}

/// All kinds.
pub const ACCEPTED: &[Accepted] = &[
    Accepted {
        reason: "qemu-img deletes an image that was there before",
        fits: |line, what, _, _| is(line, &["create", "convert"]) && what == "names",
    },
];

fn is(line: &[String], commands: &[&str]) -> bool {
    line.first().is_some_and(|name| commands.contains(&name.as_str()))
}

/// The reason for a difference, if there is one.
pub fn reason(line: &[String], what: &str, qemu: &str, ours: &str) -> Option<&'static str> {
    ACCEPTED.iter().find(|kind| (kind.fits)(line, what, qemu, ours)).map(|kind| kind.reason)
}

/// Each reason is said to users.
pub fn documented() -> Result<(), String> {
    let text = std::fs::read_to_string(Env::tests_folder().join("../docs/COMPATIBILITY.md")).map_err(|e| e.to_string())?;
    let missing: Vec<&str> = ACCEPTED.iter().map(|kind| kind.reason).filter(|reason| !text.contains(reason)).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("docs/COMPATIBILITY.md does not say: {missing:#?}")) }
}
