//! Replaying the log: on the host for who may write, else in memory ([`ReplayedDevice`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use diskimg_core::{
    BlockDevice, ByteRange, Device, Prealloc, Result, ZeroMode, len_u64, read_zero_padded, to_usize,
};
use uuid::Uuid;

use crate::damage::Damage;
use crate::header::{Current, HEADER_OFFSETS, UNLOGGED_END};
use crate::limits::{LOG_SECTOR, MAX_FILE, MAX_REPLAY, MIB};
use crate::log::{Change, EntryHead, Reader, Ring};

/// The entries to be applied; none: there is nothing to do.
pub(crate) fn pending(storage: &dyn BlockDevice, current: &Current) -> Result<Vec<EntryHead>, Damage> {
    if current.header.log.is_nil() || Ring::of(&current.header).len == 0 {
        return Ok(Vec::new());
    }
    let entries = Reader::new(storage, &current.header).active()?;
    for entry in &entries {
        if entry.flushed_len > storage.len() {
            return Err(Damage::Invalid("the file is shorter than it was when its log was written"));
        }
        if entry.last_len > MAX_FILE {
            return Err(Damage::Invalid("the log makes the file too long"));
        }
    }
    Ok(entries)
}

/// How long the file is when all entries have been applied.
fn final_len(storage: &dyn BlockDevice, entries: &[EntryHead]) -> u64 {
    let last = entries.iter().map(|entry| entry.last_len).max().unwrap_or(0);
    if last > storage.len() { last.next_multiple_of(MIB) } else { storage.len() }
}

/// Refuses a change of what the log must not change, or behind the end of the file.
fn check(change: &Change, ring: Ring, len: u64) -> Result<(), Damage> {
    let range = match change {
        Change::Zero(offset, len) => ByteRange::new(*offset, *len),
        Change::Write(offset, _) => ByteRange::new(*offset, LOG_SECTOR),
    };
    let bad = range.start < UNLOGGED_END
        || range.start.checked_add(range.len).is_none_or(|end| end > len)
        || range.overlaps(&ByteRange::new(ring.offset, ring.len));
    if bad { Err(Damage::Invalid("the log writes where it must not")) } else { Ok(()) }
}

/// Checks all changes before any of them is made.
fn check_all(storage: &dyn BlockDevice, current: &Current, entries: &[EntryHead]) -> Result<u64, Damage> {
    let (ring, len) = (Ring::of(&current.header), final_len(storage, entries));
    let reader = Reader::new(storage, &current.header);
    // The end may be cut within a sector.
    let whole = len.next_multiple_of(LOG_SECTOR);
    for entry in entries {
        reader.changes(entry, |change| check(&change, ring, whole))?;
    }
    Ok(len)
}

/// Applies the entries to the file, and empties the log.
pub(crate) fn apply(
    storage: &Arc<dyn BlockDevice>,
    current: &mut Current,
    entries: &[EntryHead],
) -> Result<(), Damage> {
    let len = check_all(&**storage, current, entries)?;
    if len > storage.len() {
        storage.set_len(len, Prealloc::Off)?;
    }
    let reader = Reader::new(&**storage, &current.header);
    let device = Device::new(Arc::clone(storage));
    for entry in entries {
        reader.changes(entry, |change| {
            match change {
                Change::Zero(offset, len) => {
                    device.write_zeroes(ByteRange::new(offset, len), ZeroMode::MayUnmap)?;
                }
                Change::Write(offset, sector) => storage.write_at(offset, &sector)?,
            }
            Ok(())
        })?;
    }
    storage.flush()?;
    current.header.log = Uuid::nil();
    for _ in 0..2 {
        write_other(&**storage, current)?;
        storage.flush()?;
    }
    Ok(())
}

/// Writes the header that is not current, with the next number: it becomes the current one.
pub(crate) fn write_other(storage: &dyn BlockDevice, current: &mut Current) -> Result<()> {
    let slot = 1 - current.slot.min(1);
    let mut header = current.header.clone();
    header.sequence = header.sequence.wrapping_add(1);
    let offset = HEADER_OFFSETS.get(slot).copied().unwrap_or_default();
    storage.write_at(offset, &header.encode())?;
    *current = Current { header, slot };
    Ok(())
}

/// Length in bytes, and the bytes; `None`: zeros.
type Piece = (u64, Option<Box<[u8]>>);

/// A file as it will be when its log has been replayed; it is only read.
#[derive(Debug)]
pub(crate) struct ReplayedDevice {
    below: Arc<dyn BlockDevice>,
    len: u64,
    /// What is different, by its file offset; pieces do not overlap.
    pieces: BTreeMap<u64, Piece>,
}

impl ReplayedDevice {
    /// `below` with the entries applied.
    pub(crate) fn new(
        below: Arc<dyn BlockDevice>,
        current: &Current,
        entries: &[EntryHead],
    ) -> Result<Self, Damage> {
        let len = check_all(&*below, current, entries)?;
        let mut device = Self { below, len, pieces: BTreeMap::new() };
        let mut kept = 0;
        let below = Arc::clone(&device.below);
        let reader = Reader::new(&*below, &current.header);
        for entry in entries {
            reader.changes(entry, |change| {
                kept += LOG_SECTOR;
                if kept > MAX_REPLAY {
                    return Err(Damage::Invalid("the log is too long to be replayed in memory"));
                }
                match change {
                    Change::Zero(offset, len) => device.put(offset, len, None),
                    Change::Write(offset, sector) => device.put(offset, LOG_SECTOR, Some(sector)),
                }
                Ok(())
            })?;
        }
        Ok(device)
    }

    fn put(&mut self, offset: u64, len: u64, bytes: Option<Box<[u8]>>) {
        if len == 0 {
            return;
        }
        let end = offset.saturating_add(len);
        let first = self.pieces.range(..offset).next_back().map_or(offset, |(at, _)| *at);
        let touched: Vec<u64> = self.pieces.range(first..end).map(|(at, _)| *at).collect();
        for at in touched {
            let Some((old, kind)) = self.pieces.remove(&at) else { continue };
            let old_end = at.saturating_add(old);
            // A piece with bytes is a sector, which is in or out as a whole.
            if kind.is_some() && at < offset {
                self.pieces.insert(at, (old, kind));
                continue;
            }
            if at < offset {
                self.pieces.insert(at, (offset.min(old_end) - at, None));
            }
            if old_end > end {
                self.pieces.insert(end, (old_end - end, None));
            }
        }
        self.pieces.insert(offset, (len, bytes));
    }
}

impl BlockDevice for ReplayedDevice {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let range = ByteRange::new(offset, len_u64(buf));
        range.check_within(self.len)?;
        read_zero_padded(&*self.below, offset, buf)?;
        let first = self.pieces.range(..=offset).next_back().map_or(offset, |(at, _)| *at);
        for (at, (len, bytes)) in self.pieces.range(first..range.end()) {
            let part = ByteRange::new(*at, *len).intersect(range);
            if part.is_empty() {
                continue;
            }
            let to = to_usize(part.start - offset);
            let Some(target) = buf.get_mut(to..to + to_usize(part.len)) else { continue };
            let from = to_usize(part.start - at);
            match bytes.as_ref().and_then(|bytes| bytes.get(from..from + target.len())) {
                Some(bytes) => target.copy_from_slice(bytes),
                None => target.fill(0),
            }
        }
        Ok(())
    }

    diskimg_core::refuse_changes!();

    diskimg_core::pass_on!(below: limits describe allocated_len);
}

#[cfg(test)]
mod tests {
    use diskimg_core::MemDevice;

    use super::*;

    #[test]
    fn later_pieces_lie_over_earlier_ones() {
        let below: Arc<dyn BlockDevice> = Arc::new(MemDevice::from(vec![1; 65536]));
        let mut device = ReplayedDevice { below, len: 81_920, pieces: BTreeMap::new() };
        let mut model = vec![1_u8; 81_920];
        model[65536..].fill(0);
        let mut put = |offset: usize, len: usize, byte: u8| {
            model[offset..offset + len].fill(byte);
            let bytes = (byte != 0).then(|| vec![byte; len].into());
            device.put(offset as u64, len as u64, bytes);
            let mut read = vec![9; 81_920 - 100];
            device.read_at(100, &mut read).unwrap();
            assert!(read == model[100..], "{offset}");
        };
        put(4096, 4096, 2);
        put(8192, 4096, 3);
        put(0, 16384, 0);
        put(4096, 4096, 4);
        put(8192, 8192, 0);
        put(4096, 4096, 5);
        put(65536, 4096, 6);
        put(4096, 65536, 0);
        put(32768, 4096, 7);
        put(36864, 4096, 8);
        put(32768, 8192, 0);
        put(32768, 0, 0);
    }
}
