//! [`SliceCache`]: slices of tables that are too long to be kept whole, by host offset, as the bytes that stand on the host.
//!
//! Pure memory: it never does I/O. A dirty slice, or one that is just being written, is never evicted; a slice is
//! shared with a running write-back and copied when it changes meanwhile.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug)]
struct Slot {
    data: Arc<Vec<u8>>,
    /// Bytes that differ from the host's.
    dirty: Option<Range<usize>>,
    /// Where a second copy of it is kept up.
    mirror: Option<u64>,
    /// Writes of it under way.
    writing: u32,
    /// Used since the eviction hand last passed.
    touched: AtomicBool,
}

/// A part of a slice that has to be written.
#[derive(Clone, Debug)]
pub struct DirtySlice {
    /// Host offset of the slice.
    pub offset: u64,
    /// Host offset of its second copy, if it has one.
    pub mirror: Option<u64>,
    /// The whole slice as it was when the cut was made.
    pub data: Arc<Vec<u8>>,
    /// What of it to write.
    pub part: Range<usize>,
}

/// The cache of one kind of table.
#[derive(Debug)]
pub struct SliceCache {
    slots: HashMap<u64, Slot>,
    ring: VecDeque<u64>,
    /// Clean slices that are kept at present.
    capacity: usize,
    /// What that can grow to.
    most: usize,
    /// Slices that were evicted and could have been of use, while the capacity can grow.
    missed: HashSet<u64>,
    dirty: usize,
    /// Slices that are being written.
    busy: usize,
    /// Changes with every eviction and drop: a load that began before must not be trusted.
    generation: u64,
}

impl SliceCache {
    /// Holds about `capacity` slices; more only while they are dirty.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self::growing(capacity, capacity)
    }

    /// Holds about `first` clean slices; ever more, up to `most`, if slices come back that were evicted: who walks along
    /// a table once takes little memory.
    #[must_use]
    pub fn growing(first: usize, most: usize) -> Self {
        Self {
            slots: HashMap::new(),
            ring: VecDeque::new(),
            capacity: first.min(most),
            most,
            missed: HashSet::new(),
            dirty: 0,
            busy: 0,
            generation: 0,
        }
    }

    /// Goes with a load: see [`Self::insert_current`].
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// True if so much is dirty that a write-back is due.
    #[must_use]
    pub const fn wants_write_back(&self) -> bool {
        self.dirty > self.most / 2
    }

    /// True if something has to be written.
    #[must_use]
    pub const fn has_dirty(&self) -> bool {
        self.dirty > 0
    }

    /// True if the slice at `offset` is here.
    #[must_use]
    pub fn contains(&self, offset: u64) -> bool {
        self.slots.contains_key(&offset)
    }

    /// The bytes of the slice at `offset`, if it is here.
    #[must_use]
    pub fn get(&self, offset: u64) -> Option<&[u8]> {
        let slot = self.slots.get(&offset)?;
        slot.touched.store(true, Ordering::Relaxed);
        Some(&slot.data)
    }

    /// The bytes `part` of the slice at `offset`, to be changed.
    pub fn get_mut(&mut self, offset: u64, part: Range<usize>) -> Option<&mut [u8]> {
        self.get_mirrored(offset, part, None)
    }

    /// The same for a slice whose second copy is at host offset `mirror`.
    pub fn get_mirrored(
        &mut self,
        offset: u64,
        part: Range<usize>,
        mirror: Option<u64>,
    ) -> Option<&mut [u8]> {
        let slot = self.slots.get_mut(&offset)?;
        slot.touched.store(true, Ordering::Relaxed);
        let bytes = Arc::make_mut(&mut slot.data).get_mut(part.clone())?;
        slot.mirror = mirror;
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
    pub fn insert_loaded(&mut self, offset: u64, data: Vec<u8>) {
        if !self.slots.contains_key(&offset) {
            self.insert(offset, data, None);
        }
    }

    /// Puts in what was loaded since [`Self::generation`] was `generation`, and makes room for it. False: something went
    /// meanwhile, and could have been this slice, changed and written in between: what was loaded must not be trusted.
    pub fn insert_current(&mut self, offset: u64, data: Vec<u8>, generation: u64) -> bool {
        if !self.slots.contains_key(&offset) {
            if self.generation != generation {
                return false;
            }
            if self.missed.remove(&offset) {
                self.capacity = self.capacity.saturating_mul(2).min(self.most);
            }
            self.insert(offset, data, None);
            self.evict();
        }
        true
    }

    /// Puts in a new slice that the host does not have yet.
    pub fn insert_new(&mut self, offset: u64, data: Vec<u8>) {
        self.drop_slice(offset);
        let all = 0..data.len();
        self.dirty += 1;
        self.insert(offset, data, Some(all));
    }

    fn insert(&mut self, offset: u64, data: Vec<u8>, dirty: Option<Range<usize>>) {
        let touched = AtomicBool::new(true);
        let data = Arc::new(data);
        self.slots.insert(offset, Slot { data, dirty, mirror: None, writing: 0, touched });
        self.ring.push_back(offset);
    }

    /// Forgets a slice whose table was freed.
    pub fn drop_slice(&mut self, offset: u64) {
        if let Some(slot) = self.slots.remove(&offset) {
            self.generation += 1;
            self.dirty -= usize::from(slot.dirty.is_some());
            self.busy -= usize::from(slot.writing > 0);
            self.ring.retain(|known| *known != offset);
        }
    }

    /// Forgets a slice that was changed on the host, unless it was changed here as well.
    pub fn forget_clean(&mut self, offset: u64) {
        if self.slots.get(&offset).is_some_and(|slot| slot.dirty.is_none() && slot.writing == 0) {
            self.slots.remove(&offset);
            self.ring.retain(|known| *known != offset);
        }
        self.generation += 1;
    }

    /// Forgets everything: the host was changed by others.
    pub fn clear(&mut self) {
        self.slots.clear();
        self.ring.clear();
        (self.dirty, self.busy) = (0, 0);
        self.generation += 1;
    }

    /// Evicts clean slices until the capacity is kept, or only dirty ones are left.
    pub fn evict(&mut self) {
        let mut rounds = self.ring.len() * 2;
        while self.is_overfull() && rounds > 0 {
            rounds -= 1;
            let Some(offset) = self.ring.pop_front() else { return };
            let Some(slot) = self.slots.get(&offset) else { continue };
            let busy = slot.dirty.is_some() || slot.writing > 0;
            if busy || slot.touched.swap(false, Ordering::Relaxed) {
                self.ring.push_back(offset);
            } else {
                self.slots.remove(&offset);
                self.generation += 1;
                self.remember_missed(offset);
            }
        }
    }

    fn is_overfull(&self) -> bool {
        let clean = self.slots.len().saturating_sub(self.dirty + self.busy);
        self.slots.len() > self.most || clean > self.capacity
    }

    fn remember_missed(&mut self, offset: u64) {
        if self.capacity < self.most {
            if self.missed.len() >= self.most {
                self.missed.clear();
            }
            self.missed.insert(offset);
        }
    }

    /// Everything dirty, in the order of the host; it counts as clean from now on unless [`Self::written`] says that
    /// writing failed.
    pub fn take_dirty(&mut self) -> Vec<DirtySlice> {
        let mut cut = Vec::with_capacity(self.dirty);
        for (offset, slot) in &mut self.slots {
            if let Some(part) = slot.dirty.take() {
                self.busy += usize::from(slot.writing == 0);
                slot.writing += 1;
                let (data, mirror) = (Arc::clone(&slot.data), slot.mirror);
                cut.push(DirtySlice { offset: *offset, mirror, data, part });
            }
        }
        self.dirty = 0;
        cut.sort_unstable_by_key(|slice| slice.offset);
        cut
    }

    /// The writing of `cut` has ended; after a failure it is dirty again.
    pub fn written(&mut self, cut: &[DirtySlice], ok: bool) {
        for slice in cut {
            let Some(slot) = self.slots.get_mut(&slice.offset) else { continue };
            if slot.writing == 1 {
                self.busy -= 1;
            }
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

    #[test]
    fn it_grows_for_slices_that_come_back() {
        let mut cache = SliceCache::growing(2, 6);
        let load = |cache: &mut SliceCache, offset| {
            let generation = cache.generation();
            assert!(cache.insert_current(offset, vec![0; 8], generation));
        };
        (0..20).for_each(|offset| load(&mut cache, offset));
        assert_eq!(cache.slots.len(), 2);
        for _ in 0..3 {
            (0..6).for_each(|offset| load(&mut cache, offset));
        }
        assert!((0..6).all(|offset| cache.contains(offset)));
        load(&mut cache, 6);
        assert_eq!(cache.slots.len(), 6);
        // What is dirty takes no room of what is clean, as long as there is any.
        let mut cache = SliceCache::growing(2, 6);
        (0..3).for_each(|offset| cache.insert_new(offset, vec![0; 8]));
        (10..13).for_each(|offset| load(&mut cache, offset));
        assert_eq!(cache.slots.len(), 5);
        assert!(!cache.wants_write_back());
    }

    #[test]
    fn a_second_copy_is_told() {
        let mut cache = SliceCache::new(2);
        cache.insert_new(10, vec![1; 4]);
        assert!(cache.get_mirrored(10, 0..1, Some(99)).is_some());
        assert!(cache.get_mirrored(77, 0..1, None).is_none() && cache.get_mirrored(10, 4..5, None).is_none());
        assert_eq!(cache.take_dirty().first().and_then(|slice| slice.mirror), Some(99));
    }

    #[test]
    fn a_load_from_before_a_change_of_the_host_is_not_kept() {
        let mut cache = SliceCache::new(2);
        let generation = cache.generation();
        cache.forget_clean(5);
        assert!(!cache.insert_current(5, vec![0; 8], generation) && !cache.contains(5));
        assert!(cache.insert_current(5, vec![0; 8], cache.generation()));
        assert!(cache.insert_current(5, vec![1; 8], generation), "it is here");
        assert_eq!(cache.get(5), Some([0; 8].as_slice()));
    }
}
