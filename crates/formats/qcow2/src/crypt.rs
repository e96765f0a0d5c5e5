//! Encryption of guest data (specification, "crypt_method" and "Full disk encryption header pointer").
//!
//! What is encrypted: the bytes of clusters that are neither compressed nor zeros, and nothing else. The unit is a
//! sector of 512 bytes; its number, which the cipher mixes in, is that of its place on the host with LUKS (in the data
//! file, if there is one) and that of its guest offset with AES. So bytes that move on the host must be encrypted
//! again, and no host copies them.
//!
//! Bytes are encrypted in buffers of this module and decrypted in the caller's; no lock is held meanwhile. Only the
//! data paths of [`crate::image::Qcow2`] call this.

mod area;
mod create;
mod data;
mod key;
mod slots;

use diskimg_core::{BlockDevice, Error, InfoValue, Result, Secret, len_u64};
use diskimg_crypto::{SectorCipher, luks};
use parking_lot::{Mutex, RwLock};

pub(crate) use create::{area_len, check_options, new_volume};
pub(crate) use key::Unlocking;

use crate::header::SECTOR;
use crate::settings::CRYPT_FORMATS;
use area::LuksArea;

/// The method number of AES with IVs by guest offset.
pub(crate) const METHOD_AES: u32 = 1;
/// The method number of LUKS.
pub(crate) const METHOD_LUKS: u32 = 2;

/// What the names of encryption options start with.
const PREFIX: &str = "encrypt.";

/// Most bytes that are encrypted before they are written.
const STEP: usize = 256 << 10;
/// Buffers of that size that are kept for the next writer.
const KEPT_BUFFERS: usize = 16;

/// Where bytes of the guest stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Guest offset in bytes.
    pub guest: u64,
    /// Offset in the device that holds guest data, in bytes.
    pub host: u64,
}

impl Place {
    fn advance(self, by: usize) -> Self {
        let by = by as u64;
        Self { guest: self.guest + by, host: self.host + by }
    }
}

/// What the sectors are numbered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbering {
    Guest,
    Host,
}

/// What opens the data.
#[derive(Clone, Debug)]
struct Key {
    cipher: SectorCipher,
    /// The password that it came from: key slots are changed with it.
    secret: Secret,
    /// Its name.
    id: String,
}

/// The LUKS header of an image.
#[derive(Debug)]
struct Luks {
    area: LuksArea,
    header: RwLock<luks::Header>,
}

/// The encryption of an open image.
pub(crate) struct Encryption {
    numbering: Numbering,
    /// `None`: the image was opened only to be described.
    key: Option<Key>,
    luks: Option<Luks>,
    idle: Mutex<Vec<Vec<u8>>>,
}

impl std::fmt::Debug for Encryption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (numbering, unlocked) = (self.numbering, self.key.is_some());
        f.debug_struct("Encryption")
            .field("numbering", &numbering)
            .field("unlocked", &unlocked)
            .finish_non_exhaustive()
    }
}

/// The refusal of encrypted data without a key.
pub(crate) fn key_required() -> Error {
    Error::invalid("Parameter 'encrypt.key-secret' is required for cipher")
}

impl Encryption {
    fn new(numbering: Numbering, key: Option<Key>, luks: Option<Luks>) -> Self {
        Self { numbering, key, luks, idle: Mutex::new(Vec::new()) }
    }

    /// What `info` tells of it.
    pub(crate) fn info(&self) -> Vec<(&'static str, InfoValue)> {
        let [_, aes, luks] = CRYPT_FORMATS;
        match &self.luks {
            Some(found) => found.header.read().info(Some(luks)),
            None => vec![("format", aes.into())],
        }
    }

    fn cipher(&self) -> Result<&SectorCipher> {
        self.key.as_ref().map(|key| &key.cipher).ok_or_else(key_required)
    }

    const fn first_sector(&self, place: Place) -> u64 {
        match self.numbering {
            Numbering::Guest => place.guest / SECTOR,
            Numbering::Host => place.host / SECTOR,
        }
    }

    /// Decrypts whole sectors that were read from `place`.
    pub(crate) fn decrypt(&self, place: Place, buf: &mut [u8]) -> Result<()> {
        check_sectors(place.guest, len_u64(buf))?;
        self.cipher()?.decrypt(self.first_sector(place), buf);
        Ok(())
    }

    /// Writes whole sectors, encrypted, to `place` of `device`.
    pub(crate) fn write(&self, place: Place, bytes: &[u8], device: &dyn BlockDevice) -> Result<()> {
        let mut at = place;
        self.write_steps(place, bytes.len(), device, |buf| {
            let from = usize::try_from(at.guest - place.guest).unwrap_or(usize::MAX);
            if let Some(part) = bytes.get(from..from.saturating_add(buf.len())) {
                buf.copy_from_slice(part);
            }
            at = at.advance(buf.len());
        })
    }

    /// Writes `len` bytes of zeros (whole sectors), encrypted, to `place` of `device`.
    pub(crate) fn write_zeros(&self, place: Place, len: usize, device: &dyn BlockDevice) -> Result<()> {
        self.write_steps(place, len, device, |buf| buf.fill(0))
    }

    /// Writes `len` bytes in steps; `each` fills in the bytes of one, which follows the one before.
    fn write_steps(
        &self,
        place: Place,
        len: usize,
        device: &dyn BlockDevice,
        mut each: impl FnMut(&mut [u8]),
    ) -> Result<()> {
        check_sectors(place.guest, len as u64)?;
        let cipher = self.cipher()?;
        let mut buf = self.idle.lock().pop().unwrap_or_default();
        let mut done = 0;
        let mut result = Ok(());
        while done < len && result.is_ok() {
            buf.resize(STEP.min(len - done), 0);
            each(&mut buf);
            let at = place.advance(done);
            cipher.encrypt(self.first_sector(at), &mut buf);
            result = device.write_at(at.host, &buf);
            done += buf.len();
        }
        let mut idle = self.idle.lock();
        if idle.len() < KEPT_BUFFERS {
            idle.push(buf);
        }
        result
    }
}

/// Refuses what is not made of whole sectors: it could not be encrypted.
fn check_sectors(offset: u64, len: u64) -> Result<()> {
    if offset.is_multiple_of(SECTOR) && len.is_multiple_of(SECTOR) {
        return Ok(());
    }
    Err(Error::invalid("encrypted data is read and written in whole sectors of 512 bytes"))
}
