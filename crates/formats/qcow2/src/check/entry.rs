//! One L2 entry under the eyes of the check: what it refers to and what is wrong with it. The fast scan and the
//! walk that reports both judge entries here, and only here.

use super::finding::Finding;
use super::layout::Layout;
use crate::entry::{COPIED, ClusterKind, L2_RESERVED, L2Entry};

/// What an entry refers to on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Nothing that is counted.
    Nothing,
    /// A compressed payload.
    Compressed {
        /// First host byte.
        offset: u64,
        /// Bytes to the end of its last sector.
        len: u64,
    },
    /// A cluster (of the data file, if there is one) at this offset, aligned or not.
    Cluster(u64),
}

/// Judges `entry`, the `index`-th of its table, and tells `found` what is wrong.
pub(super) fn judge(layout: &Layout, entry: L2Entry, index: u64, found: &mut impl FnMut(Finding)) -> Target {
    let kind = entry.kind(&layout.geo, layout.data_file);
    if kind == ClusterKind::Compressed {
        return judge_compressed(layout, entry, index, found);
    }
    if entry.descriptor & L2_RESERVED != 0 {
        found(Finding::L2Reserved { entry: entry.descriptor });
    }
    let offset = entry.offset();
    if matches!(kind, ClusterKind::Unallocated | ClusterKind::ZeroPlain) {
        if entry.allocated_mask() != 0 {
            found(Finding::BitmapOfUnallocated);
        }
        return Target::Nothing;
    }
    if entry.allocated_mask() & entry.zero_mask() != 0 {
        found(Finding::BitmapOfAllocated { offset });
    }
    if !layout.geo.is_aligned(offset) {
        let has_data =
            if layout.geo.extended_l2 { entry.allocated_mask() != 0 } else { kind == ClusterKind::Normal };
        found(if has_data {
            Finding::DataUnaligned { offset }
        } else {
            Finding::PreallocatedUnaligned { offset }
        });
    }
    Target::Cluster(offset)
}

fn judge_compressed(
    layout: &Layout,
    mut entry: L2Entry,
    index: u64,
    found: &mut impl FnMut(Finding),
) -> Target {
    let payload = entry.compressed_ref(&layout.geo);
    if entry.is_copied() {
        found(Finding::CompressedCopied { payload: payload.offset });
        entry.descriptor &= !COPIED;
    }
    if layout.data_file {
        found(Finding::CompressedWithDataFile { index, entry: entry.descriptor });
        return Target::Nothing;
    }
    if entry.bitmap != 0 {
        found(Finding::CompressedWithBitmap { index, entry: entry.descriptor });
        return Target::Nothing;
    }
    Target::Compressed { offset: payload.offset, len: payload.len }
}

/// The entries of a piece of an L2 table, with their indices.
pub(super) fn entries_of(
    piece: &[u8],
    extended: bool,
    first: u64,
) -> impl Iterator<Item = (u64, L2Entry)> + '_ {
    let size = if extended { 16 } else { 8 };
    let word = |bytes: Option<&[u8]>| {
        bytes.and_then(|b| b.try_into().ok()).map(u64::from_be_bytes).unwrap_or_default()
    };
    let entry = move |bytes: &[u8]| L2Entry {
        descriptor: word(bytes.get(..8)),
        bitmap: if extended { word(bytes.get(8..16)) } else { 0 },
    };
    (first..).zip(piece.chunks_exact(size).map(entry))
}
