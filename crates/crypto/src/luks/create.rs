//! New volumes: their options, and header and key material of a fresh key.

use diskimg_core::options::ParsedOptions;
use diskimg_core::{Error, Result, Task, to_usize};

use super::header::{Header, KeySlot, Placement, SECTOR, material_step};
use super::kdf;
use super::key::{MasterKey, fill_random};
use crate::hash::pbkdf2;
use crate::limits::{DEFAULT_ITER_TIME, DIGEST_LEN, HEADER_AREA, SALT_LEN, SLOTS};
use crate::names::{CipherAlg, CipherMode, CipherSpec, Hash, IvGen, UNSUPPORTED_CIPHERS};
use crate::sector::SectorCipher;

/// The master key's digest is derived in this part of the time that a slot takes.
const DIGEST_SHARE: u64 = 8;

/// What a new volume shall be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    /// How it is encrypted.
    pub spec: CipherSpec,
    /// The hash of key derivation and splitting.
    pub hash: Hash,
    /// Milliseconds that it shall take to derive the key of a slot.
    pub iter_time: u64,
    /// Where the payload will be.
    pub placement: Placement,
}

impl Default for CreateOptions {
    /// aes-256-xts-plain64, sha256, two seconds.
    fn default() -> Self {
        let placement = Placement::Attached;
        Self { spec: CipherSpec::DEFAULT, hash: Hash::Sha256, iter_time: DEFAULT_ITER_TIME, placement }
    }
}

/// The value of an enumeration, from the option called `prefix` + `name`.
fn choice<T>(
    options: &ParsedOptions,
    prefix: &str,
    name: &str,
    from_name: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>> {
    let Some(text) = options.get_str(&format!("{prefix}{name}")) else {
        return Ok(None);
    };
    let value = from_name(&text);
    value
        .map(Some)
        .ok_or_else(|| Error::invalid(format!("Parameter '{name}' does not accept value '{text}'")))
}

impl CreateOptions {
    /// From the options `cipher-alg`, `cipher-mode`, `ivgen-alg`, `ivgen-hash-alg`, `hash-alg` and `iter-time`, each
    /// with `prefix` (`""`, or `"encrypt."` in qcow2) in front of it.
    ///
    /// # Errors
    /// `InvalidArg` for names that do not exist, in qemu-img's words.
    pub fn from_options(options: &ParsedOptions, prefix: &str) -> Result<Self> {
        let mut made = Self::default();
        let alg = choice(options, prefix, "cipher-alg", |name| match CipherAlg::from_name(name) {
            Some(alg) => Some(Ok(alg)),
            None => UNSUPPORTED_CIPHERS.contains(&name).then(|| Err(name.to_owned())),
        })?;
        let mode = choice(options, prefix, "cipher-mode", CipherMode::from_name)?;
        let ivgen = choice(options, prefix, "ivgen-alg", IvGen::from_name)?;
        let ivgen_hash = choice(options, prefix, "ivgen-hash-alg", Hash::from_name)?;
        let hash = choice(options, prefix, "hash-alg", Hash::from_name)?;
        made.iter_time = options.get_number(&format!("{prefix}iter-time")).unwrap_or(made.iter_time);
        made.spec = CipherSpec {
            alg: match alg {
                Some(Err(name)) => {
                    return Err(Error::unsupported(format!("Algorithm '{name}' not supported")));
                }
                Some(Ok(alg)) => alg,
                None => made.spec.alg,
            },
            mode: mode.unwrap_or(made.spec.mode),
            ivgen: ivgen.unwrap_or(made.spec.ivgen),
            ivgen_hash: match (ivgen, ivgen_hash) {
                (Some(IvGen::Essiv), None) => Some(Hash::Sha256),
                (_, hash) => hash,
            },
        };
        made.hash = hash.unwrap_or(made.hash);
        Ok(made)
    }

    /// Bytes that header and key material will take: where the payload starts.
    #[must_use]
    pub fn area_len(&self) -> u64 {
        HEADER_AREA + material_step(self.spec.key_len() as u64) * SLOTS as u64
    }

    /// That there is such a cipher.
    ///
    /// # Errors
    /// `Unsupported`.
    pub fn check(&self) -> Result<()> {
        self.spec.check()
    }
}

/// A new volume's header and key material, to be written where it shall start.
#[derive(Debug)]
pub struct NewVolume {
    /// The first bytes of the area: header and the material of the first slot. What follows is zeros.
    pub area: Vec<u8>,
    /// Bytes of the whole area.
    pub area_len: u64,
    /// The header.
    pub header: Header,
    /// The key of the payload.
    pub key: MasterKey,
    /// The cipher of the payload with that key.
    pub cipher: SectorCipher,
}

/// Makes a volume with a random key, which `password` opens.
///
/// # Errors
/// `Unsupported` for a cipher that does not exist; `Limit` if the time asks for too many iterations.
pub fn create(options: &CreateOptions, password: &[u8]) -> Result<NewVolume> {
    options.check()?;
    let key = MasterKey::random(options.spec.key_len())?;
    let cipher = SectorCipher::new(&options.spec, key.bytes())?;
    let mut header = unlocked_header(options)?;
    header.key_iterations = kdf::iterations(options.hash, DIGEST_LEN, options.iter_time, DIGEST_SHARE)?;
    let mut digest = [0; DIGEST_LEN];
    let task = Task::quiet();
    pbkdf2(options.hash, key.bytes(), &header.key_salt, header.key_iterations, &mut digest, &task)?;
    header.key_digest = digest;

    let mut salt = [0; SALT_LEN];
    fill_random(&mut salt)?;
    let iterations = kdf::iterations(options.hash, key.bytes().len(), options.iter_time, 1)?;
    let material = header.seal(&key, password, &salt, iterations)?;
    if let Some(slot) = header.slots.first_mut() {
        *slot = KeySlot { active: true, iterations, salt, ..*slot };
    }
    let mut area = header.encode();
    area.resize(to_usize(HEADER_AREA), 0);
    area.extend_from_slice(&material);
    Ok(NewVolume { area, area_len: options.area_len(), header, key, cipher })
}

/// A header with salts and places, and no active slot.
fn unlocked_header(options: &CreateOptions) -> Result<Header> {
    let step = material_step(options.spec.key_len() as u64);
    let sectors =
        |bytes: u64| u32::try_from(bytes / SECTOR).map_err(|_| Error::limit("LUKS header too large"));
    let mut slots =
        [KeySlot { active: false, iterations: 0, salt: [0; SALT_LEN], material_sector: 0 }; SLOTS];
    for (number, slot) in (0_u64..).zip(&mut slots) {
        slot.material_sector = sectors(HEADER_AREA + number * step)?;
    }
    let mut key_salt = [0; SALT_LEN];
    fill_random(&mut key_salt)?;
    Ok(Header {
        cipher_name: field(options.spec.alg.luks_name()),
        cipher_mode: field(&options.spec.mode_text()),
        hash_spec: field(options.hash.name()),
        payload_sector: match options.placement {
            Placement::Attached => sectors(options.area_len())?,
            Placement::Detached => 0,
        },
        key_len: u32::try_from(options.spec.key_len())
            .map_err(|_| Error::limit("LUKS master key too large"))?,
        key_digest: [0; DIGEST_LEN],
        key_salt,
        key_iterations: 0,
        uuid: field(&random_uuid()?),
        slots,
        spec: options.spec,
        hash: options.hash,
        placement: options.placement,
    })
}

/// A text in a field of `N` bytes, padded with zeros.
fn field<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    for (byte, given) in bytes.iter_mut().zip(text.bytes()) {
        *byte = given;
    }
    bytes
}

/// A random UUID (version 4) as text.
fn random_uuid() -> Result<String> {
    let mut bytes = [0; 16];
    fill_random(&mut bytes)?;
    let bits = u128::from_be_bytes(bytes);
    let bits = (bits & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let digits = format!("{bits:032x}");
    let mut text = String::with_capacity(36);
    for (at, digit) in digits.chars().enumerate() {
        if matches!(at, 8 | 12 | 16 | 20) {
            text.push('-');
        }
        text.push(digit);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_have_their_version_and_variant() {
        let uuid = random_uuid().unwrap();
        assert_eq!((uuid.len(), uuid.as_bytes()[14]), (36, b'4'));
        assert!(b"89ab".contains(&uuid.as_bytes()[19]), "{uuid}");
    }

    #[test]
    fn areas_have_the_sizes_that_qemu_img_gives_them() {
        for (alg, mode, len) in [
            (CipherAlg::Aes256, CipherMode::Xts, 2_068_480),
            (CipherAlg::Aes192, CipherMode::Xts, 1_544_192),
            (CipherAlg::Aes128, CipherMode::Xts, 1_052_672),
            (CipherAlg::Aes128, CipherMode::Cbc, 528_384),
        ] {
            let spec = CipherSpec { alg, mode, ..CipherSpec::DEFAULT };
            assert_eq!(CreateOptions { spec, ..CreateOptions::default() }.area_len(), len);
        }
    }
}
