//! Opening: the detached header, the secret, the header, a key slot, the payload, in the order in which their errors are
//! reported.
//!
//! A header in a file of its own is named by the user alone (runtime options `header.*`), never by the volume.

use std::sync::Arc;

use diskimg_core::driver::{OpenContext, OpenMode};
use diskimg_core::opener::{Mode, Opener, ReferenceKind};
use diskimg_core::options::RuntimeOptions;
use diskimg_core::{BlockDevice, Error, ErrorKind, Image, Result, Secret, align_up, read_zero_padded};
use diskimg_crypto::limits::HEADER_LEN;
use diskimg_crypto::luks::{self, Header, Placement};

use crate::image::{Key, LuksImage, Parts};
use crate::key_required;
use crate::limits::SECTOR;
use crate::options::KEY_SECRET;

/// The runtime option that names the file of a detached header.
const HEADER: &str = "header";
/// Where the header says in which sector the payload starts.
const PAYLOAD_FIELD: std::ops::Range<usize> = 104..108;

/// Opens a volume.
pub(crate) fn open(context: OpenContext<'_>) -> Result<Arc<dyn Image>> {
    let OpenContext { storage, filename, mode, options, opener, .. } = context;
    let detached = open_header_file(options, mode, opener)?;
    let secret = take_secret(options, mode, opener)?;
    let password = match &secret {
        Some((id, secret)) => Some(secret.password(id)?),
        None => None,
    };
    let header_device = detached.as_ref().unwrap_or(&storage);
    let header = read_header(&**header_device, detached.is_some())?;
    let unlocked =
        password.map(|password| luks::unlock(&**header_device, 0, &header, password)).transpose()?;
    let key = unlocked.zip(secret).map(|(unlocked, (id, secret))| {
        let cipher = unlocked.cipher;
        Key { cipher, secret, id }
    });
    let payload = header.payload_offset();
    if align_up(storage.len(), SECTOR).is_some_and(|len| payload > len) {
        let text = "Could not refresh total sector count: Input/output error";
        return Err(Error::new(ErrorKind::Corrupt, text));
    }
    let (filename, write) = (filename.to_owned(), mode.write);
    Ok(Arc::new(LuksImage::new(Parts { storage, detached, header, key, filename, write })))
}

fn open_header_file(
    options: &mut RuntimeOptions,
    mode: OpenMode,
    opener: &dyn Opener,
) -> Result<Option<Arc<dyn BlockDevice>>> {
    if let Some(name) = options.take_str(HEADER)? {
        return Err(Error::invalid(format!("Cannot find device='{name}' nor node-name='{name}'")));
    }
    let file = options.take_child(HEADER);
    if file.is_empty() {
        return Ok(None);
    }
    let access = Mode { write: mode.write, create: false };
    opener.open(ReferenceKind::DataFile, "", access, file).map(Some)
}

/// The secret that the options name, with its name; `None` where none is needed.
fn take_secret(
    options: &mut RuntimeOptions,
    mode: OpenMode,
    opener: &dyn Opener,
) -> Result<Option<(String, Secret)>> {
    let id = options.take_str(KEY_SECRET)?;
    if mode.describe_only {
        return Ok(None);
    }
    let id = id.ok_or_else(key_required)?;
    let secret = opener.secret(&id)?;
    Ok(Some((id, secret)))
}

/// The header. One in a file of its own may still say that a payload follows it: that is then where it is in the other
/// file too.
fn read_header(device: &dyn BlockDevice, own_file: bool) -> Result<Header> {
    let mut bytes = [0; HEADER_LEN];
    read_zero_padded(device, 0, &mut bytes)
        .map_err(|error| error.summarised("Could not read encryption header"))?;
    let no_payload = bytes.get(PAYLOAD_FIELD).is_some_and(|field| field.iter().all(|byte| *byte == 0));
    let placement = if own_file && no_payload { Placement::Detached } else { Placement::Attached };
    Header::parse(&bytes, placement)
}
