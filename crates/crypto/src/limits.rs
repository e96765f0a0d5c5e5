//! Named limits and constants of LUKS1.

/// Key slots of a header.
pub const SLOTS: usize = 8;
/// Bytes of a header on disk.
pub const HEADER_LEN: usize = 592;
/// Bytes that are set aside for the header: key material and payload start behind them.
pub const HEADER_AREA: u64 = 4096;
/// Anti-forensic stripes of key material: the only number in use.
pub const STRIPES: u32 = 4000;
/// Bytes of a salt.
pub const SALT_LEN: usize = 32;
/// Bytes of the master key's digest.
pub const DIGEST_LEN: usize = 20;
/// Bytes of the longest master key: two keys of 32 bytes.
pub const MAX_KEY_LEN: usize = 64;
/// Fewest iterations of the key derivation in what is written.
pub const MIN_ITERATIONS: u32 = 1000;
/// Milliseconds of key derivation if nothing is said.
pub const DEFAULT_ITER_TIME: u64 = 2000;
/// How often the material of an erased key slot is overwritten.
pub const ERASE_PASSES: usize = 40;
