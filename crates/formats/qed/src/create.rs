//! Creating images.

use diskimg_core::driver::CreateContext;
use diskimg_core::options::OptKind::{Size, Str};
use diskimg_core::options::{OptSpec, ParsedOptions};
use diskimg_core::{BlockDevice, Error, Result, align_up, errno, to_usize};

use crate::geometry::Geometry;
use crate::header::Header;
use crate::limits::{CLUSTER_SIZES, MAX_TABLE_SIZE, SECTOR};

/// The format of a backing file that is never probed.
pub(crate) const RAW: &str = "raw";
/// Bytes of a table that are written at a time; a power of two, as the length of a table.
const STEP: u64 = 1 << 20;
/// Clusters of a table that nothing was said about.
const TABLE_SIZE: u64 = 4;

/// The create options.
pub(crate) const OPTIONS: &[OptSpec] = &[
    OptSpec::SIZE,
    OptSpec::create("backing_file", Str, "File name of a base image"),
    OptSpec::create("backing_fmt", Str, "Image format of the base image"),
    OptSpec::create("cluster_size", Size, "Cluster size (in bytes)").or("65536"),
    OptSpec::create("table_size", Size, "L1/L2 table size (in clusters)"),
];

/// Layout and length of the disk.
fn wanted(options: &ParsedOptions) -> Result<(Geometry, u64)> {
    let geo = Geometry {
        cluster_size: options.get_number("cluster_size").unwrap_or(0),
        table_size: options.get_number("table_size").unwrap_or(TABLE_SIZE),
        header_size: 1,
    };
    let refused = |text: String| Err(Error::invalid(text).with_errno(errno::EINVAL));
    if !geo.has_valid_cluster_size() {
        let (least, most) = CLUSTER_SIZES;
        return refused(format!("QED cluster size must be within range [{least}, {most}] and power of 2"));
    }
    if !geo.has_valid_table_size() {
        return refused(format!("QED table size must be within range [1, {MAX_TABLE_SIZE}] and power of 2"));
    }
    let size = align_up(options.get_number("size").unwrap_or(0), SECTOR).unwrap_or(u64::MAX);
    if !geo.is_valid_disk_size(size) {
        let most = geo.max_disk_size();
        return refused(format!(
            "QED image size must be a non-zero multiple of cluster size and less than {most} bytes"
        ));
    }
    Ok((geo, size))
}

/// Checks what can be checked before a file is touched.
pub(crate) fn validate(options: &ParsedOptions) -> Result<()> {
    wanted(options).map(|_| ())
}

/// A name that the header's cluster has no room for: nobody could open the image.
fn name_too_long() -> Error {
    Error::limit("Backing file name too long").with_errno(errno::EINVAL)
}

/// Makes the image in an empty storage.
pub(crate) fn create(context: &CreateContext<'_>) -> Result<()> {
    let (bytes, geo) = first_bytes(context)?;
    write(&*context.storage, &bytes, geo).map_err(|error| error.summarised("Could not create image"))
}

/// The header and the backing file's name behind it.
fn first_bytes(context: &CreateContext<'_>) -> Result<(Vec<u8>, Geometry)> {
    let (geo, image_size) = wanted(context.options)?;
    let name = context.options.get_str("backing_file").filter(|name| !name.is_empty()).unwrap_or_default();
    let is_raw = context.options.get_str("backing_fmt").is_some_and(|format| format == RAW);
    let plain = Header {
        geo,
        features: 0,
        compat_features: 0,
        autoclear_features: 0,
        l1_offset: geo.cluster_size,
        image_size,
        backing_offset: 0,
        backing_size: 0,
    };
    let backing = (!name.is_empty()).then_some((name.as_str(), is_raw));
    let (header, name) = plain.with_backing(backing).ok_or_else(name_too_long)?;
    let mut bytes = header.encode();
    bytes.extend(name);
    Ok((bytes, geo))
}

fn write(storage: &dyn BlockDevice, bytes: &[u8], geo: Geometry) -> Result<()> {
    storage.write_at(0, bytes)?;
    // The table is written out, so that it has its space.
    let zeros = vec![0; to_usize(geo.table_len().min(STEP))];
    for at in (0..geo.table_len()).step_by(zeros.len()) {
        storage.write_at(geo.header_bytes() + at, &zeros)?;
    }
    storage.flush()
}
