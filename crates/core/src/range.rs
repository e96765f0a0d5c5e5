//! Half-open byte ranges with checked arithmetic.

use crate::error::{Error, ErrorKind, Result};

/// A run of bytes: `start` and `len` are in bytes; the end never exceeds `u64::MAX`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// Number of bytes.
    pub len: u64,
}

impl ByteRange {
    /// `len` bytes from `start`, cut at `u64::MAX`.
    #[must_use]
    pub const fn new(start: u64, len: u64) -> Self {
        let room = u64::MAX - start;
        Self { start, len: if len > room { room } else { len } }
    }

    /// From `start` up to, not including, `end`; empty if `end` is not above `start`.
    #[must_use]
    pub const fn from_bounds(start: u64, end: u64) -> Self {
        Self { start, len: end.saturating_sub(start) }
    }

    /// The first byte behind the range.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }

    /// True if there is no byte in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes that both have; its `start` lies within `self` or at its end when empty.
    #[must_use]
    pub fn intersect(&self, other: Self) -> Self {
        let start = self.start.max(other.start);
        Self::from_bounds(start, self.end().min(other.end()))
    }

    /// True if a byte belongs to both.
    #[must_use]
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.len != 0 && other.len != 0 && self.start < other.end() && other.start < self.end()
    }

    /// The smallest range of whole units of `unit` bytes that holds this one. `unit` must not be 0.
    #[must_use]
    pub fn align_outwards(&self, unit: u64) -> Self {
        let start = align_down(self.start, unit);
        Self::from_bounds(start, align_up(self.end(), unit).unwrap_or(u64::MAX))
    }

    /// The largest range of whole units of `unit` bytes within this one, possibly empty.
    #[must_use]
    pub fn align_inwards(&self, unit: u64) -> Self {
        let start = align_up(self.start, unit).unwrap_or(u64::MAX);
        Self::from_bounds(start, align_down(self.end(), unit))
    }

    /// An [`ErrorKind::OutOfRange`] error unless the range ends within `len` bytes.
    ///
    /// # Errors
    /// As said.
    pub fn check_within(&self, len: u64) -> Result<()> {
        if self.end() <= len {
            return Ok(());
        }
        let text = format!("request for {} bytes at {} exceeds the size of {len}", self.len, self.start);
        Err(Error::new(ErrorKind::OutOfRange, text))
    }
}

impl From<std::ops::Range<u64>> for ByteRange {
    fn from(range: std::ops::Range<u64>) -> Self {
        Self::from_bounds(range.start, range.end)
    }
}

/// The multiple of `unit` at or below `value`.
#[must_use]
pub const fn align_down(value: u64, unit: u64) -> u64 {
    match value.checked_rem(unit) {
        Some(rest) => value - rest,
        None => value,
    }
}

/// The multiple of `unit` at or above `value`, if it is below 2^64.
#[must_use]
pub const fn align_up(value: u64, unit: u64) -> Option<u64> {
    let down = align_down(value, unit);
    if down == value { Some(value) } else { down.checked_add(unit) }
}

/// The length of a buffer in bytes.
#[must_use]
pub const fn len_u64(buf: &[u8]) -> u64 {
    buf.len() as u64
}

/// A length that is known to fit in memory, as `usize`; saturates.
#[must_use]
pub fn to_usize(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alignment_goes_both_ways_and_stops_at_the_end_of_the_number_range() {
        let range = ByteRange::new(5, 20);
        assert_eq!(range.align_outwards(8), ByteRange::from_bounds(0, 32));
        assert_eq!(range.align_inwards(8), ByteRange::from_bounds(8, 24));
        assert_eq!(align_up(u64::MAX, 512), None);
        assert!(ByteRange::new(1, 2).align_inwards(512).is_empty());
    }

    #[test]
    fn ends_are_cut_and_checked() {
        assert_eq!(ByteRange::new(u64::MAX - 1, 5).len, 1);
        assert!(ByteRange::new(10, 1).check_within(10).is_err());
        assert!(ByteRange::new(10, 0).check_within(10).is_ok());
    }
}
