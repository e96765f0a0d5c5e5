//! What every phase knows of the image, and the arithmetic of regions on the host.

use diskimg_core::{BlockDevice, Error, Result, align_up, read_zero_padded, to_usize};

use crate::geometry::Geometry;

/// The host's unit of file lengths, in bytes.
const HOST_SECTOR: u64 = 512;
/// Tables are read in pieces of this size, in bytes.
pub(super) const PIECE: u64 = 256 << 10;
/// Host offsets from here on can't be read, in bytes: 2^63 less the greatest alignment of a device.
const HOST_END: u64 = (1 << 63) - (1 << 30);

/// Layout and length of the image that is checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Cluster size and what follows from it.
    pub geo: Geometry,
    /// Guest data stands in another file and is not counted.
    pub data_file: bool,
    /// Length of the host file in whole sectors, in bytes.
    pub file_len: u64,
    /// Clusters of the host file, the last one perhaps in part.
    pub clusters: u64,
}

/// Clusters on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clusters {
    /// First cluster.
    pub first: u64,
    /// Number of them.
    pub count: u64,
}

/// A region is a cluster or more behind the end of the file; it is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BeyondEnd;

impl Layout {
    /// That of an image in `storage`.
    pub(super) fn new(storage: &dyn BlockDevice, geo: Geometry, data_file: bool) -> Self {
        let file_len = align_up(storage.len(), HOST_SECTOR).unwrap_or(u64::MAX);
        Self { geo, data_file, file_len, clusters: geo.clusters_for(file_len) }
    }

    /// Clusters that can be referenced: one more than there are, for what ends less than a cluster behind the end.
    pub(super) const fn countable(&self) -> u64 {
        self.clusters.saturating_add(1)
    }

    /// The clusters that `len` bytes at `offset` touch.
    pub(super) fn region(&self, offset: u64, len: u64) -> Result<Clusters, BeyondEnd> {
        let first = offset >> self.geo.cluster_bits;
        let Some(last_byte) = len.checked_sub(1) else { return Ok(Clusters { first, count: 0 }) };
        let end = offset.checked_add(len).ok_or(BeyondEnd)?;
        if end.saturating_sub(self.file_len) >= self.geo.cluster_size() {
            return Err(BeyondEnd);
        }
        Ok(Clusters { first, count: ((offset + last_byte) >> self.geo.cluster_bits) - first + 1 })
    }

    /// False for a cluster at `offset` (bytes) that lies behind the end and is not counted either: it reads as zeros.
    /// An image can name millions of those, and none of them is worth memory or a look.
    pub(super) fn may_say_anything(&self, offset: u64) -> bool {
        offset < self.file_len || self.region(offset, self.geo.cluster_size()).is_ok()
    }

    /// Host byte at which `cluster` starts.
    pub(super) const fn start_of(&self, cluster: u64) -> u64 {
        cluster << self.geo.cluster_bits
    }
}

/// Reads as [`read_zero_padded`], but refuses offsets that no file has.
///
/// # Errors
/// The storage's.
pub(super) fn read(storage: &dyn BlockDevice, offset: u64, buf: &mut [u8]) -> Result<()> {
    if !is_readable(offset, diskimg_core::len_u64(buf)) {
        return Err(Error::from_errno(diskimg_core::errno::EIO));
    }
    read_zero_padded(storage, offset, buf)
}

/// True if a file could have these bytes.
pub(super) fn is_readable(offset: u64, len: u64) -> bool {
    offset.checked_add(len).is_some_and(|end| end <= HOST_END)
}

/// Reads `len` bytes at `offset` piece by piece, and hands each piece to `each`. `buf` is used for it.
///
/// # Errors
/// The storage's, or what `each` says.
pub(super) fn read_pieces(
    storage: &dyn BlockDevice,
    offset: u64,
    len: u64,
    buf: &mut Vec<u8>,
    mut each: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut done = 0;
    while done < len {
        let step = PIECE.min(len - done);
        buf.resize(to_usize(step), 0);
        read(storage, offset.saturating_add(done), buf)?;
        each(buf)?;
        done += step;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_may_end_less_than_a_cluster_behind_the_end() {
        let geo = Geometry { cluster_bits: 16, refcount_order: 4, extended_l2: false };
        let layout = Layout { geo, data_file: false, file_len: 0x9_0000, clusters: 9 };
        assert_eq!(layout.region(0x8_0000, 0x1_0000), Ok(Clusters { first: 8, count: 1 }));
        assert_eq!(layout.region(0x8_fe00, 0x1_0000), Ok(Clusters { first: 8, count: 2 }));
        assert_eq!(layout.region(0x9_0000, 0xffff), Ok(Clusters { first: 9, count: 1 }));
        assert_eq!(layout.region(0x9_0000, 0x1_0000), Err(BeyondEnd));
        assert_eq!(layout.region(u64::MAX, 2), Err(BeyondEnd));
        assert_eq!(layout.region(u64::MAX, 0).map(|clusters| clusters.count), Ok(0));
        let looked_at =
            [0, 0x8_fe00, 0x9_0000, 0x9_0200, 1 << 55].map(|offset| layout.may_say_anything(offset));
        assert_eq!(looked_at, [true, true, false, false, false]);
    }
}
