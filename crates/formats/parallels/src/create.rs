//! Creating images.

use diskimg_core::driver::CreateContext;
use diskimg_core::options::{OptKind, OptSpec, ParsedOptions};
use diskimg_core::{Error, ErrorKind, Prealloc, Result, align_up, errno};

use crate::header::{HEADER_LEN, Header};
use crate::limits::{CREATE_CLUSTER, DEFAULT_CLUSTER, MAX_CLUSTER_SECTORS, MAX_ENTRIES, SECTOR};

/// The create options.
pub(crate) const OPTIONS: &[OptSpec] = &[
    OptSpec::SIZE,
    OptSpec::create("cluster_size", OptKind::Size, "Parallels image cluster size").or(DEFAULT_CLUSTER),
];

/// What a new image looks like, in sectors.
struct Geometry {
    cluster: u32,
    sectors: u64,
    entries: u32,
    data_offset: u32,
}

fn geometry(options: &ParsedOptions) -> Result<Geometry> {
    // Not `EFBIG`, which would be told in other words.
    let too_big = || Error::limit("Cluster size is too large").with_errno(errno::EINVAL);
    let too_long = || Error::limit("Image size is too large for this cluster size").with_errno(errno::EINVAL);
    let number = |name, otherwise| align_up(options.get_number(name).unwrap_or(otherwise), SECTOR);
    let cluster_size =
        number("cluster_size", 1 << 20).filter(|size| *size < CREATE_CLUSTER).ok_or_else(too_big)?;
    let size = number("size", 0).ok_or_else(too_long)?;
    if size >= cluster_size << 32 {
        return Err(too_long());
    }
    let cluster = u32::try_from(cluster_size / SECTOR).map_err(|_| too_big())?;
    if cluster > MAX_CLUSTER_SECTORS {
        return Err(too_big());
    }
    let entries = u32::try_from(size.div_ceil(cluster_size)).ok().filter(|count| *count <= MAX_ENTRIES);
    let entries = entries.ok_or_else(too_long)?;
    let data = (HEADER_LEN as u64 + u64::from(entries) * 4).next_multiple_of(cluster_size);
    let data_offset = u32::try_from(data / SECTOR).map_err(|_| too_long())?;
    Ok(Geometry { cluster, sectors: size / SECTOR, entries, data_offset })
}

/// Checks what can be checked before a file is touched.
pub(crate) fn validate(options: &ParsedOptions) -> Result<()> {
    geometry(options).map(|_| ())
}

/// Makes the image in an empty storage: a header, and a table of zeros, which a longer file has by itself.
pub(crate) fn create(context: &CreateContext<'_>) -> Result<()> {
    let new = geometry(context.options)?;
    let storage = &context.storage;
    let header = Header::encode_new(new.cluster, new.entries, new.sectors, new.data_offset);
    let failed = |error: Error| error.summarised("Failed to create Parallels image");
    let len = u64::from(new.data_offset) * SECTOR;
    storage.set_len(len, Prealloc::Off).map_err(|error| match error.kind() {
        // A device node that is too short.
        ErrorKind::Unsupported => failed(Error::from_errno(errno::ENOSPC)),
        _ => failed(error),
    })?;
    storage.write_at(0, &header).map_err(failed)?;
    storage.flush()
}
