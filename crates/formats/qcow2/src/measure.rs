//! What an image would take on the host: arithmetic over the layout, and the source's extents.
//!
//! Options are judged more leniently than when an image is made: only those that the layout depends on.

use diskimg_core::driver::{Caps, Measure, MeasureInput};
use diskimg_core::options::ParsedOptions;
use diskimg_core::{
    BlockDevice, ByteRange, Error, ExtentFlags, Image, InfoValue, Prealloc, Result, align_up, errno,
};

use crate::crypt;
use crate::geometry::Geometry;
use crate::header::SECTOR;
use crate::limits::MAX_L1_ENTRIES;
use crate::options::Layout;

/// Compatibility levels as a measurement takes them, with whether they are version 2.
const LEVELS: [(&str, bool); 2] = [("0.10", true), ("1.1", false)];
/// Bytes of an entry of the L1 table, the refcount table and bitmap tables.
const ENTRY: u64 = 8;
/// Bytes of a bitmap directory entry without its name.
const BITMAP_ENTRY: u64 = 24;

/// Estimates an image with the given options.
///
/// # Errors
/// `InvalidArg` for bad options, `Limit` for a disk that is too large; the source's.
pub(crate) fn measure(input: &MeasureInput<'_>) -> Result<Measure> {
    let options = input.options;
    let geo = Layout::parse_geometry(options)?;
    let v2 = version_is_2(options)?;
    Layout::check_refcounts(&geo, v2, "compat=1.1")?;
    let prealloc = parse_prealloc(options)?;
    let luks = match options.get_str("encrypt.format") {
        Some(format) if format == "luks" => crypt::area_len(options, input.secrets)?,
        _ => 0,
    };
    let size = disk_size(input, &geo)?;
    let data = match input.source {
        _ if matches!(prealloc, Prealloc::Falloc | Prealloc::Full) => size,
        // How much the new image would share with its backing file is not known.
        Some(_) if options.is_given("backing_file") => size,
        Some(source) => allocated(source, geo.cluster_size())?,
        None => 0,
    };
    let metadata = metadata_size(&geo, size) + luks.next_multiple_of(geo.cluster_size());
    let bitmaps = input.source_image.filter(|_| !v2).map(|image| bitmaps_size(image, &geo, size));
    Ok(Measure {
        required: metadata + data,
        fully_allocated: metadata + size,
        bitmaps: bitmaps.transpose()?.flatten(),
    })
}

fn version_is_2(options: &ParsedOptions) -> Result<bool> {
    let Some(level) = options.get_str("compat") else { return Ok(false) };
    let known = LEVELS.iter().find(|(name, _)| *name == level).map(|(_, v2)| *v2);
    known.ok_or_else(|| Error::invalid(format!("Invalid compatibility level: '{level}'")))
}

fn parse_prealloc(options: &ParsedOptions) -> Result<Prealloc> {
    let Some(mode) = options.get_str("preallocation") else { return Ok(Prealloc::Off) };
    Prealloc::from_name(&mode).ok_or_else(|| Error::invalid(format!("invalid parameter value: {mode}")))
}

/// Bytes of the disk, in whole clusters.
fn disk_size(input: &MeasureInput<'_>, geo: &Geometry) -> Result<u64> {
    let too_large = || {
        Error::limit("The image size is too large (try using a larger cluster size)").with_errno(errno::EFBIG)
    };
    let size = input.options.get_number("size").or(input.source.map(BlockDevice::len)).unwrap_or(0);
    let size =
        align_up(size, SECTOR).and_then(|size| align_up(size, geo.cluster_size())).ok_or_else(too_large)?;
    if geo.l1_entries_for(size) > MAX_L1_ENTRIES {
        return Err(too_large());
    }
    Ok(size)
}

/// Bytes of all metadata of a disk of `size` bytes whose clusters are all allocated.
fn metadata_size(geo: &Geometry, size: u64) -> u64 {
    let cluster = geo.cluster_size();
    let l2_tables = geo.l1_entries_for(size);
    let l1 = (l2_tables * ENTRY).next_multiple_of(cluster);
    let tables = cluster + l2_tables * cluster + l1;
    tables + refcount_size(geo, geo.clusters_for(size + tables))
}

/// Bytes of the refcount table and blocks that count `clusters` and themselves.
fn refcount_size(geo: &Geometry, clusters: u64) -> u64 {
    let (mut blocks, mut table) = (0, 0);
    loop {
        let needed = (clusters + blocks + table).div_ceil(geo.refblock_entries());
        let needed_table = (needed * ENTRY).div_ceil(geo.cluster_size());
        if (needed, needed_table) == (blocks, table) {
            return (blocks + table) * geo.cluster_size();
        }
        (blocks, table) = (needed, needed_table);
    }
}

/// Bytes of the clusters that hold data of `source`.
fn allocated(source: &dyn BlockDevice, cluster: u64) -> Result<u64> {
    let len = source.len();
    // Up to where clusters were looked at: those that hold any data are counted whole.
    let (mut seen, mut data) = (0, 0);
    source.each_extent(ByteRange::new(0, len), &mut |at, extent| {
        let flags = extent.flags.as_listed();
        let end = at.saturating_add(extent.len);
        if end > seen && !flags.contains(ExtentFlags::ZERO) && flags.contains(ExtentFlags::DATA) {
            let start = at.max(seen);
            seen = align_up(end, cluster).unwrap_or(u64::MAX);
            data += seen - start / cluster * cluster;
        }
        Ok(())
    })?;
    Ok(data)
}

/// Bytes that the bitmaps of `image` would take; `None` if it can't have any.
fn bitmaps_size(image: &dyn Image, geo: &Geometry, size: u64) -> Result<Option<u64>> {
    if image.driver().name != crate::DRIVER.name {
        // Those that a conversion would not copy.
        let may_have = image.driver().caps.intersects(Caps::BITMAPS | Caps::FOREIGN_BITMAPS);
        return Ok(may_have.then_some(0));
    }
    let specific = image.info()?.specific.unwrap_or_default();
    let value = |key| specific.iter().find(|(name, _)| *name == key).map(|(_, value)| value);
    if value("compat") != Some(&InfoValue::from("1.1")) {
        return Ok(None);
    }
    let Some(InfoValue::List(bitmaps)) = value("bitmaps") else { return Ok(Some(0)) };
    let (mut clusters, mut directory) = (0, 0);
    for bitmap in bitmaps {
        let Some((name_len, granularity)) = bitmap_shape(bitmap) else { continue };
        let data = geo.clusters_for(size.div_ceil(granularity).div_ceil(8));
        clusters += data + geo.clusters_for(data * ENTRY);
        directory += (BITMAP_ENTRY + name_len).next_multiple_of(8);
    }
    Ok(Some((clusters + geo.clusters_for(directory)) * geo.cluster_size()))
}

/// Length of the name and granularity of a bitmap, in bytes.
fn bitmap_shape(bitmap: &InfoValue) -> Option<(u64, u64)> {
    let InfoValue::Map(fields) = bitmap else { return None };
    let field = |key| fields.iter().find(|(name, _)| *name == key).map(|(_, value)| value);
    match (field("name")?, field("granularity")?) {
        (InfoValue::Str(name), InfoValue::Uint(granularity)) if *granularity > 0 => {
            Some((name.len() as u64, *granularity))
        }
        _ => None,
    }
}
