//! Makes new images. In two steps, so that everything that can be wrong is known before a file is touched:
//! [`CreatePlan::new`] checks, [`CreatePlan::run`] does it.

use diskimg_chain::NewFile;
use diskimg_chain::name::resolve_backing;
use diskimg_chain::{Context, ImageSpec, Node, OpenOptions};
use diskimg_core::driver::CreateContext;
use diskimg_core::options::{OptSpec, ParsedOptions};
use diskimg_core::{BlockDevice as _, Error, FormatDriver, Prealloc, Registry, Result, errno};

/// Further drivers that QEMU has and that an image may name as the format of its backing file.
#[rustfmt::skip]
const OTHER_DRIVERS: [&str; 42] = [
    "blkdebug", "blklogwrites", "blkreplay", "blkverify", "bochs", "cloop", "compress", "copy-before-write",
    "copy-on-read", "dmg", "file", "ftp", "ftps", "gluster", "host_cdrom", "host_device", "http", "https",
    "iscsi", "luks", "nbd", "nfs", "null-aio", "null-co", "nvme", "parallels", "preallocate", "qcow",
    "qcow2", "qed", "quorum", "raw", "rbd", "replication", "snapshot-access", "ssh", "throttle", "vdi",
    "vhdx", "vmdk", "vpc", "vvfat",
];

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

/// An image that can be made.
#[derive(Debug)]
pub struct CreatePlan {
    file: NewFile,
    driver: &'static FormatDriver,
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
        let driver = find_format(&ctx.registry, request.format)?;
        let file = NewFile::locate(ctx, request.filename)?;
        check_creatable(driver)?;
        let mut options = ParsedOptions::new(&[driver.options, file.create_options()]);
        options.parse(request.options)?;
        set_size(&mut options, request)?;
        set_backing(&mut options, driver, request)?;
        if !request.for_convert {
            check_backing(ctx, &mut options, request)?;
            if options.get_number("size").is_none() {
                return Err(Error::invalid("Image creation needs a size parameter"));
            }
        }
        let registry = ctx.registry.clone();
        Ok(Self { file, driver, options, for_convert: request.for_convert, registry })
    }

    /// The format.
    #[must_use]
    pub fn driver(&self) -> &'static FormatDriver {
        self.driver
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
    /// that can't be finished is removed.
    ///
    /// # Errors
    /// What the format refuses, and the host.
    pub fn run(&self) -> Result<()> {
        self.create().map_err(|error| self.explain(error))
    }

    fn create(&self) -> Result<()> {
        let creator = self.driver.creator.ok_or_else(|| not_creatable(self.driver))?;
        (creator.validate)(&self.options)?;
        self.check_backing_format()?;
        let made = self.file.can_create();
        if made {
            self.file.create(0, Prealloc::Off, &self.options)?;
        }
        let finished = self.fill(creator);
        if finished.is_err() && made {
            self.file.remove();
        }
        finished
    }

    fn fill(&self, creator: diskimg_core::driver::Creator) -> Result<()> {
        let storage = self.file.open()?;
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
        let name = self.driver.name;
        Error::limit(format!("The image size is too large for file format '{name}'{advice}"))
    }
}

fn find_format(registry: &Registry, name: &str) -> Result<&'static FormatDriver> {
    registry.format(name).ok_or_else(|| Error::invalid(format!("Unknown file format '{name}'")))
}

fn not_creatable(driver: &FormatDriver) -> Error {
    Error::unsupported(format!("Format driver '{}' does not support image creation", driver.name))
}

fn check_creatable(driver: &'static FormatDriver) -> Result<()> {
    if driver.creator.is_some() { Ok(()) } else { Err(not_creatable(driver)) }
}

/// The format of that name, which can make images.
///
/// # Errors
/// `InvalidArg` or `Unsupported` with qemu-img's wording.
pub fn find_creatable(registry: &Registry, name: &str) -> Result<&'static FormatDriver> {
    let driver = find_format(registry, name)?;
    check_creatable(driver).map(|()| driver)
}

/// The create options of host files, which every format's are joined with.
#[must_use]
pub fn file_protocol_options(registry: &Registry) -> &'static [OptSpec] {
    registry.protocol("file").map_or(&[], |protocol| protocol.create_options)
}

fn set_size(options: &mut ParsedOptions, request: &CreateRequest<'_>) -> Result<()> {
    let Some(size) = request.size else { return Ok(()) };
    if options.is_given("size") && !request.for_convert {
        return Err(Error::invalid("The image size must be specified only once"));
    }
    options.set_number("size", size);
    Ok(())
}

fn set_backing(
    options: &mut ParsedOptions,
    driver: &FormatDriver,
    request: &CreateRequest<'_>,
) -> Result<()> {
    let asked = [
        ("backing_file", request.backing, "Backing file not supported for file format"),
        ("backing_fmt", request.backing_format, "Backing file format not supported for file format"),
    ];
    for (name, value, refusal) in asked {
        let Some(value) = value else { continue };
        if !options.knows(name) {
            return Err(Error::unsupported(format!("{refusal} '{}'", driver.name)));
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

/// Opens the file that a new image `filename` would have as its backing file; it may be in use elsewhere.
fn open_backing(ctx: &Context, filename: &str, name: &str, format: Option<&str>) -> Result<Node> {
    let relative = || Error::invalid(format!("Cannot use relative backing file names for '{filename}'"));
    let resolved = resolve_backing(Some(filename), name).ok_or_else(relative)?;
    let options = OpenOptions { force_share: true, ..OpenOptions::read().with_format(format) };
    Node::open_nested(ctx, &ImageSpec::name(resolved), &options)
}
