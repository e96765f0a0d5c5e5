//! [`Store`]: what of a pipe was passed over or may be read again.
//!
//! Bytes are kept in chunks: in memory up to [`MEMORY`] bytes, then in a file without a name in the folder for temporary
//! files. A chunk that was read as a whole, in requests of whole sectors, may be forgotten once [`RECENT`] others were read
//! after it: such are data, or tables that their reader has. (What is compressed does not come in whole sectors, and its
//! neighbour in a sector may come much later, so that is kept.) The first chunk, which says what the rest is, stays.
//! Invariant: every byte before the front is kept or forgotten, and one that is forgotten is an error to read. Used by
//! [`crate::pipe`] alone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::ErrorKind as IoKind;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

use diskimg_core::{Error, Result, is_zero, len_u64, to_usize};

/// Bytes that are kept together.
const CHUNK: u64 = 64 << 10;

/// Bytes that are kept in memory.
const MEMORY: u64 = 64 << 20;

/// Chunks that were read as a whole and are kept all the same.
const RECENT: usize = 256;

/// A request of so many chunks at the front is data: its bytes are kept nowhere.
const LARGE: usize = 4;

/// What a request has to be a multiple of to count as read for good.
const SECTOR: u64 = 512;

/// Names for a temporary file that are tried.
const TRIES: u32 = 1000;

/// A chunk that is kept.
#[derive(Debug)]
struct Kept {
    place: Place,
    len: usize,
    /// One bit for each sector that was read.
    read: u128,
}

#[derive(Debug)]
enum Place {
    Memory(Vec<u8>),
    /// At this byte of the file.
    Spilled(u64),
}

/// The chunks before the front.
#[derive(Debug, Default)]
pub(crate) struct Store {
    /// The bytes that were taken from the pipe.
    front: u64,
    kept: BTreeMap<u64, Kept>,
    in_memory: BTreeSet<u64>,
    /// Those that were read as a whole, the oldest first.
    recent: VecDeque<u64>,
    file: Option<(File, u64)>,
}

impl Store {
    /// Fills `buf` from byte `offset` on, up to the end; the number of bytes. `fill` takes the next bytes of the pipe, less
    /// than it was asked for at the end alone.
    pub(crate) fn read(
        &mut self,
        offset: u64,
        buf: &mut [u8],
        end: &mut Option<u64>,
        fill: &mut dyn FnMut(&mut [u8]) -> Result<usize>,
    ) -> Result<usize> {
        let for_good = offset.is_multiple_of(SECTOR) && len_u64(buf).is_multiple_of(SECTOR);
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(to_u64(done));
            if end.is_some_and(|end| at >= end) {
                break;
            }
            if at < self.front {
                done += self.read_kept(at, rest, for_good)?;
                continue;
            }
            let whole = rest.len() / to_usize(CHUNK);
            if at == self.front && at > 0 && whole >= LARGE {
                let part = rest.get_mut(..whole * to_usize(CHUNK)).unwrap_or_default();
                let (wanted, there) = (part.len(), fill(part)?);
                self.front += to_u64(there);
                if there < wanted {
                    *end = Some(self.front);
                }
                done += there;
                continue;
            }
            self.take_chunk(end, fill)?;
        }
        Ok(done)
    }

    /// Takes the next chunk from the pipe and keeps it.
    fn take_chunk(
        &mut self,
        end: &mut Option<u64>,
        fill: &mut dyn FnMut(&mut [u8]) -> Result<usize>,
    ) -> Result<()> {
        let mut bytes = vec![0; to_usize(CHUNK)];
        let len = fill(&mut bytes)?;
        if len < bytes.len() {
            *end = Some(self.front + to_u64(len));
        }
        let number = self.front / CHUNK;
        self.front += to_u64(len);
        if len == 0 {
            return Ok(());
        }
        self.kept.insert(number, Kept { place: Place::Memory(bytes), len, read: 0 });
        self.in_memory.insert(number);
        if to_u64(self.in_memory.len()) * CHUNK > MEMORY { self.spill_one() } else { Ok(()) }
    }

    /// Copies a part of one chunk; the number of bytes.
    fn read_kept(&mut self, at: u64, buf: &mut [u8], for_good: bool) -> Result<usize> {
        let (number, within) = (at / CHUNK, to_usize(at % CHUNK));
        let gone = || {
            let text = format!("byte {at} of the input has gone by already: it has to be a file, not a pipe");
            Error::unsupported(text)
        };
        let kept = self.kept.get_mut(&number).ok_or_else(gone)?;
        let len = kept.len.saturating_sub(within).min(buf.len());
        let part = buf.get_mut(..len).unwrap_or_default();
        match (&kept.place, &self.file) {
            (Place::Memory(bytes), _) => {
                part.copy_from_slice(bytes.get(within..within + len).unwrap_or_default());
            }
            (Place::Spilled(place), Some((file, _))) => file.read_exact_at(part, place + to_u64(within))?,
            (Place::Spilled(_), None) => return Err(gone()),
        }
        if for_good && number > 0 {
            let sectors = |bytes: usize| bytes / to_usize(SECTOR);
            let mask = |bits: usize| u128::MAX.checked_shl(u32::try_from(bits).unwrap_or(0)).unwrap_or(0);
            let was_read = kept.read == u128::MAX;
            kept.read |= mask(sectors(within)) & !mask(sectors(within + len));
            if kept.read == u128::MAX && !was_read {
                self.recent.push_back(number);
            }
            self.forget_old();
        }
        Ok(len)
    }

    fn forget_old(&mut self) {
        while self.recent.len() > RECENT
            && let Some(number) = self.recent.pop_front()
        {
            self.kept.remove(&number);
            self.in_memory.remove(&number);
        }
    }

    /// Brings the chunk that has been in memory for longest into the file.
    fn spill_one(&mut self) -> Result<()> {
        let Some(number) = self.in_memory.iter().copied().find(|number| *number > 0) else { return Ok(()) };
        let Some(kept) = self.kept.get_mut(&number) else { return Ok(()) };
        let Place::Memory(bytes) = &kept.place else { return Ok(()) };
        if self.file.is_none() {
            self.file = Some((temporary_file()?, 0));
        }
        let Some((file, len)) = &mut self.file else { return Ok(()) };
        file.write_all_at(bytes, *len)?;
        kept.place = Place::Spilled(*len);
        *len += CHUNK;
        self.in_memory.remove(&number);
        Ok(())
    }

    /// Everything that was taken and that is still to come, in a file without a name, and its length.
    pub(crate) fn copy_all(
        &mut self,
        mut fill: impl FnMut(&mut [u8]) -> Result<usize>,
    ) -> Result<(File, u64)> {
        let file = temporary_file()?;
        let mut bytes = vec![0; to_usize(CHUNK) * RECENT / 16];
        let mut at = 0;
        while at < self.front {
            let len = bytes.len().min(to_usize(CHUNK)).min(to_usize(self.front - at));
            let part = bytes.get_mut(..len).unwrap_or_default();
            let count = self.read_kept(at, part, false)?;
            file.write_all_at(part.get(..count).unwrap_or_default(), at)?;
            at += to_u64(count.max(1));
        }
        loop {
            let len = fill(&mut bytes)?;
            let part = bytes.get(..len).unwrap_or_default();
            for (number, piece) in part.chunks(to_usize(CHUNK)).enumerate() {
                if !is_zero(piece) {
                    file.write_all_at(piece, self.front + to_u64(number) * CHUNK)?;
                }
            }
            self.front += to_u64(len);
            if len < bytes.len() {
                break;
            }
        }
        file.set_len(self.front)?;
        self.kept.clear();
        self.in_memory.clear();
        Ok((file, self.front))
    }
}

/// A new file in the folder for temporary files; its name is removed at once, so that it goes with the program.
fn temporary_file() -> Result<File> {
    let folder = std::env::temp_dir();
    let failed = |error: std::io::Error| {
        let text = format!("no temporary file in '{}' for what came through a pipe", folder.display());
        Error::from(error).context(text)
    };
    for number in 0..TRIES {
        let path = folder.join(format!(".qemu-img-rs.{}.{number}", std::process::id()));
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => {
                std::fs::remove_file(&path).map_err(failed)?;
                return Ok(file);
            }
            Err(error) if error.kind() == IoKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(failed(IoKind::AlreadyExists.into()))
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that tell where they are.
    fn byte(at: u64) -> u8 {
        u8::try_from((at / 7 + at / CHUNK) % 251).unwrap()
    }

    struct Source {
        at: u64,
        len: u64,
    }

    impl Source {
        fn fill(&mut self, buf: &mut [u8]) -> usize {
            let count = buf.len().min(to_usize(self.len - self.at));
            buf[..count].iter_mut().zip(self.at..).for_each(|(to, at)| *to = byte(at));
            self.at += count as u64;
            count
        }
    }

    fn read(store: &mut Store, source: &mut Source, at: u64, len: usize) -> Result<usize> {
        let mut buf = vec![0xff; len];
        let count = store.read(at, &mut buf, &mut None, &mut |part| Ok(source.fill(part)))?;
        assert!(buf[..count].iter().zip(at..).all(|(got, at)| *got == byte(at)), "{at} {len}");
        Ok(count)
    }

    #[test]
    fn what_was_passed_over_is_there_in_memory_and_behind_it() {
        let (mut store, mut source) = (Store::default(), Source { at: 0, len: 3 * MEMORY + 100 });
        assert_eq!(read(&mut store, &mut source, 3 * MEMORY - 5, 200).unwrap(), 105);
        assert!(to_u64(store.in_memory.len()) * CHUNK <= MEMORY && store.file.is_some());
        for at in [0, 1, CHUNK - 3, MEMORY + 77, 2 * MEMORY - 9, 3 * MEMORY - 70_000] {
            assert_eq!(read(&mut store, &mut source, at, 100).unwrap(), 100);
        }
    }

    #[test]
    fn what_was_read_as_a_whole_is_forgotten_and_nothing_else() {
        let (mut store, mut source) = (Store::default(), Source { at: 0, len: MEMORY });
        let mut at = 0;
        while at < MEMORY / 2 {
            // One byte is left out at the end of the third chunk, and the fourth one is read in odd parts.
            let len = match at / CHUNK {
                2 => CHUNK - 512,
                3 => CHUNK - 1,
                _ => CHUNK,
            };
            read(&mut store, &mut source, at, to_usize(len)).unwrap();
            at += CHUNK;
        }
        assert!(store.kept.len() < RECENT + 5 && store.file.is_none());
        for there in [0, 2 * CHUNK, 3 * CHUNK + 1] {
            read(&mut store, &mut source, there, 512).unwrap();
        }
        let gone = read(&mut store, &mut source, 4 * CHUNK, 512).unwrap_err();
        assert_eq!(gone.kind(), diskimg_core::ErrorKind::Unsupported);
    }

    #[test]
    fn large_reads_at_the_front_are_kept_nowhere() {
        let (mut store, mut source) = (Store::default(), Source { at: 0, len: MEMORY });
        read(&mut store, &mut source, 0, to_usize(8 * CHUNK)).unwrap();
        for number in 1..20 {
            read(&mut store, &mut source, number * 8 * CHUNK, to_usize(8 * CHUNK)).unwrap();
        }
        assert!(store.kept.len() <= 8);
    }

    #[test]
    fn all_of_it_goes_to_a_file() {
        let (mut store, mut source) = (Store::default(), Source { at: 0, len: 5 * CHUNK + 13 });
        read(&mut store, &mut source, 0, 512).unwrap();
        let (file, len) = store.copy_all(|buf| Ok(source.fill(buf))).unwrap();
        assert_eq!((len, file.metadata().unwrap().len()), (5 * CHUNK + 13, 5 * CHUNK + 13));
        let mut all = vec![0; to_usize(len)];
        file.read_exact_at(&mut all, 0).unwrap();
        assert!(all.iter().zip(0..).all(|(got, at)| *got == byte(at)));
    }
}
