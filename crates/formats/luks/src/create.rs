//! Creating and measuring volumes.
//!
//! What is wrong with options is told in qemu-img's order: names of ciphers, options that do not go together, how space
//! is provided, a missing secret, and then, when the key is made, an unknown secret or a cipher that does not exist.

use diskimg_core::driver::{CreateContext, Measure, MeasureInput};
use diskimg_core::options::ParsedOptions;
use diskimg_core::{Error, ErrorKind, Prealloc, Result, check_len};
use diskimg_crypto::luks::{self, CreateOptions};

use crate::key_required;
use crate::limits::MAX_FILE;
use crate::options::{DETACHED_HEADER, KEY_SECRET};

/// How space is provided. Tables there are none.
fn prealloc(options: &ParsedOptions) -> Result<Prealloc> {
    let Some(name) = options.get_str("preallocation") else { return Ok(Prealloc::Off) };
    match Prealloc::from_name(&name) {
        Some(Prealloc::Metadata) => Ok(Prealloc::Off),
        Some(mode) => Ok(mode),
        None => Err(Error::invalid(format!("invalid parameter value: {name}"))),
    }
}

/// The name of the secret.
fn secret_id(options: &ParsedOptions) -> Result<String> {
    options.get_str(KEY_SECRET).ok_or_else(key_required)
}

/// Checks what can be checked without a secret.
pub(crate) fn validate(options: &ParsedOptions) -> Result<()> {
    if let Err(error) = CreateOptions::from_options(options, "")
        && error.kind() != ErrorKind::Unsupported
    {
        return Err(error);
    }
    if options.is_given(DETACHED_HEADER) {
        return Err(Error::invalid(format!("Parameter '{DETACHED_HEADER}' is unexpected")));
    }
    prealloc(options)?;
    secret_id(options).map(|_| ())
}

/// Bytes of the file: `area` for header and key material, and a disk of `size`, which is not rounded.
fn file_len(area: u64, size: u64) -> Result<u64> {
    let too_large = || Error::invalid("The requested file size is too large");
    area.checked_add(size).filter(|len| *len <= MAX_FILE).ok_or_else(too_large)
}

/// Makes the volume in an empty storage. Slow: keys are derived. What the payload reads as is noise, for the zeros of
/// the host are decrypted too.
pub(crate) fn create(context: &CreateContext<'_>) -> Result<()> {
    let (options, storage) = (context.options, &context.storage);
    let id = secret_id(options)?;
    let secret = context.opener.secret(&id)?;
    let password = secret.password(&id)?;
    let wanted = CreateOptions::from_options(options, "")?;
    wanted.check()?;
    let len = file_len(wanted.area_len(), options.get_number("size").unwrap_or(0))?;
    check_len(len)?;
    let prealloc = prealloc(options)?;
    let volume = luks::create(&wanted, password)?;
    if storage.limits().growable {
        storage.set_len(len, prealloc)?;
    } else if prealloc != Prealloc::Off {
        return Err(Error::unsupported(format!("Unsupported preallocation mode '{}'", prealloc.name())));
    } else if len > storage.len() {
        return Err(Error::unsupported("Cannot grow device files"));
    }
    let written = storage.write_at(0, &volume.area);
    written.map_err(|error| error.summarised("Could not write encryption header"))?;
    storage.flush()
}

/// What a volume takes: all of it, at once.
pub(crate) fn measure(input: &MeasureInput<'_>) -> Result<Measure> {
    validate(input.options)?;
    let id = secret_id(input.options)?;
    input.secrets.get(&id)?.password(&id)?;
    let wanted = CreateOptions::from_options(input.options, "")?;
    wanted.check()?;
    let given = || input.options.get_number("size").unwrap_or(0);
    let size = input.source.map_or_else(given, diskimg_core::BlockDevice::len);
    let len = wanted.area_len().saturating_add(size);
    Ok(Measure { required: len, fully_allocated: len, bitmaps: None })
}
