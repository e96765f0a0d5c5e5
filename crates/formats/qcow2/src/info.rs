//! What `info` tells of an image.

use diskimg_core::{ImageInfo, InfoValue, to_usize};

use crate::bitmap_directory::{AUTO, Bitmap, IN_USE};
use crate::features;
use crate::header::Header;
use crate::settings::CRYPT_FORMATS;
use crate::snapshot_table::Snapshot;

/// Compression types by number.
const COMPRESSION_NAMES: [&str; 2] = ["zlib", "zstd"];
/// Flags of a bitmap with their names.
const BITMAP_FLAGS: [(u32, &str); 2] = [(IN_USE, "in-use"), (AUTO, "auto")];

/// All that is known without reading further.
pub(crate) fn image_info(header: &Header, snapshots: &[Snapshot], bitmaps: &[Bitmap]) -> ImageInfo {
    ImageInfo {
        cluster_size: Some(header.geometry().cluster_size()),
        dirty: header.incompatible & features::DIRTY != 0,
        encrypted: header.crypt_method != 0,
        compressed: false,
        snapshots: snapshots.iter().map(Snapshot::info).collect(),
        specific: Some(specific(header, bitmaps)),
    }
}

fn specific(header: &Header, bitmaps: &[Bitmap]) -> Vec<(&'static str, InfoValue)> {
    let v3 = header.is_v3();
    let compression = COMPRESSION_NAMES.get(usize::from(header.compression_type)).copied().unwrap_or("zlib");
    let mut values: Vec<(&'static str, InfoValue)> =
        vec![("compat", if v3 { "1.1" } else { "0.10" }.into()), ("compression-type", compression.into())];
    if v3 {
        values.push(("lazy-refcounts", (header.compatible & features::LAZY_REFCOUNTS != 0).into()));
        if !bitmaps.is_empty() {
            values.push(("bitmaps", InfoValue::List(bitmaps.iter().map(bitmap_info).collect())));
        }
    }
    values.push(("refcount-bits", (1u64 << header.refcount_order).into()));
    if header.crypt_method != 0 {
        let format = CRYPT_FORMATS.get(to_usize(header.crypt_method.into())).copied().unwrap_or_default();
        values.push(("encrypt", InfoValue::Map(vec![("format", format.into())])));
    }
    if !v3 {
        return values;
    }
    if let Some(name) = header.extensions.data_file.as_ref().filter(|_| header.has_data_file()) {
        values.push(("data-file", name.as_str().into()));
    }
    if header.has_data_file() {
        values.push(("data-file-raw", (header.autoclear & features::RAW_DATA_FILE != 0).into()));
    }
    values.push(("corrupt", (header.incompatible & features::CORRUPT != 0).into()));
    values.push(("extended-l2", header.geometry().extended_l2.into()));
    values
}

fn bitmap_info(bitmap: &Bitmap) -> InfoValue {
    let flags = BITMAP_FLAGS.iter().filter(|(bit, _)| bitmap.flags & bit != 0);
    InfoValue::Map(vec![
        ("flags", InfoValue::List(flags.map(|(_, name)| InfoValue::from(*name)).collect())),
        ("name", bitmap.name.as_str().into()),
        ("granularity", bitmap.granularity().into()),
    ])
}
