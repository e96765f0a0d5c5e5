//! Bounded readers: nothing here panics or allocates more than it was told.

use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::range::{len_u64, to_usize};

/// A cursor over bytes in memory whose every step is checked.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
    taken: usize,
}

macro_rules! integers {
    ($($be:ident $le:ident $ty:ty),*) => {$(
        /// The next big-endian integer.
        #[must_use]
        pub fn $be(&mut self) -> Option<$ty> {
            self.array().map(<$ty>::from_be_bytes)
        }

        /// The next little-endian integer.
        #[must_use]
        pub fn $le(&mut self) -> Option<$ty> {
            self.array().map(<$ty>::from_le_bytes)
        }
    )*};
}

impl<'a> Fields<'a> {
    /// From the start of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, taken: 0 }
    }

    /// The next `len` bytes; `None` if there are not as many.
    #[must_use]
    pub fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        self.taken += len;
        Some(head)
    }

    /// The next `N` bytes.
    #[must_use]
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    /// The next byte.
    #[must_use]
    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    integers!(u16_be u16_le u16, u32_be u32_le u32, u64_be u64_le u64);

    /// Bytes taken so far.
    #[must_use]
    pub const fn position(&self) -> usize {
        self.taken
    }

    /// What is left.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

/// Reads `buf.len()` bytes at `offset`; what lies behind the end of the device reads as zeros.
///
/// # Errors
/// The device's.
pub fn read_zero_padded(device: &dyn BlockDevice, offset: u64, buf: &mut [u8]) -> Result<()> {
    let there = to_usize(device.len().saturating_sub(offset).min(len_u64(buf)));
    let (head, tail) = buf.split_at_mut(there);
    if !head.is_empty() {
        device.read_at(offset, head)?;
    }
    tail.fill(0);
    Ok(())
}

/// Reads a table of `len` bytes at `offset`, zero-padded behind the end of the device.
///
/// # Errors
/// `Limit` if `len` exceeds `limit` (bytes), naming `what`; the device's; no memory.
pub fn read_table(
    device: &dyn BlockDevice,
    offset: u64,
    len: u64,
    limit: u64,
    what: &'static str,
) -> Result<Vec<u8>> {
    if len > limit {
        return Err(Error::limit(format!("{what} too large")));
    }
    let mut table = Vec::new();
    table.try_reserve_exact(to_usize(len)).map_err(|_| Error::limit(format!("no memory for the {what}")))?;
    table.resize(to_usize(len), 0);
    read_zero_padded(device, offset, &mut table)?;
    Ok(table)
}
