//! [`SliceCache`]: slices of L2 tables or refcount blocks, by host offset, as the bytes that stand on the host.
//!
//! Pure memory: it never does I/O. A dirty slice, or one that is just being written, is never evicted; a slice is
//! shared with a running write-back and copied when it changes meanwhile.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug)]
struct Slot {
    data: Arc<Vec<u8>>,
    /// Bytes that differ from the host's.
    dirty: Option<Range<usize>>,
    /// Writes of it under way.
    writing: u32,
    /// Used since the eviction hand last passed.
    touched: AtomicBool,
}

/// A part of a slice that has to be written.
#[derive(Clone, Debug)]
pub(super) struct DirtySlice {
    /// Host offset of the slice.
    pub offset: u64,
    /// The whole slice as it was when the cut was made.
    pub data: Arc<Vec<u8>>,
    /// What of it to write.
    pub part: Range<usize>,
}

/// The cache of one kind of table.
#[derive(Debug)]
pub(super) struct SliceCache {
    slots: HashMap<u64, Slot>,
    ring: VecDeque<u64>,
    capacity: usize,
    dirty: usize,
    /// Changes with every eviction and drop: a load that began before must not be trusted.
    generation: u64,
}

impl SliceCache {
    /// Holds about `capacity` slices; more only while they are dirty.
    pub(super) fn new(capacity: usize) -> Self {
        Self { slots: HashMap::new(), ring: VecDeque::new(), capacity, dirty: 0, generation: 0 }
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// True if so much is dirty that a write-back is due.
    pub(super) fn wants_write_back(&self) -> bool {
        self.dirty > self.capacity / 2
    }

    pub(super) fn has_dirty(&self) -> bool {
        self.dirty > 0
    }

    pub(super) fn contains(&self, offset: u64) -> bool {
        self.slots.contains_key(&offset)
    }

    /// The bytes of the slice at `offset`, if it is here.
    pub(super) fn get(&self, offset: u64) -> Option<&[u8]> {
        let slot = self.slots.get(&offset)?;
        slot.touched.store(true, Ordering::Relaxed);
        Some(&slot.data)
    }

    /// The bytes `part` of the slice at `offset`, to be changed.
    pub(super) fn get_mut(&mut self, offset: u64, part: Range<usize>) -> Option<&mut [u8]> {
        let slot = self.slots.get_mut(&offset)?;
        slot.touched.store(true, Ordering::Relaxed);
        let bytes = Arc::make_mut(&mut slot.data).get_mut(part.clone())?;
        slot.dirty = Some(match slot.dirty.take() {
            Some(old) => old.start.min(part.start)..old.end.max(part.end),
            None => {
                self.dirty += 1;
                part
            }
        });
        Some(bytes)
    }

    /// Puts in what was loaded from the host, unless it is here already.
    pub(super) fn insert_loaded(&mut self, offset: u64, data: Vec<u8>) {
        if !self.slots.contains_key(&offset) {
            self.insert(offset, data, None);
        }
    }

    /// Puts in a new slice that the host does not have yet.
    pub(super) fn insert_new(&mut self, offset: u64, data: Vec<u8>) {
        self.drop_slice(offset);
        let all = 0..data.len();
        self.dirty += 1;
        self.insert(offset, data, Some(all));
    }

    fn insert(&mut self, offset: u64, data: Vec<u8>, dirty: Option<Range<usize>>) {
        let touched = AtomicBool::new(true);
        self.slots.insert(offset, Slot { data: Arc::new(data), dirty, writing: 0, touched });
        self.ring.push_back(offset);
    }

    /// Forgets a slice whose table was freed.
    pub(super) fn drop_slice(&mut self, offset: u64) {
        if let Some(slot) = self.slots.remove(&offset) {
            self.generation += 1;
            self.dirty -= usize::from(slot.dirty.is_some());
            self.ring.retain(|known| *known != offset);
        }
    }

    /// Forgets everything: the host was changed by others.
    pub(super) fn clear(&mut self) {
        self.slots.clear();
        self.ring.clear();
        self.dirty = 0;
        self.generation += 1;
    }

    /// Evicts clean slices until the capacity is kept, or only dirty ones are left.
    pub(super) fn evict(&mut self) {
        let mut rounds = self.ring.len() * 2;
        while self.slots.len() > self.capacity && rounds > 0 {
            rounds -= 1;
            let Some(offset) = self.ring.pop_front() else { return };
            let Some(slot) = self.slots.get(&offset) else { continue };
            let busy = slot.dirty.is_some() || slot.writing > 0;
            if busy || slot.touched.swap(false, Ordering::Relaxed) {
                self.ring.push_back(offset);
            } else {
                self.slots.remove(&offset);
                self.generation += 1;
            }
        }
    }

    /// Everything dirty, in the order of the host; it counts as clean from now on unless [`Self::written`] says that
    /// writing failed.
    pub(super) fn take_dirty(&mut self) -> Vec<DirtySlice> {
        let mut cut = Vec::with_capacity(self.dirty);
        for (offset, slot) in &mut self.slots {
            if let Some(part) = slot.dirty.take() {
                slot.writing += 1;
                cut.push(DirtySlice { offset: *offset, data: Arc::clone(&slot.data), part });
            }
        }
        self.dirty = 0;
        cut.sort_unstable_by_key(|slice| slice.offset);
        cut
    }

    /// The writing of `cut` has ended; after a failure it is dirty again.
    pub(super) fn written(&mut self, cut: &[DirtySlice], ok: bool) {
        for slice in cut {
            let Some(slot) = self.slots.get_mut(&slice.offset) else { continue };
            slot.writing = slot.writing.saturating_sub(1);
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
    fn dirty_slices_survive_eviction_and_come_out_in_host_order() {
        let mut cache = SliceCache::new(2);
        for offset in [30, 10, 20, 40] {
            cache.insert_loaded(offset, vec![0; 8]);
        }
        cache.get_mut(40, 2..4).unwrap().fill(7);
        cache.get_mut(10, 6..8).unwrap().fill(7);
        cache.evict();
        assert!(cache.contains(10) && cache.contains(40) && !cache.contains(30));
        let cut = cache.take_dirty();
        assert_eq!(
            cut.iter().map(|s| (s.offset, s.part.clone())).collect::<Vec<_>>(),
            [(10, 6..8), (40, 2..4)]
        );
        assert!(!cache.has_dirty());
        cache.get_mut(10, 0..1).unwrap().fill(1);
        cache.written(&cut, false);
        let again = cache.take_dirty();
        assert_eq!(
            again.iter().map(|s| (s.offset, s.part.clone())).collect::<Vec<_>>(),
            [(10, 0..8), (40, 2..4)]
        );
    }

    #[test]
    fn a_change_during_a_write_does_not_reach_the_cut() {
        let mut cache = SliceCache::new(2);
        cache.insert_new(0, vec![1; 4]);
        let cut = cache.take_dirty();
        cache.get_mut(0, 0..4).unwrap().fill(2);
        assert_eq!(cut.first().map(|s| s.data.as_slice()), Some([1; 4].as_slice()));
        assert_eq!(cache.get(0), Some([2; 4].as_slice()));
    }
}
