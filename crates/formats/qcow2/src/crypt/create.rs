//! The encryption of an image that is being created.

use diskimg_core::opener::Opener;
use diskimg_core::options::ParsedOptions;
use diskimg_core::{BlockDevice as _, Device, Error, ErrorKind, Result, Secrets, ZeroMode};
use diskimg_crypto::legacy_aes;
use diskimg_crypto::luks::{self, CreateOptions};

use super::{METHOD_LUKS, PREFIX, key_required};
use crate::extensions::CryptoPointer;
use crate::image::Qcow2;
use crate::options::Wanted;

/// A LUKS header with its key material, for an image that has everything else already.
pub(crate) struct NewVolume(luks::NewVolume);

/// What the new image needs beside its header; `None` where that says it all. Slow: keys are derived.
///
/// # Errors
/// A missing or unusable secret; ciphers that do not exist.
pub(crate) fn new_volume(
    wanted: &Wanted,
    options: &ParsedOptions,
    opener: &dyn Opener,
) -> Result<Option<NewVolume>> {
    if wanted.crypt_method == 0 {
        return Ok(None);
    }
    let id = options.get_str("encrypt.key-secret").ok_or_else(key_required)?;
    let secret = opener.secret(&id)?;
    let password = secret.password(&id)?;
    if wanted.crypt_method != METHOD_LUKS {
        return legacy_aes(password).map(|_| None);
    }
    luks::create(&CreateOptions::from_options(options, PREFIX)?, password)
        .map(|volume| Some(NewVolume(volume)))
}

/// Checks the values of encryption options alone. That a cipher is not to be had is told when it is needed.
///
/// # Errors
/// `InvalidArg`, with the wording that users know.
pub(crate) fn check_options(method: u32, options: &ParsedOptions) -> Result<()> {
    if method == METHOD_LUKS {
        return match CreateOptions::from_options(options, PREFIX) {
            Err(error) if error.kind() != ErrorKind::Unsupported => Err(error),
            _ => Ok(()),
        };
    }
    let known = |name: &&str| !["encrypt.format", "encrypt.key-secret"].contains(name);
    let names = options.table().iter().map(|spec| spec.name).filter(|name| name.starts_with(PREFIX));
    match names.filter(known).find(|name| options.is_given(name)) {
        Some(name) => Err(Error::invalid(format!("Parameter '{name}' is unexpected"))),
        None => Ok(()),
    }
}

/// Bytes that the LUKS header of an image with these options takes.
///
/// # Errors
/// As [`new_volume`].
pub(crate) fn area_len(options: &ParsedOptions, secrets: &Secrets) -> Result<u64> {
    let id = options.get_str("encrypt.key-secret").ok_or_else(key_required)?;
    secrets.get(&id)?.password(&id)?;
    let wanted = CreateOptions::from_options(options, PREFIX)?;
    wanted.check()?;
    Ok(wanted.area_len())
}

impl NewVolume {
    /// Gives `image` its LUKS header. Its own header says so last.
    ///
    /// # Errors
    /// The storage's.
    pub(crate) fn install(self, image: &Qcow2) -> Result<()> {
        let geo = &image.meta.geo;
        let len = self.0.area_len;
        let area = image.meta.allocate_run(geo.clusters_for(len))?.bytes(geo);
        Device::new(image.storage.clone()).write_zeroes(area, ZeroMode::KeepAllocated)?;
        image.storage.write_at(area.start, &self.0.area)?;
        image.flush()?;
        let mut header = image.meta.header();
        header.crypt_method = METHOD_LUKS;
        header.extensions.crypto = Some(CryptoPointer { offset: area.start, len });
        header.write_to(&*image.storage)?;
        image.storage.flush()
    }
}
