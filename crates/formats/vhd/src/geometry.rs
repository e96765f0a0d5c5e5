//! Cylinders, heads and sectors: how a size becomes a geometry, and which sizes have one.

use crate::limits::{MAX_DISK, MAX_GEOMETRY, SECTOR};

/// A disk's geometry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub cylinders: u16,
    pub heads: u8,
    /// Sectors of a track.
    pub track: u8,
}

/// The geometry that stands for "look at the size instead".
pub(crate) const LARGEST: Geometry = Geometry { cylinders: 65_535, heads: 16, track: 255 };

impl Geometry {
    /// The geometry of a disk of `sectors`, which it may fall short of.
    pub(crate) fn of(sectors: u64) -> Self {
        let sectors = sectors.min(MAX_GEOMETRY);
        let (mut track, mut heads, mut rows);
        if sectors >= 65_535 * 16 * 63 {
            (track, heads) = (255, 16);
            rows = sectors / track;
        } else {
            track = 17;
            rows = sectors / track;
            heads = rows.div_ceil(1024).max(4);
            if rows >= heads * 1024 || heads > 16 {
                (track, heads) = (31, 16);
                rows = sectors / track;
            }
            if rows >= heads * 1024 {
                (track, heads) = (63, 16);
                rows = sectors / track;
            }
        }
        let cylinders = rows / heads;
        if cylinders == 0 {
            // Less than a cylinder: there is nothing to count.
            return if sectors == 0 { Self::default() } else { Self::narrow(0, heads, track) };
        }
        Self::narrow(cylinders, heads, track)
    }

    fn narrow(cylinders: u64, heads: u64, track: u64) -> Self {
        Self {
            cylinders: u16::try_from(cylinders).unwrap_or(u16::MAX),
            heads: u8::try_from(heads).unwrap_or(u8::MAX),
            track: u8::try_from(track).unwrap_or(u8::MAX),
        }
    }

    /// Sectors that it has.
    pub(crate) fn sectors(self) -> u64 {
        u64::from(self.cylinders) * u64::from(self.heads) * u64::from(self.track)
    }
}

/// The geometry and the bytes of a new disk of at least `size` bytes; `None`: too long.
pub(crate) fn round(size: u64, exact: bool) -> Option<(Geometry, u64)> {
    let exact_len = size.checked_next_multiple_of(SECTOR).filter(|len| *len <= MAX_DISK)?;
    if exact {
        return Some((LARGEST, exact_len));
    }
    let wanted = (exact_len / SECTOR).min(MAX_GEOMETRY);
    // A cylinder has 4080 sectors at most, so that the search is short.
    let found = (wanted..=MAX_GEOMETRY).map(Geometry::of).find(|found| found.sectors() >= wanted)?;
    let len = if found == LARGEST { exact_len } else { found.sectors() * SECTOR };
    Some((found, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_as_by_the_oracle() {
        let cases: &[(u64, u64, (u16, u8, u8))] = &[
            (0, 0, (0, 0, 0)),
            (512, 34_816, (1, 4, 17)),
            (1 << 20, 1_079_296, (31, 4, 17)),
            (10 << 20, 10_514_432, (302, 4, 17)),
            (100 << 20, 104_865_792, (1004, 12, 17)),
            (504 << 20, 528_482_304, (1024, 16, 63)),
            (1 << 30, 1_073_995_776, (2081, 16, 63)),
            (20 << 30, 21_475_270_656, (41_611, 16, 63)),
            (31 << 30, 33_286_127_616, (64_496, 16, 63)),
            (32 << 30, 34_361_303_040, (16_449, 16, 255)),
            (127 << 30, 136_365_219_840, (65_279, 16, 255)),
            (136_899_993_088, 136_899_993_088, (65_535, 16, 255)),
            (MAX_DISK, MAX_DISK, (65_535, 16, 255)),
        ];
        for (asked, len, (cylinders, heads, track)) in cases {
            let geometry = Geometry { cylinders: *cylinders, heads: *heads, track: *track };
            assert_eq!(round(*asked, false), Some((geometry, *len)), "{asked}");
        }
        assert_eq!(round(513, true), Some((LARGEST, 1024)));
        assert_eq!(round(MAX_DISK + 1, true), None);
        assert_eq!(round(u64::MAX, false), None);
    }
}
