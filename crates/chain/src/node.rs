//! [`Node`]: an open image together with the chain below it.
//!
//! A node never changes after it was opened: another backing file makes another node ([`Node::over`]).
//! Everything a program reads or writes goes through its [`Device`] (bounds, permission) and the
//! [`Stack`](crate::Stack) behind it (layers, copy-on-write).

use std::sync::Arc;

use diskimg_core::filter::Opened;
use diskimg_core::options::{RuntimeValue, parse_bool};
use diskimg_core::{
    BlockDevice, ByteRange, Description, Device, Error, Extent, ExtentFlags, HostRef, Image, Limits,
    Prealloc, Reservation, Result, ZeroMode, read_only_error,
};

use crate::name::resolve_in;
use crate::request::Request;
use crate::shown::Shown;
use crate::spec::SpecKind;
use crate::stack::{Stack, StackOptions};
use crate::walk::{StatusWalk, Walk};
use crate::watched::Watched;
use crate::{Context, ImageSpec, OpenOptions};

/// An open image with what is below it. Clones are cheap and share it.
#[derive(Clone, Debug)]
pub struct Node(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    parts: NodeParts,
    name: String,
    /// How the user called it.
    label: Option<String>,
    layer: Device,
    device: Device,
    below: Option<Node>,
}

/// What a node is made of, besides the chain below it.
#[derive(Clone, Debug)]
pub struct NodeParts {
    /// The layer itself.
    pub image: Arc<dyn Image>,
    /// What the displayed name is made of.
    pub(crate) shown: Shown,
    /// The name of the file that holds it, which relative backing names start from; empty if it has none.
    pub filename: String,
    /// What the nodes are called whose relative backing names start from nowhere, if it is one of those.
    pub(crate) no_folder: Option<String>,
    /// The format's name (or the protocol's, where there is no format).
    pub format: &'static str,
    /// The format was not given: only "anything can be raw" spoke for it.
    pub guessed: bool,
    /// The displayed name of what holds the image, if something does.
    pub(crate) holder: Option<String>,
    /// The image in which this one is stored, where that is not a plain file: a format inside a format.
    pub inside: Option<Node>,
    /// The nodes below a filter, by role; none for an image.
    pub children: Vec<(String, Node)>,
    /// It is a filter whose only child answers for what is stored where.
    pub transparent: bool,
    /// A filter below it is told of the user's requests.
    pub(crate) watched: Option<Opened>,
    /// How it is used.
    pub mode: NodeMode,
    /// How it was opened, to do it again; `None` for images that were not opened through a registry.
    pub(crate) request: Option<Box<Request>>,
}

/// How a node is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeMode {
    /// Writes are refused.
    pub read_only: bool,
    /// A flush follows each write.
    pub write_through: bool,
    /// Zeroing and discarding as the layered device does them.
    pub stack: StackOptions,
}

impl NodeParts {
    /// An image in the file `filename` that was not opened through a registry.
    #[must_use]
    pub fn new(image: Arc<dyn Image>, filename: &str) -> Self {
        let format = image.driver().name;
        let mode = NodeMode { read_only: image.is_read_only(), ..NodeMode::default() };
        let shown = Shown { plain: Some(filename.to_owned()), options: Vec::new() };
        let (filename, guessed, no_folder, holder, inside) = (filename.to_owned(), false, None, None, None);
        let (children, transparent, watched, request) = (Vec::new(), false, None, None);
        Self {
            image,
            shown,
            filename,
            no_folder,
            format,
            guessed,
            holder,
            inside,
            children,
            transparent,
            watched,
            mode,
            request,
        }
    }
}

/// The backing file of an image, as it names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackingName {
    /// As stored.
    pub stored: String,
    /// The format as stored, if any.
    pub format: Option<String>,
    /// What it refers to (`full-backing-filename`); `None` if that depends on a folder that is not known.
    pub resolved: Option<String>,
}

/// What the chain knows of a range, as `qemu-img map` sees it.
#[derive(Clone, Copy, Debug)]
pub struct Status<'a> {
    /// Bytes from the start of the range that was asked for; never 0.
    pub len: u64,
    /// `PRESENT`: the layer answers for it. Not present is `ZERO`: no layer holds it; or nothing at all: nobody says
    /// what it reads as. Stored bytes that their host file knows to be a hole are `ZERO` and `DATA`.
    pub flags: ExtentFlags,
    /// Where the bytes stand as they are.
    pub host: Option<HostRef<'a>>,
    /// How many layers down: 0 is the top.
    pub depth: usize,
    /// The layer that answers (for a range that no layer holds: the deepest that reaches it).
    pub layer: &'a Node,
}

impl Node {
    /// Opens the image that `spec` names, and its backing chain.
    ///
    /// # Errors
    /// qemu-img's messages below `Could not open 'SPEC'`: a missing or unreadable file, an unknown format, protocol or
    /// option, what the format's driver refuses, a lock of another process (`Locked`), a gate's refusal (`Denied`),
    /// a chain that loops (`Corrupt`) or is longer than [`MAX_CHAIN_DEPTH`](crate::MAX_CHAIN_DEPTH) (`Limit`).
    pub fn open(ctx: &Context, spec: &ImageSpec, opts: &OpenOptions) -> Result<Self> {
        if opts.force_share && denies_sharing(spec) {
            return Err(Error::invalid("--force-share/-U conflicts with image options"));
        }
        let mut node = Self::open_nested(ctx, spec, opts)
            .map_err(|error| error.context(format!("Could not open '{}'", spec.label())))?;
        if let Some(inner) = Arc::get_mut(&mut node.0) {
            inner.label = Some(spec.label().to_owned());
        }
        Ok(node)
    }

    /// The same, for callers that say themselves what could not be opened.
    ///
    /// # Errors
    /// As [`Node::open`], without its first level.
    pub fn open_nested(ctx: &Context, spec: &ImageSpec, opts: &OpenOptions) -> Result<Self> {
        crate::open::open(ctx, spec, opts)
    }

    /// A node of `parts` over `below`.
    #[must_use]
    pub fn assemble(parts: NodeParts, below: Option<Self>) -> Self {
        let image: Arc<dyn Image> = Arc::clone(&parts.image);
        let mut door = as_device(&image);
        let mut stack = Stack::new(image, below.clone(), parts.mode.stack);
        if let Some(opened) = &parts.watched {
            door = Arc::new(Watched { image: door, opened: opened.clone() });
            stack = stack.behind(Arc::clone(&door));
        }
        let layer = Device::with_mode(door, parts.mode.read_only, false);
        let device = Device::with_mode(Arc::new(stack), parts.mode.read_only, parts.mode.write_through);
        let name = parts.shown.name();
        Self(Arc::new(Inner { parts, name, label: None, layer, device, below }))
    }

    /// The same layer over another chain (or none), as rebasing needs it. The layer is shared.
    #[must_use]
    pub fn over(&self, below: Option<Self>) -> Self {
        Self::assemble(self.0.parts.clone(), below)
    }

    /// The chain with the image `depth` layers down open for writing too. Where it is not yet, its file is opened anew,
    /// after this node's hold on it has ended: a clone that is kept elsewhere locks it out. The layers above and below it
    /// stay open all the time.
    ///
    /// # Errors
    /// As [`Node::open_nested`] for that one image; all layers above it are closed then. `InvalidArg` for a depth that
    /// the chain does not have; `ReadOnly` for an image that was not opened by a specification.
    pub fn with_writable_layer(self, ctx: &Context, depth: usize) -> Result<Self> {
        let mut above = Vec::new();
        let mut node = self;
        for _ in 0..depth {
            let next = node.backing().cloned().ok_or_else(|| Error::invalid("no such layer"))?;
            above.push(node.0.parts.clone());
            node = next;
        }
        if node.device().is_read_only() {
            let request = node.0.parts.request.clone().ok_or_else(read_only_error)?;
            let below = node.backing().cloned();
            drop(node);
            node = Self::assemble(crate::open::open_again(ctx, *request, true)?, below);
        }
        Ok(above.into_iter().rev().fold(node, |below, parts| Self::assemble(parts, Some(below))))
    }

    /// The node with another image in place of its own, read-only, over the same chain: a snapshot inside it.
    #[must_use]
    pub fn showing(&self, image: Arc<dyn Image>) -> Self {
        let mode = NodeMode { read_only: true, ..self.0.parts.mode };
        Self::assemble(NodeParts { image, mode, ..self.0.parts.clone() }, self.0.below.clone())
    }

    /// The displayed name: a plain file name where that says it all, else `json:{…}`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The name or the options that the user opened it by; else the displayed name.
    #[must_use]
    pub fn label(&self) -> &str {
        self.0.label.as_deref().unwrap_or(&self.0.name)
    }

    /// What the displayed name is made of.
    pub(crate) fn shown(&self) -> &Shown {
        &self.0.parts.shown
    }

    /// The name of the file that holds it; empty if it has none.
    #[must_use]
    pub fn filename(&self) -> &str {
        &self.0.parts.filename
    }

    /// What its kind of nodes is called, if relative names start from nowhere there.
    pub(crate) fn no_folder(&self) -> Option<&str> {
        self.0.parts.no_folder.as_deref()
    }

    /// What the name `name` of a backing file means in this image: a relative one starts from the folder of its file.
    ///
    /// # Errors
    /// `InvalidArg`: a relative name, and there is no folder.
    pub fn resolve(&self, name: &str) -> Result<String> {
        resolve_in(self.no_folder(), self.filename(), name)
    }

    /// The format's name, or the protocol's where there is no format.
    #[must_use]
    pub fn format(&self) -> &'static str {
        self.0.parts.format
    }

    /// True if the format was not given and nothing but "anything can be raw" spoke for it.
    #[must_use]
    pub fn guessed(&self) -> bool {
        self.0.parts.guessed
    }

    /// The layer itself, without what is below it.
    #[must_use]
    pub fn image(&self) -> &Arc<dyn Image> {
        &self.0.parts.image
    }

    /// The image in which this one is stored, where that is not a plain file.
    #[must_use]
    pub fn inside(&self) -> Option<&Self> {
        self.0.parts.inside.as_ref()
    }

    /// The nodes below a filter, by role; none for an image.
    #[must_use]
    pub fn children(&self) -> &[(String, Self)] {
        &self.0.parts.children
    }

    /// The displayed name of the file (or other node) that holds the image; `None` for a protocol's device.
    #[must_use]
    pub fn holder_name(&self) -> Option<&str> {
        self.0.parts.holder.as_deref()
    }

    /// The disk as its user sees it: the whole chain.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// The front end of this layer alone. What the layer does not hold reads as zeros. Read through it only.
    #[must_use]
    pub fn layer_device(&self) -> &Device {
        &self.0.layer
    }

    /// The open backing file.
    #[must_use]
    pub fn backing(&self) -> Option<&Self> {
        self.0.below.as_ref()
    }

    /// This node, its backing file, and so on down.
    #[must_use]
    pub fn layers(&self) -> Layers<'_> {
        Layers { next: Some(self) }
    }

    /// The backing file as the image names it, whether it is open or not.
    #[must_use]
    pub fn backing_name(&self) -> Option<BackingName> {
        let stored = self.0.parts.image.backing()?;
        let resolved = self.resolve(&stored.name).ok();
        Some(BackingName { stored: stored.name, format: stored.format, resolved })
    }

    /// How the backing file is opened by itself, as `info --backing-chain` does: by its resolved name, through the gate.
    /// Give [`OpenOptions::format`] the stored format.
    #[must_use]
    pub fn backing_spec(&self) -> Option<ImageSpec> {
        let name = self.backing_name()?;
        Some(ImageSpec::referenced(name.resolved?, self.filename(), name.stored))
    }

    /// What the chain knows of the start of `range` (not empty, within the disk), as `qemu-img map` prints it.
    ///
    /// # Errors
    /// The host's or `Corrupt`; `OutOfRange`.
    pub fn status(&self, range: ByteRange) -> Result<Status<'_>> {
        range.check_within(self.0.device.len())?;
        if let Some((_, child)) = self.0.parts.children.first().filter(|_| self.is_transparent())
            && !range.is_empty()
        {
            let own = self.image().extent_at(range)?.len.clamp(1, range.len);
            return child.status(ByteRange::new(range.start, own));
        }
        Walk::new(&**self.image(), self.backing()).status(self, range)
    }

    /// The same for all of the disk, from one extent to the next.
    #[must_use]
    pub fn status_walk(&self) -> StatusWalk<'_> {
        StatusWalk::new(self)
    }

    /// True if the child answers for what is stored where.
    pub(crate) fn is_transparent(&self) -> bool {
        self.0.parts.transparent
    }

    /// True if the node is a protocol's device without a format.
    #[must_use]
    pub fn is_protocol(&self) -> bool {
        self.0.parts.image.driver().name.is_empty()
    }
}

/// True if the options of `spec` say the opposite of force-share.
fn denies_sharing(spec: &ImageSpec) -> bool {
    match &spec.kind {
        SpecKind::Options(options) => match options.get("force-share") {
            None | Some(RuntimeValue::Bool(true)) => false,
            Some(RuntimeValue::Str(text)) => !matches!(parse_bool("force-share", text), Ok(true)),
            Some(_) => true,
        },
        SpecKind::Name(_) => false,
    }
}

/// The image as the device that it is.
fn as_device(image: &Arc<dyn Image>) -> Arc<dyn BlockDevice> {
    Arc::<dyn Image>::clone(image)
}

/// The layers of a chain, from the top down.
#[derive(Clone, Debug)]
pub struct Layers<'a> {
    next: Option<&'a Node>,
}

impl<'a> Iterator for Layers<'a> {
    type Item = &'a Node;

    fn next(&mut self) -> Option<Self::Item> {
        let node = self.next?;
        self.next = node.backing();
        Some(node)
    }
}

impl BlockDevice for Node {
    fn len(&self) -> u64 {
        self.0.device.len()
    }

    fn limits(&self) -> Limits {
        self.0.device.limits()
    }

    fn is_read_only(&self) -> bool {
        self.0.device.is_read_only()
    }

    fn describe(&self) -> Description<'_> {
        Description { driver: self.format(), filename: self.name() }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.0.device.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.0.device.write_at(offset, buf)
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        self.0.device.write_zeroes(range, how)
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        self.0.device.discard(range)
    }

    fn flush(&self) -> Result<()> {
        self.0.device.flush()
    }

    fn set_len(&self, len: u64, prealloc: Prealloc) -> Result<()> {
        self.0.device.set_len(len, prealloc)
    }

    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        self.0.device.extent_at(range)
    }

    fn reserve(&self, range: ByteRange) -> Result<Option<Reservation<'_>>> {
        self.0.device.reserve(range)
    }

    fn copy_from(&self, offset: u64, source: HostRef<'_>, len: u64) -> Result<u64> {
        self.0.device.copy_from(offset, source, len)
    }

    fn allocated_len(&self) -> Result<Option<u64>> {
        self.0.device.allocated_len()
    }
}
