//! Feature bits of the header (specification, "Header", bytes 72 to 95) and their names: the one table of them.
//!
//! The same table is what a new image's feature name table is written from.

/// Incompatible bit 0: refcounts may be stale.
pub(crate) const DIRTY: u64 = 1;
/// Incompatible bit 1: damage was found; writing is refused.
pub(crate) const CORRUPT: u64 = 1 << 1;
/// Incompatible bit 2: guest data stands in another file.
pub(crate) const DATA_FILE: u64 = 1 << 2;
/// Incompatible bit 3: the compression type is not deflate.
pub(crate) const COMPRESSION: u64 = 1 << 3;
/// Incompatible bit 4: L2 entries of 16 bytes.
pub(crate) const EXTENDED_L2: u64 = 1 << 4;
/// All incompatible bits that this crate understands.
pub(crate) const KNOWN_INCOMPATIBLE: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;

/// Compatible bit 0: refcount updates may be postponed.
pub(crate) const LAZY_REFCOUNTS: u64 = 1;

/// Autoclear bit 0: the bitmaps extension is consistent.
pub(crate) const BITMAPS: u64 = 1;
/// Autoclear bit 1: the data file alone is a valid raw image.
pub(crate) const RAW_DATA_FILE: u64 = 1 << 1;
/// All autoclear bits that this crate understands.
pub(crate) const KNOWN_AUTOCLEAR: u64 = BITMAPS | RAW_DATA_FILE;

/// Which of the three fields a bit belongs to; the value is the one of the feature name table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FeatureKind {
    /// An image with such a bit that is not known can't be opened.
    Incompatible = 0,
    /// May be ignored.
    Compatible = 1,
    /// Cleared by a writer that does not know it.
    Autoclear = 2,
}

impl FeatureKind {
    /// The byte of the feature name table.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Incompatible => 0,
            Self::Compatible => 1,
            Self::Autoclear => 2,
        }
    }
}

/// A named feature bit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Feature {
    /// Its field.
    pub kind: FeatureKind,
    /// Its number.
    pub bit: u8,
    /// Its name.
    pub name: &'static str,
}

/// All features, in the order in which a feature name table lists them.
pub(crate) const FEATURES: [Feature; 8] = {
    use FeatureKind::{Autoclear, Compatible, Incompatible};
    [
        Feature { kind: Incompatible, bit: 0, name: "dirty bit" },
        Feature { kind: Incompatible, bit: 1, name: "corrupt bit" },
        Feature { kind: Incompatible, bit: 2, name: "external data file" },
        Feature { kind: Incompatible, bit: 3, name: "compression type" },
        Feature { kind: Incompatible, bit: 4, name: "extended L2 entries" },
        Feature { kind: Compatible, bit: 0, name: "lazy refcounts" },
        Feature { kind: Autoclear, bit: 0, name: "bitmaps" },
        Feature { kind: Autoclear, bit: 1, name: "raw external data" },
    ]
};

/// Bytes of an entry of the feature name table.
pub(crate) const NAME_ENTRY_LEN: usize = 48;

/// The contents of the feature name table: every known feature, whatever bits are set.
pub(crate) fn name_table() -> Vec<u8> {
    let mut table = Vec::with_capacity(FEATURES.len() * NAME_ENTRY_LEN);
    for feature in &FEATURES {
        let end = table.len() + NAME_ENTRY_LEN;
        table.push(feature.kind.code());
        table.push(feature.bit);
        table.extend_from_slice(feature.name.as_bytes());
        table.resize(end, 0);
    }
    table
}

/// Names the incompatible bits of `unknown`, from the image's own feature name table where it has them.
pub(crate) fn describe_unknown(unknown: u64, table: &[u8]) -> String {
    let mut rest = unknown;
    let mut parts = Vec::new();
    for entry in table.chunks_exact(NAME_ENTRY_LEN) {
        let [kind, bit, name @ ..] = entry else { continue };
        let mask = 1u64.checked_shl(u32::from(*bit)).unwrap_or(0);
        if *kind == FeatureKind::Incompatible.code() && unknown & mask != 0 {
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            parts.push(String::from_utf8_lossy(name).into_owned());
            rest &= !mask;
        }
    }
    if rest != 0 {
        parts.push(format!("Unknown incompatible feature: {rest:x}"));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_table_has_the_known_shape() {
        let table = name_table();
        assert_eq!(table.len(), 384);
        assert_eq!(&table[..12], b"\0\0dirty bit\0");
        assert_eq!(&table[240..256], b"\x01\0lazy refcounts");
    }

    #[test]
    fn unknown_bits_are_named_where_the_image_names_them() {
        let mut table = vec![0; NAME_ENTRY_LEN];
        table[1] = 7;
        table[2..5].copy_from_slice(b"foo");
        assert_eq!(describe_unknown(1 << 7, &table), "foo");
        assert_eq!(describe_unknown(1 << 7 | 1 << 9, &table), "foo, Unknown incompatible feature: 200");
        assert_eq!(describe_unknown(1 << 63, &[]), "Unknown incompatible feature: 8000000000000000");
        table[1] = 200;
        assert_eq!(describe_unknown(1, &table), "Unknown incompatible feature: 1");
    }
}
