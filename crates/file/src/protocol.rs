//! The protocols of this crate, for a registry: host files, device nodes, and the null device.

use std::sync::Arc;

use diskimg_core::options::{RuntimeOptions, parse_bool};
use diskimg_core::protocol::{ProtocolDriver, ProtocolOpen};
use diskimg_core::size::parse_option_number;
use diskimg_core::{BlockDevice, Description, Error, NullDevice, Result, errno};

use crate::create;
use crate::open::{Accepts, FileOptions, Locking, is_device_name};

/// Of files only device nodes can't grow.
pub(crate) const GROW_ERROR: &str = "Cannot grow device files";

/// Host files: plain names and `file:NAME`.
pub static FILE: ProtocolDriver = ProtocolDriver {
    name: "file",
    prefixes: &["file:"],
    keeps_prefix: false,
    strong_options: &[],
    name_options: None,
    grow_error: GROW_ERROR,
    full_errno: errno::ENOSPC,
    claims: None,
    create_options: create::FILE_OPTIONS,
    open: |request| open_host(request, "file", Accepts::Files),
    create: Some(create::create),
    remove: Some(create::remove),
};

/// Block and character devices: `host_device:NAME`, and plain names of such.
pub static HOST_DEVICE: ProtocolDriver = ProtocolDriver {
    name: "host_device",
    prefixes: &["host_device:"],
    keeps_prefix: false,
    strong_options: &[],
    name_options: None,
    grow_error: GROW_ERROR,
    full_errno: errno::ENOSPC,
    claims: Some(is_device_name),
    create_options: create::DEVICE_OPTIONS,
    open: |request| open_host(request, "host_device", Accepts::Devices),
    create: Some(create::create_on_device),
    remove: None,
};

/// The same for drives: `host_cdrom:NAME`. Media are not looked at.
pub static HOST_CDROM: ProtocolDriver = ProtocolDriver {
    name: "host_cdrom",
    prefixes: &["host_cdrom:"],
    claims: None,
    open: |request| open_host(request, "host_cdrom", Accepts::Drives),
    create: Some(create::create_on_drive),
    ..HOST_DEVICE
};

/// Zeros that forget what is written: `null-co://`.
pub static NULL_CO: ProtocolDriver = null_protocol("null-co", &["null-co:"], |request| {
    open_null(request, Description { driver: "null-co", filename: "null-co://" })
});

/// The same under its other name: `null-aio://`.
pub static NULL_AIO: ProtocolDriver = null_protocol("null-aio", &["null-aio:"], |request| {
    open_null(request, Description { driver: "null-aio", filename: "null-aio://" })
});

/// The length of a null device without a `size` option, in bytes.
const NULL_LEN: u64 = 1 << 30;

const fn null_protocol(
    name: &'static str,
    prefixes: &'static [&'static str],
    open: fn(ProtocolOpen<'_>) -> Result<Arc<dyn BlockDevice>>,
) -> ProtocolDriver {
    ProtocolDriver {
        name,
        prefixes,
        keeps_prefix: true,
        strong_options: &["read-zeroes", "size"],
        name_options: None,
        grow_error: GROW_ERROR,
        full_errno: errno::ENOSPC,
        claims: None,
        create_options: &[],
        open,
        create: None,
        remove: None,
    }
}

fn open_host(request: ProtocolOpen<'_>, driver: &str, accepts: Accepts) -> Result<Arc<dyn BlockDevice>> {
    if request.filename.is_empty() {
        return Err(Error::invalid(format!("The '{driver}' block driver requires a file name")));
    }
    let (locking, native) = take_options(request.options)?;
    let mut options =
        FileOptions::new().write(request.write).cache(request.cache).lock(request.lock).locking(locking);
    options = options.cancel(request.cancel);
    options.accepts = accepts;
    let device = options.open(request.filename)?;
    if native && !request.cache.is_direct() {
        let text = "aio=native was specified, but it requires cache.direct=on, which was not specified.";
        return Err(Error::invalid(text));
    }
    Ok(Arc::new(device))
}

/// Takes the options of host files out; what is left is not theirs. How it is locked, and whether `aio=native` is asked for.
///
/// How requests are passed to the kernel (`aio`) makes no difference here: the threads that make them serve them.
fn take_options(options: &mut RuntimeOptions) -> Result<(Locking, bool)> {
    let native = match take_text(options, "aio").as_deref() {
        None | Some("threads" | "io_uring") => false,
        Some("native") => true,
        Some(other) => return Err(invalid_value(other)),
    };
    if let Some(batch) = take_text(options, "aio-max-batch") {
        parse_option_number("aio-max-batch", batch.strip_prefix('-').unwrap_or(&batch))?;
    }
    let locking = match take_text(options, "locking").as_deref() {
        None | Some("auto") => Locking::Auto,
        Some("on") => Locking::On,
        Some("off") => Locking::Off,
        Some(other) => return Err(invalid_value(other)),
    };
    if let Some(manager) = take_text(options, "pr-manager") {
        return Err(Error::invalid(format!("No persistent reservation manager with id '{manager}'")));
    }
    for flag in ["drop-cache", "x-check-cache-dropped"] {
        if let Some(text) = take_text(options, flag) {
            parse_bool(flag, &text)?;
        }
    }
    Ok((locking, native))
}

fn take_text(options: &mut RuntimeOptions, name: &str) -> Option<String> {
    options.take(name).map(|value| value.to_string())
}

fn invalid_value(value: &str) -> Error {
    Error::invalid(format!("invalid parameter value: {value}"))
}

fn open_null(request: ProtocolOpen<'_>, description: Description<'static>) -> Result<Arc<dyn BlockDevice>> {
    let name = description.filename;
    if request.filename != name && !request.filename.is_empty() {
        return Err(Error::invalid(format!("The only allowed filename for this driver is '{name}'")));
    }
    let len = request.options.take_size("size")?.unwrap_or(NULL_LEN);
    if let Some(latency) = take_text(request.options, "latency-ns") {
        if latency.starts_with('-') {
            return Err(Error::invalid("latency-ns is invalid"));
        }
        parse_option_number("latency-ns", &latency)?;
    }
    let zeros = match take_text(request.options, "read-zeroes") {
        Some(text) => parse_bool("read-zeroes", &text)?,
        None => false,
    };
    let device = NullDevice::described(len, description);
    Ok(Arc::new(if zeros { device } else { device.without_promise() }))
}
