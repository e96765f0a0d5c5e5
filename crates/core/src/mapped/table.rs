//! [`EntryTable`]: a table of entries that is wholly in memory, and knows which parts of it are dirty.

use std::collections::BTreeSet;

use super::TableWrite;
use crate::range::to_usize;

/// An entry as it is stored.
pub trait TableEntry: Copy + PartialEq + Send + Sync + std::fmt::Debug + 'static {
    /// Bytes of an entry.
    const LEN: usize;

    /// Appends the entry's bytes.
    fn put(self, bytes: &mut Vec<u8>);
}

/// Bytes of a table that are written at once.
const PART: u64 = 4096;

/// A table at a host offset, and its dirty parts.
#[derive(Debug)]
pub struct EntryTable<E> {
    offset: u64,
    entries: Vec<E>,
    /// Bytes that the table takes on the host: behind the entries come `padding` bytes.
    len: u64,
    padding: u8,
    dirty: BTreeSet<u64>,
}

impl<E: TableEntry> EntryTable<E> {
    /// A clean table of `entries` at host byte `offset` that takes `len` bytes, filled up with `padding`.
    #[must_use]
    pub fn new(offset: u64, entries: Vec<E>, len: u64, padding: u8) -> Self {
        Self { offset, entries, len, padding, dirty: BTreeSet::new() }
    }

    /// The entries.
    #[must_use]
    pub fn entries(&self) -> &[E] {
        &self.entries
    }

    /// Entry `index`, if there is one.
    #[must_use]
    pub fn get(&self, index: u64) -> Option<E> {
        self.entries.get(to_usize(index)).copied()
    }

    /// Changes entry `index`; false if there is none.
    pub fn set(&mut self, index: u64, entry: E) -> bool {
        let Some(slot) = self.entries.get_mut(to_usize(index)) else { return false };
        if *slot != entry {
            *slot = entry;
            self.dirty.insert(index * E::LEN as u64 / PART);
        }
        true
    }

    /// How many entries from `first` on (at most `most`) fit one after the other: `fits` gets the step and the entry.
    pub fn run(&self, first: u64, most: u64, mut fits: impl FnMut(u64, E) -> bool) -> u64 {
        let rest = self.entries.get(to_usize(first)..).unwrap_or_default();
        (0..most).zip(rest).take_while(|(step, entry)| fits(*step, **entry)).count() as u64
    }

    /// The dirty parts, which then count as clean.
    pub fn take_dirty(&mut self) -> Vec<TableWrite> {
        let parts = std::mem::take(&mut self.dirty);
        let mut writes: Vec<TableWrite> = Vec::new();
        for part in parts {
            let start = part * PART;
            let bytes = self.part(start, (start + PART).min(self.len));
            match writes.last_mut() {
                Some(last) if last.offset + last.bytes.len() as u64 == self.offset + start => {
                    last.bytes.extend(bytes)
                }
                _ => writes.push(TableWrite { offset: self.offset + start, bytes }),
            }
        }
        writes
    }

    /// Parts that could not be written are dirty again.
    pub fn not_written(&mut self, writes: &[TableWrite]) {
        for write in writes {
            let Some(start) = write.offset.checked_sub(self.offset).filter(|start| *start < self.len) else {
                continue;
            };
            let end = start + write.bytes.len() as u64;
            self.dirty.extend(start / PART..end.div_ceil(PART));
        }
    }

    fn part(&self, start: u64, end: u64) -> Vec<u8> {
        let len = to_usize(end.saturating_sub(start));
        let mut bytes = Vec::with_capacity(len);
        let first = to_usize(start) / E::LEN;
        for entry in self.entries.iter().skip(first).take(len / E::LEN) {
            entry.put(&mut bytes);
        }
        bytes.resize(len, self.padding);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl TableEntry for u32 {
        const LEN: usize = 4;

        fn put(self, bytes: &mut Vec<u8>) {
            bytes.extend(self.to_le_bytes());
        }
    }

    #[test]
    fn only_what_changed_is_written() {
        let mut table = EntryTable::new(512, vec![0_u32; 3000], 12_288, 0xff);
        assert!(table.take_dirty().is_empty());
        assert!(table.set(5, 7) && table.set(2999, 9) && !table.set(3000, 1));
        let writes = table.take_dirty();
        assert_eq!(
            writes.iter().map(|write| (write.offset, write.bytes.len())).collect::<Vec<_>>(),
            [(512, 4096), (512 + 8192, 4096)]
        );
        assert_eq!(&writes[0].bytes[20..24], [7, 0, 0, 0]);
        assert_eq!(&writes[1].bytes[952 * 4 - 4..952 * 4 + 4], [9, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        assert!(table.take_dirty().is_empty());
        table.not_written(&writes);
        assert_eq!(table.take_dirty(), writes);
    }
}
