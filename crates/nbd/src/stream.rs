//! [`Stream`]: a connected socket, TCP or Unix, whose clones share it; with a deadline while it is negotiated over.
//!
//! Invariant: no read waits longer than the limits say, so that a silent server can't hold a thread for ever.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use diskimg_core::{Error, Result, strerror};

use crate::address::Address;
use crate::limits::{FAREWELL_TIME, SILENCE};

/// The longest path of a Unix socket, with its end.
const MAX_SOCKET_PATH: usize = 108;

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connected socket.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    socket: Arc<Socket>,
    until: Option<Instant>,
}

impl Stream {
    /// Connects.
    pub(crate) fn connect(address: &Address) -> Result<Self> {
        let failed = |error: io::Error| {
            let text = format!("Failed to connect to '{}'", address.label());
            Error::from(error).context(text)
        };
        let socket = match address {
            Address::Unix(path) if path.len() >= MAX_SOCKET_PATH => {
                let hint = format!("Path must be less than {MAX_SOCKET_PATH} bytes");
                return Err(Error::invalid(format!("UNIX socket path '{path}' is too long")).with_hint(hint));
            }
            Address::Unix(path) if path.is_empty() => {
                return Err(failed(io::Error::from_raw_os_error(ECONNREFUSED)));
            }
            Address::Unix(path) => Socket::Unix(UnixStream::connect(path).map_err(failed)?),
            Address::Tcp { host, port } => connect_tcp(host, port, failed)?,
        };
        Ok(Self { socket: Arc::new(socket), until: None })
    }

    /// All reads of this clone have to end within `time` from now; `None`: each within the limit of silence.
    pub(crate) fn limit_time(&mut self, time: Option<Duration>) -> io::Result<()> {
        self.until = time.map(|time| Instant::now() + time);
        self.socket.set_times(time.unwrap_or(SILENCE), SILENCE)
    }

    /// Makes all reads and writes of all clones fail.
    pub(crate) fn shut(&self) {
        let _ = match &*self.socket {
            Socket::Tcp(socket) => socket.shutdown(Shutdown::Both),
            Socket::Unix(socket) => socket.shutdown(Shutdown::Both),
        };
    }

    /// Sends a last message, which must not take long, and ends the connection.
    pub(crate) fn say_goodbye(&mut self, message: &[u8]) {
        let _ = self.socket.set_times(FAREWELL_TIME, FAREWELL_TIME);
        let _ = self.write_all(message);
        self.shut();
    }
}

/// Linux's number for a refused connection.
const ECONNREFUSED: i32 = 111;

fn connect_tcp(host: &str, port: &str, failed: impl Fn(io::Error) -> Error) -> Result<Socket> {
    let unresolved =
        |why: &str| Error::invalid(format!("address resolution failed for {host}:{port}: {why}"));
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    let number: Option<u64> = if digits {
        port.parse().ok()
    } else {
        std::fs::read_to_string(SERVICES).ok().and_then(|all| service(&all, port))
    };
    let number = number.ok_or_else(|| unresolved("Servname not supported for ai_socktype"))?;
    // The C library's resolver keeps the low bits.
    let number = u16::try_from(number % (1 << 16)).unwrap_or_default();
    let name = if host.is_empty() { "localhost" } else { host };
    let places = (name, number).to_socket_addrs().map_err(|error| {
        let text = error.to_string();
        unresolved(text.rsplit(": ").next().unwrap_or(&text))
    })?;
    let mut last = io::Error::from_raw_os_error(ECONNREFUSED);
    for place in places {
        match TcpStream::connect(place) {
            Ok(socket) => {
                let _ = socket.set_nodelay(true);
                return Ok(Socket::Tcp(socket));
            }
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

/// Where the host keeps the names of ports.
const SERVICES: &str = "/etc/services";

/// The TCP port of that name: lines are `name port/protocol alias… # comment`.
fn service(all: &str, name: &str) -> Option<u64> {
    let number_of = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        let (first, port) = (words.next()?, words.next()?.strip_suffix("/tcp")?);
        if first == name || words.any(|alias| alias == name) { port.parse().ok() } else { None }
    };
    all.lines().find_map(number_of)
}

impl Socket {
    fn set_times(&self, read: Duration, write: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => {
                socket.set_read_timeout(Some(read)).and_then(|()| socket.set_write_timeout(Some(write)))
            }
            Self::Unix(socket) => {
                socket.set_read_timeout(Some(read)).and_then(|()| socket.set_write_timeout(Some(write)))
            }
        }
    }
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, strerror(ETIMEDOUT))
}

/// Linux's number for a connection that timed out.
const ETIMEDOUT: i32 = 110;

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(until) = self.until {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(timed_out());
            }
            self.socket.set_times(left, SILENCE)?;
        }
        let done = match &*self.socket {
            Socket::Tcp(socket) => (&mut &*socket).read(buf),
            Socket::Unix(socket) => (&mut &*socket).read(buf),
        };
        done.map_err(|error| if error.kind() == io::ErrorKind::WouldBlock { timed_out() } else { error })
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let done = match &*self.socket {
            Socket::Tcp(socket) => (&mut &*socket).write(buf),
            Socket::Unix(socket) => (&mut &*socket).write(buf),
        };
        done.map_err(|error| if error.kind() == io::ErrorKind::WouldBlock { timed_out() } else { error })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_names() {
        let all = "# x\nhttp 80/tcp www # web\nnbd 10809/udp\nnbd 10809/tcp\nodd\n";
        assert_eq!(
            (service(all, "www"), service(all, "nbd"), service(all, "x")),
            (Some(80), Some(10809), None)
        );
    }
}
