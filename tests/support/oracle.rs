//! The installed tools and our own binary, and which comparisons are meaningful with them.

use std::path::PathBuf;

pub use diskimg_testkit::Oracle;

/// The version whose texts ours are compared with. Another one still decides about contents.
pub const TEXT_VERSION: &str = "10.0.";

/// Whether messages and listings are expected to be equal, or only what is in the images.
pub fn texts_are_comparable(oracle: &Oracle) -> bool {
    oracle.version.starts_with(TEXT_VERSION)
}

/// Our binary, or what stands in its place for this run.
pub fn our_binary() -> PathBuf {
    std::env::var_os("DISKIMG_TEST_BINARY")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_qemu-img-rs")), PathBuf::from)
}
