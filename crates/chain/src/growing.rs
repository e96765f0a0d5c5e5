//! [`Growing`]: raw contents with another format in them. A disk's user can't write beyond its end; a format that
//! allocates space at the end of its file can, and the raw layer grows as the file below it would.
//!
//! Invariant: the length only ever grows here, by one writer at a time. Made by [`storage`](crate::storage) alone.

use parking_lot::Mutex;

use diskimg_core::{
    BlockDevice, ByteRange, Error, ErrorKind, HostRef, Limits, Prealloc, Result, ZeroMode, errno, len_u64,
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
    diskimg_core::pass_on!(node: len is_read_only describe read_at discard flush extent_at reserve allocated_len);

    fn limits(&self) -> Limits {
        Limits { growable: true, ..self.node.limits() }
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.make_room(ByteRange::new(offset, len_u64(buf)))?;
        self.node.write_at(offset, buf)
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        self.make_room(range)?;
        self.node.write_zeroes(range, how)
    }

    fn set_len(&self, len: u64, prealloc: Prealloc) -> Result<()> {
        let _alone = self.growth.lock();
        self.node.set_len(len, prealloc)
    }

    fn copy_from(&self, offset: u64, source: HostRef<'_>, len: u64) -> Result<u64> {
        self.make_room(ByteRange::new(offset, len))?;
        self.node.copy_from(offset, source, len)
    }
}
