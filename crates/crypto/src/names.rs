//! The names of algorithms: one table each, for options, LUKS headers and `info`. Nothing else spells them.

use diskimg_core::{Error, Result};

macro_rules! names {
    ($(#[$doc:meta])* $ty:ident { $($(#[$vdoc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $ty {
            $($(#[$vdoc])* $variant,)*
        }

        impl $ty {
            /// All of them, in the order of their names' table.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Its name, as options and `info` spell it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The one of that name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.name() == name)
            }
        }
    };
}

names! {
    /// A block cipher with its key size.
    CipherAlg {
        /// AES, 128 bits.
        Aes128 = "aes-128",
        /// AES, 192 bits.
        Aes192 = "aes-192",
        /// AES, 256 bits.
        Aes256 = "aes-256",
        /// CAST5, 128 bits; its blocks have 8 bytes.
        Cast5 = "cast5-128",
        /// Serpent, 128 bits.
        Serpent128 = "serpent-128",
        /// Serpent, 192 bits.
        Serpent192 = "serpent-192",
        /// Serpent, 256 bits.
        Serpent256 = "serpent-256",
        /// Twofish, 128 bits.
        Twofish128 = "twofish-128",
        /// Twofish, 192 bits.
        Twofish192 = "twofish-192",
        /// Twofish, 256 bits.
        Twofish256 = "twofish-256",
    }
}

names! {
    /// How blocks are chained within a sector.
    CipherMode {
        /// Each block by itself.
        Ecb = "ecb",
        /// Cipher block chaining.
        Cbc = "cbc",
        /// IEEE 1619: two keys, a tweak for each block.
        Xts = "xts",
        /// A counter, from the IV on.
        Ctr = "ctr",
    }
}

names! {
    /// How a sector's IV is made of its number.
    IvGen {
        /// The low 32 bits.
        Plain = "plain",
        /// All 64 bits.
        Plain64 = "plain64",
        /// All 64 bits, encrypted with a hash of the key.
        Essiv = "essiv",
    }
}

names! {
    /// A hash function.
    Hash {
        /// MD5, 16 bytes.
        Md5 = "md5",
        /// SHA-1, 20 bytes.
        Sha1 = "sha1",
        /// SHA-224, 28 bytes.
        Sha224 = "sha224",
        /// SHA-256, 32 bytes.
        Sha256 = "sha256",
        /// SHA-384, 48 bytes.
        Sha384 = "sha384",
        /// SHA-512, 64 bytes.
        Sha512 = "sha512",
        /// RIPEMD-160, 20 bytes.
        Ripemd160 = "ripemd160",
        /// SM3, 32 bytes.
        Sm3 = "sm3",
    }
}

/// Names of ciphers that options may spell, but that nothing here implements.
pub(crate) const UNSUPPORTED_CIPHERS: [&str; 3] = ["des", "3des", "sm4"];

impl CipherAlg {
    /// Bytes of a key.
    #[must_use]
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128 | Self::Cast5 | Self::Serpent128 | Self::Twofish128 => 16,
            Self::Aes192 | Self::Serpent192 | Self::Twofish192 => 24,
            Self::Aes256 | Self::Serpent256 | Self::Twofish256 => 32,
        }
    }

    /// Bytes of a block.
    #[must_use]
    pub const fn block_len(self) -> usize {
        match self {
            Self::Cast5 => 8,
            _ => 16,
        }
    }

    /// The name without key size, as a LUKS header has it.
    #[must_use]
    pub const fn luks_name(self) -> &'static str {
        match self {
            Self::Aes128 | Self::Aes192 | Self::Aes256 => "aes",
            Self::Cast5 => "cast5",
            Self::Serpent128 | Self::Serpent192 | Self::Serpent256 => "serpent",
            Self::Twofish128 | Self::Twofish192 | Self::Twofish256 => "twofish",
        }
    }

    /// The name of the family, as messages have it.
    const fn family(self) -> &'static str {
        match self {
            Self::Aes128 | Self::Aes192 | Self::Aes256 => "AES",
            Self::Cast5 => "CAST5",
            Self::Serpent128 | Self::Serpent192 | Self::Serpent256 => "Serpent",
            Self::Twofish128 | Self::Twofish192 | Self::Twofish256 => "Twofish",
        }
    }

    /// The cipher of a LUKS header's name and key size in bytes.
    #[must_use]
    pub fn from_luks(name: &str, key_len: usize) -> Option<Self> {
        Self::ALL.iter().copied().find(|alg| alg.luks_name() == name && alg.key_len() == key_len)
    }
}

impl Hash {
    /// Bytes of a digest.
    #[must_use]
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 | Self::Ripemd160 => 20,
            Self::Sha224 => 28,
            Self::Sha256 | Self::Sm3 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

/// How the sectors of a volume are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CipherSpec {
    /// The cipher.
    pub alg: CipherAlg,
    /// How blocks are chained.
    pub mode: CipherMode,
    /// Where IVs come from.
    pub ivgen: IvGen,
    /// The hash that [`IvGen::Essiv`] needs. The others may have one too, which is kept and has no effect.
    pub ivgen_hash: Option<Hash>,
}

impl CipherSpec {
    /// What a new volume gets if nothing else is asked for: aes-256-xts-plain64.
    pub const DEFAULT: Self =
        Self { alg: CipherAlg::Aes256, mode: CipherMode::Xts, ivgen: IvGen::Plain64, ivgen_hash: None };

    /// Bytes of the key: XTS has two.
    #[must_use]
    pub const fn key_len(&self) -> usize {
        match self.mode {
            CipherMode::Xts => self.alg.key_len() * 2,
            _ => self.alg.key_len(),
        }
    }

    /// The mode as a LUKS header has it, such as `xts-plain64` or `cbc-essiv:sha256`.
    #[must_use]
    pub fn mode_text(&self) -> String {
        let (mode, ivgen) = (self.mode.name(), self.ivgen.name());
        match self.ivgen_hash {
            Some(hash) => format!("{mode}-{ivgen}:{}", hash.name()),
            None => format!("{mode}-{ivgen}"),
        }
    }

    /// The cipher that encrypts the IVs, if they are encrypted, and the hash that makes its key.
    ///
    /// # Errors
    /// `Unsupported` if there is no cipher whose key has the size of the digest; `InvalidArg` without a hash.
    pub fn essiv(&self) -> Result<Option<(CipherAlg, Hash)>> {
        if self.ivgen != IvGen::Essiv {
            return Ok(None);
        }
        let hash =
            self.ivgen_hash.ok_or_else(|| Error::invalid("Missing IV generator hash specification"))?;
        if self.alg == CipherAlg::Cast5 {
            let text = format!("Cipher {} not supported with essiv", self.alg.name());
            return Err(Error::unsupported(text));
        }
        let (family, size) = (self.alg.family(), hash.digest_len());
        let alg = CipherAlg::from_luks(self.alg.luks_name(), size).ok_or_else(|| {
            Error::unsupported(format!("No {family} cipher with key size {size} available"))
        })?;
        Ok(Some((alg, hash)))
    }

    /// That there is such a cipher.
    ///
    /// # Errors
    /// `Unsupported`.
    pub fn check(&self) -> Result<()> {
        if self.mode == CipherMode::Xts && self.alg.block_len() != 16 {
            return Err(Error::unsupported("Unsupported cipher mode xts"));
        }
        self.essiv().map(drop)
    }
}

impl Default for CipherSpec {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        assert!(CipherAlg::ALL.iter().all(|alg| CipherAlg::from_name(alg.name()) == Some(*alg)));
        for alg in CipherAlg::ALL {
            assert_eq!(CipherAlg::from_luks(alg.luks_name(), alg.key_len()), Some(*alg));
        }
        assert_eq!(CipherAlg::from_name("aes"), None);
        assert_eq!(Hash::from_name("sm3"), Some(Hash::Sm3));
        assert_eq!(CipherMode::from_name("XTS"), None);
    }

    #[test]
    fn essiv_needs_a_cipher_of_the_digests_size() {
        let essiv =
            |alg, hash| CipherSpec { alg, mode: CipherMode::Cbc, ivgen: IvGen::Essiv, ivgen_hash: hash };
        let found = essiv(CipherAlg::Aes128, Some(Hash::Sha256)).essiv().unwrap();
        assert_eq!(found, Some((CipherAlg::Aes256, Hash::Sha256)));
        for (alg, hash, text) in [
            (CipherAlg::Aes128, Some(Hash::Sha1), "No AES cipher with key size 20 available"),
            (CipherAlg::Serpent128, Some(Hash::Sha512), "No Serpent cipher with key size 64 available"),
            (CipherAlg::Twofish256, Some(Hash::Ripemd160), "No Twofish cipher with key size 20 available"),
            (CipherAlg::Cast5, Some(Hash::Md5), "Cipher cast5-128 not supported with essiv"),
            (CipherAlg::Aes256, None, "Missing IV generator hash specification"),
        ] {
            assert_eq!(essiv(alg, hash).essiv().unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn modes_are_written_as_headers_have_them() {
        assert_eq!(CipherSpec::DEFAULT.mode_text(), "xts-plain64");
        assert_eq!(CipherSpec::DEFAULT.key_len(), 64);
        let spec = CipherSpec { mode: CipherMode::Cbc, ivgen_hash: Some(Hash::Sha1), ..CipherSpec::DEFAULT };
        assert_eq!((spec.mode_text().as_str(), spec.key_len()), ("cbc-plain64:sha1", 32));
    }
}
