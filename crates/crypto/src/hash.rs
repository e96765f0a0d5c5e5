//! Hash functions by their name, PBKDF2, and the diffusion that LUKS key material goes through.

use diskimg_core::{Result, Task};
use hmac::digest::{Digest, FixedOutputReset};
use hmac::{EagerHash, Hmac, KeyInit, Mac};
use zeroize::{Zeroize, Zeroizing};

use crate::names::Hash;

/// Iterations between two looks at whether to stop.
const STOP_EVERY: u32 = 1 << 16;

/// Evaluates the last argument with `$H` as the type of the hash function `$hash`.
macro_rules! with_hash {
    ($hash:expr, $H:ident => $body:expr) => {
        match $hash {
            Hash::Md5 => {
                type $H = md5::Md5;
                $body
            }
            Hash::Sha1 => {
                type $H = sha1::Sha1;
                $body
            }
            Hash::Sha224 => {
                type $H = sha2::Sha224;
                $body
            }
            Hash::Sha256 => {
                type $H = sha2::Sha256;
                $body
            }
            Hash::Sha384 => {
                type $H = sha2::Sha384;
                $body
            }
            Hash::Sha512 => {
                type $H = sha2::Sha512;
                $body
            }
            Hash::Ripemd160 => {
                type $H = ripemd::Ripemd160;
                $body
            }
            Hash::Sm3 => {
                type $H = sm3::Sm3;
                $body
            }
        }
    };
}

/// The digest of `parts`, one after the other.
pub(crate) fn digest(hash: Hash, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    with_hash!(hash, H => {
        let mut state = H::new();
        for part in parts {
            state.update(part);
        }
        Zeroizing::new(state.finalize().to_vec())
    })
}

/// PBKDF2 (RFC 8018) with HMAC: fills `out` from a password and a salt.
///
/// The work is in proportion to `iterations`, which come from a file and may be many: stop it through `task`.
///
/// # Errors
/// `Cancelled`.
pub fn pbkdf2(
    hash: Hash,
    password: &[u8],
    salt: &[u8],
    iterations: u32,
    out: &mut [u8],
    task: &Task<'_>,
) -> Result<()> {
    with_hash!(hash, H => pbkdf2_with::<H>(password, salt, iterations, out, task))
}

fn pbkdf2_with<H: EagerHash>(
    password: &[u8],
    salt: &[u8],
    iterations: u32,
    out: &mut [u8],
    task: &Task<'_>,
) -> Result<()>
where
    Hmac<H>: Mac + Clone + KeyInit,
{
    // HMAC takes keys of any length.
    let Ok(keyed) = <Hmac<H> as KeyInit>::new_from_slice(password) else {
        return Err(diskimg_core::Error::invalid("The password can't be used as a key"));
    };
    let size = <Hmac<H> as hmac::digest::OutputSizeUser>::output_size();
    for (number, chunk) in (1_u32..).zip(out.chunks_mut(size)) {
        let mut last =
            keyed.clone().chain_update(salt).chain_update(number.to_be_bytes()).finalize().into_bytes();
        let mut sum = last.clone();
        for round in 1..iterations {
            last = keyed.clone().chain_update(&last).finalize().into_bytes();
            for (sum, byte) in sum.iter_mut().zip(&last) {
                *sum ^= byte;
            }
            if round % STOP_EVERY == 0 {
                task.check()?;
            }
        }
        for (out, byte) in chunk.iter_mut().zip(&sum) {
            *out = *byte;
        }
        last.as_mut_slice().zeroize();
        sum.as_mut_slice().zeroize();
    }
    Ok(())
}

/// Replaces each piece of digest size by the hash of its number and itself; the last one is cut.
pub(crate) fn diffuse(hash: Hash, block: &mut [u8]) {
    with_hash!(hash, H => diffuse_with::<H>(block));
}

fn diffuse_with<H: Digest + FixedOutputReset>(block: &mut [u8]) {
    let mut state = H::new();
    for (number, piece) in (0_u32..).zip(block.chunks_mut(<H as Digest>::output_size())) {
        Digest::update(&mut state, number.to_be_bytes());
        Digest::update(&mut state, &*piece);
        let mut value = Digest::finalize_reset(&mut state);
        for (byte, new) in piece.iter_mut().zip(&value) {
            *byte = *new;
        }
        value.as_mut_slice().zeroize();
    }
}

#[cfg(test)]
mod tests;
