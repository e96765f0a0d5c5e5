//! [`NbdDevice`]: an export of an NBD server as a block device.
//!
//! Reads and writes are cut at the server's greatest transfer; requests of several threads are under way together. The
//! length is what the server said when it was connected to, and never changes.

use std::any::Any;

use diskimg_core::{
    BlockDevice, ByteRange, Description, Error, Extent, ExtentFlags, HostRef, Limits, Prealloc, Result,
    ZeroMode, errno, len_u64, read_only_error,
};

use crate::extents::{Extents, meaning, whole_blocks};
use crate::limits::MAX_COMPACT_LEN;
use crate::options::NbdOptions;
use crate::pool::Pool;
use crate::reply::Outcome;
use crate::wire::{Request, Style, can, command, flag};

/// The best size of a large transfer, unless the server says otherwise, in bytes.
const BEST_TRANSFER: u64 = 1 << 20;

/// The longest request that zeroes or discards if lengths have 64 bits, in bytes.
const MAX_EXTENDED_LEN: u64 = 1 << 40;

/// An export of an NBD server.
#[derive(Debug)]
pub struct NbdDevice {
    pool: Pool,
    name: String,
    writable: bool,
    /// Each write is durable when it is done.
    through: bool,
    extents: Extents,
}

impl NbdDevice {
    /// Connects to a server.
    ///
    /// # Errors
    /// The host's, if there is no connection; what the server refuses; `Denied` (EACCES) if writes are wanted and the
    /// export is read-only; EINVAL if the server does not have the bitmap.
    pub fn open(options: NbdOptions) -> Result<Self> {
        let name = options.address.display(&options.export);
        let (write, through, bitmap) = (options.write, options.write_through, options.dirty_bitmap.clone());
        let pool = Pool::open(options)?;
        let session = pool.session();
        let denied = |code: i32| Error::from_errno(code).context("Could not open image");
        if bitmap.is_some() && session.context.is_none() {
            return Err(denied(errno::EINVAL));
        }
        if write && session.can(can::READ_ONLY) {
            return Err(denied(errno::EACCES));
        }
        let through = through && session.can(can::FUA);
        Ok(Self { pool, name, writable: write, through, extents: Extents::default() })
    }

    /// The greatest number of bytes in one request for data.
    fn max_transfer(&self) -> u64 {
        u64::from(self.pool.session().max_block)
    }

    /// The greatest length of a request without data.
    fn max_len(&self) -> u64 {
        if self.pool.session().style == Style::Extended { MAX_EXTENDED_LEN } else { MAX_COMPACT_LEN }
    }

    fn call(
        &self,
        command: u16,
        flags: u16,
        range: ByteRange,
        data: &[u8],
        buf: &mut [u8],
    ) -> Result<Outcome> {
        let request = Request { command, flags, offset: range.start, len: range.len };
        self.pool.call(request, data, buf)
    }

    fn check_write(&self, range: ByteRange) -> Result<()> {
        if !self.writable {
            return Err(read_only_error());
        }
        range.check_within(self.len())
    }

    /// The flag of writes that have to be durable.
    fn fua(&self) -> u16 {
        if self.through { flag::FUA } else { 0 }
    }

    /// A request without data, in as many parts as it takes. What the server told of extents holds no more.
    fn change(&self, command: u16, flags: u16, range: ByteRange) -> Result<()> {
        self.extents.forget();
        let mut at = range.start;
        let mut done = Ok(());
        while at < range.end() && done.is_ok() {
            let part = ByteRange::new(at, (range.end() - at).min(self.max_len()));
            done = self.call(command, flags, part, &[], &mut []).map(|_| ());
            at = part.end();
        }
        self.extents.forget();
        done
    }

    fn ask_extents(&self, range: ByteRange) -> Result<(u64, u64)> {
        let block = u64::from(self.pool.session().min_block);
        let outer = range.align_outwards(block).intersect(ByteRange::new(0, self.len()));
        let asked = ByteRange::new(outer.start, outer.len.min(self.max_len()));
        let changes = self.extents.changes();
        let told = self.call(command::BLOCK_STATUS, 0, asked, &[], &mut [])?;
        let runs = whole_blocks(told.runs, asked.start, self.len(), block);
        let first = runs.first().copied().unwrap_or((asked.len, 0));
        self.extents.keep(changes, asked.start, runs);
        let len = first.0.saturating_sub(range.start - asked.start);
        Ok((len.clamp(1, range.len), first.1))
    }
}

impl BlockDevice for NbdDevice {
    fn len(&self) -> u64 {
        self.pool.session().size
    }

    fn limits(&self) -> Limits {
        let session = self.pool.session();
        let best = u64::from(session.preferred).max(BEST_TRANSFER).min(self.max_transfer());
        Limits { align: u64::from(session.min_block), best_transfer: best, ..Limits::default() }
    }

    fn is_read_only(&self) -> bool {
        !self.writable
    }

    fn describe(&self) -> Description<'_> {
        Description { driver: crate::NBD.name, filename: &self.name }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        ByteRange::new(offset, len_u64(buf)).check_within(self.len())?;
        let most = usize::try_from(self.max_transfer()).unwrap_or(usize::MAX);
        let mut at = offset;
        for part in buf.chunks_mut(most) {
            let range = ByteRange::new(at, len_u64(part));
            self.call(command::READ, 0, range, &[], part)?.fill(part);
            at = range.end();
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.check_write(ByteRange::new(offset, len_u64(buf)))?;
        let most = usize::try_from(self.max_transfer()).unwrap_or(usize::MAX);
        self.extents.forget();
        let mut at = offset;
        let mut done = Ok(());
        for part in buf.chunks(most) {
            let range = ByteRange::new(at, len_u64(part));
            done = self.call(command::WRITE, self.fua(), range, part, &mut []).map(|_| ());
            if done.is_err() {
                break;
            }
            at = range.end();
        }
        self.extents.forget();
        done
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        self.check_write(range)?;
        let session = self.pool.session();
        let fast = how == ZeroMode::FastOnly;
        if !session.can(can::WRITE_ZEROES) || fast && !session.can(can::FAST_ZERO) {
            return Err(Error::unsupported("the NBD server can't zero"));
        }
        let how = match how {
            ZeroMode::MayUnmap => 0,
            ZeroMode::KeepAllocated => flag::NO_HOLE,
            ZeroMode::FastOnly => flag::FAST_ZERO,
        };
        self.change(command::WRITE_ZEROES, how | self.fua(), range)
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        self.check_write(range)?;
        if !self.pool.session().can(can::TRIM) {
            return Err(Error::unsupported("the NBD server can't discard"));
        }
        self.change(command::TRIM, self.fua(), range)
    }

    fn flush(&self) -> Result<()> {
        if !self.writable || self.through || !self.pool.session().can(can::FLUSH) {
            return Ok(());
        }
        self.call(command::FLUSH, 0, ByteRange::default(), &[], &mut []).map(|_| ())
    }

    fn set_len(&self, len: u64, prealloc: Prealloc) -> Result<()> {
        if prealloc != Prealloc::Off {
            let text = format!("Unsupported preallocation mode '{}'", prealloc.name());
            return Err(Error::unsupported(text));
        }
        if len == self.len() { Ok(()) } else { Err(Error::unsupported("Cannot resize NBD nodes")) }
    }

    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        range.check_within(self.len())?;
        if range.is_empty() {
            return Err(Error::invalid("an empty range has no extent"));
        }
        let host = Some(HostRef { device: self, offset: range.start });
        if self.pool.session().context.is_none() {
            return Ok(Extent::data(range.len, host));
        }
        let (len, flags) = match self.extents.first(range) {
            Some(known) => known,
            None => self.ask_extents(range)?,
        };
        let flags = meaning(flags);
        let host = host.filter(|_| flags.contains(ExtentFlags::PRESENT));
        Ok(Extent { len, flags, host })
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}
