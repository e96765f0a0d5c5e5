//! [`MasterKey`], and the anti-forensic split that key slots store it in.

use std::fmt;

use diskimg_core::{Error, Result};
use zeroize::Zeroizing;

use crate::hash::diffuse;
use crate::names::Hash;

/// The key of a volume's payload. It is wiped in the end and never printed.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<Vec<u8>>);

impl MasterKey {
    /// A new random key of `len` bytes.
    ///
    /// # Errors
    /// The host's, if it has no random numbers.
    pub fn random(len: usize) -> Result<Self> {
        let mut key = Zeroizing::new(vec![0; len]);
        fill_random(&mut key)?;
        Ok(Self(key))
    }

    /// The key `bytes`.
    #[must_use]
    pub const fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey")
    }
}

/// Random bytes of the host.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|error| Error::from(std::io::Error::from(error)))
}

/// Spreads `key` over `material`, a multiple of the key's length: all of it is needed to get the key back.
pub(crate) fn split(hash: Hash, key: &[u8], material: &mut [u8]) -> Result<()> {
    let Some(last_at) = material.len().checked_sub(key.len()).filter(|_| !key.is_empty()) else {
        return Ok(());
    };
    let (stripes, last) = material.split_at_mut(last_at);
    fill_random(stripes)?;
    let sum = fold(hash, key.len(), stripes);
    for ((out, key), sum) in last.iter_mut().zip(key).zip(sum.iter()) {
        *out = key ^ sum;
    }
    Ok(())
}

/// The key of `key_len` bytes that `material` holds.
pub(crate) fn merge(hash: Hash, key_len: usize, material: &[u8]) -> MasterKey {
    let (stripes, last) = material.split_at(material.len().saturating_sub(key_len));
    let mut key = fold(hash, key_len, stripes);
    for (key, last) in key.iter_mut().zip(last) {
        *key ^= last;
    }
    MasterKey(key)
}

fn fold(hash: Hash, key_len: usize, stripes: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut sum = Zeroizing::new(vec![0_u8; key_len]);
    for stripe in stripes.chunks_exact(key_len.max(1)) {
        for (sum, byte) in sum.iter_mut().zip(stripe) {
            *sum ^= byte;
        }
        diffuse(hash, &mut sum);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_split_is_merged_for_every_hash_and_length() {
        for hash in Hash::ALL {
            for len in [16, 24, 32, 48, 64] {
                let key = MasterKey::random(len).unwrap();
                let mut material = vec![0; len * 50];
                split(*hash, key.bytes(), &mut material).unwrap();
                assert_eq!(merge(*hash, len, &material).bytes(), key.bytes());
                material[0] ^= 1;
                assert_ne!(merge(*hash, len, &material).bytes(), key.bytes());
            }
        }
    }

    #[test]
    fn keys_are_not_printed() {
        let key = MasterKey::new(Zeroizing::new(b"abc".to_vec()));
        assert_eq!(format!("{key:?}"), "MasterKey");
    }
}
