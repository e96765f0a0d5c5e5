//! `blkdebug`: fails requests as rules say, and asks for an alignment and a greatest request.

use std::sync::Arc;

use diskimg_core::filter::{ChildRole, FilterDriver, FilterOpen, Opened};
use diskimg_core::options::{RuntimeOptions, RuntimeValue};
use diskimg_core::{
    BlockDevice, ByteRange, Error, ErrorKind, Extent, FormatDriver, Image, Limits, Result, ZeroMode, len_u64,
};

use crate::config;
use crate::node::{CHANGES, node, over};
use crate::rules::{Request, Rules};

static NODE: FormatDriver = node("blkdebug", CHANGES);

/// The filter.
pub static BLKDEBUG: FilterDriver = FilterDriver {
    node: &NODE,
    prefix: Some("blkdebug:"),
    is_protocol: true,
    roles: &[ChildRole { name: "image", is_image: false, many: false }],
    is_transparent: true,
    has_folder: true,
    parse_name,
    files: &["config"],
    is_strong,
    plain_name,
    open,
};

/// The greatest configuration file, in bytes.
const MAX_CONFIG: u64 = 1 << 20;

/// Sizes are below it.
const MAX_SIZE: u64 = i32::MAX.unsigned_abs() as u64;

/// What is really kept to, in bytes: whole units pass through memory.
const MAX_ALIGN: u64 = 1 << 20;

fn parse_name(rest: &str, options: &mut RuntimeOptions) -> Result<()> {
    let Some((config, image)) = rest.split_once(':') else {
        return Err(Error::invalid("blkdebug requires both config file and image path"));
    };
    if !config.is_empty() {
        options.set("config", RuntimeValue::Str(config.to_owned()));
    }
    options.set("image.filename", RuntimeValue::Str(image.to_owned()));
    Ok(())
}

/// The configuration file is part of a plain name; permissions change nothing that is read.
fn is_strong(name: &str) -> bool {
    name != "config" && !name.starts_with("take-child-perms") && !name.starts_with("unshare-child-perms")
}

fn plain_name(names: &[&str], options: &RuntimeOptions) -> Option<String> {
    let config = options.get("config").map(ToString::to_string).unwrap_or_default();
    names.first().map(|image| format!("blkdebug:{config}:{image}"))
}

fn open(mut request: FilterOpen<'_>) -> Result<Arc<dyn Image>> {
    let mut rules = Rules::default();
    if let Some(name) = request.options.take_str("config")? {
        read_config(&name, &mut rules)?;
    }
    for group in ["inject-error", "set-state"] {
        take_rules(group, request.options, &mut rules)?;
    }
    take_permissions(&mut request)?;
    let child = request.only_child()?;
    let limits = take_limits(request.options, child.device.limits())?;
    Ok(Arc::new(Blkdebug { device: child.device, image: child.image, limits, rules, opened: request.opened }))
}

fn read_config(name: &str, rules: &mut Rules) -> Result<()> {
    let read = std::fs::metadata(name).and_then(|meta| {
        if meta.len() > MAX_CONFIG {
            Err(std::io::Error::from(std::io::ErrorKind::FileTooLarge))
        } else {
            std::fs::read_to_string(name)
        }
    });
    let text = read.map_err(|error| Error::from(error).context("Could not read blkdebug config file"))?;
    for (group, entries) in config::parse(&text)? {
        rules.add(&group, &entries, &|key| Error::invalid(format!("Invalid parameter '{key}'")))?;
    }
    Ok(())
}

/// Takes the rules `GROUP.0.…`, `GROUP.1.…` and so on out, or a single one, `GROUP.…`.
fn take_rules(group: &str, options: &mut RuntimeOptions, rules: &mut Rules) -> Result<()> {
    let unknown = |key: &str| Error::invalid(format!("[{group}] section doesn't support the option '{key}'"));
    let mut given = options.take_child(group);
    let entries = |options: &RuntimeOptions| -> Vec<(String, String)> {
        options.iter().map(|(key, value)| (key.to_owned(), value.to_string())).collect()
    };
    if given.is_empty() {
        return Ok(());
    }
    if given.iter().all(|(key, _)| !key.contains('.')) {
        return rules.add(group, &entries(&given), &unknown);
    }
    for number in 0.. {
        let rule = given.take_child(&number.to_string());
        if rule.is_empty() {
            break;
        }
        rules.add(group, &entries(&rule), &unknown)?;
    }
    match given.iter().next() {
        Some((key, _)) => Err(Error::invalid(format!("Unused option '{key}' for [{group}]"))),
        None => Ok(()),
    }
}

/// Permissions that are taken or not shared: looked at, without effect but for one that can't be had.
fn take_permissions(request: &mut FilterOpen<'_>) -> Result<()> {
    const NAMES: [&str; 4] = ["consistent-read", "write", "write-unchanged", "resize"];
    for list in ["take-child-perms", "unshare-child-perms"] {
        for (_, value) in request.options.take_child(list).iter() {
            let name = value.to_string();
            if !NAMES.contains(&name.as_str()) {
                return Err(Error::invalid(format!("Parameter 'null' does not accept value '{name}'")));
            }
            if list.starts_with("take") && name != "consistent-read" && !request.write {
                return Err(Error::new(ErrorKind::ReadOnly, "Block node is read-only"));
            }
        }
    }
    Ok(())
}

fn take_limits(options: &mut RuntimeOptions, child: Limits) -> Result<Limits> {
    let cannot =
        |name: &str, size: u64| Error::invalid(format!("Cannot meet constraints with {name} {size}"));
    let align = options.take_size("align")?.unwrap_or(0);
    if align >= MAX_SIZE || (align > 0 && !align.is_power_of_two()) {
        return Err(cannot("align", align));
    }
    let mut take = |name: &str, unit: u64| -> Result<u64> {
        let size = options.take_size(name)?.unwrap_or(0);
        let fits = size < MAX_SIZE && size.is_multiple_of(unit.max(1));
        if fits { Ok(size) } else { Err(cannot(name, size)) }
    };
    let max_transfer = take("max-transfer", align)?;
    for kind in ["write-zero", "discard"] {
        let best = take(&format!("opt-{kind}"), align)?;
        take(&format!("max-{kind}"), align.max(best))?;
    }
    let align = align.min(MAX_ALIGN).max(child.align);
    let max_transfer = if max_transfer > 0 { max_transfer.max(align) } else { child.max_transfer };
    Ok(Limits { align, max_transfer: max_transfer.min(child.max_transfer), ..child })
}

#[derive(Debug)]
struct Blkdebug {
    device: Arc<dyn BlockDevice>,
    image: Arc<dyn Image>,
    limits: Limits,
    rules: Rules,
    opened: Opened,
}

impl Blkdebug {
    fn check(&self, request: Request, range: ByteRange) -> Result<()> {
        // What a format reads for itself is no event.
        if let Some(asked) = self.opened.serving() {
            self.rules.happen(request, asked);
        }
        self.rules.check(request, range)
    }
}

impl Image for Blkdebug {
    over!("image");
}

impl BlockDevice for Blkdebug {
    diskimg_core::pass_on!(device: len is_read_only set_len);

    fn limits(&self) -> Limits {
        self.limits
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.check(Request::Read, ByteRange::new(offset, len_u64(buf)))?;
        self.device.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.check(Request::Write, ByteRange::new(offset, len_u64(buf)))?;
        self.device.write_at(offset, buf)
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        self.check(Request::WriteZeroes, range)?;
        self.device.write_zeroes(range, how)
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        self.check(Request::Discard, range)?;
        self.device.discard(range)
    }

    fn flush(&self) -> Result<()> {
        self.check(Request::Flush, ByteRange::default())?;
        self.device.flush()
    }

    /// Nothing is said of where bytes stand on the host: whoever copies them there would pass by the rules.
    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        let range = ByteRange::new(range.start, self.rules.known_len(range));
        self.rules.check(Request::Status, range)?;
        Ok(Extent { host: None, ..self.device.extent_at(range)? })
    }
}
