//! [`ChainOpener`]: opens the files that an image refers to on behalf of its driver: data files, extents.

use std::sync::Arc;

use diskimg_core::opener::{Mode, Opener, ReferenceKind};
use diskimg_core::options::{ParsedOptions, RuntimeOptions};
use diskimg_core::protocol::{LockSpec, ProtocolCreate};
use diskimg_core::{BlockDevice, Error, Prealloc, Registry, Result, Secret};

use crate::name::{gate_name, parse_protocol};
use crate::request::{Request, Trust, Usage};
use crate::storage::open_storage;
use crate::{Context, OpenOptions};

/// The opener of one image.
#[derive(Clone, Debug)]
pub(crate) struct ChainOpener {
    ctx: Context,
    /// The file that holds the image.
    from: String,
    usage: Usage,
    /// The image is being created: its references come from the user.
    creating: bool,
}

impl ChainOpener {
    /// For an image that is used as `usage` says.
    pub(crate) fn new(ctx: &Context, from: &str, usage: Usage) -> Self {
        Self { ctx: ctx.clone(), from: from.to_owned(), usage, creating: false }
    }

    /// For an image that is being created.
    pub(crate) fn creating(ctx: &Context, from: &str) -> Self {
        let usage = Usage::new(&OpenOptions::write());
        Self { ctx: ctx.clone(), from: from.to_owned(), usage, creating: true }
    }

    /// Makes the file, empty.
    fn create(&self, trust: &Trust, name: &str) -> Result<()> {
        let (protocol, filename) = parse_protocol(&self.ctx.registry, name)?;
        trust.admit(&self.ctx, &gate_name(protocol.name, &filename))?;
        let Some(create) = protocol.create else {
            let text = format!("Driver '{}' does not support image creation", protocol.name);
            return Err(Error::unsupported(text));
        };
        create(&ProtocolCreate {
            filename: &filename,
            size: 0,
            prealloc: Prealloc::Off,
            lock: LockSpec::CREATE,
            options: &ParsedOptions::new(&[protocol.create_options]),
            notices: self.ctx.notices.clone(),
        })
    }
}

impl Opener for ChainOpener {
    fn open(
        &self,
        kind: ReferenceKind,
        name: &str,
        mode: Mode,
        options: RuntimeOptions,
    ) -> Result<Arc<dyn BlockDevice>> {
        // The user's own choice overrides what the image says.
        let overridden = !options.is_empty();
        let trust = if self.creating || overridden {
            Trust::User
        } else {
            Trust::Image { kind, from: self.from.clone(), name: name.to_owned() }
        };
        if mode.create {
            self.create(&trust, name)?;
        }
        let name = (!overridden && !name.is_empty()).then(|| name.to_owned());
        let usage = Usage { write: mode.write, inside_format: true, ..self.usage };
        let lock = if mode.create { LockSpec::CREATE } else { self.usage.data_lock(mode.write) };
        let request = Request { name, options, usage, trust, nesting: 0 };
        Ok(open_storage(&self.ctx, request, Some(lock))?.device)
    }

    fn registry(&self) -> Option<Registry> {
        Some(self.ctx.registry.clone())
    }
    fn secret(&self, id: &str) -> Result<Secret> {
        self.ctx.secrets.get(id)
    }
}
