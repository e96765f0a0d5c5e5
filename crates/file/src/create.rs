//! Creating host files.
//!
//! Invariants: an existing file is locked before it is emptied, so that an image in use keeps its bytes; a file that
//! can't be given its length stays behind empty, as with qemu-img; a device node keeps its contents.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;

use diskimg_core::options::{OptKind, OptSpec};
use diskimg_core::protocol::{CacheMode, ProtocolCreate};
use diskimg_core::{BlockDevice, Error, Prealloc, Result};
use rustix::fs::{IFlags, OFlags, ioctl_getflags, ioctl_setflags};

use crate::device::{FileDevice, FileKind};
use crate::errors::cannot_create;
use crate::open::{Accepts, FileOptions};
use crate::protocol::GROW_ERROR;

/// The greatest extent size hint that a file system takes, in bytes. Hints are checked, and not passed on.
const MAX_EXTENT_SIZE_HINT: u64 = u32::MAX as u64;

/// The options of a file that is created.
pub(crate) const FILE_OPTIONS: &[OptSpec] = &[
    OptSpec::SIZE,
    OptSpec::create("nocow", OptKind::Bool, "Turn off copy-on-write (valid only on btrfs)"),
    OptSpec::create("preallocation", OptKind::Str, "Preallocation mode (allowed values: off, falloc, full)"),
    OptSpec::create("extent_size_hint", OptKind::Size, "Extent size hint for the image file, 0 to disable"),
];

/// The options of an image on a device node.
pub(crate) const DEVICE_OPTIONS: &[OptSpec] = &[
    OptSpec::SIZE,
    OptSpec::create("preallocation", OptKind::Str, "Preallocation mode (allowed values: off)"),
];

/// Creates a regular file, or makes a device node ready.
pub(crate) fn create(request: &ProtocolCreate<'_>) -> Result<()> {
    let filename = request.filename;
    if request.options.get_number("extent_size_hint").is_some_and(|hint| hint > MAX_EXTENT_SIZE_HINT) {
        return Err(Error::invalid("Extent size hint is too large"));
    }
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
    let options = FileOptions::new()
        .write(true)
        .cache(CacheMode::Unsafe)
        .lock(Some(request.lock))
        .cancel(request.cancel.clone());
    let device = options.finish(filename, file)?;
    if device.kind != FileKind::Regular {
        return check_device(&device, request);
    }
    device.set_len(0, Prealloc::Off)?;
    if request.options.get_bool("nocow") {
        // Best effort: only some file systems know it, and only for empty files.
        if let Ok(flags) = ioctl_getflags(&device.file) {
            let _ = ioctl_setflags(&device.file, flags | IFlags::NOCOW);
        }
    }
    device.set_len(request.size, request.prealloc)
}

/// Makes an existing device node ready: there is no creating one.
pub(crate) fn create_on_device(request: &ProtocolCreate<'_>) -> Result<()> {
    create_on(request, "host_device", Accepts::Devices)
}

/// The same for a drive.
pub(crate) fn create_on_drive(request: &ProtocolCreate<'_>) -> Result<()> {
    create_on(request, "host_cdrom", Accepts::Drives)
}

fn create_on(request: &ProtocolCreate<'_>, driver: &str, accepts: Accepts) -> Result<()> {
    let mut options = FileOptions::new().write(true).lock(Some(request.lock));
    options.accepts = accepts;
    let device = options.open(request.filename).map_err(|error| {
        error.context(format!(
            "Protocol driver '{driver}' does not support creating new images, so an existing image must be \
             selected as the target; however, opening the given target as an existing image failed"
        ))
    })?;
    check_device(&device, request)
}

fn check_device(device: &FileDevice, request: &ProtocolCreate<'_>) -> Result<()> {
    if request.prealloc != Prealloc::Off {
        let text = format!("Unsupported preallocation mode '{}'", request.prealloc.name());
        return Err(Error::unsupported(text));
    }
    if request.size > device.len() {
        return Err(Error::unsupported(GROW_ERROR));
    }
    Ok(())
}

/// Removes a file that could not be finished.
pub(crate) fn remove(filename: &str) -> Result<()> {
    Ok(std::fs::remove_file(filename)?)
}
