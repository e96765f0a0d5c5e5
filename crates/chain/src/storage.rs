//! [`Storage`]: what holds an image: a protocol's device, or another image.

use std::sync::Arc;

use diskimg_core::options::{RuntimeOptions, RuntimeValue};
use diskimg_core::protocol::{LockSpec, ProtocolDriver, ProtocolOpen};
use diskimg_core::{BlockDevice, Error, FALLBACK_FORMAT, Result};

use crate::generic::{Generic, first_unknown, take_only_text};
use crate::growing::Growing;
use crate::kept::Kept;
use crate::name::{DEFAULT_PROTOCOL, gate_name, parse_protocol};
use crate::open::absorb_json;
use crate::request::{Request, Trust};
use crate::shown::{Shown, ShownValue};
use crate::{Context, Node};

/// An open storage.
#[derive(Clone, Debug)]
pub(crate) struct Storage {
    pub(crate) device: Arc<dyn BlockDevice>,
    pub(crate) shown: Shown,
    /// The file's name, if there is one.
    pub(crate) filename: String,
    /// See [`NodeParts::no_folder`](crate::node::NodeParts).
    pub(crate) no_folder: Option<String>,
    /// The image that it is, if it is not a protocol's device.
    pub(crate) inside: Option<Node>,
    /// A connection, which a server may grant only once: what was probed through it is read through it too.
    pub(crate) is_connection: bool,
}

/// Opens what holds an image: a name with a protocol's prefix, or options with `driver` or `filename`.
///
/// `lock` is what a protocol's file gets; an image inside takes its own. `None`: no lock.
pub(crate) fn open_storage(ctx: &Context, mut request: Request, lock: Option<LockSpec>) -> Result<Storage> {
    absorb_json(&mut request)?;
    if let Some(driver) = take_only_text(&mut request.options, "driver") {
        return open_by_driver(ctx, &driver, request, lock);
    }
    if let Some((filter, _)) = request.name.as_deref().and_then(|name| ctx.registry.filter_of_name(name)) {
        return open_by_driver(ctx, filter.node.name, request, lock);
    }
    if let Some(name) = request.name.take() {
        let (protocol, filename) = parse_protocol(&ctx.registry, &name)?;
        return open_protocol(ctx, protocol, Some(filename), request, lock);
    }
    if request.options.get("filename").is_none_or(|name| *name == RuntimeValue::Null) {
        return Err(Error::invalid("Must specify either driver or file"));
    }
    open_by_driver(ctx, DEFAULT_PROTOCOL, request, lock)
}

fn open_by_driver(
    ctx: &Context,
    driver: &str,
    mut request: Request,
    lock: Option<LockSpec>,
) -> Result<Storage> {
    if let Some(protocol) = ctx.registry.protocol(driver) {
        let filename = request.name.take();
        return open_protocol(ctx, protocol, filename, request, lock);
    }
    if ctx.registry.format(driver).is_none() && ctx.registry.filter(driver).is_none() {
        return Err(unknown_driver(driver));
    }
    request.options.set("driver", RuntimeValue::Str(driver.to_owned()));
    // Without a lock somebody only wants to look at the first bytes.
    request.usage.force_share |= lock.is_none();
    let node = crate::open::open_chain(ctx, request)?;
    let passes_writes = node.format() == FALLBACK_FORMAT || !node.children().is_empty();
    let grows = passes_writes && !node.device().is_read_only();
    let device: Arc<dyn BlockDevice> =
        if grows { Arc::new(Growing::new(node.clone())) } else { Arc::new(node.clone()) };
    let (shown, filename) = (node.shown().clone(), node.filename().to_owned());
    let no_folder = node.no_folder().map(str::to_owned);
    Ok(Storage { device, shown, filename, no_folder, inside: Some(node), is_connection: false })
}

/// The error of a driver that nobody registered.
pub(crate) fn unknown_driver(name: &str) -> Error {
    Error::invalid(format!("Unknown driver '{name}'"))
}

/// Opens a file through its protocol. `name`: as the protocol wants it; `None`: it is in the options.
pub(crate) fn open_protocol(
    ctx: &Context,
    protocol: &'static ProtocolDriver,
    name: Option<String>,
    mut request: Request,
    lock: Option<LockSpec>,
) -> Result<Storage> {
    let generic = Generic::take(&mut request.options)?;
    generic.check_write(request.usage.write)?;
    let option = if takes_paths(protocol) { take_only_text(&mut request.options, "filename") } else { None };
    if name.is_some() && option.is_some() {
        return Err(Error::invalid("Can't specify 'file' and 'filename' options at the same time"));
    }
    let filename = name.or(option).unwrap_or_default();
    let given = request.options.clone();
    if request.usage.native_aio && takes_paths(protocol) && request.options.get("aio").is_none() {
        request.options.set("aio", RuntimeValue::Str("native".to_owned()));
    }
    request.trust.admit(ctx, &gate_name(protocol.name, &filename))?;
    let lock = lock.map(|lock| if generic.force_share == Some(true) { LockSpec::SHARED_READ } else { lock });
    let device = match ready_device(ctx, protocol, &filename, &request) {
        Some(device) => device,
        None => (protocol.open)(ProtocolOpen {
            filename: &filename,
            write: request.usage.write,
            cache: generic.cache(request.usage.cache),
            lock,
            options: &mut request.options,
            notices: ctx.notices.clone(),
            cancel: ctx.cancel.clone(),
        })?,
    };
    if let Some(unknown) = first_unknown(&request.options) {
        let text = format!("Block protocol '{}' doesn't support the option '{unknown}'", protocol.name);
        return Err(Error::invalid(text));
    }
    let shown = show_protocol(protocol, &filename, given, &*device);
    let filename = if takes_paths(protocol) { filename } else { shown.plain.clone().unwrap_or_default() };
    let device = if generic.stack(true).unmap { device } else { Arc::new(Kept(device)) };
    let is_connection = protocol.name_options.is_some();
    // qemu-img calls them by their protocol's proper name, an acronym.
    let no_folder = is_connection.then(|| protocol.name.to_ascii_uppercase());
    Ok(Storage { shown, device, filename, no_folder, inside: None, is_connection })
}

/// The file of that name, if the program has it open already.
fn ready_device(
    ctx: &Context,
    protocol: &ProtocolDriver,
    filename: &str,
    request: &Request,
) -> Option<Arc<dyn BlockDevice>> {
    let by_user = matches!(request.trust, Trust::User) && protocol.name == DEFAULT_PROTOCOL;
    ctx.opened.get(filename).filter(|_| by_user && !request.usage.write).cloned()
}

/// True if the protocol's names are paths on the host, with or without a prefix.
fn takes_paths(protocol: &ProtocolDriver) -> bool {
    !protocol.keeps_prefix
}

/// A file is its name; another device is its name if no option that matters was given, else its options.
fn show_protocol(
    protocol: &ProtocolDriver,
    filename: &str,
    mut given: RuntimeOptions,
    device: &dyn BlockDevice,
) -> Shown {
    let text = |value: &str| ShownValue::Value(RuntimeValue::Str(value.to_owned()));
    let mut options = vec![("driver".to_owned(), text(protocol.name))];
    if takes_paths(protocol) {
        options.push(("filename".to_owned(), text(filename)));
        return Shown { plain: Some(filename.to_owned()), options };
    }
    // A name that stands for options says all that they say, and the device knows it.
    let named = protocol.name_options.filter(|_| !filename.is_empty());
    for (name, value) in named.and_then(|options| options(filename).ok()).unwrap_or_default().iter() {
        given.set(name, value.clone());
    }
    let strong = given.iter().filter(|(name, _)| protocol.strong_options.contains(name));
    options.extend(strong.map(|(name, value)| (name.to_owned(), ShownValue::Value(value.clone()))));
    let described = device.describe().filename;
    let plain = ((options.len() == 1 || protocol.name_options.is_some()) && !described.is_empty())
        .then(|| described.to_owned());
    Shown { plain, options }
}
