//! The create and amend options (§3 and §6 of the LUKS notes).

use diskimg_core::options::{OptKind, OptSpec, OptUse};

/// Names the secret with the password, in create and in runtime options.
pub(crate) const KEY_SECRET: &str = "key-secret";
/// Known by name alone: what it announces no version of qemu-img with it can make.
pub(crate) const DETACHED_HEADER: &str = "detached-header";

/// All of them, in the order in which a summary shows them.
pub(crate) const OPTIONS: &[OptSpec] = &[
    spec("size", OptKind::Size, "Virtual disk size", OptUse::CREATE),
    spec(KEY_SECRET, OptKind::Str, "ID of the secret that provides the keyslot passphrase", OptUse::CREATE),
    spec("cipher-alg", OptKind::Str, "Name of encryption cipher algorithm", OptUse::CREATE),
    spec("cipher-mode", OptKind::Str, "Name of encryption cipher mode", OptUse::CREATE),
    spec("ivgen-alg", OptKind::Str, "Name of IV generator algorithm", OptUse::CREATE),
    spec("ivgen-hash-alg", OptKind::Str, "Name of IV generator hash algorithm", OptUse::CREATE),
    spec("hash-alg", OptKind::Str, "Name of encryption hash algorithm", OptUse::CREATE),
    spec(
        "iter-time",
        OptKind::Number,
        "Time to spend in PBKDF in milliseconds",
        OptUse::CREATE.union(OptUse::AMEND),
    ),
    spec(DETACHED_HEADER, OptKind::Bool, "Create a detached LUKS header", OptUse::CREATE),
    spec("state", OptKind::Str, "Select new state of affected keyslots (active/inactive)", OptUse::AMEND),
    spec("keyslot", OptKind::Number, "Select a single keyslot to modify explicitly", OptUse::AMEND),
    spec("old-secret", OptKind::Str, "Select all keyslots that match this password", OptUse::AMEND),
    spec(
        "new-secret",
        OptKind::Str,
        "New secret to set in the matching keyslots. Empty string to erase",
        OptUse::AMEND,
    ),
];

const fn spec(name: &'static str, kind: OptKind, help: &'static str, usage: OptUse) -> OptSpec {
    OptSpec { name, kind, help, default: None, usage }
}
