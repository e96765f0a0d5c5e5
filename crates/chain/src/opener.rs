//! [`ChainOpener`]: opens the files that an image refers to on behalf of its driver: data files, extents.

use std::sync::Arc;

use diskimg_core::filter::Opened;
use diskimg_core::opener::{Mode, Opener, ReferenceKind};
use diskimg_core::options::{ParsedOptions, RuntimeOptions};
use diskimg_core::protocol::{LockSpec, ProtocolCreate};
use diskimg_core::{BlockDevice, Error, Prealloc, Registry, Result, Secret};

use crate::name::{gate_name, has_protocol, no_base, parse_protocol, resolve_backing};
use crate::open::absorb_json;
use crate::request::{Request, Trust, Usage};
use crate::storage::{Storage, open_storage};
use crate::{Context, OpenOptions};

/// The opener of one image.
#[derive(Clone, Debug)]
pub(crate) struct ChainOpener {
    ctx: Context,
    /// The file that holds the image.
    from: String,
    /// The displayed name of the image that the image is in, if that is not a file.
    holder: Option<String>,
    /// The kind of node that it is in, if relative names mean nothing there.
    no_folder: Option<String>,
    usage: Usage,
    /// The image is being created: its references come from the user.
    creating: bool,
}

impl ChainOpener {
    /// For an image that is used as `usage` says.
    pub(crate) fn new(ctx: &Context, from: &str, usage: Usage) -> Self {
        Self {
            ctx: ctx.clone(),
            from: from.to_owned(),
            holder: None,
            no_folder: None,
            usage,
            creating: false,
        }
    }

    /// The same for an image that `storage` holds.
    pub(crate) fn inside(self, storage: &Storage) -> Self {
        let holder = storage.inside.as_ref().map(|node| node.name().to_owned());
        Self { holder, no_folder: storage.no_folder.clone(), ..self }
    }

    /// For an image that is being created.
    pub(crate) fn creating(ctx: &Context, from: &str) -> Self {
        let usage = Usage::new(&OpenOptions::write());
        Self { ctx: ctx.clone(), from: from.to_owned(), holder: None, no_folder: None, usage, creating: true }
    }

    /// What `name` refers to: parents and extents are named from the image's folder, an extent by its path alone.
    fn resolve(&self, kind: ReferenceKind, name: &str) -> String {
        let in_folder = |name: &str| resolve_backing(Some(&self.from), name);
        match kind {
            ReferenceKind::DataFile => name.to_owned(),
            ReferenceKind::Backing => in_folder(name).unwrap_or_else(|| name.to_owned()),
            ReferenceKind::Extent => {
                let folder = self.from.rfind('/').and_then(|at| self.from.get(..=at)).unwrap_or_default();
                let path = if name.starts_with('/') { name.to_owned() } else { format!("{folder}{name}") };
                if has_protocol(&path) { format!("./{path}") } else { path }
            }
        }
    }

    /// Whoever refers to an image by `json:` means the file that holds it, as it does by a name.
    fn take_file(&self, request: &mut Request) -> Result<()> {
        absorb_json(request)?;
        let is_format = |name: String| self.ctx.registry.format(&name).is_some();
        let driver = request.options.get("driver").map(ToString::to_string);
        let has_file = request.options.iter().any(|(name, _)| name.starts_with("file."));
        if has_file && driver.is_none_or(is_format) {
            request.options = request.options.take_child("file");
        }
        Ok(())
    }

    /// Makes the file, empty.
    fn create(&self, trust: &Trust, name: &str) -> Result<()> {
        let refused =
            |driver: &str| Error::unsupported(format!("Driver '{driver}' does not support image creation"));
        if let Some((filter, _)) = self.ctx.registry.filter_of_name(name) {
            return Err(refused(filter.node.name));
        }
        let (protocol, filename) = parse_protocol(&self.ctx.registry, name)?;
        trust.admit(&self.ctx, &gate_name(protocol.name, &filename))?;
        let create = protocol.create.ok_or_else(|| refused(protocol.name))?;
        create(&ProtocolCreate {
            filename: &filename,
            size: 0,
            prealloc: Prealloc::Off,
            lock: LockSpec::CREATE,
            options: &ParsedOptions::new(&[protocol.create_options]),
            notices: self.ctx.notices.clone(),
            cancel: self.ctx.cancel.clone(),
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
        let resolved = self.resolve(kind, name);
        if mode.create {
            self.create(&trust, &resolved)?;
        }
        let name = (!overridden && !name.is_empty()).then_some(resolved);
        let usage = Usage { write: mode.write, inside_format: true, ..self.usage };
        let lock = if mode.create { LockSpec::CREATE } else { self.usage.data_lock(mode.write) };
        let mut request = Request { name, options, usage, trust, nesting: 0, opened: Opened::default() };
        self.take_file(&mut request)?;
        Ok(open_storage(&self.ctx, request, Some(lock))?.device)
    }

    fn holder(&self) -> Option<&str> {
        self.holder.as_deref()
    }

    fn check_folder(&self) -> Result<()> {
        self.no_folder.as_deref().map_or(Ok(()), |kind| Err(no_base(kind)))
    }

    fn registry(&self) -> Option<Registry> {
        Some(self.ctx.registry.clone())
    }
    fn secret(&self, id: &str) -> Result<Secret> {
        self.ctx.secrets.get(id)
    }
}
