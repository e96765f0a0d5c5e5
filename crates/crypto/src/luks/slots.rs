//! Key slots: finding the one that a password opens, and filling one.

use diskimg_core::{BlockDevice, Error, Result, Task, read_zero_padded, to_usize};
use zeroize::Zeroizing;

use super::header::{Header, KeySlot};
use super::key::{MasterKey, merge, split};
use crate::hash::pbkdf2;
use crate::limits::{DIGEST_LEN, MAX_KEY_LEN, SALT_LEN, STRIPES};
use crate::sector::SectorCipher;

/// What a password opened.
#[derive(Clone, Debug)]
pub struct Unlocked {
    /// The slot.
    pub slot: usize,
    /// The key of the payload.
    pub key: MasterKey,
    /// The cipher of the payload with that key.
    pub cipher: SectorCipher,
}

impl Header {
    /// The cipher of the payload with `key`.
    ///
    /// # Errors
    /// Those of [`SectorCipher::new`].
    pub fn cipher(&self, key: &MasterKey) -> Result<SectorCipher> {
        SectorCipher::new(self.spec(), key.bytes())
    }

    /// True if `key` is the master key.
    pub(super) fn is_key(&self, key: &MasterKey, task: &Task<'_>) -> Result<bool> {
        let mut digest = [0; DIGEST_LEN];
        pbkdf2(self.hash, key.bytes(), &self.key_salt, self.key_iterations, &mut digest, task)?;
        Ok(digest == self.key_digest)
    }

    /// The master key, if `slot` is active and `password` is its.
    pub(super) fn open_slot(
        &self,
        device: &dyn BlockDevice,
        base: u64,
        slot: &KeySlot,
        password: &[u8],
        task: &Task<'_>,
    ) -> Result<Option<MasterKey>> {
        if !slot.active {
            return Ok(None);
        }
        let cipher = self.slot_cipher(password, &slot.salt, slot.iterations, task)?;
        let mut material = self.material_buffer()?;
        let Some(at) = base.checked_add(slot.material_offset()) else {
            return Ok(None);
        };
        read_zero_padded(device, at, &mut material)?;
        cipher.decrypt(0, &mut material);
        let used = material.get(..to_usize(self.material_len())).unwrap_or_default();
        let key = merge(self.hash, self.key_len(), used);
        Ok(self.is_key(&key, task)?.then_some(key))
    }

    /// The key material that holds `key` under `password`: whole sectors, to be stored where the slot has it.
    pub(super) fn seal(
        &self,
        key: &MasterKey,
        password: &[u8],
        salt: &[u8; SALT_LEN],
        iterations: u32,
    ) -> Result<Zeroizing<Vec<u8>>> {
        let cipher = self.slot_cipher(password, salt, iterations, &Task::quiet())?;
        let mut material = self.material_buffer()?;
        let used = material.get_mut(..to_usize(self.material_len())).unwrap_or_default();
        split(self.hash, key.bytes(), used)?;
        cipher.encrypt(0, &mut material);
        Ok(material)
    }

    fn slot_cipher(
        &self,
        password: &[u8],
        salt: &[u8],
        iterations: u32,
        task: &Task<'_>,
    ) -> Result<SectorCipher> {
        let mut key = Zeroizing::new(vec![0; self.key_len()]);
        pbkdf2(self.hash, password, salt, iterations, &mut key, task)?;
        SectorCipher::new(self.spec(), &key)
    }

    /// Zeros for the material of a slot: at most 256 KB, as a header names known ciphers only.
    fn material_buffer(&self) -> Result<Zeroizing<Vec<u8>>> {
        if self.key_len() > MAX_KEY_LEN {
            return Err(Error::limit("LUKS master key too large"));
        }
        let len = self.key_len() * to_usize(STRIPES.into());
        Ok(Zeroizing::new(vec![0; len.next_multiple_of(crate::SECTOR_LEN)]))
    }
}

/// Finds the slot that `password` opens. `base` is the byte of `device` where the header starts.
///
/// # Errors
/// `InvalidArg` if no slot opens; what [`SectorCipher::new`] refuses; the device's.
pub fn unlock(device: &dyn BlockDevice, base: u64, header: &Header, password: &[u8]) -> Result<Unlocked> {
    unlock_with(device, base, header, password, &Task::quiet())
}

/// [`unlock`], which can be stopped: the iterations of a slot come from the file and may be up to 2^32 - 1, which
/// takes the better part of an hour for each slot.
///
/// # Errors
/// Those of [`unlock`]; `Cancelled`.
pub fn unlock_with(
    device: &dyn BlockDevice,
    base: u64,
    header: &Header,
    password: &[u8],
    task: &Task<'_>,
) -> Result<Unlocked> {
    for (number, slot) in header.slots().iter().enumerate() {
        if let Some(key) = header.open_slot(device, base, slot, password, task)? {
            let cipher = header.cipher(&key)?;
            return Ok(Unlocked { slot: number, key, cipher });
        }
    }
    // A cipher that does not exist is the better reason.
    header.spec().check()?;
    Err(Error::invalid("Invalid password, cannot unlock any keyslot"))
}
