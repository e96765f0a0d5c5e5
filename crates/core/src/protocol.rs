//! What holds images: host files, network exports. How they are opened, locked and cached.

use std::fmt;
use std::sync::Arc;

use crate::device::{BlockDevice, Prealloc};
use crate::driver::Notices;
use crate::error::Result;
use crate::options::{OptSpec, ParsedOptions, RuntimeOptions};
use crate::progress::CancelToken;

/// How the host's cache is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheMode {
    /// O_DIRECT, write back.
    None,
    /// O_DIRECT, a flush after each write.
    DirectSync,
    /// Through the page cache; durable at a flush.
    #[default]
    WriteBack,
    /// Through the page cache, a flush after each write.
    WriteThrough,
    /// Flushes are ignored.
    Unsafe,
}

impl CacheMode {
    /// All names, as options spell them.
    pub const NAMES: [(&'static str, Self); 6] = [
        ("none", Self::None),
        ("off", Self::None),
        ("directsync", Self::DirectSync),
        ("writeback", Self::WriteBack),
        ("writethrough", Self::WriteThrough),
        ("unsafe", Self::Unsafe),
    ];

    /// The mode of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, mode)| *mode)
    }

    /// True if the page cache is bypassed.
    #[must_use]
    pub const fn is_direct(self) -> bool {
        matches!(self, Self::None | Self::DirectSync)
    }

    /// True if each write is followed by a flush.
    #[must_use]
    pub const fn is_write_through(self) -> bool {
        matches!(self, Self::DirectSync | Self::WriteThrough)
    }

    /// True if flushes do nothing.
    #[must_use]
    pub const fn ignores_flush(self) -> bool {
        matches!(self, Self::Unsafe)
    }
}

bitflags::bitflags! {
    /// What a user of a file needs, and what it lets others have. Bit i is QEMU's lock byte 100+i / 200+i.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Permissions: u8 {
        /// Reads that must be consistent.
        const CONSISTENT_READ = 1;
        /// Writes.
        const WRITE = 1 << 1;
        /// Writes that do not change what is read.
        const WRITE_UNCHANGED = 1 << 2;
        /// Changes of the length.
        const RESIZE = 1 << 3;
    }
}

/// The lock on a file: `None` takes none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockSpec {
    /// What we do.
    pub need: Permissions,
    /// What others may do meanwhile.
    pub share: Permissions,
}

impl LockSpec {
    /// A format's file that is read and written: `100 101 103 · 201 203`.
    pub const FORMAT_WRITE: Self = Self {
        need: Permissions::CONSISTENT_READ.union(Permissions::WRITE).union(Permissions::RESIZE),
        share: Permissions::CONSISTENT_READ.union(Permissions::WRITE_UNCHANGED),
    };
    /// A format's file that is only read: `100 · 201 203`.
    pub const FORMAT_READ: Self = Self {
        need: Permissions::CONSISTENT_READ,
        share: Permissions::CONSISTENT_READ.union(Permissions::WRITE_UNCHANGED),
    };
    /// Raw contents, read and written: `100 101`.
    pub const RAW_WRITE: Self =
        Self { need: Permissions::CONSISTENT_READ.union(Permissions::WRITE), share: Permissions::all() };
    /// Raw contents, only read, or anything with force-share: `100`.
    pub const SHARED_READ: Self = Self { need: Permissions::CONSISTENT_READ, share: Permissions::all() };
    /// A file that is being created: `101 103 · 203`.
    pub const CREATE: Self = Self {
        need: Permissions::WRITE.union(Permissions::RESIZE),
        share: Permissions::CONSISTENT_READ.union(Permissions::WRITE).union(Permissions::WRITE_UNCHANGED),
    };
    /// The same where metadata is written too, that nobody else may write into: `101 103 · 201 203`.
    pub const CREATE_ALONE: Self = Self {
        need: Self::CREATE.need,
        share: Permissions::CONSISTENT_READ.union(Permissions::WRITE_UNCHANGED),
    };
}

/// How a protocol opens a file.
#[derive(Debug)]
pub struct ProtocolOpen<'a> {
    /// The name, without the protocol's prefix where it was parsed from one.
    pub filename: &'a str,
    /// For writing too.
    pub write: bool,
    /// Use of the host's cache.
    pub cache: CacheMode,
    /// The lock to take; `None`: none.
    pub lock: Option<LockSpec>,
    /// Options given to this node; the protocol takes out what it knows.
    pub options: &'a mut RuntimeOptions,
    /// Where warnings go.
    pub notices: Notices,
    /// Set when whatever takes long is to end, with an error of kind `Cancelled`.
    pub cancel: CancelToken,
}

/// How a protocol creates a file: it exists afterwards, empty or of `size` bytes, and is closed.
#[derive(Debug)]
pub struct ProtocolCreate<'a> {
    /// The name, without the protocol's prefix.
    pub filename: &'a str,
    /// Its length in bytes.
    pub size: u64,
    /// How the length is provided for.
    pub prealloc: Prealloc,
    /// The lock that an existing file has to allow before it is emptied.
    pub lock: LockSpec,
    /// The protocol's own create options.
    pub options: &'a ParsedOptions,
    /// Where warnings go.
    pub notices: Notices,
    /// Set when whatever takes long is to end, with an error of kind `Cancelled`.
    pub cancel: CancelToken,
}

/// A protocol. One `pub static` each.
pub struct ProtocolDriver {
    /// Its name as in `driver=`.
    pub name: &'static str,
    /// Name prefixes that choose it, such as `file:`.
    pub prefixes: &'static [&'static str],
    /// The prefix belongs to the name: it is not cut off.
    pub keeps_prefix: bool,
    /// Options besides the name that decide what is read: they belong to the displayed name.
    pub strong_options: &'static [&'static str],
    /// The options that a name stands for, of a protocol whose names are not paths: they are displayed where the name
    /// does not say it all. `None`: the name is displayed as it is.
    pub name_options: Option<fn(&str) -> Result<RuntimeOptions>>,
    /// The error of an image that outgrows its file while it is being made, if the file can't grow.
    pub grow_error: &'static str,
    /// The error number of a write behind the end of such a file meanwhile.
    pub full_errno: i32,
    /// Tells whether a plain name (without a prefix) is this protocol's: device nodes. `None`: never.
    pub claims: Option<fn(&str) -> bool>,
    /// Create options of its own, shown with those of a format.
    pub create_options: &'static [OptSpec],
    /// Opens an existing file.
    pub open: fn(ProtocolOpen<'_>) -> Result<Arc<dyn BlockDevice>>,
    /// Creates a file, where it can.
    pub create: Option<fn(&ProtocolCreate<'_>) -> Result<()>>,
    /// Removes a file that could not be finished, where it can.
    pub remove: Option<fn(&str) -> Result<()>>,
}

impl fmt::Debug for ProtocolDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProtocolDriver").field("name", &self.name).finish_non_exhaustive()
    }
}
