//! Copies between host files within the kernel: `copy_file_range`, which shares blocks (reflink) where the file system
//! can and copies in the kernel where it can't.
//!
//! Blocks are shared only where both offsets lie on borders of them, so a copy that starts between two such borders in
//! both files goes up to the first one by itself. How much one request asks for is the caller's to bound: the kernel is not
//! interrupted while it copies.
//!
//! Used by [`crate::FileDevice`] alone.

use diskimg_core::{BlockDevice, HostRef, Result, align_down, to_usize};
use rustix::io::Errno;

use crate::device::{FileDevice, FileKind};
use crate::direct::Direct;
use crate::errors::from_os;

/// Bytes that one call may copy: 2 GiB less a page is where the kernel stops by itself, off the border of a large block.
const CHUNK: u64 = 1 << 30;

/// No file system has blocks of fewer bytes, and few of more.
const BLOCK: u64 = 4096;

/// Copies `len` bytes of `source` to byte `offset` of `target`; returns how many it could.
pub(crate) fn copy_from(target: &FileDevice, offset: u64, source: HostRef<'_>, len: u64) -> Result<u64> {
    let Some(from) = source.device.as_any().and_then(|any| any.downcast_ref::<FileDevice>()) else {
        return Ok(0);
    };
    if from.kind != FileKind::Regular || target.kind != FileKind::Regular {
        return Ok(0);
    }
    let len = len.min(from.len().saturating_sub(source.offset));
    // Past the page cache the kernel moves whole blocks only, and can fail half-way with others.
    let block =
        [from, target].iter().filter_map(|file| file.direct.as_ref()).map(Direct::block).max().unwrap_or(1);
    let len = align_down(len, block);
    if !offset.is_multiple_of(block) || !source.offset.is_multiple_of(block) {
        return Ok(0);
    }
    let _shape = target.share_shape(offset.saturating_add(len));
    let mut copied = 0;
    while copied < len {
        let (mut read_at, mut write_at) = (source.offset + copied, offset + copied);
        let count = to_usize(CHUNK.min(to_border(read_at, write_at)).min(len - copied));
        let done = rustix::fs::copy_file_range(
            &from.file,
            Some(&mut read_at),
            &target.file,
            Some(&mut write_at),
            count,
        );
        match done {
            Ok(0) => break,
            Ok(count) => {
                copied += u64::try_from(count).unwrap_or(u64::MAX);
                target.after_fill(offset.saturating_add(copied));
                // A shared hole stays a hole.
                target.extents.punched();
            }
            Err(Errno::INTR) => {}
            // Nothing that reading and writing could not do: other file systems, overlaps, old kernels.
            Err(
                Errno::XDEV
                | Errno::INVAL
                | Errno::NOSYS
                | Errno::NOTSUP
                | Errno::BADF
                | Errno::PERM
                | Errno::TXTBSY
                | Errno::IO,
            ) => break,
            Err(error) => return Err(from_os(error)),
        }
    }
    Ok(copied)
}

/// Bytes up to the next border of blocks, where both offsets lie as far before one.
fn to_border(read_at: u64, write_at: u64) -> u64 {
    let (within, target_within) = (read_at % BLOCK, write_at % BLOCK);
    if within == target_within && within > 0 { BLOCK - within } else { u64::MAX }
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, to_border};

    #[test]
    fn only_offsets_that_are_equally_far_from_a_border_are_brought_to_it() {
        assert_eq!(to_border(0, 8 * BLOCK), u64::MAX);
        assert_eq!(to_border(512, 8 * BLOCK), u64::MAX);
        assert_eq!(to_border(512, 8 * BLOCK + 512), BLOCK - 512);
        assert_eq!(to_border(u64::MAX, BLOCK - 1), 1);
    }
}
