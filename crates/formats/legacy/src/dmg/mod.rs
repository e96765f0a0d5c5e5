//! Apple disk images (UDIF): a trailer at the end of the file, tables of chunks, and chunks in several codings.
//!
//! Decoded beyond what qemu-img can: bzip2 and LZFSE without modules, xz, and Apple Data Compression.

mod adc;
mod checksum;
mod chunk;
mod tables;
mod trailer;

use std::sync::Arc;

use diskimg_core::driver::{OpenContext, ProbeInput, Score};
use diskimg_core::{
    BlockDevice, ChunkCache, Error, FormatDriver, Image, Result, Task, errno, read_zero_padded, to_usize,
};

use crate::image::{Contents, ReadOnly, check_mode};
use crate::{KEPT_BYTES, SECTOR};
pub use checksum::ChecksumReport;
use chunk::{Chunk, Coding};
use tables::Tables;
use trailer::Trailer;

/// The ending that a name has to have.
const EXTENSION: &str = ".dmg";
/// Runtime option: refuse an image whose checksums do not fit.
const VERIFY_OPTION: &str = "verify-checksums";

/// 2 for a name that ends in `.dmg`; the start of the file says nothing.
pub(crate) fn probe(input: &ProbeInput<'_>) -> Score {
    if input.filename.len() > EXTENSION.len() && input.filename.ends_with(EXTENSION) { 2 } else { 0 }
}

/// Opens an image.
pub(crate) fn open(context: OpenContext<'_>) -> Result<Arc<dyn Image>> {
    check_mode(&context)?;
    let OpenContext { storage, filename, options, notices, .. } = context;
    let verify = options.take_bool(VERIFY_OPTION)?.unwrap_or(false);
    let invalid = || Error::from_errno(errno::EINVAL).context(format!("Could not open '{filename}'"));
    let trailer = Trailer::find(&*storage)?;
    let trailer = trailer.checked().ok_or_else(invalid)?;
    let read = Tables::read(&*storage, &trailer, &notices)?;
    let tables = read.ok_or_else(invalid)?;
    if trailer.sectors > i64::MAX.unsigned_abs() / SECTOR {
        return Err(Error::from_errno(errno::EFBIG).context("Could not refresh total sector count"));
    }
    let image = DmgImage { storage, trailer, tables, cache: ChunkCache::new(KEPT_BYTES) };
    if verify && !image.verify_checksums(&Task::quiet())?.is_good() {
        return Err(Error::corrupt("the checksums of the image do not fit its contents"));
    }
    Ok(Arc::new(ReadOnly(image)))
}

/// An open disk image: [`diskimg_core::BlockDevice::as_any`] of its layer.
#[derive(Debug)]
pub struct DmgImage {
    storage: Arc<dyn BlockDevice>,
    trailer: Trailer,
    tables: Tables,
    cache: ChunkCache,
}

impl DmgImage {
    /// Reads what is stored; zeros behind the end of the file.
    fn read_host(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if offset > i64::MAX.unsigned_abs() {
            return Err(Error::corrupt("a chunk lies where no file can reach").with_errno(errno::EIO));
        }
        read_zero_padded(&*self.storage, offset, buf)
    }

    /// Decodes chunk `chunk` into `out`, which is as long as the chunk.
    fn decode(&self, chunk: &Chunk, out: &mut [u8]) -> Result<()> {
        if chunk.coding.is_zero() {
            out.fill(0);
            return Ok(());
        }
        let mut payload = vec![0; to_usize(chunk.host_len)];
        self.read_host(chunk.host_offset, &mut payload)?;
        chunk.coding.decode(&payload, out)
    }

    /// Fills `buf`, which lies within `chunk`, `within` bytes behind its start.
    fn read_chunk(&self, (index, chunk): (usize, &Chunk), within: u64, buf: &mut [u8]) -> Result<()> {
        if chunk.coding.is_zero() {
            buf.fill(0);
            return Ok(());
        }
        if chunk.coding == Coding::Raw {
            let stored = to_usize(chunk.host_len.saturating_sub(within)).min(buf.len());
            let Some((part, rest)) = buf.split_at_mut_checked(stored) else { return Ok(()) };
            rest.fill(0);
            return self.read_host(chunk.host_offset.saturating_add(within), part);
        }
        let len = to_usize(chunk.len());
        if buf.len() == len {
            return self.decode(chunk, buf);
        }
        let decoded = self.cache.get(index as u64, len, |out| self.decode(chunk, out))?;
        let within = to_usize(within);
        buf.copy_from_slice(decoded.get(within..within + buf.len()).unwrap_or_default());
        Ok(())
    }

    /// Decodes the whole image and compares it with the checksums in it. What has none counts as good.
    ///
    /// # Errors
    /// A chunk that can't be decoded; the storage's; `Cancelled`.
    pub fn verify_checksums(&self, task: &Task<'_>) -> Result<ChecksumReport> {
        checksum::verify(self, task)
    }
}

impl Contents for DmgImage {
    fn driver(&self) -> &'static FormatDriver {
        &crate::DMG
    }

    fn storage(&self) -> &Arc<dyn BlockDevice> {
        &self.storage
    }

    fn len(&self) -> u64 {
        self.trailer.sectors.saturating_mul(SECTOR)
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            let Some((index, chunk)) = self.tables.chunk_at(at) else {
                let text = format!("nothing in the image holds the bytes at {at}");
                return Err(Error::corrupt(text).with_errno(errno::EIO));
            };
            let within = at - chunk.start();
            let len = to_usize(chunk.len() - within).min(rest.len());
            let Some((part, behind)) = rest.split_at_mut_checked(len) else { break };
            self.read_chunk((index, chunk), within, part)?;
            (rest, at) = (behind, at + len as u64);
        }
        Ok(())
    }
}
