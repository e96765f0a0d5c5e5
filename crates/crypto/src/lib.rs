//! Sector ciphers, LUKS1 headers and key slots, and secrets: what encrypted formats are made of.
//!
//! Above `diskimg-core`, below the formats that encrypt (`luks`, `qcow2`, `qcow`). It knows no host file: headers
//! and key slots are read from and written to a [`BlockDevice`](diskimg_core::BlockDevice) that is handed to it.
//! Keys and passwords are wiped from memory when they are no longer needed, and no message has any.
//!
//! ```
//! use diskimg_core::{BlockDevice, MemDevice};
//! use diskimg_crypto::luks::{self, CreateOptions, Header, Placement};
//!
//! // A new volume: header and key material, then the payload.
//! let disk = MemDevice::new(4 << 20);
//! let volume = luks::create(&CreateOptions { iter_time: 0, ..CreateOptions::default() }, b"secret")?;
//! disk.write_at(0, &volume.area)?;
//! let mut sector = *b"payload ".repeat(64).first_chunk::<512>().unwrap();
//! volume.cipher.encrypt(0, &mut sector);
//! disk.write_at(volume.area_len, &sector)?;
//!
//! // Opened again with its password.
//! let mut head = [0; 592];
//! disk.read_at(0, &mut head)?;
//! let header = Header::parse(&head, Placement::Attached)?;
//! let cipher = luks::unlock(&disk, 0, &header, b"secret")?.cipher;
//! disk.read_at(header.payload_offset(), &mut sector)?;
//! cipher.decrypt(0, &mut sector);
//! assert!(sector.starts_with(b"payload "));
//! # Ok::<(), diskimg_core::Error>(())
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod base64;
mod blocks;
mod hash;
mod iv;
pub mod limits;
pub mod luks;
mod modes;
mod names;
mod secret;
mod sector;

pub use hash::pbkdf2;
pub use names::{CipherAlg, CipherMode, CipherSpec, Hash, IvGen};
pub use secret::SecretObject;
pub use sector::{SECTOR_LEN, SectorCipher, legacy_aes};
