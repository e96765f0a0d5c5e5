//! Opening a chain: one layer after the other, from the top down, in a loop; then joined from the bottom up.
//!
//! What may be opened is bounded: [`MAX_CHAIN_DEPTH`] layers, no layer twice, a few formats inside each other. Files that
//! an image names pass the gate first. Called by [`Node`] and by [`storage`](crate::storage) alone.

use std::sync::Arc;

use diskimg_core::driver::{Caps, NoticeLevel, Notices, OpenContext, OpenMode, PROBE_LEN, ProbeInput};
use diskimg_core::filter::Opened;
use diskimg_core::opener::ReferenceKind;
use diskimg_core::options::{RuntimeOptions, RuntimeValue};
use diskimg_core::protocol::CacheMode;
use diskimg_core::{
    BackingRef, Error, FALLBACK_FORMAT, FormatDriver, Image, Probed, Result, read_zero_padded,
};

use crate::filter::open_filter;
use crate::generic::{Generic, first_unknown, force_share_write, take_only_text};
use crate::name::{DEFAULT_PROTOCOL, JSON_PREFIX, parse_protocol, resolve_in};
use crate::node::{NodeMode, NodeParts};
use crate::opener::ChainOpener;
use crate::protocol_image::ProtocolImage;
use crate::request::{Request, Trust, Usage};
use crate::shown::{Shown, ShownValue};
use crate::spec::{SpecKind, parse_json};
use crate::storage::{Storage, open_protocol, open_storage, unknown_driver};
use crate::{Context, ImageSpec, MAX_CHAIN_DEPTH, Node, OpenOptions};

/// An open layer and what comes below it.
struct Layer {
    parts: NodeParts,
    below: Below,
}

enum Below {
    Nothing,
    /// Options say that there is nothing, whatever the image says.
    Forced,
    /// `forced`: options say what it is.
    Open {
        request: Box<Request>,
        forced: bool,
    },
}

/// Opens the image of a specification and its chain.
pub(crate) fn open(ctx: &Context, spec: &ImageSpec, opts: &OpenOptions) -> Result<Node> {
    for warning in &spec.warnings {
        ctx.notices.warn(warning);
    }
    let (name, mut options) = match &spec.kind {
        SpecKind::Name(name) => (Some(name.clone()), RuntimeOptions::new()),
        SpecKind::Options(options) => (None, options.clone()),
    };
    for (option, value) in spec.more.iter() {
        options.set(option, value.clone());
    }
    if let Some(format) = &opts.format {
        options.set("driver", RuntimeValue::Str(format.clone()));
    }
    let trust = match &spec.reference {
        None => Trust::User,
        Some(reference) => Trust::Image {
            kind: ReferenceKind::Backing,
            from: reference.from.clone(),
            name: reference.name.clone(),
        },
    };
    let opened = Opened::default();
    let usage = Usage::new(opts);
    let mut request = Request { name, options, usage, trust, nesting: 0, opened: opened.clone() };
    absorb_json(&mut request)?;
    if opts.force_share && opts.write {
        // What is wrong with the specification itself is told first.
        check_names(ctx, &request)?;
        return Err(force_share_write());
    }
    refuse_same_node_names(&request.options)?;
    let node = open_chain(ctx, request)?;
    opened.set();
    Ok(node)
}

/// Refuses drivers, protocols and nodes that do not exist; nothing is opened.
fn check_names(ctx: &Context, request: &Request) -> Result<()> {
    let text = |option: &str| request.options.get(option).map(ToString::to_string);
    if let Some(driver) = text("driver").filter(|driver| !ctx.registry.knows(driver)) {
        return Err(unknown_driver(&driver));
    }
    if let Some(node) = text("file") {
        return Err(node_reference(&node, false));
    }
    match &request.name {
        Some(name) if ctx.registry.filter_of_name(name).is_none() => {
            let (protocol, rest) = parse_protocol(&ctx.registry, name)?;
            protocol.name_options.map_or(Ok(()), |parse| parse(&rest).map(|_| ()))
        }
        _ => Ok(()),
    }
}

/// Node names are of no use here, but two nodes can't have the same.
fn refuse_same_node_names(options: &RuntimeOptions) -> Result<()> {
    let is_name = |key: &str| key == "node-name" || key.ends_with(".node-name");
    let mut names: Vec<&RuntimeValue> = Vec::new();
    for (_, value) in options.iter().filter(|(key, _)| is_name(key)) {
        if names.contains(&value) {
            return Err(Error::invalid(format!("Duplicate nodes with node-name='{value}'")));
        }
        names.push(value);
    }
    Ok(())
}

/// Opens a node and its chain.
pub(crate) fn open_chain(ctx: &Context, request: Request) -> Result<Node> {
    let mut layers: Vec<(NodeParts, bool)> = Vec::new();
    let mut seen: Vec<String> = Vec::new();
    let mut next = Some(request);
    while let Some(request) = next.take() {
        let layer = open_layer(ctx, request, &mut seen).map_err(|error| in_backing(error, layers.len()))?;
        let forced = match layer.below {
            Below::Nothing => false,
            Below::Forced => true,
            Below::Open { request, forced } => {
                next = Some(*request);
                forced
            }
        };
        layers.push((layer.parts, forced));
    }
    let mut node: Option<Node> = None;
    while let Some((mut parts, forced)) = layers.pop() {
        if forced {
            parts.shown.override_backing(node.as_ref().map(Node::shown));
        }
        node = Some(Node::assemble(parts, node));
    }
    node.ok_or_else(|| Error::invalid("Must specify either driver or file"))
}

fn in_backing(error: Error, depth: usize) -> Error {
    (0..depth).fold(error, |error, _| error.context("Could not open backing file"))
}

/// Opens one image again, alone, for writing or not. What it had to say it has said the first time.
pub(crate) fn open_again(ctx: &Context, mut request: Request, write: bool) -> Result<NodeParts> {
    request.usage.write = write;
    if write {
        // It is the caller who knows better now.
        let _ = request.options.take("read-only");
    }
    let quiet = Context { notices: Notices::default(), ..ctx.clone() };
    Ok(open_layer(&quiet, request, &mut Vec::new())?.parts)
}

fn open_layer(ctx: &Context, request: Request, seen: &mut Vec<String>) -> Result<Layer> {
    let again = Box::new(request.clone());
    let mut layer = open_requested(ctx, request, seen)?;
    layer.parts.request = Some(again);
    Ok(layer)
}

fn open_requested(ctx: &Context, mut request: Request, seen: &mut Vec<String>) -> Result<Layer> {
    absorb_json(&mut request)?;
    let generic = Generic::take(&mut request.options)?;
    generic.check_write(request.usage.write)?;
    request.usage.force_share |= generic.force_share == Some(true);
    if request.usage.force_share && generic.read_only == Some(false) {
        return Err(force_share_write());
    }
    request.usage.cache = generic.cache(request.usage.cache);
    let driver = take_only_text(&mut request.options, "driver");
    let format = match driver.as_deref() {
        None => None,
        Some(name) => match ctx.registry.format(name) {
            Some(format) => Some(format),
            None => return open_without_format(ctx, name, request, &generic),
        },
    };
    let child = file_child(&mut request, format.is_some())?;
    let (probed, ready) = match format {
        Some(format) => (Probed { format, guessed: false }, None),
        None => probe(ctx, &child)?,
    };
    refuse_loop(&request, &child, probed.format, seen)?;
    if probed.guessed && request.usage.write {
        warn_guessed(ctx, &child, ready.as_ref());
    }
    open_format(ctx, request, child, (probed, ready), &generic)
}

/// Turns a `json:` name into options; options given besides it win.
pub(crate) fn absorb_json(request: &mut Request) -> Result<()> {
    let Some(name) = request.name.take_if(|name| name.starts_with(JSON_PREFIX)) else { return Ok(()) };
    let mut options = parse_json(&name)?;
    for (name, value) in request.options.iter() {
        options.set(name, value.clone());
    }
    request.options = options;
    Ok(())
}

/// A filter, or a protocol's device.
fn open_without_format(ctx: &Context, driver: &str, request: Request, generic: &Generic) -> Result<Layer> {
    let Some(filter) = ctx.registry.filter(driver) else {
        return open_bare_protocol(ctx, driver, request, generic);
    };
    let mode = node_mode(&request.usage, generic);
    Ok(Layer { parts: open_filter(ctx, filter, request, generic, mode)?, below: Below::Nothing })
}

/// A protocol's device without a format.
fn open_bare_protocol(ctx: &Context, driver: &str, mut request: Request, generic: &Generic) -> Result<Layer> {
    let protocol = ctx.registry.protocol(driver).ok_or_else(|| unknown_driver(driver))?;
    if let Some(name) = request.name.take() {
        let parsed = parse_protocol(&ctx.registry, &name).ok().filter(|(found, _)| found.name == driver);
        request.name = Some(parsed.map_or(name, |(_, rest)| rest));
    }
    let (lock, mode) = (request.usage.lock(true), node_mode(&request.usage, generic));
    let name = request.name.take();
    let storage = open_protocol(ctx, protocol, name, request, Some(lock))?;
    let parts = NodeParts {
        image: Arc::new(ProtocolImage(storage.device)),
        shown: storage.shown,
        filename: storage.filename,
        no_folder: storage.no_folder,
        format: protocol.name,
        guessed: false,
        holder: None,
        inside: None,
        children: Vec::new(),
        transparent: false,
        watched: None,
        mode,
        request: None,
    };
    Ok(Layer { parts, below: Below::Nothing })
}

/// The request for what holds the image.
fn file_child(request: &mut Request, has_driver: bool) -> Result<Request> {
    let reference = take_only_text(&mut request.options, "file");
    let options = request.options.take_child("file");
    let name = request.name.clone();
    let usage = request.usage;
    if let Some(reference) = reference {
        return Err(node_reference(&reference, !options.is_empty() || name.is_some()));
    }
    if !options.is_empty() {
        return request.inner(None, options, usage);
    }
    if name.is_some() {
        return request.inner(name, options, usage);
    }
    Err(Error::invalid(if has_driver {
        "A block device must be specified for \"file\""
    } else {
        "Must specify either driver or file"
    }))
}

/// A reference to another node by its name: there are none.
pub(crate) fn node_reference(name: &str, more: bool) -> Error {
    Error::invalid(if more {
        "Cannot reference an existing block device with additional options or a new filename".to_owned()
    } else {
        format!("Cannot find device='{name}' nor node-name='{name}'")
    })
}

/// Looks at the first bytes, without taking a lock. What was opened for it is handed over if it can serve further on.
fn probe(ctx: &Context, child: &Request) -> Result<(Probed, Option<Storage>)> {
    let mut look = child.clone();
    // An image inside is not touched by looking; a file that can't be written is refused now.
    let is_file =
        child.options.get("driver").is_none_or(|driver| ctx.registry.format(&driver.to_string()).is_none());
    look.usage = Usage {
        write: child.usage.write && is_file,
        backing: child.usage.backing,
        cache: CacheMode::WriteBack,
        convert_source: false,
        native_aio: false,
        ..child.usage
    };
    let storage = open_storage(ctx, look, None)?;
    let fallback = ctx.registry.format(FALLBACK_FORMAT);
    if let Some(format) = fallback.filter(|_| storage.device.is_empty()) {
        return Ok((Probed { format, guessed: true }, None));
    }
    let mut head = [0; PROBE_LEN];
    read_zero_padded(&*storage.device, 0, &mut head)
        .map_err(|error| error.context("Could not read image for determining its format"))?;
    let input = ProbeInput { head: &head, filename: &storage.filename };
    let unknown = "Could not determine image format: No compatible driver found";
    let probed = ctx.registry.probe(&input).ok_or_else(|| Error::unsupported(unknown))?;
    let serves = storage.is_connection && !child.usage.cache.is_write_through();
    Ok((probed, serves.then_some(storage)))
}

fn warn_guessed(ctx: &Context, child: &Request, ready: Option<&Storage>) {
    let option = match child.options.get("filename") {
        Some(RuntimeValue::Str(name)) => Some(name.clone()),
        _ => None,
    };
    let by_name = child.name.as_deref().and_then(|name| parse_protocol(&ctx.registry, name).ok());
    let shown = ready.map(|storage| storage.filename.clone());
    let name = shown.or(option).or(by_name.map(|(_, name)| name)).unwrap_or_default();
    let text = format!(
        "WARNING: Image format was not specified for '{name}' and probing guessed raw.\n         \
         Automatically detecting the format is dangerous for raw images, write operations on block 0 will be restricted.\n         \
         Specify the 'raw' format explicitly to remove the restrictions."
    );
    ctx.notices.say(NoticeLevel::Plain, &text);
}

/// An error if the same image in the same file is already part of the chain: it would come again and again.
fn refuse_loop(
    request: &Request,
    child: &Request,
    format: &FormatDriver,
    seen: &mut Vec<String>,
) -> Result<()> {
    if seen.len() >= MAX_CHAIN_DEPTH {
        return Err(Error::limit(format!("The backing chain has more than {MAX_CHAIN_DEPTH} images")));
    }
    let mut key = vec![format!("driver={}", format.name)];
    let path = |name: &str| real_name(name.strip_prefix("file:").unwrap_or(name));
    key.extend(child.name.as_deref().map(|name| format!("file.filename={}", path(name))));
    let own = request.options.iter().map(|(name, value)| (name.to_owned(), value));
    for (name, value) in own.chain(child.options.iter().map(|(name, value)| (format!("file.{name}"), value)))
    {
        key.push(match value {
            RuntimeValue::Str(file) if name.ends_with("filename") => format!("{name}={}", real_name(file)),
            // The default, so that it makes no difference whether it is spelled out.
            RuntimeValue::Str(driver) if name == "file.driver" && driver == DEFAULT_PROTOCOL => continue,
            other => format!("{name}={other:?}"),
        });
    }
    key.sort();
    let key = key.join("\0");
    if seen.contains(&key) {
        let name = match (&child.name, child.options.get("filename")) {
            (Some(name), _) | (None, Some(RuntimeValue::Str(name))) => name.as_str(),
            _ => "",
        };
        return Err(Error::corrupt(format!("Backing file '{name}' creates an infinite loop.")));
    }
    seen.push(key);
    Ok(())
}

/// The path behind all links, where the name is one.
fn real_name(name: &str) -> String {
    let real = std::fs::canonicalize(name).ok().and_then(|path| path.into_os_string().into_string().ok());
    real.unwrap_or_else(|| name.to_owned())
}

fn node_mode(usage: &Usage, generic: &Generic) -> NodeMode {
    NodeMode {
        read_only: !usage.write,
        write_through: usage.cache.is_write_through(),
        stack: generic.stack(usage.unmap),
    }
}

/// Opens the storage for good, then the image in it.
fn open_format(
    ctx: &Context,
    mut request: Request,
    mut child: Request,
    (probed, ready): (Probed, Option<Storage>),
    generic: &Generic,
) -> Result<Layer> {
    let format = probed.format;
    let raw = format.name == FALLBACK_FORMAT;
    let lock = request.usage.lock(raw);
    child.usage.inside_format |= !raw;
    let storage = match ready {
        Some(ready) => ready,
        None => open_storage(ctx, child, Some(lock))?,
    };
    let shown = show_format(format, &request.options, &storage);
    let name = shown.name();
    let opener = ChainOpener::new(ctx, &storage.filename, request.usage).inside(&storage);
    // Who says that it is not to be read-only wants to hear it of a format that can't be anything else.
    let insists = generic.read_only == Some(false);
    let image = (format.open)(OpenContext {
        storage: Arc::clone(&storage.device),
        filename: &name,
        mode: OpenMode {
            write: request.usage.write || (insists && !format.caps.contains(Caps::WRITE)),
            describe_only: request.usage.describe_only,
            check: request.usage.check,
            guessed: probed.guessed,
        },
        options: &mut request.options,
        opener: &opener,
        notices: ctx.notices.clone(),
    })
    .map_err(|error| in_file(error, &storage.shown))?;
    let below = find_below(ctx, &mut request, &*image, &storage)?;
    if let Some(unknown) = first_unknown(&request.options) {
        let text = format!("Block format '{}' does not support the option '{unknown}'", format.name);
        return Err(Error::invalid(text));
    }
    let over_filter = storage.inside.as_ref().is_some_and(|node| !node.children().is_empty());
    let parts = NodeParts {
        image,
        shown,
        filename: storage.filename,
        no_folder: storage.no_folder,
        format: format.name,
        guessed: probed.guessed,
        holder: Some(storage.shown.name()),
        watched: over_filter.then(|| request.opened.clone()),
        inside: storage.inside,
        children: Vec::new(),
        transparent: false,
        mode: node_mode(&request.usage, generic),
        request: None,
    };
    Ok(Layer { parts, below })
}

/// What has no words but the host's is told with the name of the file.
fn in_file(error: Error, file: &Shown) -> Error {
    let bare = error.joined() == error.strerror();
    if bare { error.context(format!("Could not open '{}'", file.name())) } else { error }
}

/// The displayed name: the file's where nothing else matters.
fn show_format(format: &FormatDriver, options: &RuntimeOptions, storage: &Storage) -> Shown {
    let driver = ShownValue::Value(RuntimeValue::Str(format.name.to_owned()));
    let mut shown = vec![("driver".to_owned(), driver)];
    let strong = |name: &str| format.strong_options.contains(&name);
    for (name, value) in options.iter().filter(|(name, _)| strong(name)) {
        shown.push((name.to_owned(), ShownValue::Value(value.clone())));
    }
    let is_image = storage.inside.as_ref().is_some_and(|node| node.children().is_empty());
    let plain = storage.shown.plain.clone().filter(|_| !is_image && shown.len() == 1);
    shown.push(("file".to_owned(), ShownValue::Node(storage.shown.clone())));
    Shown { plain, options: shown }
}

/// Takes the options `backing` and `backing.*` out, if a backing file is wanted, and says what is to be opened.
fn find_below(ctx: &Context, request: &mut Request, image: &dyn Image, file: &Storage) -> Result<Below> {
    let mut nothing = false;
    match request.options.get("backing") {
        Some(RuntimeValue::Null) => nothing = true,
        Some(RuntimeValue::Str(name)) if name.is_empty() => {
            nothing = true;
            ctx.notices.warn("Use of \"backing\": \"\" is deprecated; use \"backing\": null instead");
        }
        _ => {}
    }
    if nothing {
        let _ = request.options.take("backing");
    }
    // A format may have images with a parent that it does not make.
    let has_backing = image.driver().caps.contains(Caps::BACKING) || image.backing().is_some();
    if !request.usage.backing || !has_backing {
        return Ok(Below::Nothing);
    }
    let reference = take_only_text(&mut request.options, "backing");
    let options = request.options.take_child("backing");
    if nothing {
        return Ok(Below::Forced);
    }
    if let Some(name) = reference {
        return Err(in_backing(node_reference(&name, !options.is_empty()), 1));
    }
    let stored = image.backing().filter(|stored| !stored.name.is_empty());
    if options.is_empty() && stored.is_none() {
        return Ok(Below::Nothing);
    }
    backing_request(request, options, stored, file)
}

fn backing_request(
    request: &Request,
    mut options: RuntimeOptions,
    stored: Option<BackingRef>,
    file: &Storage,
) -> Result<Below> {
    let forced = !options.is_empty();
    let names_file = options.iter().any(|(name, _)| name == "file" || name.starts_with("file."));
    let (mut name, mut trust) = (None, Trust::User);
    if let Some(stored) = stored {
        let format = stored.format.filter(|format| !format.is_empty() && options.get("driver").is_none());
        if let Some(format) = format {
            options.set("driver", RuntimeValue::Str(format));
        }
        if !names_file {
            name = Some(resolve_in(file.no_folder.as_deref(), &file.filename, &stored.name)?);
            let kind = ReferenceKind::Backing;
            trust = Trust::Image { kind, from: file.filename.clone(), name: stored.name };
        }
    }
    let usage = request.usage.of_backing();
    let (nesting, opened) = (request.nesting, request.opened.clone());
    let request = Request { name, options, usage, trust, nesting, opened };
    Ok(Below::Open { request: Box::new(request), forced })
}
