//! I/O past the page cache (`O_DIRECT`): aligned requests go to the kernel, through aligned buffers where the caller's
//! are not; what is not aligned is rewritten in whole blocks.
//!
//! Invariants: a rewrite of whole blocks holds the device's `shape` exclusively, all other changes hold it shared, so that
//! neighbouring bytes are never put back to what they were. The file keeps its exact length, also where that is no
//! multiple of the block. Used by [`crate::FileDevice`] alone.

use std::fs::File;
use std::os::unix::fs::FileExt;

use diskimg_core::{BlockDevice, ByteRange, Error, Result, align_down, len_u64, to_usize};
use parking_lot::Mutex;
use rustix::fs::{AtFlags, StatxFlags};

use crate::device::{FileDevice, part};
use crate::errors::{ended_early, from_os};

/// The greatest part of a request that is bounced at once, in bytes.
const BOUNCE: u64 = 1 << 20;

/// Buffers kept for the next request.
const SPARE_BUFFERS: usize = 16;

/// A multiple of every alignment that Linux asks for in practice.
const SAFE_ALIGN: u64 = 4096;

/// The least alignment, the sector.
const LEAST_ALIGN: u64 = 512;

/// Alignment of a file that is open with `O_DIRECT`, and its spare buffers.
#[derive(Debug)]
pub(crate) struct Direct {
    /// Offsets and lengths are multiples of it.
    block: u64,
    /// Buffers start at multiples of it.
    memory: usize,
    spare: Mutex<Vec<AlignedBuf>>,
}

/// Memory that starts at a multiple of an alignment.
#[derive(Debug)]
struct AlignedBuf {
    bytes: Vec<u8>,
    start: usize,
}

impl AlignedBuf {
    fn new(len: usize, align: usize) -> Self {
        let bytes = vec![0; len.saturating_add(align)];
        let start = bytes.as_ptr().align_offset(align);
        Self { bytes, start }
    }

    fn get_mut(&mut self, len: u64) -> &mut [u8] {
        let end = self.start.saturating_add(to_usize(len));
        self.bytes.get_mut(self.start..end).unwrap_or_default()
    }
}

impl Direct {
    /// Finds out what `file`, open with `O_DIRECT`, asks for.
    pub(crate) fn probe(file: &File) -> Self {
        let (block, memory) = stated_alignment(file).unwrap_or_else(|| tried_alignment(file));
        Self { block, memory: to_usize(memory), spare: Mutex::default() }
    }

    /// The unit of transfers in bytes.
    pub(crate) const fn block(&self) -> u64 {
        self.block
    }

    /// True if the range can be written without a look at what was there.
    pub(crate) fn takes(&self, offset: u64, len: u64) -> bool {
        offset.is_multiple_of(self.block) && len.is_multiple_of(self.block)
    }

    fn is_aligned(&self, buf: &[u8]) -> bool {
        buf.as_ptr().addr().is_multiple_of(self.memory)
    }

    fn bounce_size(&self) -> u64 {
        BOUNCE.max(self.block)
    }

    fn with_buffer<T>(&self, work: impl FnOnce(&mut AlignedBuf) -> T) -> T {
        let spare = self.spare.lock().pop();
        // Two blocks more than a part: its ends may be unaligned.
        let len = self.bounce_size().saturating_add(2 * self.block);
        let mut buffer = spare.unwrap_or_else(|| AlignedBuf::new(to_usize(len), self.memory));
        let result = work(&mut buffer);
        let mut spares = self.spare.lock();
        if spares.len() < SPARE_BUFFERS {
            spares.push(buffer);
        }
        result
    }

    /// Fills `buf`; the range lies within the file.
    pub(crate) fn read(&self, file: &File, offset: u64, buf: &mut [u8]) -> Result<()> {
        if self.takes(offset, len_u64(buf)) && self.is_aligned(buf) {
            let need = len_u64(buf);
            return read_aligned(file, offset, buf, need);
        }
        self.with_buffer(|bounce| {
            let range = ByteRange::new(offset, len_u64(buf));
            let mut at = range.start;
            while at < range.end() {
                let len = self.bounce_size().min(range.end() - at);
                let outer = ByteRange::new(at, len).align_outwards(self.block);
                let skip = at - outer.start;
                let bytes = bounce.get_mut(outer.len);
                read_aligned(file, outer.start, bytes, skip + len)?;
                let target = to_usize(at - range.start)..to_usize(at - range.start + len);
                if let Some(target) = buf.get_mut(target) {
                    target.copy_from_slice(part(bytes, skip, len));
                }
                at += len;
            }
            Ok(())
        })
    }

    /// Writes `buf` at `offset`, both of whole blocks.
    pub(crate) fn write(&self, file: &File, offset: u64, buf: &[u8]) -> Result<()> {
        if self.is_aligned(buf) {
            return Ok(file.write_all_at(buf, offset)?);
        }
        self.with_buffer(|bounce| {
            let total = len_u64(buf);
            let mut at = 0;
            while at < total {
                let len = align_down(self.bounce_size(), self.block).min(total - at);
                let bytes = bounce.get_mut(len);
                bytes.copy_from_slice(part(buf, at, len));
                file.write_all_at(bytes, offset + at)?;
                at += len;
            }
            Ok(())
        })
    }

    /// Writes `buf` at any `offset`: reads the blocks it lies in, changes and writes them.
    pub(crate) fn rewrite(&self, device: &FileDevice, offset: u64, buf: &[u8]) -> Result<()> {
        let _alone = device.shape.write();
        let end = offset.saturating_add(len_u64(buf));
        let done = self.rewrite_alone(device, offset, buf, device.len().max(end));
        match done {
            Ok(()) => device.after_fill(end),
            Err(_) => device.after_failed_fill(),
        }
        done
    }

    /// The same for a holder of `shape`, who wants the file to be `len` bytes long afterwards.
    pub(crate) fn rewrite_alone(&self, device: &FileDevice, offset: u64, buf: &[u8], len: u64) -> Result<()> {
        let range = ByteRange::new(offset, len_u64(buf));
        let done = self.with_buffer(|bounce| {
            let mut at = range.start;
            while at < range.end() {
                let count = self.bounce_size().min(range.end() - at);
                self.rewrite_part(device, bounce, at, part(buf, at - range.start, count))?;
                at += count;
            }
            Ok(())
        });
        if range.align_outwards(self.block).end() <= len {
            return done;
        }
        // Whole blocks made the file longer than it is to be.
        done.and(rustix::fs::ftruncate(&device.file, len).map_err(from_os))
    }

    fn rewrite_part(&self, device: &FileDevice, bounce: &mut AlignedBuf, at: u64, buf: &[u8]) -> Result<()> {
        let inner = ByteRange::new(at, len_u64(buf));
        let outer = inner.align_outwards(self.block);
        let bytes = bounce.get_mut(outer.len);
        let last = outer.end() - self.block;
        if outer.start != inner.start {
            self.load_block(device, outer.start, 0, bytes)?;
        }
        if outer.end() != inner.end() && (last != outer.start || outer.start == inner.start) {
            self.load_block(device, last, last - outer.start, bytes)?;
        }
        let from = to_usize(inner.start - outer.start);
        if let Some(target) = bytes.get_mut(from..from + buf.len()) {
            target.copy_from_slice(buf);
        }
        Ok(device.file.write_all_at(bytes, outer.start)?)
    }

    /// Reads the block at byte `at` of the file to byte `to` of `bytes`; zeros behind the end of the file.
    fn load_block(&self, device: &FileDevice, at: u64, to: u64, bytes: &mut [u8]) -> Result<()> {
        let Some(block) = bytes.get_mut(to_usize(to)..to_usize(to + self.block)) else { return Ok(()) };
        let there = device.len().saturating_sub(at).min(self.block);
        if there > 0 {
            read_aligned(&device.file, at, block, there)?;
        }
        if let Some(behind) = block.get_mut(to_usize(there)..) {
            behind.fill(0);
        }
        Ok(())
    }
}

/// Fills the aligned `buf` from the aligned `offset`, at least `need` bytes of it.
fn read_aligned(file: &File, offset: u64, buf: &mut [u8], need: u64) -> Result<()> {
    let mut have = 0u64;
    while have < need {
        let rest = buf.get_mut(to_usize(have)..).unwrap_or_default();
        match file.read_at(rest, offset + have) {
            Ok(0) => return Err(ended_early(offset + have)),
            Ok(count) => have += u64::try_from(count).unwrap_or(u64::MAX),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::from(error)),
        }
    }
    Ok(())
}

/// The alignment of offsets and memory as the kernel states it (Linux 6.1 and later), or the block device.
fn stated_alignment(file: &File) -> Option<(u64, u64)> {
    let stat = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    let (block, memory) = (u64::from(stat.stx_dio_offset_align), u64::from(stat.stx_dio_mem_align));
    let sound = |align: u64| align.is_power_of_two() && align <= BOUNCE;
    (stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0 && sound(block) && sound(memory))
        .then_some((block.max(LEAST_ALIGN), memory.max(LEAST_ALIGN)))
}

/// The alignment by trying: a sector, else a page.
fn tried_alignment(file: &File) -> (u64, u64) {
    if let Ok(sector) = rustix::fs::ioctl_blksszget(file) {
        let sector = u64::from(sector).max(LEAST_ALIGN);
        return (sector, SAFE_ALIGN.max(sector));
    }
    let mut buffer = AlignedBuf::new(to_usize(SAFE_ALIGN), to_usize(SAFE_ALIGN));
    let works = file.read_at(buffer.get_mut(LEAST_ALIGN), 0).is_ok_and(|count| count > 0);
    (if works { LEAST_ALIGN } else { SAFE_ALIGN }, SAFE_ALIGN)
}
