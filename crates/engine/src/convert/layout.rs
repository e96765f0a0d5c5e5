//! The layout of an image before it is written: its metadata in memory, and which guest bytes stand where between it.

use std::collections::BTreeMap;

use diskimg_core::{
    BlockDevice, ByteRange, Description, Error, ErrorKind, Limits, Prealloc, Result, ZeroMode, is_zero,
    len_u64, to_usize,
};
use parking_lot::RwLock;

/// The unit in which bytes are held.
const PAGE: u64 = 4096;

/// The most metadata that is held, in bytes: that of about 4 TiB of data in clusters of 64 KiB.
const MAX_HELD: u64 = 640 << 20;

/// Guest bytes that stand on the host in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) host: u64,
    pub(super) guest: u64,
    pub(super) len: u64,
}

impl Run {
    /// True if `next` follows in both.
    pub(super) fn continues(&self, next: &Self) -> bool {
        self.host.checked_add(self.len) == Some(next.host)
            && self.guest.checked_add(self.len) == Some(next.guest)
    }
}

/// A file in memory that holds nothing where it is zeros.
#[derive(Debug, Default)]
pub(super) struct Sparse(RwLock<Held>);

#[derive(Debug, Default)]
struct Held {
    len: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl Sparse {
    /// The bytes of `range` that are the same kind from its start on: zeros (true), or something that is held.
    pub(super) fn kind_at(&self, range: ByteRange) -> (bool, u64) {
        let held = self.0.read();
        let first = range.start / PAGE;
        let end = |page: u64| (page * PAGE).saturating_sub(range.start).min(range.len);
        if !held.pages.contains_key(&first) {
            let next = held.pages.range(first..).next().map_or(range.len, |(page, _)| end(*page));
            return (true, next);
        }
        let mut page = first + 1;
        while held.pages.contains_key(&page) && page * PAGE < range.end() {
            page += 1;
        }
        (false, end(page))
    }

    fn put(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let mut held = self.0.write();
        let range = ByteRange::new(offset, len_u64(buf));
        held.len = held.len.max(range.end());
        let mut rest = buf;
        let mut at = offset;
        while !rest.is_empty() {
            let within = to_usize(at % PAGE);
            let (now, later) = rest.split_at(rest.len().min(to_usize(PAGE) - within));
            let known = held.pages.contains_key(&(at / PAGE));
            if known || !is_zero(now) {
                if !known && len_u64(now).saturating_add(held.pages.len() as u64 * PAGE) > MAX_HELD {
                    return Err(Error::limit("The tables of the image are too large to be held in memory"));
                }
                let page =
                    held.pages.entry(at / PAGE).or_insert_with(|| vec![0; to_usize(PAGE)].into_boxed_slice());
                if let Some(part) = page.get_mut(within..within + now.len()) {
                    part.copy_from_slice(now);
                }
            }
            at += len_u64(now);
            rest = later;
        }
        Ok(())
    }

    fn clear(&self, range: ByteRange) {
        let mut held = self.0.write();
        let touched: Vec<u64> =
            held.pages.range(range.start / PAGE..range.end().div_ceil(PAGE)).map(|(page, _)| *page).collect();
        for page in touched {
            let own = ByteRange::new(page * PAGE, PAGE);
            let part = own.intersect(range);
            if part == own {
                held.pages.remove(&page);
            } else if let Some(bytes) = held.pages.get_mut(&page) {
                let from = to_usize(part.start - own.start);
                bytes.get_mut(from..from + to_usize(part.len)).unwrap_or_default().fill(0);
            }
        }
    }
}

impl BlockDevice for Sparse {
    fn len(&self) -> u64 {
        self.0.read().len
    }

    fn limits(&self) -> Limits {
        Limits { growable: true, ..Limits::default() }
    }

    fn describe(&self) -> Description<'_> {
        Description { driver: "memory", filename: "" }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let held = self.0.read();
        ByteRange::new(offset, len_u64(buf)).check_within(held.len)?;
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let within = to_usize(at % PAGE);
            let room = rest.len().min(to_usize(PAGE) - within);
            let (now, later) = rest.split_at_mut(room);
            match held.pages.get(&(at / PAGE)).and_then(|page| page.get(within..within + room)) {
                Some(bytes) => now.copy_from_slice(bytes),
                None => now.fill(0),
            }
            at += len_u64(now);
            rest = later;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.put(offset, buf)
    }

    fn write_zeroes(&self, range: ByteRange, _how: ZeroMode) -> Result<()> {
        self.clear(range);
        let mut held = self.0.write();
        held.len = held.len.max(range.end());
        Ok(())
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        self.clear(range);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64, _prealloc: Prealloc) -> Result<()> {
        if len > i64::MAX.unsigned_abs() {
            return Err(Error::new(ErrorKind::NoSpace, "the image is too large"));
        }
        let old = self.len();
        if len < old {
            self.clear(ByteRange::from_bounds(len, old));
        }
        self.0.write().len = len;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_zeros_is_held() {
        let file = Sparse::default();
        file.write_at(10_000, &[1; 3]).unwrap();
        file.write_at(1 << 40, &[0; 5000]).unwrap();
        assert_eq!((file.len(), file.0.read().pages.len()), ((1 << 40) + 5000, 1));
        assert_eq!(file.kind_at(ByteRange::new(100, 1 << 20)), (true, 2 * PAGE - 100));
        assert_eq!(file.kind_at(ByteRange::new(2 * PAGE, 1 << 20)), (false, PAGE));
        assert_eq!(file.kind_at(ByteRange::new(3 * PAGE, 1 << 20)), (true, 1 << 20));
        let mut buf = [9; 5];
        file.read_at(9_999, &mut buf).unwrap();
        assert_eq!(buf, [0, 1, 1, 1, 0]);
        file.write_zeroes(ByteRange::new(10_001, 1), ZeroMode::MayUnmap).unwrap();
        file.read_at(9_999, &mut buf).unwrap();
        assert_eq!(buf, [0, 1, 0, 1, 0]);
        file.discard(ByteRange::new(0, 1 << 20)).unwrap();
        assert!(file.0.read().pages.is_empty());
        file.set_len(20, Prealloc::Off).unwrap();
        assert!(file.read_at(19, &mut [0; 2]).is_err());
    }
}
