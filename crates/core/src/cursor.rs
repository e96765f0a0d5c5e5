//! [`Cursor`]: a device as `std::io::{Read, Write, Seek}`.

use std::io::{self, Read, Seek, SeekFrom, Write};

use crate::device::BlockDevice;
use crate::range::{len_u64, to_usize};

/// A position in a device. Reading stops at its end; writing does not make it longer, except where it grows by itself.
#[derive(Debug)]
pub struct Cursor<D> {
    device: D,
    position: u64,
}

impl<D: BlockDevice> Cursor<D> {
    /// At byte 0 of `device`.
    pub const fn new(device: D) -> Self {
        Self { device, position: 0 }
    }

    /// The device.
    pub fn into_inner(self) -> D {
        self.device
    }

    fn room(&self, wanted: usize) -> usize {
        wanted.min(to_usize(self.device.len().saturating_sub(self.position)))
    }
}

impl<D: BlockDevice> Read for Cursor<D> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let room = self.room(buf.len());
        let Some(buf) = buf.get_mut(..room).filter(|buf| !buf.is_empty()) else { return Ok(0) };
        self.device.read_at(self.position, buf)?;
        self.position += len_u64(buf);
        Ok(buf.len())
    }
}

impl<D: BlockDevice> Write for Cursor<D> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let room = if self.device.limits().growable { buf.len() } else { self.room(buf.len()) };
        let Some(buf) = buf.get(..room).filter(|buf| !buf.is_empty()) else { return Ok(0) };
        self.device.write_at(self.position, buf)?;
        self.position += len_u64(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(self.device.flush()?)
    }
}

impl<D: BlockDevice> Seek for Cursor<D> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.device.len().checked_add_signed(by),
        };
        self.position = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::MemDevice;

    #[test]
    fn reads_writes_and_seeks_like_a_file() {
        let mut cursor = Cursor::new(MemDevice::new(10));
        cursor.seek(SeekFrom::End(-4)).unwrap();
        cursor.write_all(b"tail").unwrap();
        cursor.rewind().unwrap();
        let mut all = Vec::new();
        cursor.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"\0\0\0\0\0\0tail");
        assert!(cursor.seek(SeekFrom::Current(-11)).is_err());
    }
}
