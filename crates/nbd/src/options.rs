//! What a device is opened with: the options of `driver=nbd`, in qemu-img's words where they are wrong.

use std::time::Duration;

use diskimg_core::options::{RuntimeOptions, parse_bool};
use diskimg_core::size::parse_option_number;
use diskimg_core::{Error, Result};

use crate::address::{Address, DEFAULT_PORT, name_options};
use crate::limits::MAX_STRING;

/// Which export is meant, and how to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdOptions {
    /// Where the server listens.
    pub address: Address,
    /// The export's name; empty: the server's default.
    pub export: String,
    /// A metadata context whose value takes the place of the allocation: `qemu:dirty-bitmap:NAME`.
    pub dirty_bitmap: Option<String>,
    /// How long requests wait for a new connection when one was lost.
    pub reconnect_delay: Duration,
    /// How long connecting is tried.
    pub open_timeout: Duration,
    /// Writes are wanted.
    pub write: bool,
    /// Every write is to be durable when it is done.
    pub write_through: bool,
}

impl NbdOptions {
    /// The export `export` at `address`, to read.
    #[must_use]
    pub fn new(address: Address, export: impl Into<String>) -> Self {
        Self {
            address,
            export: export.into(),
            dirty_bitmap: None,
            reconnect_delay: Duration::ZERO,
            open_timeout: Duration::ZERO,
            write: false,
            write_through: false,
        }
    }

    /// The same, for writing too if `write` says so.
    #[must_use]
    pub fn write(self, write: bool) -> Self {
        Self { write, ..self }
    }

    /// Takes the options of this protocol out of `options`, after those that `filename` stands for.
    ///
    /// # Errors
    /// `InvalidArg` with qemu-img's wording.
    pub fn take(filename: &str, options: &mut RuntimeOptions) -> Result<Self> {
        if !filename.is_empty() {
            for (key, value) in name_options(filename)?.iter() {
                options.set(key, value.clone());
            }
        }
        let mut text = |name: &str| options.take(name).map(|value| value.to_string());
        let export = text("export").unwrap_or_default();
        let dirty_bitmap = text("x-dirty-bitmap");
        let (creds, _hostname) = (text("tls-creds"), text("tls-hostname"));
        let reconnect_delay = seconds("reconnect-delay", text("reconnect-delay"))?;
        let open_timeout = seconds("open-timeout", text("open-timeout"))?;
        let address = take_address(options)?;
        if let Some(id) = creds {
            return Err(Error::invalid(format!("No TLS credentials with id '{id}'")));
        }
        if export.len() > MAX_STRING {
            return Err(Error::invalid("export name too long to send to server"));
        }
        if dirty_bitmap.as_ref().is_some_and(|query| query.len() > MAX_STRING) {
            return Err(Error::invalid("x-dirty-bitmap query too long to send to server"));
        }
        let fresh = Self::new(address, export);
        Ok(Self { dirty_bitmap, reconnect_delay, open_timeout, ..fresh })
    }
}

/// A number of seconds as options give it; a negative one wraps around, so that it is "very long".
fn seconds(name: &str, text: Option<String>) -> Result<Duration> {
    let Some(text) = text else { return Ok(Duration::ZERO) };
    let number = parse_option_number(name, text.strip_prefix('-').unwrap_or(&text))?;
    let capped = if text.starts_with('-') { u64::from(u32::MAX) } else { number.min(u64::from(u32::MAX)) };
    Ok(Duration::from_secs(capped))
}

fn take_address(options: &mut RuntimeOptions) -> Result<Address> {
    let mut text = |name: &str| options.take(name).map(|value| value.to_string());
    let (path, host, port) = (text("path"), text("host"), text("port"));
    let mut server = options.take_child("server");
    let outdated = path.is_some() || host.is_some() || port.is_some();
    if !server.is_empty() {
        if outdated {
            return Err(Error::invalid("Cannot use 'server' and path/host/port at the same time"));
        }
        return take_server(&mut server);
    }
    match (path, host, port) {
        (Some(_), Some(_), _) => Err(Error::invalid("path and host may not be used at the same time")),
        (Some(_), None, Some(_)) => Err(Error::invalid("port may not be used without host")),
        (Some(path), None, None) => Ok(Address::Unix(path)),
        (None, Some(host), port) => {
            Ok(Address::Tcp { host, port: port.unwrap_or_else(|| DEFAULT_PORT.to_owned()) })
        }
        (None, None, _) => Err(Error::invalid("NBD server address missing")),
    }
}

fn take_server(server: &mut RuntimeOptions) -> Result<Address> {
    let missing = |name: &str| Error::invalid(format!("Parameter '{name}' is missing"));
    let mut need = |name: &str| server.take(name).map(|value| value.to_string()).ok_or_else(|| missing(name));
    let (address, flags): (_, &[&str]) = match need("type")?.as_str() {
        "inet" => {
            let (host, port) = (need("host")?, need("port")?);
            (Address::Tcp { host, port }, &["numeric", "ipv4", "ipv6", "keep-alive", "mptcp"])
        }
        "unix" => (Address::Unix(need("path")?), &["abstract", "tight"]),
        "fd" => {
            let name = need("str")?;
            return Err(Error::unsupported(format!("File descriptor '{name}' is not a socket")));
        }
        "vsock" => return Err(Error::unsupported("socket address type 'vsock' is not supported")),
        other => {
            let text = format!("Parameter 'type' does not accept value '{other}'");
            return Err(Error::invalid(text));
        }
    };
    for flag in flags {
        if let Some(value) = server.take(flag) {
            parse_bool(flag, &value.to_string())?;
        }
    }
    if let (Address::Tcp { .. }, Some(to)) = (&address, server.take("to")) {
        parse_option_number("to", &to.to_string())?;
    }
    match server.iter().next() {
        Some((name, _)) => Err(Error::invalid(format!("Parameter '{name}' is unexpected"))),
        None => Ok(address),
    }
}

#[cfg(test)]
mod tests {
    use diskimg_core::options::{RuntimeValue, split_options};

    use super::*;

    fn take(text: &str) -> Result<NbdOptions> {
        let mut options = RuntimeOptions::new();
        for (key, value) in split_options(text) {
            options.set(key, RuntimeValue::Str(value.unwrap_or_default()));
        }
        NbdOptions::take("", &mut options)
    }

    #[test]
    fn wrong_options_are_told_in_the_words_of_qemu_img() {
        let rows = [
            ("", "NBD server address missing"),
            ("port=1", "NBD server address missing"),
            ("path=a,host=b", "path and host may not be used at the same time"),
            ("path=a,port=1", "port may not be used without host"),
            ("path=a,server.type=unix", "Cannot use 'server' and path/host/port at the same time"),
            ("server.path=a", "Parameter 'type' is missing"),
            ("server.type=foo", "Parameter 'type' does not accept value 'foo'"),
            ("server.type=inet", "Parameter 'host' is missing"),
            ("server.type=inet,server.host=h", "Parameter 'port' is missing"),
            ("server.type=unix", "Parameter 'path' is missing"),
            ("server.type=unix,server.path=a,server.foo=1", "Parameter 'foo' is unexpected"),
            ("path=a,tls-creds=foo", "No TLS credentials with id 'foo'"),
            ("path=a,reconnect-delay=x", "Parameter 'reconnect-delay' expects a number"),
            (
                "server.type=inet,server.host=h,server.port=1,server.ipv6=x",
                "Parameter 'ipv6' expects 'on' or 'off'",
            ),
        ];
        for (given, message) in rows {
            assert_eq!(take(given).unwrap_err().joined(), message, "{given}");
        }
    }

    #[test]
    fn old_and_new_options_mean_the_same() {
        let old = take("path=/s,export=e,open-timeout=2").unwrap();
        let new = take("server.type=unix,server.path=/s,export=e,open-timeout=2").unwrap();
        assert_eq!(old, new);
        assert_eq!(take("host=h").unwrap().address, Address::Tcp { host: "h".into(), port: "10809".into() });
        assert!(take("path=/s,open-timeout=-1").unwrap().open_timeout > Duration::from_secs(1 << 30));
    }
}
