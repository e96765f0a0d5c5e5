//! [`Slices`]: parts of grain tables and directories in memory, by their place in the file.
//!
//! Pure memory: it never does I/O. A dirty slice, or one that is just being written, is never dropped; a slice is
//! shared with a running write-back and copied when it changes meanwhile.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug)]
struct Slot {
    data: Arc<Vec<u8>>,
    /// Bytes that differ from the file's.
    dirty: Option<Range<usize>>,
    /// Where a second copy of it is kept up.
    mirror: Option<u64>,
    writing: bool,
    /// Used since the hand last passed.
    touched: AtomicBool,
}

/// A part of a slice that has to be written.
#[derive(Clone, Debug)]
pub(crate) struct DirtySlice {
    /// Byte offset of the slice in the file.
    pub offset: u64,
    pub mirror: Option<u64>,
    /// The whole slice as it was when it was taken.
    pub data: Arc<Vec<u8>>,
    /// What of it to write.
    pub part: Range<usize>,
}

/// Slices of one extent.
#[derive(Debug)]
pub(crate) struct Slices {
    slots: HashMap<u64, Slot>,
    ring: VecDeque<u64>,
    capacity: usize,
    dirty: usize,
    /// Changes whenever a slice goes: a load that began before must not be trusted.
    generation: u64,
}

impl Slices {
    /// Holds about `capacity` slices; more only while they are dirty.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { slots: HashMap::new(), ring: VecDeque::new(), capacity, dirty: 0, generation: 0 }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// True if so much is dirty that a write-back is due.
    pub(crate) fn wants_write_back(&self) -> bool {
        self.dirty > self.capacity / 2
    }

    /// The bytes of the slice at `offset`, if it is here.
    pub(crate) fn get(&self, offset: u64) -> Option<&[u8]> {
        let slot = self.slots.get(&offset)?;
        slot.touched.store(true, Ordering::Relaxed);
        Some(&slot.data)
    }

    /// Changes the bytes from `at` on of the slice at `offset`; false: it is not here, or too short.
    pub(crate) fn change(&mut self, offset: u64, at: usize, bytes: &[u8], mirror: Option<u64>) -> bool {
        let Some(slot) = self.slots.get_mut(&offset) else { return false };
        let part = at..at.saturating_add(bytes.len());
        let Some(target) = Arc::make_mut(&mut slot.data).get_mut(part.clone()) else { return false };
        target.copy_from_slice(bytes);
        slot.touched.store(true, Ordering::Relaxed);
        slot.mirror = mirror;
        slot.dirty = Some(match slot.dirty.take() {
            Some(old) => old.start.min(part.start)..old.end.max(part.end),
            None => {
                self.dirty += 1;
                part
            }
        });
        true
    }

    /// Puts in what was loaded at `generation`, unless it is here already or something went meanwhile.
    pub(crate) fn insert(&mut self, offset: u64, data: Vec<u8>, generation: u64) {
        if self.generation != generation || self.slots.contains_key(&offset) {
            return;
        }
        let slot = Slot {
            data: Arc::new(data),
            dirty: None,
            mirror: None,
            writing: false,
            touched: AtomicBool::new(true),
        };
        self.slots.insert(offset, slot);
        self.ring.push_back(offset);
        self.evict();
    }

    /// Forgets a clean slice that was changed in the file.
    pub(crate) fn forget(&mut self, offset: u64) {
        if self.slots.get(&offset).is_some_and(|slot| slot.dirty.is_none() && !slot.writing) {
            self.slots.remove(&offset);
            self.ring.retain(|known| *known != offset);
        }
        self.generation += 1;
    }

    fn evict(&mut self) {
        let mut rounds = self.ring.len() * 2;
        while self.slots.len() > self.capacity && rounds > 0 {
            rounds -= 1;
            let Some(offset) = self.ring.pop_front() else { return };
            let Some(slot) = self.slots.get(&offset) else { continue };
            let busy = slot.dirty.is_some() || slot.writing;
            if busy || slot.touched.swap(false, Ordering::Relaxed) {
                self.ring.push_back(offset);
            } else {
                self.slots.remove(&offset);
                self.generation += 1;
            }
        }
    }

    /// Everything dirty, in the order of the file; it counts as clean unless [`Self::written`] says that writing failed.
    pub(crate) fn take_dirty(&mut self) -> Vec<DirtySlice> {
        let mut taken = Vec::with_capacity(self.dirty);
        for (offset, slot) in &mut self.slots {
            if let Some(part) = slot.dirty.take() {
                slot.writing = true;
                let (data, mirror) = (Arc::clone(&slot.data), slot.mirror);
                taken.push(DirtySlice { offset: *offset, mirror, data, part });
            }
        }
        self.dirty = 0;
        taken.sort_unstable_by_key(|slice| slice.offset);
        taken
    }

    /// The writing of `taken` has ended; after a failure it is dirty again.
    pub(crate) fn written(&mut self, taken: &[DirtySlice], ok: bool) {
        for slice in taken {
            let Some(slot) = self.slots.get_mut(&slice.offset) else { continue };
            slot.writing = false;
            if ok {
                continue;
            }
            slot.dirty = Some(match slot.dirty.take() {
                Some(old) => old.start.min(slice.part.start)..old.end.max(slice.part.end),
                None => {
                    self.dirty += 1;
                    slice.part.clone()
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dirty_slices_stay_and_come_out_in_order() {
        let mut slices = Slices::new(2);
        for offset in [30, 10, 20] {
            let generation = slices.generation();
            slices.insert(offset, vec![0; 8], generation);
            assert!(offset == 30 || slices.change(offset, 2, &[7; 2], None));
        }
        assert!(slices.get(30).is_none() && slices.get(10).is_some());
        let taken = slices.take_dirty();
        assert_eq!(
            taken.iter().map(|s| (s.offset, s.part.clone())).collect::<Vec<_>>(),
            [(10, 2..4), (20, 2..4)]
        );
        assert!(slices.change(10, 0, &[1], Some(99)));
        assert_eq!(taken[0].data[0], 0);
        slices.written(&taken, false);
        let again = slices.take_dirty();
        assert_eq!((again.len(), again[0].part.clone(), again[0].mirror), (2, 0..4, Some(99)));
        assert!(!slices.change(77, 0, &[1], None) && !slices.change(10, 8, &[1], None));
    }

    #[test]
    fn a_load_from_before_a_change_of_the_file_is_not_kept() {
        let mut slices = Slices::new(2);
        let generation = slices.generation();
        slices.forget(5);
        slices.insert(5, vec![0; 8], generation);
        assert!(slices.get(5).is_none());
    }
}
