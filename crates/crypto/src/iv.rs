//! IVs: from sector numbers to the 16 bytes that a sector's encryption starts with.
//!
//! A cipher with shorter blocks uses the first bytes. Facts: §2 of the LUKS notes, checked against qemu-img.

use crate::blocks::{BlockEncrypt, block_cipher};
use crate::hash::digest;
use crate::names::{CipherSpec, IvGen};
use diskimg_core::Result;

/// Sectors that are encrypted side by side.
pub(crate) const BATCH: usize = 8;

/// An IV.
pub(crate) type Iv = [u8; 16];

/// Makes IVs.
pub(crate) enum IvMaker {
    /// Little-endian, 32 bits.
    Plain,
    /// Little-endian, 64 bits.
    Plain64,
    /// Little-endian, 64 bits, encrypted.
    Essiv(Box<dyn BlockEncrypt>),
}

impl IvMaker {
    /// For sectors that are encrypted with `key` as `spec` says.
    pub(crate) fn new(spec: &CipherSpec, key: &[u8]) -> Result<Self> {
        Ok(match (spec.ivgen, spec.essiv()?) {
            (IvGen::Plain, _) => Self::Plain,
            (_, Some((alg, hash))) => Self::Essiv(block_cipher(alg, &digest(hash, &[key]))?),
            _ => Self::Plain64,
        })
    }

    /// The IVs of sectors `first` and following; those behind the number 2^64 - 1 start again at 0.
    pub(crate) fn fill(&self, first: u64, ivs: &mut [Iv]) {
        let mut sector = first;
        for iv in ivs.iter_mut() {
            let number = match self {
                Self::Plain => sector & u64::from(u32::MAX),
                Self::Plain64 | Self::Essiv(_) => sector,
            };
            *iv = u128::from(number).to_le_bytes();
            sector = sector.wrapping_add(1);
        }
        if let Self::Essiv(cipher) = self {
            cipher.encrypt_blocks(ivs.as_flattened_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_is_cut_at_32_bits() {
        let mut ivs = [[0; 16]; 2];
        IvMaker::Plain.fill(u64::from(u32::MAX), &mut ivs);
        assert_eq!(ivs, [u128::from(u32::MAX).to_le_bytes(), [0; 16]]);
        IvMaker::Plain64.fill(u64::from(u32::MAX), &mut ivs);
        assert_eq!(ivs[1], (1_u128 << 32).to_le_bytes());
        IvMaker::Plain64.fill(u64::MAX, &mut ivs);
        assert_eq!(ivs[1], [0; 16]);
    }
}
