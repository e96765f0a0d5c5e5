//! The create and amend options (§3 and §6 of the LUKS notes).

use diskimg_core::options::{OptKind, OptSpec, OptUse};

/// Names the secret with the password, in create and in runtime options.
pub(crate) const KEY_SECRET: &str = "key-secret";
/// Known by name alone: what it announces no version of qemu-img with it can make.
pub(crate) const DETACHED_HEADER: &str = "detached-header";

/// All of them, in the order in which a summary shows them.
pub(crate) const OPTIONS: &[OptSpec] = &[
    OptSpec::SIZE,
    OptSpec::create(KEY_SECRET, OptKind::Str, "ID of the secret that provides the keyslot passphrase"),
    OptSpec::create("cipher-alg", OptKind::Str, "Name of encryption cipher algorithm"),
    OptSpec::create("cipher-mode", OptKind::Str, "Name of encryption cipher mode"),
    OptSpec::create("ivgen-alg", OptKind::Str, "Name of IV generator algorithm"),
    OptSpec::create("ivgen-hash-alg", OptKind::Str, "Name of IV generator hash algorithm"),
    OptSpec::create("hash-alg", OptKind::Str, "Name of encryption hash algorithm"),
    OptSpec::new(
        "iter-time",
        OptKind::Number,
        "Time to spend in PBKDF in milliseconds",
        OptUse::CREATE.union(OptUse::AMEND),
    ),
    OptSpec::create(DETACHED_HEADER, OptKind::Bool, "Create a detached LUKS header"),
    OptSpec::new(
        "state",
        OptKind::Str,
        "Select new state of affected keyslots (active/inactive)",
        OptUse::AMEND,
    ),
    OptSpec::new("keyslot", OptKind::Number, "Select a single keyslot to modify explicitly", OptUse::AMEND),
    OptSpec::new("old-secret", OptKind::Str, "Select all keyslots that match this password", OptUse::AMEND),
    OptSpec::new(
        "new-secret",
        OptKind::Str,
        "New secret to set in the matching keyslots. Empty string to erase",
        OptUse::AMEND,
    ),
];
