//! Finds the installed tools and our own binary, and says which comparisons are meaningful with them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The version whose texts ours are compared with. Another one still decides about contents.
pub const TEXT_VERSION: &str = "10.0.";

/// The installed tools.
#[derive(Debug, Clone)]
pub struct Oracle {
    /// Path of `qemu-img`.
    pub img: PathBuf,
    /// Path of `qemu-io`.
    pub io: PathBuf,
    /// Version, e.g. `10.0.2`.
    pub version: String,
}

impl Oracle {
    /// Looks for the tools; `None` when one of them is missing or does not run.
    pub fn find() -> Option<Self> {
        let img = match std::env::var_os("DISKIMG_ORACLE") {
            Some(path) => PathBuf::from(path),
            None => in_path("qemu-img")?,
        };
        let beside = img.with_file_name("qemu-io");
        let io = if beside.is_file() { beside } else { in_path("qemu-io")? };
        let version = version_of(&img)?;
        version_of(&io)?;
        Some(Self { img, io, version })
    }

    /// Whether messages and listings are expected to be equal, or only what is in the images.
    pub fn texts_are_comparable(&self) -> bool {
        self.version.starts_with(TEXT_VERSION)
    }
}

/// Our binary, or what stands in its place for this run.
pub fn our_binary() -> PathBuf {
    std::env::var_os("DISKIMG_TEST_BINARY")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_qemu-img-rs")), PathBuf::from)
}

/// Whether a missing oracle is a failure (set in CI).
pub fn is_required() -> bool {
    std::env::var_os("DISKIMG_REQUIRE_ORACLE").is_some_and(|v| v == "1")
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|candidate| candidate.is_file())
}

fn version_of(tool: &Path) -> Option<String> {
    let output = Command::new(tool).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, rest) = text.split_once(" version ")?;
    Some(rest.split([' ', '\n']).next()?.to_owned())
}
