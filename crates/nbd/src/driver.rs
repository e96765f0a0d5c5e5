//! The protocol driver, for a registry: how the chain opens exports, and "creates" images in existing ones.

use std::sync::Arc;

use diskimg_core::options::{OptKind, OptSpec, RuntimeOptions};
use diskimg_core::protocol::{ProtocolCreate, ProtocolDriver, ProtocolOpen};
use diskimg_core::{BlockDevice, Error, Prealloc, Result};

use crate::address::name_options;
use crate::device::NbdDevice;
use crate::options::NbdOptions;

/// Exports of NBD servers: `nbd://HOST[:PORT]/EXPORT`, `nbd+unix:///EXPORT?socket=PATH`, `nbd:HOST:PORT`, …
pub static NBD: ProtocolDriver = ProtocolDriver {
    name: "nbd",
    prefixes: &["nbd:", "nbd+tcp:", "nbd+unix:"],
    keeps_prefix: true,
    strong_options: &[
        "path",
        "host",
        "port",
        "export",
        "tls-creds",
        "tls-hostname",
        "server.type",
        "server.path",
        "server.host",
        "server.port",
    ],
    name_options: Some(name_options),
    claims: None,
    create_options: &[
        OptSpec::SIZE,
        OptSpec::create("preallocation", OptKind::Str, "Preallocation mode (allowed values: off)"),
    ],
    grow_error: "Cannot grow NBD nodes",
    full_errno: diskimg_core::errno::EINVAL,
    open,
    create: Some(create),
    remove: None,
};

fn open(request: ProtocolOpen<'_>) -> Result<Arc<dyn BlockDevice>> {
    let options = NbdOptions::take(request.filename, request.options)?;
    let write_through = request.cache.is_write_through();
    let options = NbdOptions { write_through, ..options }.write(request.write);
    Ok(Arc::new(NbdDevice::open(options)?))
}

/// There is no making an export: one that exists has to be large enough.
fn create(request: &ProtocolCreate<'_>) -> Result<()> {
    let options = NbdOptions::take(request.filename, &mut RuntimeOptions::new());
    let device = options.and_then(|options| NbdDevice::open(options.write(true))).map_err(|error| {
        error.context(
            "Protocol driver 'nbd' does not support creating new images, so an existing image must be selected as \
             the target; however, opening the given target as an existing image failed",
        )
    })?;
    if request.prealloc != Prealloc::Off {
        let text = format!("Unsupported preallocation mode '{}'", request.prealloc.name());
        return Err(Error::unsupported(text));
    }
    if request.size > device.len() {
        return Err(Error::unsupported(NBD.grow_error));
    }
    Ok(())
}
