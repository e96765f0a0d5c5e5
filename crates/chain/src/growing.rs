//! [`Growing`]: raw contents with another format in them. A disk's user can't write beyond its end; a format that
//! allocates space at the end of its file can, and the raw layer grows as the file below it would.
//!
//! Invariant: the length only ever grows here, by one writer at a time. Made by [`storage`](crate::storage) alone.

use parking_lot::Mutex;

use diskimg_core::{
    BlockDevice, ByteRange, Description, Error, ErrorKind, Extent, HostRef, Limits, Prealloc, Reservation,
    Result, ZeroMode, errno, len_u64,
};

use crate::Node;

/// A node that grows when it is written beyond its end.
#[derive(Debug)]
pub(crate) struct Growing {
    node: Node,
    growth: Mutex<()>,
}

impl Growing {
    pub(crate) fn new(node: Node) -> Self {
        Self { node, growth: Mutex::new(()) }
    }

    fn make_room(&self, range: ByteRange) -> Result<()> {
        if range.end() <= self.node.len() {
            return Ok(());
        }
        let _alone = self.growth.lock();
        if range.end() > self.node.len() {
            let grown = self.node.set_len(range.end(), Prealloc::Off);
            // A window of a fixed size is full.
            grown.map_err(|error| match error.kind() {
                ErrorKind::Unsupported => Error::from_errno(errno::ENOSPC).with_source(error),
                _ => error,
            })?;
        }
        Ok(())
    }
}

impl BlockDevice for Growing {
    fn len(&self) -> u64 {
        self.node.len()
    }

    fn limits(&self) -> Limits {
        Limits { growable: true, ..self.node.limits() }
    }

    fn is_read_only(&self) -> bool {
        self.node.is_read_only()
    }

    fn describe(&self) -> Description<'_> {
        self.node.describe()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.node.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.make_room(ByteRange::new(offset, len_u64(buf)))?;
        self.node.write_at(offset, buf)
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        self.make_room(range)?;
        self.node.write_zeroes(range, how)
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        self.node.discard(range)
    }

    fn flush(&self) -> Result<()> {
        self.node.flush()
    }

    fn set_len(&self, len: u64, prealloc: Prealloc) -> Result<()> {
        let _alone = self.growth.lock();
        self.node.set_len(len, prealloc)
    }

    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        self.node.extent_at(range)
    }

    fn reserve(&self, range: ByteRange) -> Result<Option<Reservation<'_>>> {
        self.node.reserve(range)
    }

    fn copy_from(&self, offset: u64, source: HostRef<'_>, len: u64) -> Result<u64> {
        self.make_room(ByteRange::new(offset, len))?;
        self.node.copy_from(offset, source, len)
    }

    fn allocated_len(&self) -> Result<Option<u64>> {
        self.node.allocated_len()
    }
}
