//! The headers of seSparse extents, which are only read. Refusals in the words of qemu-img.

use diskimg_core::{Fields, Result};

use crate::error::VmdkError;
use crate::geometry::{Geometry, SparseKind};
use crate::limits::{MAX_DISK, MAX_TABLES, SECTOR};

/// Starts a seSparse extent.
pub(crate) const MAGIC: u64 = 0xcafe_babe;
/// Starts its volatile header.
const VOLATILE_MAGIC: u64 = 0xcafe_cafe;
/// The version that is known.
const VERSION: u64 = 0x2_0000_0001;
/// Sectors of a grain.
const GRAIN: u64 = 8;
/// Sectors of a grain table.
const TABLE: u64 = 64;
/// Bytes of an entry.
const ENTRY: u64 = 8;

/// What is known of a seSparse extent before its volatile header was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConstHeader {
    /// Byte offset of the volatile header.
    pub volatile: u64,
    pub geometry: Geometry,
}

fn refuse(text: String) -> VmdkError {
    VmdkError::SeSparse(text)
}

fn words(bytes: &[u8]) -> Vec<u64> {
    let mut fields = Fields::new(bytes);
    std::iter::from_fn(|| fields.u64_le()).collect()
}

/// The constant header (512 bytes).
pub(crate) fn parse_const(bytes: &[u8]) -> Result<ConstHeader, VmdkError> {
    let words = words(bytes);
    let word = |offset: usize| words.get(offset / 8).copied().unwrap_or(0);
    let checks = [
        (word(0) == MAGIC, format!("Bad const header magic: {:#018x}", word(0))),
        (word(8) == VERSION, format!("Unsupported version: {:#018x}", word(8))),
        (word(24) == GRAIN, format!("Unsupported grain size: {}", word(24))),
        (word(32) == TABLE, format!("Unsupported grain table size: {}", word(32))),
        (word(40) == 0, format!("Unsupported flags: {:#018x}", word(40))),
        (
            [48, 56, 64, 72].iter().all(|at| word(*at) == 0),
            format!(
                "Unsupported reserved bits: {:#018x} {:#018x} {:#018x} {:#018x}",
                word(48),
                word(56),
                word(64),
                word(72)
            ),
        ),
        (
            words.iter().skip(208 / 8).all(|pad| *pad == 0),
            "Unsupported non-zero const header padding".to_owned(),
        ),
    ];
    if let Some((_, text)) = checks.into_iter().find(|(fine, _)| !fine) {
        return Err(refuse(text));
    }
    let bytes = |offset| word(offset).checked_mul(SECTOR).ok_or(VmdkError::Invalid);
    let tables = bytes(136)? / ENTRY;
    if tables > MAX_TABLES {
        return Err(VmdkError::DirectorySize);
    }
    let len = bytes(16)?;
    if len > MAX_DISK {
        return Err(VmdkError::TooLarge);
    }
    let geometry = Geometry {
        kind: SparseKind::SeSparse { tables: bytes(144)?, grains: bytes(192)? },
        len,
        grain: GRAIN * SECTOR,
        table_entries: TABLE * SECTOR / ENTRY,
        tables,
        directory: bytes(128)?,
        redundant: None,
        overhead: 0,
        zeroed_grains: false,
        compressed: false,
        markers: false,
    };
    Ok(ConstHeader { volatile: bytes(80)?, geometry })
}

/// The volatile header (512 bytes).
pub(crate) fn check_volatile(bytes: &[u8]) -> Result<(), VmdkError> {
    let words = words(bytes);
    let word = |index: usize| words.get(index).copied().unwrap_or(0);
    if word(0) != VOLATILE_MAGIC {
        return Err(refuse(format!("Bad volatile header magic: {:#018x}", word(0))));
    }
    if word(3) != 0 {
        return Err(refuse("Image is dirty, Replaying journal not supported".to_owned()));
    }
    if words.iter().skip(4).any(|pad| *pad != 0) {
        return Err(refuse("Unsupported non-zero volatile header padding".to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(set: &[(usize, u64)]) -> Vec<u8> {
        let mut words = vec![0u64; 64];
        let base =
            [(0, MAGIC), (8, VERSION), (16, 2048), (24, 8), (32, 64), (80, 1), (128, 8), (136, 8), (144, 16)];
        for (offset, value) in base.iter().chain(set) {
            words[offset / 8] = *value;
        }
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn headers_are_checked_field_by_field() {
        let good = parse_const(&header(&[])).unwrap();
        assert_eq!((good.volatile, good.geometry.len, good.geometry.tables), (512, 1 << 20, 512));
        let rows = [
            ((0, 1), "Bad const header magic: 0x0000000000000001"),
            ((8, 5), "Unsupported version: 0x0000000000000005"),
            ((24, 9), "Unsupported grain size: 9"),
            ((32, 9), "Unsupported grain table size: 9"),
            ((504, 1), "Unsupported non-zero const header padding"),
            ((136, 1 << 40), "L1 size too big"),
        ];
        for (set, text) in rows {
            assert_eq!(parse_const(&header(&[set])).unwrap_err().to_string(), text);
        }
        assert!(check_volatile(&[0; 512]).is_err());
    }
}
