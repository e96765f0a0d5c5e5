//! [`Header`]: the LUKS1 header, parsed and checked in the order in which qemu-img reports what is wrong with it.
//!
//! Fields that a change of key slots does not touch are kept as the bytes that they were, so that writing a header
//! back changes the slots alone. Facts: §1 and §4 of the LUKS notes.

use diskimg_core::{Error, ErrorKind, Fields, Result};
use thiserror::Error as ThisError;

use crate::limits::{DIGEST_LEN, HEADER_AREA, HEADER_LEN, SALT_LEN, SLOTS, STRIPES};
use crate::names::{CipherAlg, CipherMode, CipherSpec, Hash, IvGen};
use crate::sector::SECTOR_LEN;

const MAGIC: [u8; 6] = *b"LUKS\xba\xbe";
const VERSION: u16 = 1;
const ACTIVE: u32 = 0x00AC_71F3;
const INACTIVE: u32 = 0x0000_DEAD;
/// Bytes of a text field.
const TEXT_LEN: usize = 32;
/// Bytes of the UUID's field.
const UUID_LEN: usize = 40;
/// [`SECTOR_LEN`] as offsets have it.
pub(crate) const SECTOR: u64 = SECTOR_LEN as u64;

/// What is wrong with a header.
#[derive(Debug, ThisError)]
enum Bad {
    #[error("Volume is not in LUKS format")]
    Magic,
    #[error("LUKS version {0} is not supported")]
    Version(u16),
    #[error("LUKS header {0} is not NUL terminated")]
    NotTerminated(&'static str),
    #[error("LUKS payload is overlapping with the header")]
    Payload,
    #[error("LUKS key iteration count is zero")]
    Iterations,
    #[error("Keyslot {0} is corrupted (stripes {1} != {STRIPES})")]
    Stripes(usize, i32),
    #[error("Keyslot {0} state (active/disable) is corrupted")]
    State(usize),
    #[error("Keyslot {0} iteration count is zero")]
    SlotIterations(usize),
    #[error("Keyslot {0} is overlapping with the LUKS header")]
    InHeader(usize),
    #[error("Keyslot {0} is overlapping with the encrypted payload")]
    InPayload(usize),
    #[error("Keyslots {0} and {1} are overlapping in the header")]
    Overlap(usize, usize),
    #[error("Unexpected cipher mode string format '{0}'")]
    ModeFormat(String),
    #[error("Hash algorithm '{0}' not supported")]
    Hash(String),
    #[error("Cipher mode '{0}' not supported")]
    Mode(String),
    #[error("Algorithm '{0}' with key size {1} bytes not supported")]
    Cipher(String, u64),
    #[error("IV generator '{0}' not supported")]
    IvGen(String),
}

impl From<Bad> for Error {
    fn from(bad: Bad) -> Self {
        let kind = match bad {
            Bad::Magic => ErrorKind::NotThisFormat,
            Bad::Version(_) | Bad::Hash(_) | Bad::Mode(_) | Bad::Cipher(..) | Bad::IvGen(_) => {
                ErrorKind::Unsupported
            }
            _ => ErrorKind::Corrupt,
        };
        Self::new(kind, bad.to_string())
    }
}

/// Where the payload of a header is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// Behind the header and the key material, on the same device.
    #[default]
    Attached,
    /// On another device, from its start on.
    Detached,
}

/// A place for the master key under one password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySlot {
    /// It holds the key.
    pub active: bool,
    /// Iterations of the derivation.
    pub iterations: u32,
    /// Salt of the derivation.
    pub salt: [u8; SALT_LEN],
    /// Where the key material is, in sectors from the header's start on.
    pub material_sector: u32,
}

impl KeySlot {
    /// Where the key material is, in bytes from the header's start on.
    #[must_use]
    pub const fn material_offset(&self) -> u64 {
        self.material_sector as u64 * SECTOR
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let state = if self.active { ACTIVE } else { INACTIVE };
        out.extend_from_slice(&state.to_be_bytes());
        out.extend_from_slice(&self.iterations.to_be_bytes());
        out.extend_from_slice(&self.salt);
        out.extend_from_slice(&self.material_sector.to_be_bytes());
        out.extend_from_slice(&STRIPES.to_be_bytes());
    }
}

/// A LUKS1 header whose every field was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub(crate) cipher_name: [u8; TEXT_LEN],
    pub(crate) cipher_mode: [u8; TEXT_LEN],
    pub(crate) hash_spec: [u8; TEXT_LEN],
    pub(crate) payload_sector: u32,
    pub(crate) key_len: u32,
    pub(crate) key_digest: [u8; DIGEST_LEN],
    pub(crate) key_salt: [u8; SALT_LEN],
    pub(crate) key_iterations: u32,
    pub(crate) uuid: [u8; UUID_LEN],
    pub(crate) slots: [KeySlot; SLOTS],
    pub(crate) spec: CipherSpec,
    pub(crate) hash: Hash,
    pub(crate) placement: Placement,
}

/// True if a file that starts with `head` is a LUKS1 volume.
#[must_use]
pub fn is_luks(head: &[u8]) -> bool {
    let mut fields = Fields::new(head);
    fields.array() == Some(MAGIC) && fields.u16_be() == Some(VERSION)
}

impl Header {
    /// Parses the first [`HEADER_LEN`] bytes of `bytes`; what is missing counts as zeros.
    ///
    /// # Errors
    /// `NotThisFormat`, `Corrupt` or `Unsupported`, in qemu-img's words and order.
    pub fn parse(bytes: &[u8], placement: Placement) -> Result<Self> {
        let mut padded = [0; HEADER_LEN];
        for (byte, given) in padded.iter_mut().zip(bytes) {
            *byte = *given;
        }
        let parsed = parse_fields(&padded, placement).unwrap_or(Err(Bad::Magic))?;
        parsed.spec.essiv()?;
        Ok(parsed)
    }

    /// The header on disk: [`HEADER_LEN`] bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_be_bytes());
        for text in [&self.cipher_name, &self.cipher_mode, &self.hash_spec] {
            out.extend_from_slice(text);
        }
        out.extend_from_slice(&self.payload_sector.to_be_bytes());
        out.extend_from_slice(&self.key_len.to_be_bytes());
        out.extend_from_slice(&self.key_digest);
        out.extend_from_slice(&self.key_salt);
        out.extend_from_slice(&self.key_iterations.to_be_bytes());
        out.extend_from_slice(&self.uuid);
        for slot in &self.slots {
            slot.encode(&mut out);
        }
        out
    }

    /// How the payload and the key material are encrypted.
    #[must_use]
    pub const fn spec(&self) -> &CipherSpec {
        &self.spec
    }

    /// The hash of key derivation and splitting.
    #[must_use]
    pub const fn hash(&self) -> Hash {
        self.hash
    }

    /// Bytes of the master key.
    #[must_use]
    pub fn key_len(&self) -> usize {
        self.key_len as usize
    }

    /// Where the payload starts, in bytes from the header's start on; 0 in a detached header.
    #[must_use]
    pub const fn payload_offset(&self) -> u64 {
        self.payload_sector as u64 * SECTOR
    }

    /// Bytes that header and key material take: those in front of the payload, or all of a detached header.
    #[must_use]
    pub fn header_len(&self) -> u64 {
        let step = material_step(self.key_len.into());
        let ends = self.slots.iter().map(|slot| slot.material_offset().saturating_add(step));
        ends.max().unwrap_or(0).max(self.payload_offset()).max(HEADER_AREA)
    }

    /// Where its payload is.
    #[must_use]
    pub const fn placement(&self) -> Placement {
        self.placement
    }

    /// The UUID's text.
    #[must_use]
    pub fn uuid(&self) -> String {
        text(&self.uuid)
    }

    /// The key slots.
    #[must_use]
    pub const fn slots(&self) -> &[KeySlot; SLOTS] {
        &self.slots
    }

    /// Bytes of the key material of a slot.
    #[must_use]
    pub fn material_len(&self) -> u64 {
        u64::from(self.key_len) * u64::from(STRIPES)
    }
}

/// Bytes from one slot's material to the next one's: what a slot is taken to occupy.
pub(super) fn material_step(key_len: u64) -> u64 {
    (key_len * u64::from(STRIPES)).next_multiple_of(HEADER_AREA)
}

/// A field up to its first NUL.
fn text(field: &[u8]) -> String {
    let bytes = field.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}

/// `None` if there are too few bytes.
fn parse_fields(bytes: &[u8; HEADER_LEN], placement: Placement) -> Option<Result<Header, Bad>> {
    let mut fields = Fields::new(bytes);
    let (magic, version) = (fields.array::<6>()?, fields.u16_be()?);
    if magic != MAGIC {
        return Some(Err(Bad::Magic));
    }
    if version != VERSION {
        return Some(Err(Bad::Version(version)));
    }
    let (cipher_name, cipher_mode, hash_spec) = (fields.array()?, fields.array()?, fields.array()?);
    let (payload_sector, key_len) = (fields.u32_be()?, fields.u32_be()?);
    let (key_digest, key_salt) = (fields.array()?, fields.array()?);
    let (key_iterations, uuid) = (fields.u32_be()?, fields.array()?);
    let texts = [(&cipher_name, "cipher name"), (&cipher_mode, "cipher mode"), (&hash_spec, "hash spec")];
    if let Some((_, what)) = texts.into_iter().find(|(text, _): &(&[u8; TEXT_LEN], _)| !text.contains(&0)) {
        return Some(Err(Bad::NotTerminated(what)));
    }
    let slots = match parse_slots(&mut fields, placement, payload_sector, key_len, key_iterations)? {
        Ok(slots) => slots,
        Err(bad) => return Some(Err(bad)),
    };
    let (spec, hash) = match parse_names(&cipher_name, &cipher_mode, &hash_spec, key_len) {
        Ok(found) => found,
        Err(bad) => return Some(Err(bad)),
    };
    Some(Ok(Header {
        cipher_name,
        cipher_mode,
        hash_spec,
        payload_sector,
        key_len,
        key_digest,
        key_salt,
        key_iterations,
        uuid,
        slots,
        spec,
        hash,
        placement,
    }))
}

/// A key slot as it stands on disk.
#[derive(Clone, Copy, Default)]
struct RawSlot {
    state: u32,
    iterations: u32,
    salt: [u8; SALT_LEN],
    material_sector: u32,
    stripes: u32,
}

impl RawSlot {
    fn parse(fields: &mut Fields<'_>) -> Option<Self> {
        let (state, iterations, salt) = (fields.u32_be()?, fields.u32_be()?, fields.array()?);
        Some(Self { state, iterations, salt, material_sector: fields.u32_be()?, stripes: fields.u32_be()? })
    }
}

fn parse_slots(
    fields: &mut Fields<'_>,
    placement: Placement,
    payload_sector: u32,
    key_len: u32,
    key_iterations: u32,
) -> Option<Result<[KeySlot; SLOTS], Bad>> {
    if placement == Placement::Attached && u64::from(payload_sector) < HEADER_AREA / SECTOR {
        return Some(Err(Bad::Payload));
    }
    if key_iterations == 0 {
        return Some(Err(Bad::Iterations));
    }
    let mut raw = [RawSlot::default(); SLOTS];
    for slot in &mut raw {
        *slot = RawSlot::parse(fields)?;
    }
    let end = match placement {
        Placement::Attached => u64::from(payload_sector),
        Placement::Detached => u64::MAX,
    };
    // In 32 bits, as qemu-img counts: a key that is too long for them is refused for its length, in its turn.
    let len = u64::from(key_len.wrapping_mul(STRIPES)).next_multiple_of(HEADER_AREA) / SECTOR;
    let mut slots = Vec::with_capacity(SLOTS);
    for number in 0..SLOTS {
        match check_slot(&raw, number, len, end) {
            Ok(slot) => slots.push(slot),
            Err(bad) => return Some(Err(bad)),
        }
    }
    slots.try_into().ok().map(Ok)
}

/// All checks of slot `number`, in their order. `len` (sectors) is that of key material, `end` where it has to end.
fn check_slot(all: &[RawSlot; SLOTS], number: usize, len: u64, end: u64) -> Result<KeySlot, Bad> {
    let slot = all.get(number).copied().unwrap_or_default();
    if slot.stripes != STRIPES {
        return Err(Bad::Stripes(number, slot.stripes.cast_signed()));
    }
    if slot.state != ACTIVE && slot.state != INACTIVE {
        return Err(Bad::State(number));
    }
    let active = slot.state == ACTIVE;
    if active && slot.iterations == 0 {
        return Err(Bad::SlotIterations(number));
    }
    let start = u64::from(slot.material_sector);
    if start < HEADER_AREA / SECTOR {
        return Err(Bad::InHeader(number));
    }
    if start.saturating_add(len) > end {
        return Err(Bad::InPayload(number));
    }
    for (other, later) in all.iter().enumerate().skip(number + 1) {
        let other_start = u64::from(later.material_sector);
        if start < other_start.saturating_add(len) && other_start < start.saturating_add(len) {
            return Err(Bad::Overlap(number, other));
        }
    }
    let RawSlot { iterations, salt, material_sector, .. } = slot;
    Ok(KeySlot { active, iterations, salt, material_sector })
}

/// The cipher and the hash that the texts name. `key_len` is that of the master key.
fn parse_names(cipher: &[u8], mode: &[u8], hash: &[u8], key_len: u32) -> Result<(CipherSpec, Hash), Bad> {
    let (cipher, full_mode, hash) = (text(cipher), text(mode), text(hash));
    let Some((mode, ivgen)) = full_mode.split_once('-') else {
        return Err(Bad::ModeFormat(full_mode));
    };
    let known_hash = |name: &str| Hash::from_name(name).ok_or_else(|| Bad::Hash(name.to_owned()));
    let (ivgen, ivgen_hash) = match ivgen.split_once(':') {
        Some((ivgen, hash)) => (ivgen, Some(known_hash(hash)?)),
        None => (ivgen, None),
    };
    let mode = CipherMode::from_name(mode).ok_or_else(|| Bad::Mode(mode.to_owned()))?;
    let cipher_key_len = if mode == CipherMode::Xts { key_len / 2 } else { key_len };
    let alg = usize::try_from(cipher_key_len)
        .ok()
        .and_then(|len| CipherAlg::from_luks(&cipher, len))
        .ok_or_else(|| Bad::Cipher(cipher, cipher_key_len.into()))?;
    let hash = known_hash(&hash)?;
    let ivgen = IvGen::from_name(ivgen).ok_or_else(|| Bad::IvGen(ivgen.to_owned()))?;
    Ok((CipherSpec { alg, mode, ivgen, ivgen_hash }, hash))
}

#[cfg(test)]
mod tests;
