//! [`Subject`]: how a disk under test is created and opened on given storage, so that one exploration serves single
//! images, images with data files, and chains.

use std::collections::BTreeMap;
use std::sync::Arc;

use diskimg_chain::{Node, NodeParts};
use diskimg_core::driver::{CreateContext, FormatDriver, Notices, OpenContext, OpenMode};
use diskimg_core::opener::{Mode, Opener, ReferenceKind, denied};
use diskimg_core::options::{ParsedOptions, RuntimeOptions, RuntimeValue};
use diskimg_core::{BlockDevice, Device, Image, MemDevice, Result, Secret, to_usize};

/// A disk that is open.
#[derive(Clone, Debug)]
pub struct Opened {
    /// What the guest sees.
    pub device: Device,
    /// The layers, top first.
    pub layers: Vec<Arc<dyn Image>>,
    /// The chain, where there is one.
    pub node: Option<Node>,
}

impl Opened {
    /// `image` over `below`, joined as programs join them.
    #[must_use]
    pub fn chain(image: Arc<dyn Image>, below: Option<&Node>, write: bool) -> Self {
        let mut parts = NodeParts::new(Arc::clone(&image), "image");
        parts.mode.read_only = !write;
        let node = Node::assemble(parts, below.cloned());
        let lower = node.layers().skip(1).map(|layer| Arc::clone(layer.image()));
        let layers = std::iter::once(image).chain(lower).collect();
        Self { device: node.device().clone(), layers, node: Some(node) }
    }
}

/// Storages as those get them that open them.
#[must_use]
pub fn shared(disks: &[Arc<MemDevice>]) -> Vec<Arc<dyn BlockDevice>> {
    disks.iter().map(|disk| Arc::clone(disk) as Arc<dyn BlockDevice>).collect()
}

/// A sort of disk under test.
pub trait Subject: Sync {
    /// For messages.
    fn name(&self) -> String;

    /// Names of the storages; the first one holds the image. References inside the image use these names.
    fn disks(&self) -> Vec<&'static str>;

    /// Makes the disk in empty storages.
    ///
    /// # Errors
    /// The driver's.
    fn create(&self, disks: &[Arc<dyn BlockDevice>]) -> Result<()>;

    /// Opens the disk.
    ///
    /// # Errors
    /// The driver's.
    fn open(&self, disks: &[Arc<dyn BlockDevice>], write: bool) -> Result<Opened>;

    /// The bytes a reader sees after `create`.
    fn initial(&self) -> Vec<u8>;

    /// The name of the image's format, for the oracle.
    fn format(&self) -> &'static str;
}

/// Opens referenced files from a list of devices by name. Each secret is its own name.
#[derive(Clone, Debug, Default)]
pub struct MemOpener(BTreeMap<String, Arc<dyn BlockDevice>>);

impl MemOpener {
    /// Opens these.
    #[must_use]
    pub fn new(files: impl IntoIterator<Item = (String, Arc<dyn BlockDevice>)>) -> Self {
        Self(files.into_iter().collect())
    }
}

impl Opener for MemOpener {
    fn open(&self, _: ReferenceKind, name: &str, _: Mode, _: RuntimeOptions) -> Result<Arc<dyn BlockDevice>> {
        self.0.get(name).cloned().ok_or_else(|| denied(name))
    }

    fn secret(&self, id: &str) -> Result<Secret> {
        Ok(Secret::new(id.as_bytes().to_vec()))
    }
}

/// Opens an image on `storage`; nothing may be left of the options.
///
/// # Errors
/// The driver's.
pub fn open_image(
    driver: &FormatDriver,
    storage: Arc<dyn BlockDevice>,
    mode: OpenMode,
    opener: &dyn Opener,
) -> Result<Arc<dyn Image>> {
    open_image_with(driver, storage, mode, opener, RuntimeOptions::new())
}

/// The same with runtime options.
///
/// # Errors
/// The driver's.
pub fn open_image_with(
    driver: &FormatDriver,
    storage: Arc<dyn BlockDevice>,
    mode: OpenMode,
    opener: &dyn Opener,
    mut options: RuntimeOptions,
) -> Result<Arc<dyn Image>> {
    let notices = Notices::default();
    (driver.open)(OpenContext { storage, filename: "image", mode, options: &mut options, opener, notices })
}

/// Options (any value where none is named) with the file that an image called `image` then has besides.
const FURTHER_FILES: [(&str, &str, &str); 4] = [
    ("data_file", "", "data"),
    ("subformat", "monolithicFlat", "image-flat"),
    ("subformat", "twoGbMaxExtentFlat", "image-f001"),
    ("subformat", "twoGbMaxExtentSparse", "image-s001"),
];

/// Options among those of a subject that an image is opened with, not made with.
const RUNTIME_ONLY: [&str; 3] = ["pass-discard-other", "pass-discard-snapshot", "lazy-refcounts"];

/// A single image, perhaps with a data file or an extent of its own.
#[derive(Clone, Debug)]
pub struct FormatSubject {
    /// The format.
    pub driver: &'static FormatDriver,
    /// Create options but the size; a `data_file` must be called `data`.
    pub options: Vec<(&'static str, String)>,
    /// Length of the disk in bytes.
    pub size: u64,
}

impl FormatSubject {
    /// An image of `size` bytes with options given as `name=value`.
    ///
    /// # Panics
    /// If an option has no `=`.
    #[must_use]
    pub fn new(driver: &'static FormatDriver, size: u64, options: &[&'static str]) -> Self {
        let split = |text: &&'static str| text.split_once('=').map(|(name, value)| (name, value.to_owned()));
        let options = options.iter().map(|text| split(text).expect("name=value")).collect();
        Self { driver, options, size }
    }

    /// All create options as the driver gets them.
    ///
    /// # Errors
    /// Values that are not of their option's kind.
    pub fn parsed(&self) -> Result<ParsedOptions> {
        let mut parsed = ParsedOptions::new(&[self.driver.options]);
        for (name, value) in self.options.iter().filter(|(name, _)| !RUNTIME_ONLY.contains(name)) {
            parsed.set(name, value)?;
        }
        parsed.set_number("size", self.size);
        Ok(parsed)
    }

    /// The options that an image made with these create options is opened with: the name of its secret, and those that
    /// are none to create with.
    #[must_use]
    pub fn runtime_options(&self) -> RuntimeOptions {
        let mut options = RuntimeOptions::new();
        let at_run_time = |name: &str| name.ends_with("key-secret") || RUNTIME_ONLY.contains(&name);
        for (name, value) in self.options.iter().filter(|(name, _)| at_run_time(name)) {
            options.set(*name, RuntimeValue::Str(value.clone()));
        }
        options
    }

    fn opener(&self, disks: &[Arc<dyn BlockDevice>]) -> MemOpener {
        let names = self.disks().into_iter().map(str::to_owned);
        MemOpener::new(names.zip(disks.iter().cloned()).skip(1))
    }

    /// An image with further create options, which may name `files`: its storage.
    ///
    /// # Errors
    /// The driver's.
    pub fn made_with(&self, options: &[(&str, &str)], files: &MemOpener) -> Result<Arc<MemDevice>> {
        let mut parsed = self.parsed()?;
        for (name, value) in options {
            parsed.set(name, value)?;
        }
        let storage = Arc::new(MemDevice::new(0));
        self.create_in(Arc::clone(&storage) as _, &parsed, files)?;
        Ok(storage)
    }

    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// If it creates no images.
    pub(crate) fn create_in(
        &self,
        storage: Arc<dyn BlockDevice>,
        options: &ParsedOptions,
        opener: &dyn Opener,
    ) -> Result<()> {
        let creator = self.driver.creator.expect("a format that creates images");
        (creator.validate)(options)?;
        (creator.create)(&CreateContext { storage, filename: "image", options, opener })
    }

    /// The image made in memory: its storages.
    ///
    /// # Panics
    /// If the driver fails.
    #[must_use]
    pub fn fresh(&self) -> Vec<Arc<MemDevice>> {
        let disks: Vec<Arc<MemDevice>> = self.disks().iter().map(|_| Arc::new(MemDevice::new(0))).collect();
        self.create(&shared(&disks)).unwrap_or_else(|error| panic!("create {}: {error:?}", self.name()));
        disks
    }
}

impl Subject for FormatSubject {
    fn name(&self) -> String {
        let options: Vec<String> =
            self.options.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("{} {} of {} bytes", self.driver.name, options.join(","), self.size)
    }

    fn disks(&self) -> Vec<&'static str> {
        let given = |row: &&(&str, &str, &str)| {
            self.options.iter().any(|(name, value)| *name == row.0 && (row.1.is_empty() || value == row.1))
        };
        std::iter::once("image").chain(FURTHER_FILES.iter().filter(given).map(|row| row.2)).collect()
    }

    fn create(&self, disks: &[Arc<dyn BlockDevice>]) -> Result<()> {
        self.create_in(Arc::clone(&disks[0]), &self.parsed()?, &self.opener(disks))
    }

    fn open(&self, disks: &[Arc<dyn BlockDevice>], write: bool) -> Result<Opened> {
        let mode = OpenMode { write, ..OpenMode::default() };
        let (storage, opener) = (Arc::clone(&disks[0]), self.opener(disks));
        let image = open_image_with(self.driver, storage, mode, &opener, self.runtime_options())?;
        Ok(Opened::chain(image, None, write))
    }

    fn initial(&self) -> Vec<u8> {
        vec![0; to_usize(self.size)]
    }

    fn format(&self) -> &'static str {
        self.driver.name
    }
}
