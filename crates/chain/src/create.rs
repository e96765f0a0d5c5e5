//! [`NewFile`]: the file of an image that is being created: made, opened for writing, removed if it can't be finished.

use std::sync::Arc;

use diskimg_core::opener::Opener;
use diskimg_core::options::{OptSpec, ParsedOptions, RuntimeOptions};
use diskimg_core::protocol::{CacheMode, LockSpec, ProtocolCreate, ProtocolDriver, ProtocolOpen};
use diskimg_core::{BlockDevice, Error, Prealloc, Result};

use crate::Context;
use crate::fresh::Fresh;
use crate::name::parse_protocol;
use crate::opener::ChainOpener;

/// A file that is to be created.
#[derive(Clone, Debug)]
pub struct NewFile {
    ctx: Context,
    name: String,
    protocol: &'static ProtocolDriver,
    /// The name without the protocol's prefix.
    path: String,
    lock: LockSpec,
}

impl NewFile {
    /// The file of that name; nothing is touched yet.
    ///
    /// # Errors
    /// `Unknown protocol 'x'` (also for `json:`); `Unsupported` for a filter's name.
    pub fn locate(ctx: &Context, name: &str) -> Result<Self> {
        if let Some((filter, _)) = ctx.registry.filter_of_name(name) {
            let name = filter.node.name;
            let text = format!("Protocol driver '{name}' does not support image creation");
            return Err(Error::unsupported(text));
        }
        let (protocol, path) = parse_protocol(&ctx.registry, name)?;
        Ok(Self { ctx: ctx.clone(), name: name.to_owned(), protocol, path, lock: LockSpec::CREATE })
    }

    /// The same, made through `protocol` whatever the name says.
    #[must_use]
    pub fn through(self, protocol: &'static ProtocolDriver) -> Self {
        if self.protocol.name == protocol.name {
            return self;
        }
        Self { path: self.name.clone(), protocol, ..self }
    }

    /// The same for a format with metadata: nobody else may write to the file meanwhile.
    #[must_use]
    pub fn alone(self) -> Self {
        Self { lock: LockSpec::CREATE_ALONE, ..self }
    }

    /// The name as given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name without the protocol's prefix.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The protocol.
    #[must_use]
    pub fn protocol(&self) -> &'static ProtocolDriver {
        self.protocol
    }

    /// Refuses a protocol that can't make new files.
    ///
    /// # Errors
    /// `Unsupported`.
    pub fn check(&self) -> Result<()> {
        self.creator().map(|_| ())
    }

    fn creator(&self) -> Result<fn(&ProtocolCreate<'_>) -> Result<()>> {
        let text = || format!("Protocol driver '{}' does not support image creation", self.protocol.name);
        self.protocol.create.ok_or_else(|| Error::unsupported(text()))
    }

    /// The protocol's own create options, shown and parsed behind those of a format.
    #[must_use]
    pub fn create_options(&self) -> &'static [OptSpec] {
        self.protocol.create_options
    }

    /// Makes the file, or empties an existing one. `size` in bytes.
    ///
    /// # Errors
    /// The protocol's; `Unsupported` if it can't make files.
    pub fn create(&self, size: u64, prealloc: Prealloc, options: &ParsedOptions) -> Result<()> {
        let (lock, notices, cancel) = (self.lock, self.ctx.notices.clone(), self.ctx.cancel.clone());
        let filename = &self.path;
        self.creator()?(&ProtocolCreate { filename, size, prealloc, lock, options, notices, cancel })
    }

    /// Opens the file, which exists, for the format's writer.
    ///
    /// # Errors
    /// The protocol's; `Locked` if another process uses it.
    pub fn open(&self) -> Result<Arc<dyn BlockDevice>> {
        let device = (self.protocol.open)(ProtocolOpen {
            filename: &self.path,
            write: true,
            cache: CacheMode::WriteBack,
            lock: Some(self.lock),
            options: &mut RuntimeOptions::new(),
            notices: self.ctx.notices.clone(),
            cancel: self.ctx.cancel.clone(),
        })?;
        // Raw contents are what the device holds; other formats expect an empty file.
        let fixed = !device.limits().growable && self.lock == LockSpec::CREATE_ALONE;
        Ok(if fixed { Arc::new(Fresh::new(device, self.protocol)) } else { device })
    }

    /// Opens (and makes) the further files that the new image is to refer to. They are named by the user: no gate.
    #[must_use]
    pub fn opener(&self) -> impl Opener + use<> {
        ChainOpener::creating(&self.ctx, &self.path)
    }

    /// Removes the half-made file; a failure to do so is of no interest.
    pub fn remove(&self) {
        if let Some(remove) = self.protocol.remove {
            let _ = remove(&self.path);
        }
    }
}
