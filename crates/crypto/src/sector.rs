//! [`SectorCipher`]: encrypts and decrypts sectors of 512 bytes in place.
//!
//! It holds keyed ciphers only, which are wiped in the end. Calls take no lock and allocate nothing, so any number
//! of threads may share one.

use std::fmt;
use std::sync::Arc;

use diskimg_core::{Error, Result};
use zeroize::Zeroizing;

use crate::blocks::{keyed, with_cipher};
use crate::iv::IvMaker;
use crate::modes::{Cbc, Ctr, Ecb, Transform, Xts};
use crate::names::{CipherAlg, CipherMode, CipherSpec, IvGen};

/// Bytes of a sector, in every format.
pub const SECTOR_LEN: usize = 512;

/// A cipher for sectors, with its key. Clones share the key.
///
/// ```
/// use diskimg_crypto::{CipherSpec, SectorCipher};
///
/// let cipher = SectorCipher::new(&CipherSpec::DEFAULT, &[7; 64])?;
/// let mut sectors = vec![0; 1024];
/// cipher.encrypt(8, &mut sectors);
/// cipher.decrypt(8, &mut sectors);
/// assert!(sectors.iter().all(|byte| *byte == 0));
/// # Ok::<(), diskimg_core::Error>(())
/// ```
#[derive(Clone)]
pub struct SectorCipher {
    spec: CipherSpec,
    transform: Arc<dyn Transform>,
}

impl SectorCipher {
    /// The cipher of `spec` with `key`, which has [`CipherSpec::key_len`] bytes.
    ///
    /// # Errors
    /// `Unsupported` if there is no such combination; `InvalidArg` for a key of another size.
    pub fn new(spec: &CipherSpec, key: &[u8]) -> Result<Self> {
        if spec.mode == CipherMode::Xts && !key.len().is_multiple_of(2) {
            return Err(Error::invalid("XTS cipher key length should be a multiple of 2"));
        }
        spec.check()?;
        if key.len() != spec.key_len() {
            let text = format!("Cipher key length {} should be {}", key.len(), spec.key_len());
            return Err(Error::invalid(text));
        }
        Ok(Self { spec: *spec, transform: with_cipher!(spec.alg, C => transform::<C>(spec, key)?) })
    }

    /// How it encrypts.
    #[must_use]
    pub const fn spec(&self) -> &CipherSpec {
        &self.spec
    }

    /// Encrypts whole sectors; `first_sector` is the number of the first.
    ///
    /// # Panics
    /// If `buf` is no multiple of [`SECTOR_LEN`]: nothing must be left as it was by mistake.
    pub fn encrypt(&self, first_sector: u64, buf: &mut [u8]) {
        assert!(buf.len().is_multiple_of(SECTOR_LEN), "whole sectors");
        self.transform.encrypt(first_sector, buf);
    }

    /// Decrypts whole sectors; `first_sector` is the number of the first.
    ///
    /// # Panics
    /// As [`SectorCipher::encrypt`].
    pub fn decrypt(&self, first_sector: u64, buf: &mut [u8]) {
        assert!(buf.len().is_multiple_of(SECTOR_LEN), "whole sectors");
        self.transform.decrypt(first_sector, buf);
    }
}

impl fmt::Debug for SectorCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SectorCipher").field("spec", &self.spec).finish_non_exhaustive()
    }
}

fn transform<C: crate::blocks::Cipher>(spec: &CipherSpec, key: &[u8]) -> Result<Arc<dyn Transform>> {
    let ivs = IvMaker::new(spec, key)?;
    Ok(match spec.mode {
        CipherMode::Xts => {
            let (data, tweak) = key.split_at(key.len() / 2);
            Arc::new(Xts::<C> { data: keyed(data)?, tweak: keyed(tweak)?, ivs })
        }
        CipherMode::Cbc => Arc::new(Cbc::<C> { data: keyed(key)?, ivs }),
        CipherMode::Ctr => Arc::new(Ctr::<C> { data: keyed(key)?, ivs }),
        CipherMode::Ecb => Arc::new(Ecb::<C> { data: keyed(key)? }),
    })
}

/// The cipher of encryption method 1 in qcow and qcow2: AES-128-CBC, IVs are sector numbers of the guest. The key
/// is the password, cut or padded with zeros.
///
/// # Errors
/// None today.
pub fn legacy_aes(password: &[u8]) -> Result<SectorCipher> {
    let mut key = Zeroizing::new([0; 16]);
    for (byte, given) in key.iter_mut().zip(password) {
        *byte = *given;
    }
    let (alg, mode, ivgen) = (CipherAlg::Aes128, CipherMode::Cbc, IvGen::Plain64);
    SectorCipher::new(&CipherSpec { alg, mode, ivgen, ivgen_hash: None }, key.as_slice())
}

#[cfg(test)]
mod tests;
