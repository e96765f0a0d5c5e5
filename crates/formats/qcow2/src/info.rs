//! What `info` tells of an image.

use diskimg_core::{ImageInfo, InfoValue};

use crate::bitmap_directory::{AUTO, Bitmap, IN_USE};
use crate::crypt::Encryption;
use crate::features;
use crate::header::Header;
use crate::snapshot_table::Snapshot;

/// Compression types by number.
const COMPRESSION_NAMES: [&str; 2] = ["zlib", "zstd"];
/// Flags of a bitmap with their names.
const BITMAP_FLAGS: [(u32, &str); 2] = [(IN_USE, "in-use"), (AUTO, "auto")];

/// All that is known without reading further.
pub(crate) fn image_info(
    header: &Header,
    crypt: Option<&Encryption>,
    snapshots: &[Snapshot],
    bitmaps: &[Bitmap],
) -> ImageInfo {
    ImageInfo {
        cluster_size: Some(header.geometry().cluster_size()),
        dirty: Some(header.incompatible & features::DIRTY != 0),
        encrypted: header.crypt_method != 0,
        compressed: false,
        snapshots: snapshots.iter().map(Snapshot::info).collect(),
        specific: Some(specific(header, crypt, bitmaps)),
    }
}

fn specific(
    header: &Header,
    crypt: Option<&Encryption>,
    bitmaps: &[Bitmap],
) -> Vec<(&'static str, InfoValue)> {
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
    // As everyone prints it: a data file's name comes first.
    if let Some(name) = header.extensions.data_file.as_ref().filter(|_| v3) {
        values.push(("data-file", name.as_str().into()));
    }
    values.extend(crypt.map(|crypt| ("encrypt", InfoValue::Map(crypt.info()))));
    if !v3 {
        return values;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::tests::sample;

    fn keys(header: &Header, bitmaps: &[Bitmap]) -> Vec<&'static str> {
        specific(header, None, bitmaps).into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn keys_come_in_the_known_order() {
        let bitmap = Bitmap {
            name: "b".to_owned(),
            raw_name: b"b".to_vec(),
            flags: IN_USE | AUTO,
            granularity_bits: 12,
            table_offset: 1 << 16,
            table_size: 1,
        };
        let header = sample();
        let expected = [
            "compat",
            "compression-type",
            "lazy-refcounts",
            "bitmaps",
            "refcount-bits",
            "data-file",
            "data-file-raw",
            "corrupt",
            "extended-l2",
        ];
        assert_eq!(keys(&header, std::slice::from_ref(&bitmap)), expected);
        let InfoValue::Map(fields) = bitmap_info(&bitmap) else { panic!("a map") };
        let flags = InfoValue::List(vec!["in-use".into(), "auto".into()]);
        assert_eq!(fields, [("flags", flags), ("name", "b".into()), ("granularity", 4096u64.into())]);
        assert_eq!(
            keys(&Header { version: 2, ..sample() }, &[]),
            ["compat", "compression-type", "refcount-bits"]
        );
    }

    #[test]
    fn values_follow_the_header() {
        let header =
            Header { incompatible: features::CORRUPT | features::DIRTY, compression_type: 0, ..sample() };
        let info = image_info(&header, None, &[], &[]);
        assert!(info.dirty == Some(true) && !info.encrypted);
        assert_eq!(info.cluster_size, Some(1 << 16));
        let specific = info.specific.unwrap();
        let value = |key| specific.iter().find(|(name, _)| *name == key).map(|(_, value)| value.clone());
        assert_eq!(value("corrupt"), Some(true.into()));
        assert_eq!(value("refcount-bits"), Some(8u64.into()));
        assert_eq!(value("compression-type"), Some("zlib".into()));
        // The name is told as long as it is there, even if nothing is kept under it.
        assert_eq!(value("data-file"), Some("data.raw".into()));
        assert_eq!(value("data-file-raw"), None);
    }
}
