//! [`SecretObject`]: a secret as programs are given it, on a command line for instance: inline or in a file, raw or
//! base64, in clear or encrypted with another secret. Rules and messages: §7 of the LUKS notes.

use std::fmt;

use cipher::{BlockCipherDecrypt, KeyInit, array::Array};
use diskimg_core::{Error, Result, Secret, Secrets, strerror};
use zeroize::{Zeroize, Zeroizing};

use crate::base64;

/// What objects of this kind are called.
const KIND: &str = "secret";
/// Bytes of the key that secrets are wrapped with.
const KEY_LEN: usize = 32;
/// Bytes of a block of AES.
const BLOCK: usize = 16;

/// Where the value is.
#[derive(Clone)]
enum Value {
    Inline(Zeroizing<String>),
    File(String),
}

/// A secret that has been described, and not been read yet.
///
/// ```
/// use diskimg_core::Secrets;
/// use diskimg_crypto::SecretObject;
///
/// let mut secrets = Secrets::default();
/// SecretObject::new([("id", "disk"), ("data", "aHVudGVyMg=="), ("format", "base64")])?.add_to(&mut secrets)?;
/// assert_eq!(secrets.get("disk")?.bytes(), b"hunter2");
/// # Ok::<(), diskimg_core::Error>(())
/// ```
#[derive(Clone)]
pub struct SecretObject {
    id: String,
    value: Value,
    base64: bool,
    wrapping: Option<String>,
    iv: Option<String>,
}

impl fmt::Debug for SecretObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretObject").field("id", &self.id).finish_non_exhaustive()
    }
}

impl SecretObject {
    /// The names of its properties.
    pub const PROPERTIES: &'static [&'static str] =
        &["qom-type", "id", "data", "file", "format", "iv", "keyid"];

    /// From properties with their values; of several with one name the last counts.
    ///
    /// | property | meaning |
    /// |---|---|
    /// | `id` | the identifier: a letter, then letters, digits, `-._` |
    /// | `data` | the value |
    /// | `file` | the file whose whole content is the value |
    /// | `format` | `raw` or `base64`: how the value is written |
    /// | `keyid` | the secret of 32 bytes that the value is encrypted with (AES-256-CBC, padded) |
    /// | `iv` | the IV of that, base64 |
    /// | `qom-type` | `secret`, if given |
    ///
    /// # Errors
    /// `InvalidArg` in qemu-img's words.
    pub fn new<'a>(properties: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let properties: Vec<_> = properties.into_iter().collect();
        let get = |name: &str| {
            let of_name = |(known, value): &(&str, &'a str)| (*known == name).then_some(*value);
            properties.iter().rev().find_map(of_name)
        };
        if let Some(kind) = get("qom-type").filter(|kind| *kind != KIND) {
            return Err(Error::invalid(format!("Parameter 'qom-type' does not accept value '{kind}'")));
        }
        let id = get("id").ok_or_else(|| Error::invalid("Parameter 'id' is missing"))?;
        let base64 = match get("format") {
            None | Some("raw") => false,
            Some("base64") => true,
            Some(other) => {
                return Err(Error::invalid(format!("Parameter 'format' does not accept value '{other}'")));
            }
        };
        if let Some((unknown, _)) = properties.iter().find(|(name, _)| !Self::PROPERTIES.contains(name)) {
            return Err(Error::invalid(format!("Parameter '{unknown}' is unexpected")));
        }
        check_id(id)?;
        let value = match (get("data"), get("file")) {
            (Some(_), Some(_)) => return Err(Error::invalid("'file' and 'data' are mutually exclusive")),
            (Some(data), None) => Value::Inline(Zeroizing::new(data.to_owned())),
            (None, Some(file)) => Value::File(file.to_owned()),
            (None, None) => return Err(Error::invalid("Either 'file' or 'data' must be provided")),
        };
        let owned = |name| get(name).map(str::to_owned);
        Ok(Self { id: id.to_owned(), value, base64, wrapping: owned("keyid"), iv: owned("iv") })
    }

    /// Its identifier.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Reads and decodes it, and puts it among `secrets`, of which one may be the key that it is encrypted with.
    ///
    /// # Errors
    /// `InvalidArg` if its identifier is taken, and for all that is wrong with its value; the host's.
    pub fn add_to(&self, secrets: &mut Secrets) -> Result<()> {
        let secret = self.load(secrets)?;
        if secrets.add(&self.id, secret) {
            return Ok(());
        }
        let id = &self.id;
        Err(Error::invalid(format!("attempt to add duplicate property '{id}' to object (type 'container')")))
    }

    /// Reads and decodes it.
    ///
    /// # Errors
    /// As [`SecretObject::add_to`].
    pub fn load(&self, secrets: &Secrets) -> Result<Secret> {
        let stored = match &self.value {
            Value::Inline(text) => Zeroizing::new(text.as_bytes().to_vec()),
            Value::File(name) => read_file(name)?,
        };
        let mut value = match &self.wrapping {
            Some(keyid) if *keyid == self.id => {
                return Err(Error::invalid(format!("Secret with id '{keyid}' has no data")));
            }
            Some(keyid) => {
                let wrapped = Wrapped::new(secrets, keyid, self.iv.as_deref())?;
                let sealed = if self.base64 { base64::decode(&stored)? } else { stored };
                wrapped.open(sealed)?
            }
            None if self.base64 => base64::decode(&stored)?,
            None => stored,
        };
        Ok(Secret::new(std::mem::take(&mut *value)))
    }
}

fn check_id(id: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if id.starts_with(|c: char| c.is_ascii_alphabetic()) && id.chars().all(allowed) {
        return Ok(());
    }
    let hint = "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.";
    Err(Error::invalid("Parameter 'id' expects an identifier").with_hint(hint))
}

fn read_file(name: &str) -> Result<Zeroizing<Vec<u8>>> {
    let fail = |doing: &str, error: std::io::Error| {
        let reason = strerror(Error::from(error).errno());
        Error::new(diskimg_core::ErrorKind::Io, format!("Unable to read {name}: {doing} “{name}”: {reason}"))
    };
    let file = std::fs::File::open(name).map_err(|error| fail("Failed to open file", error))?;
    // Room for all of it at once: a buffer that grows leaves copies behind.
    let len = file.metadata().map_or(0, |metadata| metadata.len());
    let mut value = Zeroizing::new(Vec::with_capacity(usize::try_from(len).unwrap_or(0).saturating_add(1)));
    std::io::Read::read_to_end(&mut &file, &mut value).map_err(|error| fail("Error reading file", error))?;
    Ok(value)
}

/// The key and IV that a secret is encrypted with.
struct Wrapped {
    key: Secret,
    iv: [u8; BLOCK],
}

impl Wrapped {
    fn new(secrets: &Secrets, keyid: &str, iv: Option<&str>) -> Result<Self> {
        let key = secrets.get(keyid)?;
        if key.bytes().len() != KEY_LEN {
            return Err(Error::invalid(format!("Key should be {KEY_LEN} bytes in length")));
        }
        let iv = iv.ok_or_else(|| Error::invalid("IV is required to decrypt secret"))?;
        let iv = base64::decode(iv.as_bytes())?;
        let iv: [u8; BLOCK] = iv
            .as_slice()
            .try_into()
            .map_err(|_| Error::invalid(format!("IV should be {BLOCK} bytes in length not {}", iv.len())))?;
        Ok(Self { key, iv })
    }

    fn open(&self, mut value: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>> {
        let len = value.len();
        if !len.is_multiple_of(BLOCK) {
            return Err(Error::invalid(format!("Length {len} must be a multiple of block size {BLOCK}")));
        }
        let cipher = aes::Aes256::new_from_slice(self.key.bytes())
            .map_err(|_| Error::invalid(format!("Key should be {KEY_LEN} bytes in length")))?;
        let mut before = self.iv;
        for block in value.as_chunks_mut::<BLOCK>().0 {
            let sealed = *block;
            cipher.decrypt_block(Array::cast_from_core_mut(block));
            for (byte, mask) in block.iter_mut().zip(before) {
                *byte ^= mask;
            }
            before = sealed;
        }
        // The padding's bytes all have its length; the last one alone is looked at.
        let padding = value.last().copied().unwrap_or(0);
        let Some(kept) = len.checked_sub(padding.into()).filter(|_| usize::from(padding) <= BLOCK) else {
            let text = format!("Incorrect number of padding bytes ({padding}) found on decrypted data");
            return Err(Error::invalid(text));
        };
        value.get_mut(kept..).unwrap_or_default().zeroize();
        value.truncate(kept);
        Ok(value)
    }
}

#[cfg(test)]
mod tests;
