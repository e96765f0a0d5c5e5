//! File names: protocol prefixes, and backing names relative to their overlay.
//!
//! Pure string work, except that a protocol may ask the host whether a plain name is one of its own.

use diskimg_core::protocol::ProtocolDriver;
use diskimg_core::{Error, ErrorKind, Registry, Result};

/// The protocol of names without a prefix.
pub use diskimg_core::FALLBACK_PROTOCOL as DEFAULT_PROTOCOL;

/// The prefix of names that are options in JSON.
pub const JSON_PREFIX: &str = "json:";

/// True if a `:` stands before the first `/`.
#[must_use]
pub fn has_protocol(name: &str) -> bool {
    protocol_of(name).is_some()
}

/// The protocol's name in front of the `:`, if a `:` stands before the first `/`.
#[must_use]
pub fn protocol_of(name: &str) -> Option<&str> {
    let at = name.find([':', '/'])?;
    let (protocol, rest) = name.split_at_checked(at)?;
    rest.starts_with(':').then_some(protocol)
}

/// The protocol that opens `name`, and the name as that protocol wants it.
///
/// # Errors
/// `Unknown protocol 'x'`.
pub fn parse_protocol(registry: &Registry, name: &str) -> Result<(&'static ProtocolDriver, String)> {
    let Some(scheme) = protocol_of(name) else {
        let driver = registry.protocol_of_plain_name(name);
        return Ok((driver.ok_or_else(|| unknown_protocol(DEFAULT_PROTOCOL))?, name.to_owned()));
    };
    let fits = |prefix: &str| protocol_of(prefix) == Some(scheme) && name.starts_with(prefix);
    let mut best: Option<(&'static ProtocolDriver, &str)> = None;
    for driver in registry.protocols() {
        for prefix in driver.prefixes.iter().filter(|prefix| fits(prefix)) {
            if best.is_none_or(|(_, longest)| prefix.len() > longest.len()) {
                best = Some((driver, prefix));
            }
        }
    }
    let (driver, prefix) = best.ok_or_else(|| unknown_protocol(scheme))?;
    let rest = if driver.keeps_prefix { name } else { name.strip_prefix(prefix).unwrap_or(name) };
    let ambiguous = driver.name == DEFAULT_PROTOCOL && has_protocol(rest);
    Ok((driver, if ambiguous { format!("./{rest}") } else { rest.to_owned() }))
}

fn unknown_protocol(scheme: &str) -> Error {
    Error::new(ErrorKind::InvalidArg, format!("Unknown protocol '{scheme}'"))
}

/// What the backing name `name` refers to that is stored in the image whose file is called `overlay`: an absolute name
/// and one with a protocol itself, another one a file in the overlay's folder. Nothing is normalised.
/// `None`: a relative name, and the overlay has no file name.
#[must_use]
pub fn resolve_backing(overlay: Option<&str>, name: &str) -> Option<String> {
    if name.is_empty() || name.starts_with('/') || has_protocol(name) {
        return Some(name.to_owned());
    }
    let overlay = overlay?;
    let after_protocol = protocol_of(overlay).map_or(0, |protocol| protocol.len() + 1);
    let folder_end = overlay.rfind('/').map_or(0, |at| at + 1).max(after_protocol);
    Some(format!("{}{name}", overlay.get(..folder_end).unwrap_or_default()))
}

/// The same for the file `filename` of a node; those of a kind `no_folder` have no folder whatever their name is.
///
/// # Errors
/// `InvalidArg`: a relative name, and there is no folder.
pub(crate) fn resolve_in(no_folder: Option<&str>, filename: &str, name: &str) -> Result<String> {
    let folder = Some(filename).filter(|filename| no_folder.is_none() && !filename.is_empty());
    resolve_backing(folder, name).ok_or_else(|| match no_folder {
        Some(kind) => no_base(kind),
        None => Error::invalid(format!("Cannot use relative backing file name '{name}' without a folder")),
    })
}

/// The error of a node of that kind, in which no relative name means anything.
pub(crate) fn no_base(kind: &str) -> Error {
    Error::invalid(format!("Cannot generate a base directory for {kind} nodes"))
}

/// What a gate is shown for a file: a path for host files (never to be taken for a protocol), else `PROTOCOL:NAME`.
#[must_use]
pub(crate) fn gate_name(protocol: &str, filename: &str) -> String {
    match protocol {
        DEFAULT_PROTOCOL if has_protocol(filename) => format!("./{filename}"),
        DEFAULT_PROTOCOL => filename.to_owned(),
        _ if protocol_of(filename) == Some(protocol) => filename.to_owned(),
        _ => format!("{protocol}:{filename}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_makes_a_protocol_only_before_the_first_slash() {
        let rows = [
            ("a:b", Some("a")),
            (":x", Some("")),
            ("./a:b", None),
            ("/dev/x:0", None),
            ("plain", None),
            ("", None),
            ("nbd://h/x", Some("nbd")),
        ];
        for (name, protocol) in rows {
            assert_eq!(protocol_of(name), protocol, "{name}");
        }
    }

    #[test]
    fn backing_names_start_at_the_overlay() {
        let rows = [
            (Some("o.qcow2"), "b", Some("b")),
            (Some("sub/o.qcow2"), "../b", Some("sub/../b")),
            (Some("sub/o.qcow2"), "/b", Some("/b")),
            (Some("sub/o.qcow2"), "file:b", Some("file:b")),
            (Some("sub/o.qcow2"), "json:{}", Some("json:{}")),
            (Some("nbd://host/dir/o"), "b", Some("nbd://host/dir/b")),
            (Some("fat:o"), "b", Some("fat:b")),
            (None, "b", None),
            (None, "/b", Some("/b")),
        ];
        for (overlay, name, resolved) in rows {
            assert_eq!(resolve_backing(overlay, name).as_deref(), resolved, "{overlay:?} {name}");
        }
    }

    #[test]
    fn a_gate_never_sees_a_host_file_as_a_protocol() {
        assert_eq!(gate_name("file", "a:b"), "./a:b");
        assert_eq!(gate_name("file", "a"), "a");
        assert_eq!(gate_name("host_device", "/dev/sda"), "host_device:/dev/sda");
        assert_eq!(gate_name("null-co", "null-co://"), "null-co://");
    }
}
