//! The gates that decide whether a file that an image *refers to* may be opened.
//!
//! A gate sees what would be opened ([`Reference::resolved`]): a path for host files, `PROTOCOL:REST` for anything else.
//! A `json:` reference is shown file by file. Files that the user names (also in options such as `backing.file.filename`)
//! do not pass a gate.

use std::path::{Path, PathBuf};

use diskimg_core::Result;
use diskimg_core::opener::{Gate, Reference, denied};

use crate::name::has_protocol;

/// Admits everything, as qemu-img does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Permissive;

impl Gate for Permissive {
    fn admit(&self, _what: &Reference<'_>) -> Result<()> {
        Ok(())
    }
}

/// Admits nothing: for images that stand alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deny;

impl Gate for Deny {
    fn admit(&self, what: &Reference<'_>) -> Result<()> {
        Err(denied(what.resolved))
    }
}

/// Admits host files in the folder of the image that refers to them, symbolic links resolved.
#[derive(Clone, Copy, Debug, Default)]
pub struct SameDirectory;

impl Gate for SameDirectory {
    fn admit(&self, what: &Reference<'_>) -> Result<()> {
        let folders = real_path(what.resolved).zip(real_path(what.from));
        match folders {
            Some((file, from)) if file.parent().is_some() && file.parent() == from.parent() => Ok(()),
            _ => Err(denied(what.resolved)),
        }
    }
}

/// Admits the host files of a list, symbolic links resolved, and nothing else.
#[derive(Clone, Debug, Default)]
pub struct Listed(Vec<PathBuf>);

impl Listed {
    /// The files that are admitted.
    pub fn new(files: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Self(files.into_iter().map(Into::into).collect())
    }
}

impl Gate for Listed {
    fn admit(&self, what: &Reference<'_>) -> Result<()> {
        let file = real_path(what.resolved);
        let known = |listed: &PathBuf| listed.to_str().and_then(real_path) == file;
        if file.is_some() && self.0.iter().any(known) { Ok(()) } else { Err(denied(what.resolved)) }
    }
}

/// The path behind all links; of a file that does not exist the real folder and its name. `None` for other protocols.
fn real_path(name: &str) -> Option<PathBuf> {
    if has_protocol(name) {
        return None;
    }
    let path = Path::new(name);
    if let Ok(real) = path.canonicalize() {
        return Some(real);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Some(folder.canonicalize().ok()?.join(path.file_name()?))
}
