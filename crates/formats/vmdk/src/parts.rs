//! [`Parts`]: the disk as a row of extents, each with its own range of the disk.

use std::sync::Arc;

use diskimg_core::{BlockDevice, ByteRange, Error, Result, errno};

use crate::error::VmdkError;
use crate::limits::{MAX_DISK, MAX_FILLED_GRAIN};
use crate::sparse::SparseExtent;

/// Bytes of a file as they are.
#[derive(Debug)]
pub(crate) struct FlatExtent {
    /// The file, as `HostRef`s name it.
    pub storage: Arc<dyn BlockDevice>,
    /// The file, at any alignment.
    pub io: Arc<dyn BlockDevice>,
    /// Its first byte in the file.
    pub offset: u64,
}

/// What a part is made of.
#[derive(Debug)]
pub(crate) enum Body {
    Flat(FlatExtent),
    Sparse(Box<SparseExtent>),
    Zero,
}

/// A part of the disk.
#[derive(Debug)]
pub(crate) struct Part {
    /// The bytes of the disk that it holds.
    pub range: ByteRange,
    pub body: Body,
    /// The name of its file, for people; empty without one.
    pub filename: String,
    /// The word for its type in the descriptor; empty without one.
    pub word: String,
    /// It may be written.
    pub writable: bool,
    /// It is in a file of its own.
    pub own_file: bool,
}

impl Part {
    /// `range` of the disk as bytes of the part.
    pub(crate) fn within(&self, range: ByteRange) -> ByteRange {
        let part = range.intersect(self.range);
        ByteRange::new(part.start - self.range.start, part.len)
    }

    /// The sparse extent, if it is one.
    pub(crate) fn sparse(&self) -> Option<&SparseExtent> {
        match &self.body {
            Body::Sparse(sparse) => Some(sparse),
            _ => None,
        }
    }

    /// The file, if it has one.
    pub(crate) fn storage(&self) -> Option<&Arc<dyn BlockDevice>> {
        match &self.body {
            Body::Flat(flat) => Some(&flat.storage),
            Body::Sparse(sparse) => Some(&sparse.storage),
            Body::Zero => None,
        }
    }
}

/// The parts of a disk, ascending and without gaps.
#[derive(Debug, Default)]
pub(crate) struct Parts(Vec<Part>);

impl Parts {
    /// Adds a part of `len` bytes at the end; `part` makes it for its range.
    pub(crate) fn push(&mut self, len: u64, part: impl FnOnce(ByteRange) -> Part) -> Result<(), VmdkError> {
        let start = self.len();
        if len > MAX_DISK - start {
            return Err(VmdkError::TooLarge);
        }
        self.0.push(part(ByteRange::new(start, len)));
        Ok(())
    }

    /// Bytes of the disk.
    pub(crate) fn len(&self) -> u64 {
        self.0.last().map_or(0, |part| part.range.end())
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Part> + ExactSizeIterator {
        self.0.iter()
    }

    /// The part that holds byte `at`.
    pub(crate) fn at(&self, at: u64) -> Result<&Part> {
        let next = self.0.partition_point(|part| part.range.end() <= at);
        self.0.get(next).ok_or_else(|| Error::from_errno(errno::EIO))
    }

    /// Calls `each` with the parts that `range` touches, and what of it they hold (bytes of the disk).
    pub(crate) fn each(
        &self,
        range: ByteRange,
        mut each: impl FnMut(&Part, ByteRange) -> Result<()>,
    ) -> Result<()> {
        let mut at = range.start;
        while at < range.end() {
            let part = self.at(at)?;
            let common = ByteRange::from_bounds(at, range.end()).intersect(part.range);
            each(part, common)?;
            at = common.end();
        }
        Ok(())
    }

    /// The one sparse extent that is all there is.
    pub(crate) fn only_sparse(&self) -> Option<&SparseExtent> {
        match self.0.as_slice() {
            [part] => part.sparse(),
            _ => None,
        }
    }

    /// The grain that all sparse parts have, and whether it is a unit of writes: parts begin on its borders, and it is not
    /// too long. `None` without sparse parts.
    pub(crate) fn grain(&self) -> Option<(u64, bool)> {
        let sparse = || self.0.iter().filter_map(|part| Some((part, part.sparse()?)));
        let largest = sparse().map(|(_, extent)| extent.geo.grain).max()?;
        let fits = |part: &Part, extent: &SparseExtent| {
            let grain = extent.geo.grain;
            largest.is_multiple_of(grain) && part.range.start.is_multiple_of(largest)
        };
        let aligned = sparse().all(|(part, extent)| fits(part, extent));
        // A unit must not reach into the next part.
        let borders = self.0.iter().skip(1).all(|part| part.range.start.is_multiple_of(largest));
        Some((largest, aligned && borders && largest <= MAX_FILLED_GRAIN))
    }
}

#[cfg(test)]
mod tests {
    use diskimg_core::MemDevice;

    use super::*;
    use crate::header::tests::sample;
    use crate::header::{Header, flags};
    use crate::limits::SECTOR;

    #[test]
    fn a_very_long_grain_is_no_unit_of_writes() {
        for (grain, is_unit) in [(128, true), (0x2_0000, true), (0x4_0000, false), (0x20_0000, false)] {
            let header = Header { grain, capacity: grain * 2, flags: flags::NEWLINES, ..sample() };
            let geo = header.geometry(1 << 20, true).unwrap();
            let extent = SparseExtent::new(Arc::new(MemDevice::new(1 << 20)), geo, None);
            let mut parts = Parts::default();
            let part = |range| Part {
                range,
                body: Body::Sparse(Box::new(extent)),
                filename: String::new(),
                word: String::new(),
                writable: true,
                own_file: false,
            };
            parts.push(grain * 2 * SECTOR, part).unwrap();
            assert_eq!(parts.grain(), Some((grain * SECTOR, is_unit)));
        }
    }
}
