//! The protocols of this crate, for a registry: host files, device nodes, and the null device.

use std::sync::Arc;

use diskimg_core::options::{RuntimeOptions, RuntimeValue};
use diskimg_core::protocol::{ProtocolDriver, ProtocolOpen};
use diskimg_core::{BlockDevice, Error, NullDevice, Result};

use crate::create;
use crate::open::{Accepts, FileOptions, Locking};

/// Host files: plain names and `file:NAME`. Device nodes are taken too.
pub static FILE: ProtocolDriver = ProtocolDriver {
    name: "file",
    prefixes: &["file:"],
    create_options: create::OPTIONS,
    open: |request| open_host(request, Accepts::Any),
    create: Some(create::create),
    remove: Some(create::remove),
};

/// Block and character devices: `host_device:NAME`.
pub static HOST_DEVICE: ProtocolDriver = ProtocolDriver {
    name: "host_device",
    prefixes: &["host_device:"],
    create_options: create::OPTIONS,
    open: |request| open_host(request, Accepts::Devices),
    create: Some(create::create),
    remove: None,
};

/// Zeros that forget what is written: `null-co://`.
pub static NULL_CO: ProtocolDriver = ProtocolDriver {
    name: "null-co",
    prefixes: &["null-co:"],
    create_options: &[],
    open: open_null,
    create: None,
    remove: None,
};

/// The same under its other name: `null-aio://`.
pub static NULL_AIO: ProtocolDriver = ProtocolDriver {
    name: "null-aio",
    prefixes: &["null-aio:"],
    create_options: &[],
    open: open_null,
    create: None,
    remove: None,
};

/// The values of `aio`; all mean the same here, as requests are served by the threads that make them.
const AIO: [&str; 3] = ["threads", "native", "io_uring"];

/// The length of a null device without a `size` option, in bytes.
const NULL_LEN: u64 = 1 << 30;

fn open_host(request: ProtocolOpen<'_>, accepts: Accepts) -> Result<Arc<dyn BlockDevice>> {
    let locking = take_options(request.options)?;
    let mut options =
        FileOptions::new().write(request.write).cache(request.cache).lock(request.lock).locking(locking);
    options.accepts = accepts;
    Ok(Arc::new(options.open(request.filename)?))
}

/// Takes this protocol's options out; what is left is not of this protocol.
fn take_options(options: &mut RuntimeOptions) -> Result<Locking> {
    if let Some(aio) = options.take_str("aio")? {
        check_name("aio", &aio, &AIO)?;
    }
    options.take_size("aio-max-batch")?;
    options.take_str("pr-manager")?;
    options.take_bool("drop-cache")?;
    options.take_bool("x-check-cache-dropped")?;
    match options.take("locking") {
        None => Ok(Locking::Auto),
        Some(RuntimeValue::Str(text)) => match text.as_str() {
            "on" => Ok(Locking::On),
            "off" => Ok(Locking::Off),
            "auto" => Ok(Locking::Auto),
            other => Err(Error::invalid(format!("Parameter 'locking' does not accept value '{other}'"))),
        },
        Some(_) => Err(Error::invalid("Invalid parameter type for 'locking', expected: string")),
    }
}

fn check_name(option: &str, value: &str, known: &[&str]) -> Result<()> {
    if known.contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(format!("Parameter '{option}' does not accept value '{value}'")))
}

fn open_null(request: ProtocolOpen<'_>) -> Result<Arc<dyn BlockDevice>> {
    let len = request.options.take_size("size")?.unwrap_or(NULL_LEN);
    request.options.take_size("latency-ns")?;
    request.options.take_bool("read-zeroes")?;
    Ok(Arc::new(NullDevice::new(len)))
}
