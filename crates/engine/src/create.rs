//! Makes new images. In two steps, so that everything that can be wrong is known before a file is touched:
//! [`CreatePlan::new`] checks, [`CreatePlan::run`] does it.

use std::sync::Arc;

use diskimg_chain::NewFile;
use diskimg_chain::name::resolve_backing;
use diskimg_chain::{Context, ImageSpec, Node, OpenOptions};
use diskimg_core::driver::{Caps, CreateContext, Creator, WriteOrder};
use diskimg_core::options::{OptSpec, OptUse, ParsedOptions};
use diskimg_core::protocol::ProtocolDriver;
use diskimg_core::size::MAX_IMAGE_SIZE;
use diskimg_core::{
    BlockDevice, Error, FALLBACK_FORMAT, FALLBACK_PROTOCOL, FormatDriver, Prealloc, Registry, Result,
    align_up, check_len, errno,
};

/// Further drivers that QEMU has and that an image may name as the format of its backing file.
#[rustfmt::skip]
const OTHER_DRIVERS: [&str; 42] = [
    "blkdebug", "blklogwrites", "blkreplay", "blkverify", "bochs", "cloop", "compress", "copy-before-write",
    "copy-on-read", "dmg", "file", "ftp", "ftps", "gluster", "host_cdrom", "host_device", "http", "https",
    "iscsi", "luks", "nbd", "nfs", "null-aio", "null-co", "nvme", "parallels", "preallocate", "qcow",
    "qcow2", "qed", "quorum", "raw", "rbd", "replication", "snapshot-access", "ssh", "throttle", "vdi",
    "vhdx", "vmdk", "vpc", "vvfat",
];

/// Sizes of disks are whole sectors of so many bytes.
const SECTOR: u64 = 512;

/// What image is wanted.
#[derive(Clone, Debug, Default)]
pub struct CreateRequest<'a> {
    /// The new file.
    pub filename: &'a str,
    /// Its format.
    pub format: &'a str,
    /// The length of the disk in bytes; `None`: given among the options, or that of the backing file.
    pub size: Option<u64>,
    /// Options as `name=value,…`; empty for none.
    pub options: &'a str,
    /// The backing file, as it is to be stored.
    pub backing: Option<&'a str>,
    /// The format of the backing file.
    pub backing_format: Option<&'a str>,
    /// The backing file is not opened to see whether it is there.
    pub unchecked: bool,
    /// The image is to be filled by a conversion: `size` goes before a size among the options, the backing file
    /// is checked when the image is opened, and errors are told as the format tells them.
    pub for_convert: bool,
}

/// What a name that is given as a format makes: images of a format, or a protocol's files, whose contents are raw.
#[derive(Clone, Copy, Debug)]
pub struct Maker {
    format: &'static FormatDriver,
    protocol: Option<&'static ProtocolDriver>,
}

impl Maker {
    /// The maker of that name.
    ///
    /// # Errors
    /// `InvalidArg` with qemu-img's wording.
    pub fn find(registry: &Registry, name: &str) -> Result<Self> {
        if let Some(format) = registry.format(name) {
            return Ok(Self { format, protocol: None });
        }
        if let Some(filter) = registry.filter(name) {
            return Ok(Self { format: filter.node, protocol: None });
        }
        let raw = registry.format(FALLBACK_FORMAT).zip(registry.protocol(name));
        let unknown = || Error::invalid(format!("Unknown file format '{name}'"));
        raw.map(|(format, protocol)| Self { format, protocol: Some(protocol) }).ok_or_else(unknown)
    }

    /// The maker of that name, which can make images.
    ///
    /// # Errors
    /// `InvalidArg` or `Unsupported` with qemu-img's wording.
    pub fn find_creatable(registry: &Registry, name: &str) -> Result<Self> {
        let maker = Self::find(registry, name)?;
        maker.check_creatable().map(|()| maker)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.protocol.map_or(self.format.name, |protocol| protocol.name)
    }

    /// The format of the images.
    #[must_use]
    pub fn format(&self) -> &'static FormatDriver {
        self.format
    }

    /// The protocol, if it is one that was named.
    #[must_use]
    pub fn protocol(&self) -> Option<&'static ProtocolDriver> {
        self.protocol
    }

    /// Its create options.
    #[must_use]
    pub fn options(&self) -> &'static [OptSpec] {
        self.protocol.map_or(self.format.options, |protocol| protocol.create_options)
    }

    fn check_creatable(&self) -> Result<()> {
        let can = match self.protocol {
            Some(protocol) => protocol.create.is_some(),
            None => self.format.creator.is_some(),
        };
        if can { Ok(()) } else { Err(self.not_creatable()) }
    }

    fn not_creatable(&self) -> Error {
        Error::unsupported(format!("Format driver '{}' does not support image creation", self.name()))
    }

    /// Through what the file is made: images with metadata are nobody else's meanwhile.
    fn place(&self, file: NewFile) -> NewFile {
        match self.protocol {
            Some(protocol) => file.through(protocol),
            None if self.format.name == FALLBACK_FORMAT => file,
            None => file.alone(),
        }
    }
}

/// An image that can be made.
#[derive(Debug)]
pub struct CreatePlan {
    file: NewFile,
    maker: Maker,
    options: ParsedOptions,
    for_convert: bool,
    registry: Registry,
}

impl CreatePlan {
    /// Checks what can be checked before any file is touched. Opens the backing file to read.
    ///
    /// # Errors
    /// `InvalidArg` with qemu-img's wording for contradictions and unknown names; with a hint, those of opening
    /// the backing file. None names the new file.
    pub fn new(ctx: &Context, request: &CreateRequest<'_>) -> Result<Self> {
        let maker = Maker::find(&ctx.registry, request.format)?;
        let file = NewFile::locate(ctx, request.filename)?;
        maker.check_creatable()?;
        file.check()?;
        let mut options = ParsedOptions::new(&[maker.options(), file.create_options()]);
        options.parse(request.options)?;
        set_size(&mut options, request)?;
        set_backing(&mut options, maker.name(), request)?;
        if !request.for_convert {
            check_backing(ctx, &mut options, request)?;
            // All ones stand for no size.
            if options.get_number("size").is_none_or(|size| size == u64::MAX) {
                return Err(Error::invalid("Image creation needs a size parameter"));
            }
        }
        let registry = ctx.registry.clone();
        let file = maker.place(file);
        Ok(Self { file, maker, options, for_convert: request.for_convert, registry })
    }

    /// What makes it.
    #[must_use]
    pub fn maker(&self) -> Maker {
        self.maker
    }

    /// The options with their defaults.
    #[must_use]
    pub fn options(&self) -> &ParsedOptions {
        &self.options
    }

    /// Names and values of all options, in order, as the line `Formatting 'FILE', fmt=FORMAT …` shows them.
    #[must_use]
    pub fn summary(&self) -> Vec<(&'static str, String)> {
        let escape = |(name, value): (&'static str, String)| (name, value.replace(',', ",,"));
        self.options.shown().into_iter().map(escape).collect()
    }

    /// Makes the image. An existing file is replaced, but not before the options were found to be right; a file
    /// that can't be finished is removed (raw contents stay, as long as they could be made).
    ///
    /// # Errors
    /// What the format refuses, and the host.
    pub fn run(&self) -> Result<()> {
        self.create().map_err(|error| self.explain(error))
    }

    /// Makes the image in `storage`, which is empty, instead of its file. Further files that it refers to are made as ever.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_in(&self, storage: Arc<dyn BlockDevice>) -> Result<()> {
        let creator = self.maker.format.creator.ok_or_else(|| self.maker.not_creatable())?;
        (creator.validate)(&self.options)?;
        self.check_backing_format()?;
        self.fill(creator, storage).map_err(|error| self.explain(error))
    }

    /// In which order the file of the image can be written.
    #[must_use]
    pub fn write_order(&self) -> WriteOrder {
        let creator = self.maker.format.creator.filter(|_| self.maker.protocol.is_none());
        creator.map_or(WriteOrder::Any, |creator| (creator.order)(&self.options))
    }

    /// Removes the file that [`run`](Self::run) made, if it is one: for an image that will not be finished.
    pub fn remove(&self) {
        self.file.remove();
    }

    fn create(&self) -> Result<()> {
        let creator = self.maker.format.creator.ok_or_else(|| self.maker.not_creatable())?;
        (creator.validate)(&self.options)?;
        self.check_backing_format()?;
        self.file.create(self.protocol_size(), self.protocol_prealloc()?, &self.options)?;
        let finished = self.file.open().and_then(|storage| self.fill(creator, storage));
        if finished.is_err() && self.maker.format.name != FALLBACK_FORMAT {
            self.file.remove();
        }
        finished
    }

    /// The length of the file as it is made: empty, for a host file; another protocol's file has its length, which has
    /// to suffice for raw contents.
    fn protocol_size(&self) -> u64 {
        let raw = self.maker.format.name == FALLBACK_FORMAT;
        if raw && self.file.protocol().name != FALLBACK_PROTOCOL {
            self.options.get_number("size").unwrap_or(0)
        } else {
            0
        }
    }

    /// Preallocation where that is the protocol's matter alone: of the file as it is made, which is empty.
    fn protocol_prealloc(&self) -> Result<Prealloc> {
        let own = self.maker.format.name == FALLBACK_FORMAT
            || self.maker.options().iter().any(|spec| spec.name == "preallocation");
        let given = if own { None } else { self.options.get_str("preallocation") };
        let Some(name) = given else { return Ok(Prealloc::Off) };
        let unknown = || Error::invalid(format!("invalid parameter value: {name}"));
        match Prealloc::from_name(&name).ok_or_else(unknown)? {
            Prealloc::Metadata if !self.maker.format.caps.contains(Caps::PREALLOCATE) => {
                Err(Error::unsupported("Unsupported preallocation mode: metadata"))
            }
            // Nothing is to be allocated yet; the format may see to it later.
            _ => Ok(Prealloc::Off),
        }
    }

    fn fill(&self, creator: Creator, storage: Arc<dyn BlockDevice>) -> Result<()> {
        let opener = self.file.opener();
        (creator.create)(&CreateContext {
            storage,
            filename: self.file.name(),
            options: &self.options,
            opener: &opener,
        })
    }

    /// A backing format that nobody knows can't be stored.
    fn check_backing_format(&self) -> Result<()> {
        match self.options.get_str("backing_fmt") {
            Some(name) if !self.knows_driver(&name) => {
                Err(Error::invalid(format!("Parameter 'backing-fmt' does not accept value '{name}'")))
            }
            _ => Ok(()),
        }
    }

    fn knows_driver(&self, name: &str) -> bool {
        let formats = self.registry.formats().iter().map(|driver| driver.name);
        let protocols = self.registry.protocols().iter().map(|driver| driver.name);
        formats.chain(protocols).chain(OTHER_DRIVERS).any(|known| known == name)
    }

    /// A size that the host or the format can't hold is told in words of its own.
    fn explain(&self, error: Error) -> Error {
        if self.for_convert || error.errno() != errno::EFBIG {
            return error;
        }
        let advice =
            if self.options.knows("cluster_size") { " (try using a larger cluster size)" } else { "" };
        let name = self.maker.name();
        if self.maker.format.name != FALLBACK_FORMAT
            && let Err(error) = check_disk_size(self.options.get_number("size").unwrap_or(0))
        {
            return error.context("Could not resize image");
        }
        Error::limit(format!("The image size is too large for file format '{name}'{advice}"))
    }
}

/// Refuses a size that, in whole sectors, is none of a disk.
fn check_disk_size(size: u64) -> Result<()> {
    match align_up(size, SECTOR).filter(|size| *size <= MAX_IMAGE_SIZE) {
        Some(size) => check_len(size),
        None => Err(Error::invalid("Image size cannot be negative")),
    }
}

/// The create options of host files, which every format's are joined with.
#[must_use]
pub fn file_protocol_options(registry: &Registry) -> &'static [OptSpec] {
    registry.protocol(FALLBACK_PROTOCOL).map_or(&[], |protocol| protocol.create_options)
}

fn set_size(options: &mut ParsedOptions, request: &CreateRequest<'_>) -> Result<()> {
    let Some(size) = request.size else { return Ok(()) };
    if options.is_given("size") && !request.for_convert {
        return Err(Error::invalid("The image size must be specified only once"));
    }
    options.set_number("size", size);
    Ok(())
}

fn set_backing(options: &mut ParsedOptions, maker: &str, request: &CreateRequest<'_>) -> Result<()> {
    let asked = [
        ("backing_file", request.backing, "Backing file not supported for file format"),
        ("backing_fmt", request.backing_format, "Backing file format not supported for file format"),
    ];
    let beyond = |options: &ParsedOptions, name: &str| {
        options.table().iter().any(|spec| spec.name == name && spec.usage.contains(OptUse::HIDDEN))
    };
    // A format that hides them takes images of its own as parents, which qemu-img does not; all else is as there.
    let own_parent = request.backing_format.map_or_else(
        || options.get_str("backing_fmt").is_some_and(|format| format == maker),
        |format| format == maker,
    );
    for (name, value, refusal) in asked {
        let taken = options.knows(name) && (own_parent || !beyond(options, name));
        if !taken && options.is_given(name) {
            return Err(Error::invalid(format!("Invalid parameter '{name}'")));
        }
        let Some(value) = value else { continue };
        if !taken {
            return Err(Error::unsupported(format!("{refusal} '{maker}'")));
        }
        options.set(name, value)?;
    }
    Ok(())
}

/// Looks at the backing file: it has to be there, its format has to be given, and its size is the default.
fn check_backing(ctx: &Context, options: &mut ParsedOptions, request: &CreateRequest<'_>) -> Result<()> {
    let Some(name) = options.get_str("backing_file") else { return Ok(()) };
    if name.is_empty() {
        return Err(Error::invalid("Expected backing file name, got empty string"));
    }
    if name == request.filename {
        let text = "Error: Trying to create an image with the same filename as the backing file";
        return Err(Error::invalid(text));
    }
    let format = options.get_str("backing_fmt");
    let unnamed = || Error::invalid("Backing file specified without backing format");
    if request.unchecked {
        return format.map_or_else(|| Err(unnamed()), |_| Ok(()));
    }
    let node = open_backing(ctx, request.filename, &name, format.as_deref())
        .map_err(|error| error.with_hint("Could not open backing image."))?;
    if format.is_none() {
        return Err(unnamed().with_hint(format!("Detected format of {}.", node.format())));
    }
    if options.get_number("size").is_none() {
        options.set_number("size", node.device().len());
    }
    Ok(())
}

/// Opens the file that a new image `filename` would have as its backing file, and what is below it; they may be in use
/// elsewhere, and no key is needed.
fn open_backing(ctx: &Context, filename: &str, name: &str, format: Option<&str>) -> Result<Node> {
    let relative = || Error::invalid(format!("Cannot use relative backing file names for '{filename}'"));
    let resolved =
        resolve_backing(Some(filename).filter(|name| !name.is_empty()), name).ok_or_else(relative)?;
    let described = OpenOptions { force_share: true, describe_only: true, ..OpenOptions::read() };
    let options = described.with_format(format);
    Node::open_nested(ctx, &ImageSpec::name(resolved), &options)
}
