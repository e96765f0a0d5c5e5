//! [`MemTable`]: the L1 table or refcount table, wholly in memory, with what of it has to be written.

use std::ops::Range;

use diskimg_core::to_usize;

/// Bytes of an entry.
pub(crate) const ENTRY: u64 = 8;

/// A table of 64-bit entries and where it stands.
#[derive(Debug)]
pub(crate) struct MemTable {
    /// Host offset.
    pub(crate) offset: u64,
    entries: Vec<u64>,
    dirty: Option<Range<usize>>,
}

/// Entries that have to be written, as bytes.
#[derive(Debug)]
pub(super) struct DirtyPart {
    pub offset: u64,
    pub bytes: Vec<u8>,
    part: Range<usize>,
}

impl MemTable {
    pub(crate) const fn new(offset: u64, entries: Vec<u64>) -> Self {
        Self { offset, entries, dirty: None }
    }

    pub(crate) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Entry `index`; 0 behind the end.
    pub(crate) fn get(&self, index: u64) -> u64 {
        self.entries.get(to_usize(index)).copied().unwrap_or(0)
    }

    pub(crate) fn set(&mut self, index: u64, value: u64) {
        let at = to_usize(index);
        if let Some(entry) = self.entries.get_mut(at) {
            *entry = value;
            self.dirty = Some(match self.dirty.take() {
                Some(old) => old.start.min(at)..old.end.max(at + 1),
                None => at..at + 1,
            });
        }
    }

    pub(crate) fn entries(&self) -> &[u64] {
        &self.entries
    }

    pub(super) const fn is_dirty(&self) -> bool {
        self.dirty.is_some()
    }

    /// Replaces the table by a longer one that already stands at `offset` on the host, with these entries.
    pub(super) fn replace(&mut self, offset: u64, entries: Vec<u64>) {
        *self = Self::new(offset, entries);
    }

    pub(super) fn take_dirty(&mut self) -> Option<DirtyPart> {
        let part = self.dirty.take()?;
        let bytes = self.entries.get(part.clone())?.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        Some(DirtyPart { offset: self.offset + ENTRY * part.start as u64, bytes, part })
    }

    /// Writing `cut` failed: it is dirty again.
    pub(super) fn not_written(&mut self, cut: &DirtyPart) {
        self.dirty = Some(match self.dirty.take() {
            Some(old) => old.start.min(cut.part.start)..old.end.max(cut.part.end),
            None => cut.part.clone(),
        });
    }
}
