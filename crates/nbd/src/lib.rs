//! NBD client for diskimg: exports of network block device servers, over TCP and Unix sockets.
//!
//! [`NBD`] is the protocol driver that a registry holds; [`NbdDevice`] is an open export, a block device like any other.
//! Negotiated are fixed newstyle with everything that it offers (extended headers, structured replies, block sizes, one
//! metadata context), or what an older server has in place of it. Requests of several threads are under way together, on
//! one connection or on a few if the server allows. There is no TLS.
//!
//! Nothing that a server sends is trusted: lengths and numbers are bounded (`limits.rs` names them) and a reply has
//! to fit its request, so that a server can't make this process allocate, read or wait for more than was asked for.
//!
//! ```no_run
//! use diskimg_core::BlockDevice;
//! use diskimg_nbd::{Address, NbdDevice, NbdOptions};
//!
//! # fn main() -> diskimg_core::Result<()> {
//! let server = Address::Unix("/run/nbd.sock".to_owned());
//! let disk = NbdDevice::open(NbdOptions::new(server, "disk").write(true))?;
//! disk.write_at(0, b"hello")?;
//! disk.flush()?;
//! # Ok(())
//! # }
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod address;
mod connection;
mod device;
mod driver;
mod extents;
mod limits;
mod negotiate;
mod options;
mod pool;
mod reply;
mod scripted;
mod stream;
mod wire;

pub use address::{Address, DEFAULT_PORT, name_options, parse_name};
pub use device::NbdDevice;
pub use driver::NBD;
pub use options::NbdOptions;
pub use scripted::hear;
