//! Header extensions (specification, "Header extensions"): parsing them out of cluster 0 and putting them back.
//!
//! Only [`crate::header`] and its writer use this. What is not known is kept byte for byte and in its order.

use diskimg_core::Fields;

use crate::header::HeaderError;
use crate::limits::{MAX_BITMAP_DIRECTORY_BYTES, MAX_BITMAPS};

/// Ends the area.
pub(crate) const END: u32 = 0;
/// The backing file's format.
pub(crate) const BACKING_FORMAT: u32 = 0xe279_2aca;
/// The name of the external data file.
pub(crate) const DATA_FILE: u32 = 0x4441_5441;
/// Where the LUKS header is.
pub(crate) const CRYPTO: u32 = 0x0537_be77;
/// Names of feature bits.
pub(crate) const FEATURE_NAMES: u32 = 0x6803_f857;
/// Where the bitmap directory is.
pub(crate) const BITMAPS: u32 = 0x2385_2875;

/// A backing format of this length (bytes) or more is refused.
const BACKING_FORMAT_END: u32 = 16;

/// The LUKS header within the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CryptoPointer {
    /// Host offset in bytes.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// The bitmap directory within the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BitmapsPointer {
    /// Number of bitmaps.
    pub count: u32,
    /// Bytes of the directory.
    pub directory_size: u64,
    /// Its host offset in bytes.
    pub directory_offset: u64,
}

/// All extensions of a header but the feature name table, which is always written from [`crate::features`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extensions {
    /// The backing file's format.
    pub backing_format: Option<String>,
    /// The data file's name; written only while the image has a data file.
    pub data_file: Option<String>,
    /// The LUKS header.
    pub crypto: Option<CryptoPointer>,
    /// The bitmaps, if they are up to date.
    pub bitmaps: Option<BitmapsPointer>,
    /// There were bitmaps, but a writer did not keep them up to date: they are lost, and not written again.
    pub stale_bitmaps: bool,
    /// Others, as found.
    pub unknown: Vec<(u32, Vec<u8>)>,
}

/// One extension as it stands in the area.
pub(crate) struct RawExtension<'a> {
    /// Its kind.
    pub magic: u32,
    /// Its length field.
    pub len: u32,
    /// Its bytes.
    pub data: &'a [u8],
}

/// Walks `area` (the bytes between the header and the backing name) and calls `each` up to the end marker.
///
/// # Errors
/// An extension that does not fit in the area, or what `each` says.
pub(crate) fn walk(
    area: &[u8],
    mut each: impl FnMut(RawExtension<'_>) -> Result<(), HeaderError>,
) -> Result<(), HeaderError> {
    let mut fields = Fields::new(area);
    while !fields.rest().is_empty() {
        let (Some(magic), Some(len)) = (fields.u32_be(), fields.u32_be()) else {
            return Err(HeaderError::ExtensionTooLarge);
        };
        let data = usize::try_from(len).ok().and_then(|len| fields.bytes(len));
        let data = data.ok_or(HeaderError::ExtensionTooLarge)?;
        if magic == END {
            break;
        }
        each(RawExtension { magic, len, data })?;
        let padding = data.len().next_multiple_of(8) - data.len();
        if fields.bytes(padding).is_none() {
            break;
        }
    }
    Ok(())
}

/// True if `area`, perhaps cut short, holds everything up to the end marker.
pub(crate) fn has_end(area: &[u8]) -> bool {
    let mut fields = Fields::new(area);
    loop {
        let (Some(magic), Some(len)) = (fields.u32_be(), fields.u32_be()) else { return false };
        if magic == END {
            return len == 0;
        }
        let padded = usize::try_from(len).ok().and_then(|len| len.checked_next_multiple_of(8));
        if padded.and_then(|len| fields.bytes(len)).is_none() {
            return false;
        }
    }
}

/// The image's own feature name table, if there is one that can be found.
pub(crate) fn find_feature_names(area: &[u8]) -> Vec<u8> {
    let mut found = Vec::new();
    // A broken area has no names; the refusal that wants them comes first.
    let _ = walk(area, |extension| {
        if extension.magic == FEATURE_NAMES {
            found = extension.data.to_vec();
        }
        Ok(())
    });
    found
}

/// What parsing an extension depends on.
pub(crate) struct Rules {
    /// log2 of the cluster size.
    pub cluster_bits: u32,
    /// The header's encryption method.
    pub crypt_method: u32,
    /// The bitmaps extension is up to date.
    pub bitmaps_valid: bool,
}

/// The method number of LUKS.
const METHOD_LUKS: u32 = 2;

/// Parses all extensions of `area`. `keep` gets texts that are not UTF-8, with their bytes.
///
/// # Errors
/// The first violation.
pub(crate) fn parse(
    area: &[u8],
    rules: &Rules,
    keep: &mut dyn FnMut(&str, &[u8]),
) -> Result<Extensions, HeaderError> {
    let mut found = Extensions::default();
    let mut text = |data: &[u8]| {
        let data = until_nul(data);
        let text = String::from_utf8_lossy(data).into_owned();
        keep(&text, data);
        text
    };
    walk(area, |extension| {
        match extension.magic {
            BACKING_FORMAT if extension.len >= BACKING_FORMAT_END => {
                return Err(HeaderError::BackingFormatTooLong(extension.len));
            }
            BACKING_FORMAT => {
                found.backing_format = Some(text(extension.data)).filter(|format| !format.is_empty());
            }
            DATA_FILE => found.data_file = Some(text(extension.data)),
            FEATURE_NAMES => {}
            CRYPTO => found.crypto = Some(parse_crypto(&extension, rules)?),
            BITMAPS => {
                found.bitmaps = parse_bitmaps(&extension, rules)?;
                found.stale_bitmaps = found.bitmaps.is_none();
            }
            magic => found.unknown.push((magic, extension.data.to_vec())),
        }
        Ok(())
    })?;
    Ok(found)
}

fn parse_crypto(extension: &RawExtension<'_>, rules: &Rules) -> Result<CryptoPointer, HeaderError> {
    if rules.crypt_method != METHOD_LUKS {
        return Err(HeaderError::CryptoUnexpected);
    }
    let mut fields = Fields::new(extension.data);
    let (Some(offset), Some(len), true) = (fields.u64_be(), fields.u64_be(), fields.rest().is_empty()) else {
        return Err(HeaderError::CryptoLength(extension.len));
    };
    let cluster_size = 1u64 << rules.cluster_bits;
    if !offset.is_multiple_of(cluster_size) {
        return Err(HeaderError::CryptoOffset { offset, cluster_size });
    }
    Ok(CryptoPointer { offset, len })
}

fn parse_bitmaps(extension: &RawExtension<'_>, rules: &Rules) -> Result<Option<BitmapsPointer>, HeaderError> {
    let mut fields = Fields::new(extension.data);
    let (Some(count), Some(reserved), Some(directory_size), Some(directory_offset), true) =
        (fields.u32_be(), fields.u32_be(), fields.u64_be(), fields.u64_be(), fields.rest().is_empty())
    else {
        return Err(HeaderError::BitmapsLength);
    };
    if !rules.bitmaps_valid {
        return Ok(None);
    }
    if reserved != 0 {
        return Err(HeaderError::BitmapsReserved);
    }
    if count > MAX_BITMAPS {
        return Err(HeaderError::BitmapsCount(count));
    }
    if count == 0 {
        return Err(HeaderError::BitmapsNone);
    }
    if !directory_offset.is_multiple_of(1 << rules.cluster_bits) {
        return Err(HeaderError::BitmapsOffset);
    }
    if directory_size > MAX_BITMAP_DIRECTORY_BYTES {
        return Err(HeaderError::BitmapsDirectorySize(directory_size));
    }
    Ok(Some(BitmapsPointer { count, directory_size, directory_offset }))
}

/// A text ends at its first zero byte, however long its field is.
pub(crate) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Appends an extension, padded to eight bytes.
pub(crate) fn push(out: &mut Vec<u8>, magic: u32, data: &[u8]) {
    // Nothing that is pushed comes near 4 GiB: it came out of one cluster, or is checked to fit in one.
    let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&magic.to_be_bytes());
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(8), 0);
}
