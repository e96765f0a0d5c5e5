//! [`Geometry`]: how a sparse extent is laid out, whatever its kind. All offsets and lengths are in bytes.

use diskimg_core::ByteRange;

use crate::limits::SECTOR;

/// The kind of a sparse extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SparseKind {
    /// `KDMV`.
    Hosted,
    /// `COWD`.
    Cowd,
    /// seSparse; tables and grains are numbered within these areas.
    SeSparse { tables: u64, grains: u64 },
}

/// How a sparse extent is laid out. Checked against the limits when it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub kind: SparseKind,
    /// Bytes of the disk that it holds.
    pub len: u64,
    /// Bytes of a grain; a multiple of a sector.
    pub grain: u64,
    /// Entries of a grain table; not 0.
    pub table_entries: u64,
    /// Grain tables.
    pub tables: u64,
    /// Where the grain directory is.
    pub directory: u64,
    /// Where the redundant one is, if it is kept up.
    pub redundant: Option<u64>,
    /// Where grains begin; 0: not known. Nothing is ever written below it but tables.
    pub overhead: u64,
    /// Entries of 1 stand for zeros.
    pub zeroed_grains: bool,
    /// Grains are compressed.
    pub compressed: bool,
    /// Grains have markers.
    pub markers: bool,
}

/// What an entry of a grain table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrainEntry {
    /// Not in this extent.
    Absent,
    /// Zeros.
    Zero,
    /// At this byte of the file.
    At(u64),
}

impl GrainEntry {
    /// True if writing to the grain needs a new place.
    pub(crate) const fn has_no_place(self) -> bool {
        matches!(self, Self::Absent | Self::Zero)
    }
}

impl Geometry {
    /// Bytes of an entry of the directory and of tables.
    pub(crate) const fn entry_len(&self) -> u64 {
        match self.kind {
            SparseKind::SeSparse { .. } => 8,
            _ => 4,
        }
    }

    /// Bytes of a grain table.
    pub(crate) const fn table_len(&self) -> u64 {
        self.table_entries * self.entry_len()
    }

    /// Number of the grain that holds byte `at` of the disk.
    pub(crate) const fn grain_of(&self, at: u64) -> u64 {
        at / self.grain
    }

    /// The table that has the entry of grain `index`, and the entry's number in it.
    pub(crate) const fn entry_of(&self, index: u64) -> (u64, u64) {
        (index / self.table_entries, index % self.table_entries)
    }

    /// The bytes of the disk that grain `index` holds.
    pub(crate) fn grain_range(&self, index: u64) -> ByteRange {
        ByteRange::new(index.saturating_mul(self.grain), self.grain).intersect(ByteRange::new(0, self.len))
    }

    /// Grains of the extent.
    pub(crate) const fn grains(&self) -> u64 {
        self.len.div_ceil(self.grain)
    }

    /// The 32-bit entry for `entry`.
    pub(crate) fn encode(entry: GrainEntry) -> u32 {
        match entry {
            GrainEntry::Absent => 0,
            GrainEntry::Zero => 1,
            GrainEntry::At(offset) => u32::try_from(offset / SECTOR).unwrap_or(0),
        }
    }

    /// Says what the stored `value` of an entry means; `None`: nothing that is known.
    pub(crate) fn decode(&self, value: u64) -> Option<GrainEntry> {
        match self.kind {
            SparseKind::SeSparse { grains, .. } => self.decode_sesparse(value, grains),
            _ if value == 0 => Some(GrainEntry::Absent),
            _ if value == 1 && self.zeroed_grains => Some(GrainEntry::Zero),
            _ => value.checked_mul(SECTOR).map(GrainEntry::At),
        }
    }

    fn decode_sesparse(&self, value: u64, grains: u64) -> Option<GrainEntry> {
        match value >> 60 {
            0 if value == 0 => Some(GrainEntry::Absent),
            1 | 2 => Some(GrainEntry::Zero),
            3 => {
                let index = (value & 0x0fff_0000_0000_0000) >> 48 | (value & 0x0000_ffff_ffff_ffff) << 12;
                index.checked_mul(self.grain)?.checked_add(grains).map(GrainEntry::At)
            }
            _ => None,
        }
    }

    /// Where the table is that the stored entry `value` of the directory means: `Some(None)`: there is none.
    pub(crate) fn decode_directory(&self, value: u64) -> Option<Option<u64>> {
        match self.kind {
            _ if value == 0 => Some(None),
            SparseKind::SeSparse { tables, .. } => {
                if value >> 32 != 0x1000_0000 {
                    return None;
                }
                let place = (value & 0xffff_ffff).checked_mul(self.table_len())?.checked_add(tables);
                place.map(Some)
            }
            _ => value.checked_mul(SECTOR).map(Some),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn hosted() -> Geometry {
        Geometry {
            kind: SparseKind::Hosted,
            len: 1 << 20,
            grain: 65_536,
            table_entries: 512,
            tables: 1,
            directory: 26 * 512,
            redundant: Some(21 * 512),
            overhead: 65_536,
            zeroed_grains: true,
            compressed: false,
            markers: false,
        }
    }

    #[test]
    fn entries_are_decoded_by_kind() {
        let geo = hosted();
        assert_eq!(geo.decode(0), Some(GrainEntry::Absent));
        assert_eq!(geo.decode(1), Some(GrainEntry::Zero));
        assert_eq!(geo.decode(128), Some(GrainEntry::At(65_536)));
        let plain = Geometry { zeroed_grains: false, ..hosted() };
        assert_eq!(plain.decode(1), Some(GrainEntry::At(512)));
        let se =
            Geometry { kind: SparseKind::SeSparse { tables: 4096, grains: 8192 }, grain: 4096, ..hosted() };
        assert_eq!(se.decode(0x2000_0000_0000_0000), Some(GrainEntry::Zero));
        assert_eq!(se.decode(0x3001_0000_0000_0000), Some(GrainEntry::At(8192 + 4096)));
        assert_eq!(se.decode(0x3000_0000_0000_0001), Some(GrainEntry::At(8192 + (4096 << 12))));
        assert_eq!((se.decode(5), se.decode(0x4000_0000_0000_0000)), (None, None));
        assert_eq!(se.decode_directory(0x1000_0000_0000_0001), Some(Some(4096 + 4096)));
        assert_eq!((se.decode_directory(7), se.decode_directory(0)), (None, Some(None)));
    }
}
