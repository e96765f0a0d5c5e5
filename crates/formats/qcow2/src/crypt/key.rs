//! Opening an encrypted image: which secret, and what it unlocks.

use std::sync::Arc;

use diskimg_core::driver::OpenMode;
use diskimg_core::opener::Opener;
use diskimg_core::options::RuntimeOptions;
use diskimg_core::{BlockDevice, Result, Secret};
use diskimg_crypto::legacy_aes;
use diskimg_crypto::limits::HEADER_LEN;
use diskimg_crypto::luks::{self, Placement};
use parking_lot::RwLock;

use super::area::LuksArea;
use super::{Encryption, Key, Luks, METHOD_AES, METHOD_LUKS, Numbering, key_required};
use crate::header::Header;

/// Who opens an encrypted image, and with what.
pub(crate) struct Unlocking<'a> {
    /// What for.
    pub mode: OpenMode,
    /// The runtime options that start with `encrypt.`, without that.
    pub options: &'a RuntimeOptions,
    /// Knows the secrets.
    pub opener: &'a dyn Opener,
}

impl Unlocking<'_> {
    /// The encryption with AES, for an image that has it.
    ///
    /// # Errors
    /// No secret, or none of that name.
    pub(crate) fn aes(&self, header: &Header) -> Result<Option<Encryption>> {
        if header.crypt_method != METHOD_AES {
            return Ok(None);
        }
        let key = match self.secret()? {
            Some((id, secret)) => Some(Key { cipher: legacy_aes(secret.password(&id)?)?, secret, id }),
            None => None,
        };
        Ok(Some(Encryption::new(Numbering::Guest, key, None)))
    }

    /// The encryption with LUKS, for an image that has it and a LUKS header.
    ///
    /// # Errors
    /// As [`Unlocking::aes`]; a secret that opens no key slot; what is wrong with the LUKS header.
    pub(crate) fn luks(&self, header: &Header, storage: &Arc<dyn BlockDevice>) -> Result<Option<Encryption>> {
        let Some(place) = header.extensions.crypto.filter(|_| header.crypt_method == METHOD_LUKS) else {
            return Ok(None);
        };
        let secret = self.secret()?;
        let password = match &secret {
            Some((id, secret)) => Some(secret.password(id)?),
            None => None,
        };
        let area = LuksArea::new(Arc::clone(storage), place);
        let mut bytes = [0; HEADER_LEN];
        area.read_header(&mut bytes)?;
        let luks = luks::Header::parse(&bytes, Placement::Attached)?;
        let unlocked = password.map(|password| luks::unlock(&area, 0, &luks, password)).transpose()?;
        let key = unlocked.zip(secret).map(|(unlocked, (id, secret))| {
            let cipher = unlocked.cipher;
            Key { cipher, secret, id }
        });
        let luks = Luks { area, header: RwLock::new(luks) };
        Ok(Some(Encryption::new(Numbering::Host, key, Some(luks))))
    }

    /// The secret that the options name, with its name; `None` where none is needed.
    fn secret(&self) -> Result<Option<(String, Secret)>> {
        if self.mode.describe_only {
            return Ok(None);
        }
        let id = self.options.clone().take_str("key-secret")?.ok_or_else(key_required)?;
        let secret = self.opener.secret(&id)?;
        Ok(Some((id, secret)))
    }
}
