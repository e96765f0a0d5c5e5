//! Where an export is: names as `qemu-img` takes them, and how they are displayed (§6 of the notes).
//!
//! Pure string work: no text makes it panic. Used by [`crate::options`] and by the registry's driver.

use diskimg_core::options::{RuntimeOptions, RuntimeValue};
use diskimg_core::{Error, Result};

/// The port of servers that name none.
pub const DEFAULT_PORT: &str = "10809";

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A host and a port (a number, as text).
    Tcp {
        /// The host's name or address, without brackets.
        host: String,
        /// The port.
        port: String,
    },
    /// The path of a Unix socket.
    Unix(String),
}

impl Address {
    /// How messages call it: `HOST:PORT`, or the path.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Self::Tcp { host, port } => format!("{host}:{port}"),
            Self::Unix(path) => path.clone(),
        }
    }

    /// How `export` there is displayed: as a URI, but not encoded.
    #[must_use]
    pub fn display(&self, export: &str) -> String {
        let path = if export.is_empty() { String::new() } else { format!("/{export}") };
        match self {
            Self::Tcp { host, port } => format!("nbd://{host}:{port}{path}"),
            Self::Unix(socket) => format!("nbd+unix://{path}?socket={socket}"),
        }
    }
}

fn no_address() -> Error {
    Error::invalid("NBD server address missing")
}

fn no_url() -> Error {
    Error::invalid("No valid URL specified")
}

/// The options that a name stands for: `server.type`, `server.…`, `export`.
///
/// # Errors
/// `InvalidArg` with qemu-img's wording.
pub fn name_options(name: &str) -> Result<RuntimeOptions> {
    let (address, export) = parse_name(name)?;
    let mut options = RuntimeOptions::new();
    let mut set = |key: &str, value: String| options.set(key, RuntimeValue::Str(value));
    match address {
        Address::Tcp { host, port } => {
            set("server.type", "inet".to_owned());
            set("server.host", host);
            set("server.port", port);
        }
        Address::Unix(path) => {
            set("server.type", "unix".to_owned());
            set("server.path", path);
        }
    }
    if !export.is_empty() {
        set("export", export);
    }
    Ok(options)
}

/// The address and the export that a name stands for.
///
/// # Errors
/// As [`name_options`].
pub fn parse_name(name: &str) -> Result<(Address, String)> {
    if let Some((scheme, rest)) = name.split_once("://") {
        return parse_uri(scheme, rest).ok_or_else(no_url);
    }
    let wrong = || Error::invalid("File name string for NBD must start with 'nbd:'");
    let rest = name.strip_prefix("nbd:").ok_or_else(wrong)?;
    let (place, export) = match rest.split_once(":exportname=") {
        Some((_, "")) => return Err(no_address()),
        Some((place, export)) => (place, export),
        None => (rest, ""),
    };
    if place.is_empty() {
        return Err(no_address());
    }
    let address = match place.strip_prefix("unix:") {
        Some(path) => Address::Unix(path.to_owned()),
        None => parse_host_port(place)?,
    };
    Ok((address, export.to_owned()))
}

fn parse_host_port(place: &str) -> Result<Address> {
    let bracketed = place.strip_prefix('[').and_then(|rest| rest.split_once("]:"));
    let parts = bracketed.or_else(|| place.split_once(':')).filter(|(_, port)| !port.is_empty());
    let (host, port) = parts.ok_or_else(|| Error::invalid(format!("error parsing address '{place}'")))?;
    Ok(Address::Tcp { host: host.to_owned(), port: port.to_owned() })
}

fn parse_uri(scheme: &str, rest: &str) -> Option<(Address, String)> {
    let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
    let (rest, query) = rest.split_once('?').map_or((rest, ""), |(before, query)| (before, query));
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let export = decode(path.strip_prefix('/').unwrap_or(path))?;
    let (host, port) = parse_authority(authority)?;
    let address = match scheme {
        "nbd" | "nbd+tcp" if query.is_empty() && !host.is_empty() => {
            Address::Tcp { host, port: port.unwrap_or_else(|| DEFAULT_PORT.to_owned()) }
        }
        "nbd+unix" if host.is_empty() && port.is_none() => Address::Unix(socket_of(query)?),
        _ => return None,
    };
    Some((address, export))
}

/// The value of `socket`, which is the only key.
fn socket_of(query: &str) -> Option<String> {
    let mut socket = None;
    for item in query.split('&').filter(|item| !item.is_empty()) {
        let (key, value) = item.split_once('=')?;
        if decode(key)? != "socket" {
            return None;
        }
        socket = Some(decode(value)?);
    }
    socket
}

/// Host and port of `[user@]host[:port]`; port 0 is none.
fn parse_authority(authority: &str) -> Option<(String, Option<String>)> {
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => rest.split_once(']').and_then(|(host, after)| {
            if after.is_empty() { Some((host, "")) } else { Some((host, after.strip_prefix(':')?)) }
        })?,
        None => place.split_once(':').unwrap_or((place, "")),
    };
    let port = match port {
        "" => None,
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => {
            let number: u16 = digits.parse().ok()?;
            (number != 0).then(|| number.to_string())
        }
        _ => return None,
    };
    Some((decode(host)?, port))
}

/// Percent-decoding; `None` for a stray `%`, a NUL, or what is not UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |b: u8| char::from(b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
        bytes.push(high << 4 | low);
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_as_qemu_img_shows_them() {
        let rows = [
            ("nbd:unix:/tmp/s:exportname=exp", "nbd+unix:///exp?socket=/tmp/s"),
            ("nbd:unix:/tmp/s", "nbd+unix://?socket=/tmp/s"),
            ("nbd:unix:", "nbd+unix://?socket="),
            ("nbd+unix:///a%20b/c?socket=/tmp/q", "nbd+unix:///a b/c?socket=/tmp/q"),
            ("nbd+unix:////a?socket=/q", "nbd+unix:////a?socket=/q"),
            ("nbd+unix:///a?socket=a&socket=b", "nbd+unix:///a?socket=b"),
            ("nbd+unix://?socket=/q", "nbd+unix://?socket=/q"),
            ("nbd://[::1]:1/f", "nbd://::1:1/f"),
            ("nbd:[::1]:1:exportname=a", "nbd://::1:1/a"),
            ("nbd://localhost", "nbd://localhost:10809"),
            ("nbd://localhost:0/x", "nbd://localhost:10809/x"),
            ("nbd://us%20er@localhost:1/%41b?#frag", "nbd://localhost:1/Ab"),
            ("nbd+tcp://h:7/x", "nbd://h:7/x"),
            ("nbd:1:2:3", "nbd://1:2:3"),
        ];
        for (name, shown) in rows {
            let (address, export) = parse_name(name).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(address.display(&export), shown, "{name}");
        }
    }

    #[test]
    fn bad_names_are_refused_in_the_words_of_qemu_img() {
        let (url, missing) = ("No valid URL specified", "NBD server address missing");
        let rows = [
            ("nbd:", missing),
            ("nbd:localhost:1:exportname=", missing),
            ("nbd:localhost", "error parsing address 'localhost'"),
            ("nbd:unix", "error parsing address 'unix'"),
            ("nbd:/x", "error parsing address '/x'"),
            ("nbd+unix:/a?socket=/q", "File name string for NBD must start with 'nbd:'"),
            ("/foo", "File name string for NBD must start with 'nbd:'"),
            ("nbd+unix:///e", url),
            ("nbd+unix:///e?sock=q", url),
            ("nbd+unix:///e?socket=q&x=y", url),
            ("nbd+unix://localhost/e?socket=/q", url),
            ("nbd+unix:///a%zz?socket=/q", url),
            ("nbd+unix:///a?socket=/q%2", url),
            ("nbd://localhost/x?y=z", url),
            ("nbd://h:66666/x", url),
            ("nbd:///x", url),
        ];
        for (name, message) in rows {
            assert_eq!(parse_name(name).unwrap_err().joined(), message, "{name}");
        }
    }

    #[test]
    fn no_text_panics() {
        for name in ["nbd://[", "nbd://[::1", "nbd://@", "nbd+unix://?%", "nbd:[", "nbd:[]:", "nbd://é:1/%ff"]
        {
            let _ = parse_name(name);
        }
    }
}
