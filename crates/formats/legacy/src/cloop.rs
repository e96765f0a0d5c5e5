//! Compressed loop images, version 2.0: a shell script, a table of offsets, and blocks that are zlib streams.

use std::sync::Arc;

use diskimg_core::driver::{OpenContext, ProbeInput, Score};
use diskimg_core::{
    BlockDevice, ChunkCache, Error, Fields, FormatDriver, Image, Result, errno, read_zero_padded, to_usize,
};
use flate2::{Decompress, FlushDecompress, Status};

use crate::image::{Contents, ReadOnly, check_mode};
use crate::{KEPT_BYTES, SECTOR};

/// What an image begins with.
const SCRIPT: &[u8] =
    b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";
/// Host offset of the block size and the number of blocks.
const SIZES_OFFSET: u64 = 128;
/// Host offset of the table of offsets.
const TABLE_OFFSET: u64 = 136;
/// Longest block, in bytes.
const MAX_BLOCK_BYTES: u32 = 64 << 20;
/// Longest compressed block, in bytes.
const MAX_COMPRESSED_BYTES: u64 = 2 * MAX_BLOCK_BYTES as u64;
/// Most blocks.
const MAX_BLOCKS: u32 = (1 << 29) - 1;
/// Longest table of offsets, in bytes.
const MAX_TABLE_BYTES: u64 = 512 << 20;
/// How much of the table is read at a time, in bytes.
const TABLE_STEP: u64 = 1 << 20;

/// 2 for the usual script.
pub(crate) fn probe(input: &ProbeInput<'_>) -> Score {
    if input.head.starts_with(SCRIPT) { 2 } else { 0 }
}

fn check_sizes(block_size: u32, blocks: u32) -> Result<()> {
    if !u64::from(block_size).is_multiple_of(SECTOR) {
        return Err(Error::corrupt(format!("block_size {block_size} must be a multiple of 512")));
    }
    if block_size == 0 {
        return Err(Error::corrupt("block_size cannot be zero"));
    }
    if block_size > MAX_BLOCK_BYTES {
        return Err(Error::limit(format!("block_size {block_size} must be 64 MB or less")));
    }
    if blocks > MAX_BLOCKS {
        return Err(Error::limit(format!("n_blocks {blocks} must be {MAX_BLOCKS} or less")));
    }
    if (u64::from(blocks) + 1) * 8 > MAX_TABLE_BYTES {
        return Err(Error::limit("image requires too many offsets, try increasing block size"));
    }
    Ok(())
}

/// Opens an image.
pub(crate) fn open(context: OpenContext<'_>) -> Result<Arc<dyn Image>> {
    check_mode(&context)?;
    let storage = context.storage;
    let mut sizes = [0; 8];
    read_zero_padded(&*storage, SIZES_OFFSET, &mut sizes)?;
    let mut fields = Fields::new(&sizes);
    let (block_size, blocks) = (fields.u32_be().unwrap_or(0), fields.u32_be().unwrap_or(0));
    check_sizes(block_size, blocks)?;
    let offsets = read_offsets(&*storage, u64::from(blocks) + 1)?;
    let cache = ChunkCache::new(KEPT_BYTES);
    let (block_size, blocks) = (block_size.into(), blocks.into());
    Ok(Arc::new(ReadOnly(Cloop { storage, block_size, blocks, offsets, cache })))
}

/// The table, checked while it is read. What lies behind the end of the file reads as zeros and takes no memory.
fn read_offsets(storage: &dyn BlockDevice, count: u64) -> Result<Vec<u64>> {
    let there = count.min(storage.len().saturating_sub(TABLE_OFFSET).div_ceil(8));
    let mut offsets: Vec<u64> = Vec::with_capacity(to_usize(there));
    let (mut at, end) = (TABLE_OFFSET, TABLE_OFFSET + there * 8);
    while at < end {
        let mut bytes = vec![0; to_usize(TABLE_STEP.min(end - at))];
        read_zero_padded(storage, at, &mut bytes)?;
        for entry in bytes.as_chunks().0 {
            let offset = u64::from_be_bytes(*entry);
            check_step(offsets.last(), offset, offsets.len())?;
            offsets.push(offset);
        }
        at += bytes.len() as u64;
    }
    if there < count {
        check_step(offsets.last(), 0, offsets.len())?;
    }
    Ok(offsets)
}

/// Checks entry `index` against the one before it.
fn check_step(before: Option<&u64>, offset: u64, index: usize) -> Result<()> {
    let Some(before) = before else { return Ok(()) };
    let wrong = match offset.checked_sub(*before) {
        Some(len) if len <= MAX_COMPRESSED_BYTES => return Ok(()),
        Some(_) => "invalid compressed block size",
        None => "offsets not monotonically increasing",
    };
    Err(Error::corrupt(format!("{wrong} at index {index}, image file is corrupt")))
}

/// The disk.
#[derive(Debug)]
struct Cloop {
    storage: Arc<dyn BlockDevice>,
    block_size: u64,
    blocks: u64,
    /// Where each block begins on the host, and where the last one ends; 0 for those that are missing here.
    offsets: Vec<u64>,
    cache: ChunkCache,
}

impl Cloop {
    fn decode(&self, index: u64, block: &mut [u8]) -> Result<()> {
        let offset = |index: u64| self.offsets.get(to_usize(index)).copied().unwrap_or(0);
        let (start, end) = (offset(index), offset(index + 1));
        let mut payload = vec![0; to_usize(end.saturating_sub(start))];
        read_zero_padded(&*self.storage, start, &mut payload)?;
        inflate(&payload, block)
    }
}

/// Decodes a zlib stream that gives exactly `out`.
pub(crate) fn inflate(payload: &[u8], out: &mut [u8]) -> Result<()> {
    let mut stream = Decompress::new(true);
    let status = stream.decompress(payload, out, FlushDecompress::Finish);
    if matches!(status, Ok(Status::StreamEnd)) && stream.total_out() == out.len() as u64 {
        return Ok(());
    }
    Err(Error::corrupt("a compressed block is damaged").with_errno(errno::EIO))
}

impl Contents for Cloop {
    fn driver(&self) -> &'static FormatDriver {
        &crate::CLOOP
    }

    fn storage(&self) -> &Arc<dyn BlockDevice> {
        &self.storage
    }

    fn len(&self) -> u64 {
        self.blocks * self.block_size
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            let (index, within) = (at / self.block_size, to_usize(at % self.block_size));
            let block_len = to_usize(self.block_size);
            let len = (block_len - within).min(rest.len());
            let Some((part, behind)) = rest.split_at_mut_checked(len) else { break };
            if len == block_len {
                self.decode(index, part)?;
            } else {
                let block = self.cache.get(index, block_len, |block| self.decode(index, block))?;
                part.copy_from_slice(block.get(within..within + len).unwrap_or_default());
            }
            (rest, at) = (behind, at + len as u64);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_sizes_are_named() {
        let message = |size, blocks| check_sizes(size, blocks).unwrap_err().to_string();
        assert_eq!(message(65537, 1), "block_size 65537 must be a multiple of 512");
        assert_eq!(message(0, 1), "block_size cannot be zero");
        assert_eq!(message(128 << 20, 1), "block_size 134217728 must be 64 MB or less");
        assert_eq!(message(512, 1 << 29), "n_blocks 536870912 must be 536870911 or less");
        assert_eq!(message(512, 1 << 28), "image requires too many offsets, try increasing block size");
        check_sizes(65536, 16).unwrap();
    }
}
