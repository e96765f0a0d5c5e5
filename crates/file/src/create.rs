//! Creating host files.
//!
//! Invariants: an existing file is locked before it is emptied, so that an image in use keeps its bytes; a file that
//! can't be given its length stays behind empty, as with qemu-img.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;

use diskimg_core::options::{OptKind, OptSpec, OptUse};
use diskimg_core::protocol::{CacheMode, LockSpec, ProtocolCreate};
use diskimg_core::{BlockDevice, Error, Prealloc, Result};
use rustix::fs::{IFlags, OFlags, ioctl_getflags, ioctl_setflags};

use crate::device::FileKind;
use crate::errors::cannot_create;
use crate::open::FileOptions;

/// The options of a file that is created.
pub(crate) const OPTIONS: &[OptSpec] = &[
    OptSpec {
        name: "size",
        kind: OptKind::Size,
        help: "Virtual disk size",
        default: None,
        usage: OptUse::CREATE,
    },
    OptSpec {
        name: "nocow",
        kind: OptKind::Bool,
        help: "Turn off copy-on-write (valid only on btrfs)",
        default: None,
        usage: OptUse::CREATE,
    },
    OptSpec {
        name: "preallocation",
        kind: OptKind::Str,
        help: "Preallocation mode (allowed values: off, falloc, full)",
        default: None,
        usage: OptUse::CREATE,
    },
    OptSpec {
        name: "extent_size_hint",
        kind: OptKind::Size,
        help: "Extent size hint for the image file, 0 to disable",
        default: None,
        usage: OptUse::CREATE,
    },
];

/// Creates a regular file, or checks that a device node is large enough.
pub(crate) fn create(request: &ProtocolCreate<'_>) -> Result<()> {
    let filename = request.filename;
    let flags = OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
        .open(filename)
        .map_err(|error| cannot_create(filename, Error::from(error)))?;
    let options = FileOptions::new().write(true).cache(CacheMode::Unsafe).lock(Some(LockSpec::CREATE));
    let device = options.finish(filename, file)?;
    if device.kind == FileKind::Regular {
        device.set_len(0, Prealloc::Off)?;
        if request.options.get_bool("nocow") {
            // Best effort, as only some file systems know it, and only for empty files.
            if let Ok(flags) = ioctl_getflags(&device.file) {
                let _ = ioctl_setflags(&device.file, flags | IFlags::NOCOW);
            }
        }
    }
    device.set_len(request.size, request.prealloc)
}

/// Removes a file that could not be finished.
pub(crate) fn remove(filename: &str) -> Result<()> {
    Ok(std::fs::remove_file(filename)?)
}
