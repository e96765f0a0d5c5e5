//! LUKS1: the header, its key slots, new volumes, and what changes key slots.
//!
//! A volume is a header of [`HEADER_LEN`](crate::limits::HEADER_LEN) bytes, eight areas of key material, and a
//! payload that is encrypted with the master key. Each active slot holds the master key under a password of its
//! own. Offsets within the header are relative to where the header stands, which need not be byte 0 of a device:
//! that is the `base` of the functions here.

mod amend;
mod create;
mod header;
mod info;
mod kdf;
mod key;
mod slots;

pub use amend::{AmendOptions, Named, SlotState, amend};
pub use create::{CreateOptions, NewVolume, create};
pub use header::{Header, KeySlot, Placement, is_luks};
pub use key::MasterKey;
pub use slots::{Unlocked, unlock, unlock_with};
