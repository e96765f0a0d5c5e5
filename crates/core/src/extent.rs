//! What a layer knows of a range of bytes.

use std::fmt;

use bitflags::bitflags;

use crate::device::BlockDevice;

bitflags! {
    /// What is known of an extent. Empty flags mean "ask the layer below".
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct ExtentFlags: u8 {
        /// This layer answers for the range; without it the backing file does (or zeros).
        const PRESENT = 1;
        /// Bytes are stored for it.
        const DATA = 1 << 1;
        /// It reads as zeros.
        const ZERO = 1 << 2;
        /// The bytes are stored compressed.
        const COMPRESSED = 1 << 3;
        /// Stored bytes that were preallocated: the host file may know that they are a hole, that is zeros.
        const ASK_HOST = 1 << 4;
        /// Not present, and no other layer is to be asked: nobody says what it reads as.
        const UNSPECIFIED = 1 << 5;
        /// Where the format keeps it is no one's business: whoever lists extents lists it as data without a place.
        /// (qemu-img's drivers of some formats tell nothing else.)
        const UNTOLD = 1 << 6;
    }
}

impl ExtentFlags {
    /// These flags as they are listed: see [`ExtentFlags::UNTOLD`].
    #[must_use]
    pub const fn as_listed(self) -> Self {
        if self.contains(Self::UNTOLD) { Self::PRESENT.union(Self::DATA) } else { self }
    }
}

/// Where bytes are stored as they are: `offset` bytes into `device`.
#[derive(Clone, Copy)]
pub struct HostRef<'a> {
    /// What stores them.
    pub device: &'a dyn BlockDevice,
    /// Byte offset in it.
    pub offset: u64,
}

impl HostRef<'_> {
    /// The place `by` bytes further on.
    #[must_use]
    pub fn advance(self, by: u64) -> Self {
        Self { device: self.device, offset: self.offset.saturating_add(by) }
    }

    /// True if both lie in the same device object.
    #[must_use]
    pub fn same_device(&self, other: &HostRef<'_>) -> bool {
        std::ptr::addr_eq(std::ptr::from_ref(self.device), std::ptr::from_ref(other.device))
    }

    /// True if `other` continues this reference after `len` bytes.
    #[must_use]
    pub fn continues(&self, len: u64, other: &HostRef<'_>) -> bool {
        self.offset.checked_add(len) == Some(other.offset) && self.same_device(other)
    }
}

impl fmt::Debug for HostRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}@{:#x}", self.device.describe().filename, self.offset)
    }
}

/// The first extent of a range: `len` bytes (never 0) of one nature.
///
/// `host` is set only where the guest's bytes stand in the device exactly as they are: not compressed, not encrypted.
/// Where the flags do not say `DATA`, it is a place that is set aside for the bytes and holds nothing of value.
#[derive(Clone, Copy, Debug)]
pub struct Extent<'a> {
    /// Bytes from the start of the range that was asked for.
    pub len: u64,
    /// Its nature.
    pub flags: ExtentFlags,
    /// Where the bytes are, if they stand somewhere as they are.
    pub host: Option<HostRef<'a>>,
}

impl<'a> Extent<'a> {
    /// Not of this layer.
    #[must_use]
    pub const fn absent(len: u64) -> Self {
        Self { len, flags: ExtentFlags::empty(), host: None }
    }

    /// Zeros of this layer that take no space.
    #[must_use]
    pub const fn zero(len: u64) -> Self {
        Self { len, flags: ExtentFlags::PRESENT.union(ExtentFlags::ZERO), host: None }
    }

    /// Bytes stored at `host`.
    #[must_use]
    pub const fn data(len: u64, host: Option<HostRef<'a>>) -> Self {
        Self { len, flags: ExtentFlags::PRESENT.union(ExtentFlags::DATA), host }
    }

    /// True if this layer answers for it.
    #[must_use]
    pub const fn is_present(&self) -> bool {
        self.flags.contains(ExtentFlags::PRESENT)
    }

    /// True if it is known to read as zeros.
    #[must_use]
    pub const fn is_zero(&self) -> bool {
        self.flags.contains(ExtentFlags::ZERO)
    }

    /// True if `next`, which follows it directly, is of one piece with it.
    #[must_use]
    pub fn merges_with(&self, next: &Extent<'_>) -> bool {
        self.flags == next.flags
            && match (&self.host, &next.host) {
                (None, None) => true,
                (Some(a), Some(b)) => a.continues(self.len, b),
                _ => false,
            }
    }

    /// Cut to at most `len` bytes.
    #[must_use]
    pub fn clipped(mut self, len: u64) -> Self {
        self.len = self.len.min(len);
        self
    }
}
