//! The gate: every file that an image *refers to* is opened through an [`Opener`].

use std::fmt::Debug;
use std::sync::Arc;

use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::options::RuntimeOptions;
use crate::registry::Registry;
use crate::secret::{Secret, unknown_secret};

/// Why an image refers to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferenceKind {
    /// Its backing file (or parent).
    Backing,
    /// Its external data file.
    DataFile,
    /// A part of its contents.
    Extent,
}

/// A file that an image refers to.
#[derive(Clone, Copy, Debug)]
pub struct Reference<'a> {
    /// Why.
    pub kind: ReferenceKind,
    /// The name as the image has it.
    pub name: &'a str,
    /// The name of the image that refers to it.
    pub from: &'a str,
    /// What the name resolves to: what would be opened.
    pub resolved: &'a str,
}

/// How a referenced file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// For writing too.
    pub write: bool,
    /// Made first (empty) if it does not exist; for a writer that is being created.
    pub create: bool,
}

/// Decides whether a referenced file may be opened.
pub trait Gate: Send + Sync + Debug {
    /// `Ok` if it may.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] if not.
    fn admit(&self, what: &Reference<'_>) -> Result<()>;
}

/// Opens files that images refer to.
pub trait Opener: Send + Sync + Debug {
    /// Opens it. `name` is resolved as the kind demands: a data file relative to the process's folder, a backing file
    /// relative to the image's, an extent likewise, as a path whatever it looks like.
    /// `options` are those that were given for this child (`data-file.*`), with the prefix removed.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] by a gate, or those of opening.
    fn open(
        &self,
        kind: ReferenceKind,
        name: &str,
        mode: Mode,
        options: RuntimeOptions,
    ) -> Result<Arc<dyn BlockDevice>>;

    /// Refuses where there is no folder that relative names could start from.
    ///
    /// # Errors
    /// `InvalidArg`.
    fn check_folder(&self) -> Result<()> {
        Ok(())
    }

    /// The displayed name of what holds the image, where that is known.
    fn holder(&self) -> Option<&str> {
        None
    }

    /// The formats that contents are probed for: what a guessed image's start must not turn into.
    /// `None` if the opener does not know; such an image then refuses writes to its first sector.
    fn registry(&self) -> Option<Registry> {
        None
    }

    /// The password or key that options name by `id`.
    ///
    /// # Errors
    /// `InvalidArg` if there is none.
    fn secret(&self, id: &str) -> Result<Secret> {
        Err(unknown_secret(id))
    }
}

/// Opens nothing: for images that stand alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoReferences;

impl Opener for NoReferences {
    fn open(&self, _: ReferenceKind, name: &str, _: Mode, _: RuntimeOptions) -> Result<Arc<dyn BlockDevice>> {
        Err(denied(name))
    }
}

/// The error of a gate that does not let `name` through.
#[must_use]
pub fn denied(name: &str) -> Error {
    Error::new(ErrorKind::Denied, format!("Opening the referenced file '{name}' is not allowed"))
}
