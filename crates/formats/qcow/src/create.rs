//! Creating images.

use diskimg_core::driver::CreateContext;
use diskimg_core::options::OptKind::{Bool, Str};
use diskimg_core::options::{OptSpec, ParsedOptions};
use diskimg_core::{Error, Result, align_up, errno, extend_to};
use diskimg_crypto::legacy_aes;

use crate::crypt::{FORMAT, key_required};
use crate::header::{AES, HEADER_LEN, Header, QcowError};
use crate::limits::{MAX_BACKING_NAME, SECTOR};

/// The create options.
pub(crate) const OPTIONS: &[OptSpec] = &[
    OptSpec::SIZE,
    OptSpec::create("backing_file", Str, "File name of a base image"),
    OptSpec::create("backing_fmt", Str, "Format of the backing image"),
    OptSpec::create(
        "encryption",
        Bool,
        "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
    ),
    OptSpec::create("encrypt.format", Str, "Encrypt the image, format choices: 'aes'"),
    OptSpec::create("encrypt.key-secret", Str, "ID of the secret that provides the AES encryption key"),
];

/// Encryption formats of the option's type. Only the first is one of this format.
const FORMATS: [&str; 2] = [FORMAT, "luks"];
/// A name that has always stood for a backing file that is none.
const NO_BACKING: &str = "fat:";
/// log2 of clusters and tables without a backing file: 4 KiB each.
const PLAIN: (u8, u8) = (12, 9);
/// The same with one: clusters of a sector, so that a write never needs what is below it.
const OVERLAY: (u8, u8) = (9, 12);

/// True if the image is to be encrypted.
fn is_encrypted(options: &ParsedOptions) -> Result<bool> {
    let format = options.get_str("encrypt.format");
    if options.get_bool("encryption") && format.is_some() {
        return Err(Error::invalid(
            "'encrypt.format' and its alias 'encryption' can't be used at the same time",
        ));
    }
    match format {
        Some(format) if !FORMATS.contains(&format.as_str()) => {
            Err(Error::invalid(format!("Parameter 'format' does not accept value '{format}'")))
        }
        Some(_) => Ok(true),
        None if options.get_bool("encryption") => Ok(true),
        None if options.is_given("encrypt.key-secret") => {
            Err(Error::invalid("Parameter 'encrypt.format' is missing"))
        }
        None => Ok(false),
    }
}

/// The header of the image, and the name of the backing file.
fn wanted(options: &ParsedOptions) -> Result<(Header, String)> {
    let encrypted = is_encrypted(options)?;
    let size = align_up(options.get_number("size").unwrap_or(0), SECTOR).unwrap_or(u64::MAX);
    if size == 0 {
        return Err(Error::invalid("Image size is too small, cannot be zero length"));
    }
    if options.get_str("encrypt.format").is_some_and(|format| format != FORMAT) {
        return Err(Error::unsupported("Unsupported encryption format"));
    }
    if encrypted && !options.is_given("encrypt.key-secret") {
        return Err(key_required());
    }
    let given = options.get_str("backing_file").filter(|name| !name.is_empty());
    let (cluster_bits, l2_bits) = if given.is_some() { OVERLAY } else { PLAIN };
    let name = given.filter(|name| name != NO_BACKING).unwrap_or_default();
    let backing_size = u32::try_from(name.len()).unwrap_or(u32::MAX);
    if backing_size > MAX_BACKING_NAME {
        // Nobody could open the image.
        return Err(QcowError::BackingName.into());
    }
    let behind_header = HEADER_LEN as u64;
    let header = Header {
        backing_offset: if name.is_empty() { 0 } else { behind_header },
        backing_size,
        size,
        cluster_bits,
        l2_bits,
        crypt_method: if encrypted { AES } else { 0 },
        l1_offset: (behind_header + u64::from(backing_size)).next_multiple_of(8),
    };
    header.check_size().map_err(|error| Error::from(error).with_errno(errno::EFBIG))?;
    Ok((header, name))
}

/// Checks what can be checked before a file is touched.
pub(crate) fn validate(options: &ParsedOptions) -> Result<()> {
    wanted(options).map(|_| ())
}

/// Makes the image in an empty storage.
pub(crate) fn create(context: &CreateContext<'_>) -> Result<()> {
    let (header, name) = wanted(context.options)?;
    if header.crypt_method == AES {
        let id = context.options.get_str("encrypt.key-secret").ok_or_else(key_required)?;
        legacy_aes(context.opener.secret(&id)?.password(&id)?)?;
    }
    let mut bytes = header.encode();
    bytes.extend(name.as_bytes());
    let failed = |error: Error| error.summarised("Could not create image");
    context.storage.write_at(0, &bytes).map_err(failed)?;
    // The L1 table is written in whole sectors, from wherever it begins.
    let len = (header.l1_end() - header.l1_offset).next_multiple_of(SECTOR);
    extend_to(&context.storage, header.l1_offset + len).map_err(failed)?;
    context.storage.flush()
}
