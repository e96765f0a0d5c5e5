//! Encryption with AES: sectors of stored clusters, numbered by their guest offset. Compressed clusters are not encrypted.

use diskimg_core::driver::OpenMode;
use diskimg_core::mapped::DataCipher;
use diskimg_core::opener::Opener;
use diskimg_core::options::RuntimeOptions;
use diskimg_core::{Error, Result};
use diskimg_crypto::{SECTOR_LEN, SectorCipher, legacy_aes};

use crate::header::{AES, Header};
use crate::limits::SECTOR;

/// The one encryption format.
pub(crate) const FORMAT: &str = "aes";

/// The cipher of an image; without a key if it was opened only to be described.
#[derive(Debug)]
pub(crate) struct Aes(Option<SectorCipher>);

/// The refusal of encrypted data without a key.
pub(crate) fn key_required() -> Error {
    Error::invalid("Parameter 'encrypt.key-secret' is required for cipher")
}

/// The cipher of the image with this header, with the options that start with `encrypt.` (without that).
///
/// # Errors
/// Options that do not fit the header; no secret, or none of that name.
pub(crate) fn unlock(
    header: &Header,
    mode: OpenMode,
    mut options: RuntimeOptions,
    opener: &dyn Opener,
) -> Result<Option<Aes>> {
    let format = options.take("format").map(|value| value.to_string());
    let secret = options.take("key-secret").map(|value| value.to_string());
    if header.crypt_method != AES {
        return match format {
            Some(given) => Err(Error::invalid(format!(
                "No encryption in image header, but options specified format '{given}'"
            ))),
            None => Ok(None),
        };
    }
    if let Some(given) = format.filter(|given| given != FORMAT) {
        return Err(Error::invalid(format!(
            "Header reported '{FORMAT}' encryption format but options specify '{given}'"
        )));
    }
    if let Some((name, _)) = options.iter().next() {
        return Err(Error::invalid(format!("Parameter '{name}' is unexpected")));
    }
    if mode.describe_only {
        return Ok(Some(Aes(None)));
    }
    let id = secret.ok_or_else(key_required)?;
    let secret = opener.secret(&id)?;
    Ok(Some(Aes(Some(legacy_aes(secret.password(&id)?)?))))
}

impl Aes {
    fn cipher(&self, offset: u64, buf: &[u8]) -> Result<&SectorCipher> {
        if !offset.is_multiple_of(SECTOR) || !buf.len().is_multiple_of(SECTOR_LEN) {
            return Err(Error::invalid("encrypted data is read and written in whole sectors of 512 bytes"));
        }
        self.0.as_ref().ok_or_else(key_required)
    }
}

impl DataCipher for Aes {
    fn encrypt(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.cipher(offset, buf)?.encrypt(offset / SECTOR, buf);
        Ok(())
    }

    fn decrypt(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.cipher(offset, buf)?.decrypt(offset / SECTOR, buf);
        Ok(())
    }
}
