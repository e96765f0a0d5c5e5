//! Block ciphers behind a trait, for what is not on the fast path; the fast path is generic over their types.

use cipher::array::Array;
use cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use diskimg_core::{Error, Result};

use crate::names::CipherAlg;

/// A block cipher with its key.
pub(crate) trait Cipher:
    BlockCipherEncrypt + BlockCipherDecrypt + KeyInit + Send + Sync + 'static
{
}

impl<C: BlockCipherEncrypt + BlockCipherDecrypt + KeyInit + Send + Sync + 'static> Cipher for C {}

/// Encrypts blocks by themselves.
pub(crate) trait BlockEncrypt: Send + Sync {
    /// Encrypts as many blocks as fit into `bytes`.
    fn encrypt_blocks(&self, bytes: &mut [u8]);
}

impl<C: Cipher> BlockEncrypt for C {
    fn encrypt_blocks(&self, bytes: &mut [u8]) {
        BlockCipherEncrypt::encrypt_blocks(self, Array::slice_as_chunks_mut(bytes).0);
    }
}

/// A cipher with its key.
pub(crate) fn keyed<C: Cipher>(key: &[u8]) -> Result<C> {
    C::new_from_slice(key).map_err(|_| Error::invalid("The key does not have the cipher's size"))
}

/// Evaluates the last argument with `$C` as the type of the cipher `$alg`.
macro_rules! with_cipher {
    ($alg:expr, $C:ident => $body:expr) => {
        match $alg {
            CipherAlg::Aes128 => {
                type $C = aes::Aes128;
                $body
            }
            CipherAlg::Aes192 => {
                type $C = aes::Aes192;
                $body
            }
            CipherAlg::Aes256 => {
                type $C = aes::Aes256;
                $body
            }
            CipherAlg::Cast5 => {
                type $C = cast5::Cast5;
                $body
            }
            CipherAlg::Serpent128 | CipherAlg::Serpent192 | CipherAlg::Serpent256 => {
                type $C = serpent::Serpent;
                $body
            }
            CipherAlg::Twofish128 | CipherAlg::Twofish192 | CipherAlg::Twofish256 => {
                type $C = twofish::Twofish;
                $body
            }
        }
    };
}
pub(crate) use with_cipher;

/// The cipher `alg` with `key`.
pub(crate) fn block_cipher(alg: CipherAlg, key: &[u8]) -> Result<Box<dyn BlockEncrypt>> {
    with_cipher!(alg, C => Ok(Box::new(keyed::<C>(key)?)))
}
