//! Host files and block devices for diskimg: positional I/O, holes, locks, O_DIRECT, copies within the host.
//!
//! This is the only crate that talks to the kernel about files. Formats never use it: they get a device. Programs open a
//! file with [`FileOptions`], or put the protocols [`FILE`], [`HOST_DEVICE`],
//! [`HOST_CDROM`], [`NULL_CO`] and [`NULL_AIO`] in a registry.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod copy;
mod create;
mod device;
mod direct;
mod errors;
mod extents;
mod holder;
mod lock;
mod open;
mod protocol;
mod resize;
mod zero;

pub use device::FileDevice;
pub use open::{FileOptions, Locking};
pub use protocol::{FILE, HOST_CDROM, HOST_DEVICE, NULL_AIO, NULL_CO};
