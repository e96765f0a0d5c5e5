//! [`FormatDriver`]: the single place where a format says what it is and can do.

use std::fmt;
use std::sync::Arc;

use crate::device::BlockDevice;
use crate::error::Result;
use crate::image::Image;
use crate::opener::Opener;
use crate::options::{OptSpec, ParsedOptions, RuntimeOptions};
use crate::secret::Secrets;

/// How much a probe is convinced: 0 no match, 1 "anything is raw", 2 weak marks, 100 a magic number.
pub type Score = u8;

/// What a probe may look at.
#[derive(Clone, Copy, Debug)]
pub struct ProbeInput<'a> {
    /// The first 512 bytes, padded with zeros.
    pub head: &'a [u8],
    /// The file name.
    pub filename: &'a str,
}

/// Bytes of a file's start that probes look at.
pub const PROBE_LEN: usize = 512;

/// What an image is opened for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenMode {
    /// For writing too.
    pub write: bool,
    /// Only to be described: referenced files are not opened and no key is needed.
    pub describe_only: bool,
    /// To be checked or repaired: structures are allowed to be bad.
    pub check: bool,
    /// The format was not given, and probing found nothing better than "anything can be raw". A writable image then
    /// guards its start: see [`Opener::registry`].
    pub guessed: bool,
}

/// How loud a notice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeLevel {
    /// Printed by a command as `PROGRAM: warning: TEXT`.
    Warning,
    /// Printed by a command as `PROGRAM: TEXT`: what an error that follows does not say.
    Error,
    /// Printed as it is.
    Plain,
    /// Printed as it is: something to do about what was said before. qemu-img does not end its line.
    Hint,
}

type Sink = Arc<dyn Fn(NoticeLevel, &str) + Send + Sync>;

/// Where a library reports what is not an error of the call: never printed by itself.
#[derive(Clone, Default)]
pub struct Notices(Option<Sink>);

impl Notices {
    /// Reports to `sink`.
    pub fn to(sink: impl Fn(NoticeLevel, &str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(sink)))
    }

    /// Reports a warning: one or more lines without a final newline.
    pub fn warn(&self, text: &str) {
        self.say(NoticeLevel::Warning, text);
    }

    /// Reports `text`.
    pub fn say(&self, level: NoticeLevel, text: &str) {
        if let Some(sink) = &self.0 {
            sink(level, text);
        }
    }
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notices").field("heard", &self.0.is_some()).finish()
    }
}

/// What a driver gets to open an image.
#[derive(Debug)]
pub struct OpenContext<'a> {
    /// What holds the image.
    pub storage: Arc<dyn BlockDevice>,
    /// The image's displayed name.
    pub filename: &'a str,
    /// What for.
    pub mode: OpenMode,
    /// Options given to this node. The driver takes out what it knows; what is left is refused by the caller.
    pub options: &'a mut RuntimeOptions,
    /// For the other files that the image refers to (not the backing file, which the chain opens).
    pub opener: &'a dyn Opener,
    /// Where warnings go, also later while the image is open.
    pub notices: Notices,
}

/// What a driver gets to create an image.
#[derive(Debug)]
pub struct CreateContext<'a> {
    /// An empty device that grows as it is written.
    pub storage: Arc<dyn BlockDevice>,
    /// The new image's name.
    pub filename: &'a str,
    /// All create options with their defaults, `size` (bytes) among them.
    pub options: &'a ParsedOptions,
    /// For the other files that the image is to refer to (a data file, extents): opened for writing, created if need be.
    pub opener: &'a dyn Opener,
}

/// What a measure call tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measure {
    /// Bytes of host space for the source's data (or for an empty disk of the size).
    pub required: u64,
    /// Bytes when every cluster is allocated.
    pub fully_allocated: u64,
    /// Bytes for the source's bitmaps, where source and target have such.
    pub bitmaps: Option<u64>,
}

/// What a driver gets to measure an image that would be made.
#[derive(Clone, Copy, Debug)]
pub struct MeasureInput<'a> {
    /// The options it would be created with, `size` (bytes) among them.
    pub options: &'a ParsedOptions,
    /// What would be converted (as the guest sees it, the whole chain); `None`: only a size is known.
    pub source: Option<&'a dyn BlockDevice>,
    /// Its top layer, for what the new image would take over besides the bytes.
    pub source_image: Option<&'a dyn Image>,
    /// The secrets that options name: those of an encrypted image have to exist.
    pub secrets: &'a Secrets,
}

bitflags::bitflags! {
    /// What a format can do, for tables and early refusals.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Caps: u32 {
        /// Images can be written.
        const WRITE = 1;
        /// Images can be created.
        const CREATE = 1 << 1;
        /// Images can have a backing file.
        const BACKING = 1 << 2;
        /// There is a consistency check.
        const CHECK = 1 << 3;
        /// Clusters can be written compressed.
        const COMPRESS = 1 << 4;
        /// The length can be changed.
        const RESIZE = 1 << 5;
        /// Options can be amended.
        const AMEND = 1 << 6;
        /// Snapshots inside the image.
        const SNAPSHOTS = 1 << 7;
        /// Persistent dirty bitmaps.
        const BITMAPS = 1 << 8;
        /// Damage can be repaired.
        const REPAIR = 1 << 9;
        /// The contents can be encrypted.
        const ENCRYPT = 1 << 10;
        /// Space can be allocated in advance.
        const PREALLOCATE = 1 << 11;
        /// Images may hold dirty bitmaps of other programs, which are kept, but not used.
        const FOREIGN_BITMAPS = 1 << 12;
        /// Images can be read from front to end, once: what describes the data stands in front of it, where the writer kept
        /// to that.
        const FORWARD = 1 << 13;
    }
}

/// In which order the file of a new image can be written, so that it may be a pipe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteOrder {
    /// In none: the file has to be one that can be written anywhere.
    #[default]
    Any,
    /// The file is what the guest sees.
    Plain,
    /// From front to end, once it is known which of its clusters the disk uses: their bytes are stored as they are, and no
    /// other byte depends on them.
    Planned,
    /// From front to end, as long as clusters come in guest order: behind the first `front` bytes, which do not depend on
    /// what follows, everything is appended.
    Appended {
        /// Bytes that are final once the image is made.
        front: u64,
    },
}

/// How a format makes images.
#[derive(Clone, Copy, Debug)]
pub struct Creator {
    /// Checks options against each other before any file is touched.
    pub validate: fn(&ParsedOptions) -> Result<()>,
    /// Makes the image in an empty storage.
    pub create: fn(&CreateContext<'_>) -> Result<()>,
    /// In which order an image with these options can be written.
    pub order: fn(&ParsedOptions) -> WriteOrder,
}

/// A format. One `pub static DRIVER` in each format's crate.
pub struct FormatDriver {
    /// Its name as in `-f`.
    pub name: &'static str,
    /// Usual file name extensions, for documentation.
    pub extensions: &'static [&'static str],
    /// What it can do.
    pub caps: Caps,
    /// Create and amend options.
    pub options: &'static [OptSpec],
    /// Names of runtime options that are shown in the image's displayed name (they change what is read).
    pub strong_options: &'static [&'static str],
    /// Tells whether a file is of this format.
    pub probe: fn(&ProbeInput<'_>) -> Score,
    /// Opens an image.
    pub open: fn(OpenContext<'_>) -> Result<Arc<dyn Image>>,
    /// Makes images, where it can.
    pub creator: Option<Creator>,
    /// Says what an image would take, where it can.
    pub measure: Option<fn(&MeasureInput<'_>) -> Result<Measure>>,
}

impl fmt::Debug for FormatDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FormatDriver").field("name", &self.name).finish_non_exhaustive()
    }
}
