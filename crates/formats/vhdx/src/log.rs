//! The log (MS-VHDX 2.3): a ring of 4 KiB sectors with entries, each of which changes sectors of the file as one. This
//! module encodes entries, and finds those that count after a crash.

use std::collections::HashSet;

use diskimg_core::{BlockDevice, Fields, Result, read_zero_padded, to_usize};
use uuid::Uuid;

use crate::damage::Damage;
use crate::header::{Header, checksum, put};
use crate::limits::LOG_SECTOR;

/// A sector of the log, or of the file.
pub(crate) const SECTOR: usize = 4096;
const HEAD: &[u8; 4] = b"loge";
const DATA_SECTOR: &[u8; 4] = b"data";
const ZEROS: &[u8; 4] = b"zero";
const DATA: &[u8; 4] = b"desc";
/// Bytes of an entry's header, and of a descriptor.
const HEAD_LEN: usize = 64;
const DESCRIPTOR_LEN: usize = 32;
/// Where an entry's checksum stands.
const CRC_AT: usize = 4;
/// How often the ring may be read over in search of entries: whole ones do not overlap much.
const MOST_ROUNDS: u64 = 16;
/// How much is read at a time, in bytes.
const STEP: u64 = 1 << 20;

/// Where the log is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring {
    /// File offset.
    pub offset: u64,
    /// Bytes, a multiple of a sector.
    pub len: u64,
}

impl Ring {
    /// That of `header`.
    pub(crate) fn of(header: &Header) -> Self {
        let len = u64::from(header.log_len);
        Self { offset: header.log_offset, len: len - len % LOG_SECTOR }
    }

    fn read(&self, storage: &dyn BlockDevice, at: u64, buf: &mut [u8]) -> Result<()> {
        let first = to_usize(self.len - at % self.len).min(buf.len());
        let (head, tail) = buf.split_at_mut(first);
        read_zero_padded(storage, self.offset.saturating_add(at % self.len), head)?;
        if tail.is_empty() { Ok(()) } else { read_zero_padded(storage, self.offset, tail) }
    }

    /// Writes `bytes`, no longer than the ring, at position `at`, around its end.
    pub(crate) fn write(&self, storage: &dyn BlockDevice, at: u64, bytes: &[u8]) -> Result<()> {
        let first = to_usize(self.len - at % self.len).min(bytes.len());
        let (head, tail) = bytes.split_at(first);
        storage.write_at(self.offset + at % self.len, head)?;
        if tail.is_empty() { Ok(()) } else { storage.write_at(self.offset, tail) }
    }
}

/// The header of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryHead {
    /// Position in the ring.
    pub at: u64,
    crc: u32,
    /// Bytes.
    pub len: u64,
    /// Position of the oldest entry that still counts.
    pub tail: u64,
    pub sequence: u64,
    pub descriptors: u32,
    guid: Uuid,
    /// The file was at least so long when the entry was written.
    pub flushed_len: u64,
    /// The file is at least so long when the entry has been applied.
    pub last_len: u64,
}

impl EntryHead {
    fn parse(at: u64, bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        if fields.array() != Some(*HEAD) {
            return None;
        }
        let crc = fields.u32_le()?;
        let (len, tail) = (fields.u32_le()?.into(), fields.u32_le()?.into());
        let (sequence, descriptors) = (fields.u64_le()?, fields.u32_le()?);
        fields.u32_le()?;
        let guid = fields.array().map(Uuid::from_bytes_le)?;
        let (flushed_len, last_len) = (fields.u64_le()?, fields.u64_le()?);
        Some(Self { at, crc, len, tail, sequence, descriptors, guid, flushed_len, last_len })
    }

    /// Sectors of header and descriptors.
    fn front(&self) -> u64 {
        descriptor_sectors(self.descriptors.into())
    }

    fn is_plausible(&self, ring: &Ring, log: Uuid) -> bool {
        self.guid == log
            && self.sequence != 0
            && self.len.is_multiple_of(LOG_SECTOR)
            && self.len <= ring.len
            && self.front() * LOG_SECTOR <= self.len
    }
}

/// Sectors that the header and so many descriptors take.
fn descriptor_sectors(descriptors: u64) -> u64 {
    (HEAD_LEN as u64 + descriptors * DESCRIPTOR_LEN as u64).div_ceil(LOG_SECTOR)
}

/// What an entry does to the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Makes bytes zero: file offset and length, multiples of a sector.
    Zero(u64, u64),
    /// Writes a sector at a file offset.
    Write(u64, Box<[u8]>),
}

/// A descriptor.
#[derive(Clone, Copy, Debug)]
struct Descriptor {
    is_data: bool,
    bytes: [u8; DESCRIPTOR_LEN],
    offset: u64,
    len: u64,
}

impl Descriptor {
    fn parse(bytes: &[u8], sequence: u64) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        let signature: [u8; 4] = fields.array()?;
        fields.u32_le()?;
        let (len, offset) = (fields.u64_le()?, fields.u64_le()?);
        let is_data = signature == *DATA;
        let known = is_data || signature == *ZEROS && len.is_multiple_of(LOG_SECTOR);
        let fits = known && offset.is_multiple_of(LOG_SECTOR) && fields.u64_le()? == sequence;
        fits.then_some(Self { is_data, bytes: bytes.get(..DESCRIPTOR_LEN)?.try_into().ok()?, offset, len })
    }

    /// The sector whose middle is in the log's sector `data`.
    fn sector(&self, data: &[u8]) -> Box<[u8]> {
        let part = |range: std::ops::Range<usize>| self.bytes.get(range).unwrap_or_default();
        [part(8..16), data.get(8..SECTOR - 4).unwrap_or_default(), part(4..8)].concat().into()
    }
}

/// A data sector that was written as a whole with the entry of this number.
fn belongs(data: &[u8], sequence: u64) -> bool {
    let mut fields = Fields::new(data);
    let (signature, high) = (fields.array(), fields.u32_le());
    let low = data.get(SECTOR - 4..).and_then(|bytes| Fields::new(bytes).u32_le());
    let number = high.zip(low).map(|(high, low)| u64::from(high) << 32 | u64::from(low));
    signature == Some(*DATA_SECTOR) && number == Some(sequence)
}

/// Reads a log that may hold anything.
pub(crate) struct Reader<'a> {
    storage: &'a dyn BlockDevice,
    ring: Ring,
    log: Uuid,
    /// Bytes that may still be read.
    budget: u64,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(storage: &'a dyn BlockDevice, header: &Header) -> Self {
        let ring = Ring::of(header);
        Self { storage, ring, log: header.log, budget: ring.len.saturating_mul(MOST_ROUNDS) }
    }

    /// The entries that have to be applied, the oldest one first; none: the log says nothing.
    pub(crate) fn active(&mut self) -> Result<Vec<EntryHead>, Damage> {
        let mut best: Vec<EntryHead> = Vec::new();
        let there = self.storage.len().saturating_sub(self.ring.offset).min(self.ring.len);
        let mut seen = HashSet::new();
        let mut at = 0;
        while at < there {
            let here = at;
            at += LOG_SECTOR;
            if seen.contains(&here) {
                continue;
            }
            let sequence = self.sequence_at(here)?;
            seen.extend(sequence.iter().map(|entry| entry.at));
            let newer = |last: &EntryHead| best.last().is_none_or(|best| best.sequence < last.sequence);
            if sequence.last().is_some_and(newer) {
                best = sequence;
            }
        }
        let Some(last) = best.last().copied() else { return Ok(best) };
        match best.iter().position(|entry| entry.at == last.tail) {
            Some(first) => Ok(best.split_off(first)),
            None => Err(Damage::Invalid("the oldest entries of the log are missing")),
        }
    }

    /// The entry at a position and those that follow it.
    fn sequence_at(&mut self, at: u64) -> Result<Vec<EntryHead>, Damage> {
        let mut sequence: Vec<EntryHead> = Vec::new();
        let (mut next, mut taken) = (at, 0);
        while let Some(entry) = self.entry_at(next)? {
            let follows =
                sequence.last().is_none_or(|last| last.sequence.checked_add(1) == Some(entry.sequence));
            taken += entry.len;
            if !follows || taken > self.ring.len {
                break;
            }
            sequence.push(entry);
            next = (next + entry.len) % self.ring.len;
        }
        Ok(sequence)
    }

    /// The entry at a position, if it is whole.
    fn entry_at(&mut self, at: u64) -> Result<Option<EntryHead>, Damage> {
        let mut bytes = [0; HEAD_LEN];
        self.ring.read(self.storage, at, &mut bytes)?;
        let Some(head) = EntryHead::parse(at, &bytes) else { return Ok(None) };
        if !head.is_plausible(&self.ring, self.log) || !self.is_whole(&head)? {
            return Ok(None);
        }
        let mut data = 0;
        let fits = self.each_descriptor(&head, |descriptor| {
            data += u64::from(descriptor.is_data);
            Ok(())
        })?;
        let fits = fits && (head.front() + data) * LOG_SECTOR <= head.len;
        Ok((fits && self.data_belongs(&head, data)?).then_some(head))
    }

    /// Its checksum is right.
    fn is_whole(&mut self, head: &EntryHead) -> Result<bool, Damage> {
        let Some(budget) = self.budget.checked_sub(head.len) else {
            return Err(Damage::Invalid("the log is full of damaged entries"));
        };
        self.budget = budget;
        let (mut crc, mut at) = (0, 0);
        while at < head.len {
            let mut bytes = vec![0; to_usize(STEP.min(head.len - at))];
            self.ring.read(self.storage, head.at + at, &mut bytes)?;
            if at == 0 {
                put(&mut bytes, CRC_AT, &[0; 4]);
            }
            crc = crc32c::crc32c_append(crc, &bytes);
            at += bytes.len() as u64;
        }
        Ok(crc == head.crc)
    }

    fn data_belongs(&self, head: &EntryHead, count: u64) -> Result<bool, Damage> {
        let mut sector = [0; SECTOR];
        for index in 0..count {
            self.ring.read(self.storage, head.at + (head.front() + index) * LOG_SECTOR, &mut sector)?;
            if !belongs(&sector, head.sequence) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Calls `each` with the descriptors; false if one is damaged.
    fn each_descriptor(
        &self,
        head: &EntryHead,
        mut each: impl FnMut(Descriptor) -> Result<(), Damage>,
    ) -> Result<bool, Damage> {
        let mut sector = [0; SECTOR];
        let mut at = HEAD_LEN;
        let mut number = 0;
        for _ in 0..head.descriptors {
            if at == HEAD_LEN && number == 0 || at == SECTOR {
                at %= SECTOR;
                self.ring.read(self.storage, head.at + number * LOG_SECTOR, &mut sector)?;
                number += 1;
            }
            let bytes = sector.get(at..at + DESCRIPTOR_LEN).unwrap_or_default();
            let Some(descriptor) = Descriptor::parse(bytes, head.sequence) else { return Ok(false) };
            each(descriptor)?;
            at += DESCRIPTOR_LEN;
        }
        Ok(true)
    }

    /// Calls `each` with what an entry does, in order.
    pub(crate) fn changes(
        &self,
        head: &EntryHead,
        mut each: impl FnMut(Change) -> Result<(), Damage>,
    ) -> Result<(), Damage> {
        let mut data_at = head.at + head.front() * LOG_SECTOR;
        let mut sector = [0; SECTOR];
        self.each_descriptor(head, |descriptor| {
            if !descriptor.is_data {
                return each(Change::Zero(descriptor.offset, descriptor.len));
            }
            self.ring.read(self.storage, data_at, &mut sector)?;
            data_at += LOG_SECTOR;
            each(Change::Write(descriptor.offset, descriptor.sector(&sector)))
        })?;
        Ok(())
    }
}

/// Most sectors that an entry of at most `len` bytes can write.
pub(crate) fn capacity(len: u64) -> u64 {
    let sectors = len / LOG_SECTOR;
    let mut data = sectors.saturating_sub(1);
    while data > 0 && data + descriptor_sectors(data) > sectors {
        data -= 1;
    }
    data
}

/// What an entry says besides its changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    /// Position in the ring.
    pub at: u64,
    pub sequence: u64,
    pub log: Uuid,
    /// Length of the file, in bytes.
    pub file_len: u64,
}

/// The bytes of an entry that writes `sectors` (file offset and bytes) and needs no other entry.
pub(crate) fn encode(stamp: Stamp, sectors: &[(u64, &[u8])]) -> Vec<u8> {
    let front = to_usize(descriptor_sectors(sectors.len() as u64) * LOG_SECTOR);
    let len = front + sectors.len() * SECTOR;
    let mut bytes = Vec::with_capacity(len);
    bytes.extend(HEAD);
    let field = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
    bytes.extend([0; 4]);
    bytes.extend(field(len as u64));
    bytes.extend(field(stamp.at));
    bytes.extend(stamp.sequence.to_le_bytes());
    bytes.extend(field(sectors.len() as u64));
    bytes.extend([0; 4]);
    bytes.extend(stamp.log.to_bytes_le());
    bytes.extend(stamp.file_len.to_le_bytes());
    bytes.extend(stamp.file_len.to_le_bytes());
    for (offset, sector) in sectors {
        bytes.extend(DATA);
        bytes.extend(sector.get(SECTOR - 4..SECTOR).unwrap_or_default());
        bytes.extend(sector.get(..8).unwrap_or_default());
        bytes.extend(offset.to_le_bytes());
        bytes.extend(stamp.sequence.to_le_bytes());
    }
    bytes.resize(front, 0);
    let number = stamp.sequence.to_le_bytes();
    for (_, sector) in sectors {
        bytes.extend(DATA_SECTOR);
        bytes.extend(number.get(4..).unwrap_or_default());
        bytes.extend(sector.get(8..SECTOR - 4).unwrap_or_default());
        bytes.extend(number.get(..4).unwrap_or_default());
    }
    let crc = checksum(&bytes, CRC_AT);
    put(&mut bytes, CRC_AT, &crc.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use diskimg_core::MemDevice;

    use super::*;

    const LEN: u64 = 1 << 20;

    fn header(log: Uuid) -> Header {
        let mut header = Header::new(1, 1 << 20);
        header.log = log;
        header
    }

    fn entry(at: u64, sequence: u64, log: Uuid, sectors: &[(u64, &[u8])]) -> Vec<u8> {
        encode(Stamp { at, sequence, log, file_len: 2 * LEN }, sectors)
    }

    fn changes(device: &MemDevice, log: Uuid) -> Vec<Change> {
        let header = header(log);
        let mut reader = Reader::new(device, &header);
        let mut all = Vec::new();
        for head in reader.active().unwrap() {
            reader
                .changes(&head, |change| {
                    all.push(change);
                    Ok(())
                })
                .unwrap();
        }
        all
    }

    #[test]
    fn an_entry_is_found_and_read_back_also_around_the_end_of_the_ring() {
        let log = Uuid::new_v4();
        let sectors: Vec<Vec<u8>> = (1..=200_u8).map(|byte| vec![byte; SECTOR]).collect();
        let writes: Vec<(u64, &[u8])> =
            (300..).map(|number| number * LOG_SECTOR).zip(sectors.iter().map(Vec::as_slice)).collect();
        for at in [0, 5 * LOG_SECTOR, LEN - LOG_SECTOR, LEN - 3 * LOG_SECTOR] {
            let device = MemDevice::new(2 << 20);
            let bytes = entry(at, 9, log, &writes);
            assert_eq!(bytes.len(), 202 * SECTOR);
            Ring { offset: LEN, len: LEN }.write(&device, at, &bytes).unwrap();
            let found = changes(&device, log);
            assert_eq!(found.len(), 200);
            for (change, (offset, sector)) in found.iter().zip(&writes) {
                assert_eq!(change, &Change::Write(*offset, (*sector).into()));
            }
            assert!(changes(&device, Uuid::new_v4()).is_empty(), "of another log");
            // One byte of a data sector.
            device.write_at(LEN + (at + 150 * LOG_SECTOR + 77) % LEN, &[255]).unwrap();
            assert!(changes(&device, log).is_empty(), "torn");
        }
    }

    #[test]
    fn the_newest_sequence_counts_from_its_tail_on() {
        let log = Uuid::new_v4();
        let device = MemDevice::new(2 << 20);
        let ring = Ring { offset: LEN, len: LEN };
        let sector = [7; SECTOR];
        let put_entry = |at: u64, tail: u64, sequence: u64, offset: u64| {
            let mut bytes = entry(at, sequence, log, &[(offset, &sector)]);
            put(&mut bytes, 12, &u32::try_from(tail).unwrap().to_le_bytes());
            let crc = checksum(&bytes, 4);
            put(&mut bytes, 4, &crc.to_le_bytes());
            ring.write(&device, at, &bytes).unwrap();
        };
        let offsets = || -> Vec<u64> {
            changes(&device, log)
                .iter()
                .map(|change| match change {
                    Change::Write(offset, _) | Change::Zero(offset, _) => *offset,
                })
                .collect()
        };
        put_entry(0, 0, 5, 1 << 20);
        put_entry(8192, 0, 6, 2 << 20);
        put_entry(16384, 8192, 7, 3 << 20);
        put_entry(65536, 65536, 3, 4 << 20);
        assert_eq!(offsets(), [2 << 20, 3 << 20]);
        put_entry(16384, 0, 7, 3 << 20);
        assert_eq!(offsets(), [1 << 20, 2 << 20, 3 << 20]);
        put_entry(16384, 65536, 7, 3 << 20);
        let header = header(log);
        assert!(Reader::new(&device, &header).active().is_err());
        put_entry(16384, 16384, 9, 3 << 20);
        assert_eq!(offsets(), [3 << 20]);
    }

    #[test]
    fn entries_fit_into_what_they_are_cut_for() {
        assert_eq!((capacity(4096), capacity(8192), capacity(1 << 20)), (0, 1, 254));
        for len in (0..2000).map(|sectors| sectors * LOG_SECTOR) {
            let data = capacity(len);
            assert!(data == 0 || (data + descriptor_sectors(data)) * LOG_SECTOR <= len);
        }
    }
}
