//! Opening host files and device nodes: [`FileOptions`], used by programs and by the protocols of this crate.
//!
//! Invariants: nothing is read or written, and a lock is held, before the file is handed out; what is neither a file nor
//! a device node is refused without waiting for it (a pipe without a writer would block).

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::atomic::AtomicU64;

use diskimg_core::protocol::{CacheMode, LockSpec};
use diskimg_core::{CancelToken, Error, ErrorKind, Result, errno};
use parking_lot::RwLock;
use rustix::fs::OFlags;

use crate::device::{FileDevice, FileKind};
use crate::direct::Direct;
use crate::errors::cannot_open;
use crate::lock::{self, Held};

/// Whether image locks are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Locking {
    /// Where the file system knows them.
    #[default]
    Auto,
    /// Always; an error where they are not known.
    On,
    /// Never.
    Off,
}

const A_DEVICE: &str = "either a character or block device";

/// Which files a driver takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Accepts {
    /// Whatever holds bytes.
    #[default]
    Any,
    /// Regular files only.
    Files,
    /// Device nodes only.
    Devices,
    /// Device nodes that are taken for drives.
    Drives,
}

/// How a host file is opened.
#[derive(Clone, Debug, Default)]
pub struct FileOptions {
    write: bool,
    cache: CacheMode,
    lock: Option<LockSpec>,
    locking: Locking,
    cancel: CancelToken,
    pub(crate) accepts: Accepts,
}

impl FileOptions {
    /// For reading, through the page cache, without a lock.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// For writing too.
    #[must_use]
    pub fn write(mut self, write: bool) -> Self {
        self.write = write;
        self
    }

    /// How the host's cache is used.
    #[must_use]
    pub fn cache(mut self, cache: CacheMode) -> Self {
        self.cache = cache;
        self
    }

    /// The lock to take; `None`: none.
    #[must_use]
    pub fn lock(mut self, lock: Option<LockSpec>) -> Self {
        self.lock = lock;
        self
    }

    /// Whether the lock is really taken.
    #[must_use]
    pub fn locking(mut self, locking: Locking) -> Self {
        self.locking = locking;
        self
    }

    /// Set when reserving space in advance is to end, with an error of kind `Cancelled`.
    #[must_use]
    pub fn cancel(mut self, cancel: CancelToken) -> Self {
        self.cancel = cancel;
        self
    }

    /// Opens the existing file `filename`.
    ///
    /// # Errors
    /// The host's, below `Could not open 'NAME'`; `InvalidArg` for what is neither file nor device node; `Locked`.
    pub fn open(self, filename: &str) -> Result<FileDevice> {
        let mut flags = OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        if self.cache.is_direct() {
            flags |= OFlags::DIRECT;
        }
        let flags = i32::try_from(flags.bits()).unwrap_or_default();
        let opened = OpenOptions::new().read(true).write(self.write).custom_flags(flags).open(filename);
        let file = match opened {
            Ok(file) => file,
            Err(error) => return Err(self.explain(filename, error)),
        };
        self.check_kind(filename, &file)?;
        self.finish(filename, file)
    }

    /// The error for a file that the host does not open.
    fn explain(&self, filename: &str, error: std::io::Error) -> Error {
        let error = match error.raw_os_error() {
            Some(errno::EINVAL) if self.cache.is_direct() => no_direct_io(),
            _ => Error::from(error),
        };
        cannot_open(filename, error)
    }

    fn check_kind(&self, filename: &str, file: &File) -> Result<()> {
        let found = file.metadata().map_err(|error| cannot_open(filename, error.into()))?;
        let fits = match self.accepts {
            Accepts::Any => found.is_file() || is_device(&found),
            Accepts::Files => found.is_file(),
            Accepts::Devices | Accepts::Drives => is_device(&found),
        };
        if !fits {
            return Err(self.wrong_kind(filename));
        }
        if self.cache.is_direct() && found.file_type().is_char_device() {
            return Err(cannot_open(filename, no_direct_io()));
        }
        Ok(())
    }

    fn wrong_kind(&self, filename: &str) -> Error {
        let (driver, wanted) = match self.accepts {
            Accepts::Any | Accepts::Files => ("file", "a regular file"),
            Accepts::Devices => ("host_device", A_DEVICE),
            Accepts::Drives => ("host_cdrom", A_DEVICE),
        };
        Error::new(ErrorKind::InvalidArg, format!("'{driver}' driver requires '{filename}' to be {wanted}"))
    }

    /// Locks and describes an open file.
    pub(crate) fn finish(self, filename: &str, file: File) -> Result<FileDevice> {
        let mut file = Held::free(file);
        if let Some(lock) = self.lock.filter(|_| self.takes_locks(&file)) {
            file.lock(lock, filename)?;
        }
        let found = file.metadata()?;
        let device = if self.accepts == Accepts::Drives { "host_cdrom" } else { "host_device" };
        let (kind, driver) = match found.file_type() {
            kind if kind.is_block_device() => (FileKind::Block, device),
            kind if kind.is_char_device() => (FileKind::Char, device),
            _ => (FileKind::Regular, "file"),
        };
        let len = match kind {
            FileKind::Regular => found.len(),
            FileKind::Block => (&*file).seek(SeekFrom::End(0))?,
            FileKind::Char => (&*file).seek(SeekFrom::End(0)).unwrap_or(0),
        };
        Ok(FileDevice {
            direct: self.cache.is_direct().then(|| Direct::probe(&file)),
            file,
            filename: filename.to_owned(),
            driver,
            kind,
            read_only: !self.write,
            cache: self.cache,
            len: AtomicU64::new(len),
            shape: RwLock::new(()),
            extents: Default::default(),
            zeroing: Default::default(),
            sync: Default::default(),
            cancel: self.cancel,
        })
    }

    fn takes_locks(&self, file: &File) -> bool {
        match self.locking {
            Locking::Off => false,
            Locking::On => true,
            Locking::Auto => lock::is_supported(file),
        }
    }
}

fn no_direct_io() -> Error {
    Error::unsupported("filesystem does not support O_DIRECT").with_errno(errno::EINVAL)
}

/// True for the name of a block or character device.
pub(crate) fn is_device_name(filename: &str) -> bool {
    std::fs::metadata(filename).is_ok_and(|found| is_device(&found))
}

fn is_device(found: &std::fs::Metadata) -> bool {
    found.file_type().is_block_device() || found.file_type().is_char_device()
}
