//! Devices without a file: bytes in memory, and nothing at all.

use parking_lot::RwLock;

use crate::device::{BlockDevice, Description, Limits, Prealloc, ZeroMode};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, ExtentFlags, HostRef};
use crate::range::{ByteRange, len_u64, to_usize};
use crate::zero::is_zero;

/// The greatest length of a memory device, in bytes.
const MAX_LEN: u64 = 1 << 40;

/// The granularity in which a memory device tells zeros from data.
const BLOCK: u64 = 4096;

/// A growable device in memory.
#[derive(Debug, Default)]
pub struct MemDevice {
    bytes: RwLock<Vec<u8>>,
    read_only: bool,
}

impl MemDevice {
    /// `len` zeros (bytes).
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self::from(vec![0; len])
    }

    /// The same bytes, read-only.
    #[must_use]
    pub fn read_only(bytes: Vec<u8>) -> Self {
        Self { bytes: RwLock::new(bytes), read_only: true }
    }

    /// A copy of all bytes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.bytes.read().clone()
    }

    fn resize(bytes: &mut Vec<u8>, len: u64) -> Result<()> {
        let too_large = || Error::new(ErrorKind::NoSpace, "memory device too large");
        let len = usize::try_from(len).ok().filter(|_| len <= MAX_LEN).ok_or_else(too_large)?;
        bytes.try_reserve(len.saturating_sub(bytes.len())).map_err(|_| too_large())?;
        bytes.resize(len, 0);
        Ok(())
    }

    fn change(&self, range: ByteRange, grow: bool, apply: impl FnOnce(&mut [u8])) -> Result<()> {
        if self.read_only {
            return Err(crate::device::read_only_error());
        }
        let mut bytes = self.bytes.write();
        if grow && range.end() > len_u64(&bytes) {
            Self::resize(&mut bytes, range.end())?;
        }
        range.check_within(len_u64(&bytes))?;
        if let Some(part) = bytes.get_mut(to_usize(range.start)..to_usize(range.end())) {
            apply(part);
        }
        Ok(())
    }
}

impl From<Vec<u8>> for MemDevice {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes: RwLock::new(bytes), read_only: false }
    }
}

impl BlockDevice for MemDevice {
    fn len(&self) -> u64 {
        len_u64(&self.bytes.read())
    }

    fn limits(&self) -> Limits {
        Limits { growable: true, ..Limits::default() }
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn describe(&self) -> Description<'_> {
        Description { driver: "memory", filename: "" }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let bytes = self.bytes.read();
        let range = ByteRange::new(offset, len_u64(buf));
        range.check_within(len_u64(&bytes))?;
        if let Some(part) = bytes.get(to_usize(range.start)..to_usize(range.end())) {
            buf.copy_from_slice(part);
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.change(ByteRange::new(offset, len_u64(buf)), true, |part| part.copy_from_slice(buf))
    }

    fn write_zeroes(&self, range: ByteRange, _how: ZeroMode) -> Result<()> {
        self.change(range, true, |part| part.fill(0))
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        self.change(range, false, |part| part.fill(0))
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64, _prealloc: Prealloc) -> Result<()> {
        if self.read_only {
            return Err(crate::device::read_only_error());
        }
        Self::resize(&mut self.bytes.write(), len)
    }

    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        let bytes = self.bytes.read();
        range.check_within(len_u64(&bytes))?;
        let mut found: Option<(bool, u64)> = None;
        let mut at = range.start;
        while at < range.end() {
            let end = range.end().min((at / BLOCK + 1) * BLOCK);
            let zero = bytes.get(to_usize(at)..to_usize(end)).is_none_or(is_zero);
            if found.is_some_and(|(first, _)| first != zero) {
                break;
            }
            found = Some((zero, end - range.start));
            at = end;
        }
        let (zero, len) = found.unwrap_or((true, range.len));
        let host = Some(HostRef { device: self, offset: range.start });
        let kind = if zero { ExtentFlags::ZERO } else { ExtentFlags::DATA };
        Ok(Extent { len, flags: ExtentFlags::PRESENT | kind, host })
    }
}

/// A device of a given length (bytes) that reads as zeros and forgets what is written.
#[derive(Clone, Copy, Debug)]
pub struct NullDevice {
    len: u64,
    description: Description<'static>,
    /// It promises zeros.
    zeros: bool,
}

impl NullDevice {
    /// `len` bytes.
    #[must_use]
    pub const fn new(len: u64) -> Self {
        Self::described(len, Description { driver: "null-co", filename: "null-co://" })
    }

    /// `len` bytes, under another name.
    #[must_use]
    pub const fn described(len: u64, description: Description<'static>) -> Self {
        Self { len, description, zeros: true }
    }

    /// The same without a promise: what is read (zeros all the same) means nothing.
    #[must_use]
    pub const fn without_promise(self) -> Self {
        Self { zeros: false, ..self }
    }
}

impl BlockDevice for NullDevice {
    fn len(&self) -> u64 {
        self.len
    }

    fn describe(&self) -> Description<'_> {
        self.description
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        ByteRange::new(offset, len_u64(buf)).check_within(self.len)?;
        buf.fill(0);
        Ok(())
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        ByteRange::new(offset, len_u64(buf)).check_within(self.len)
    }

    fn write_zeroes(&self, range: ByteRange, _how: ZeroMode) -> Result<()> {
        range.check_within(self.len)
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        range.check_within(self.len)
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn set_len(&self, _len: u64, _prealloc: Prealloc) -> Result<()> {
        Err(Error::unsupported("Image format driver does not support resize"))
    }

    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        range.check_within(self.len)?;
        if !self.zeros {
            return Ok(Extent { len: range.len, flags: ExtentFlags::UNSPECIFIED, host: None });
        }
        let host = Some(HostRef { device: self, offset: range.start });
        Ok(Extent { host, ..Extent::zero(range.len) })
    }

    fn allocated_len(&self) -> Result<Option<u64>> {
        Ok(Some(0))
    }
}
