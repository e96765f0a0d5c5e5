//! [`ChunkCache`]: the chunks that were decoded last, for formats that store their contents compressed.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::Result;

/// One chunk; its lock is held while it is decoded, so that nobody decodes it twice.
struct Slot {
    index: u64,
    len: usize,
    chunk: Mutex<Option<Arc<Vec<u8>>>>,
}

/// Keeps decoded chunks up to a number of bytes (and always one). Several threads decode different chunks at once;
/// those that want the same one wait for the first of them.
pub struct ChunkCache {
    budget: usize,
    slots: Mutex<VecDeque<Arc<Slot>>>,
}

impl ChunkCache {
    /// A cache of at most `budget` bytes, or of one chunk if that is longer. Chunks in use count as well only while
    /// they are kept.
    #[must_use]
    pub fn new(budget: usize) -> Self {
        Self { budget, slots: Mutex::default() }
    }

    /// Chunk `index`, which is `len` bytes long: from the cache, or as `decode` fills it (it gets zeros).
    ///
    /// # Errors
    /// Those of `decode`; nothing is kept then.
    pub fn get(
        &self,
        index: u64,
        len: usize,
        decode: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<Arc<Vec<u8>>> {
        let slot = self.slot(index, len);
        let mut chunk = slot.chunk.lock();
        if let Some(chunk) = &*chunk {
            return Ok(Arc::clone(chunk));
        }
        let mut bytes = vec![0; len];
        if let Err(error) = decode(&mut bytes) {
            drop(chunk);
            self.slots.lock().retain(|kept| !Arc::ptr_eq(kept, &slot));
            return Err(error);
        }
        let decoded = Arc::new(bytes);
        *chunk = Some(Arc::clone(&decoded));
        Ok(decoded)
    }

    /// Forgets everything: chunks have changed.
    pub fn clear(&self) {
        self.slots.lock().clear();
    }

    fn slot(&self, index: u64, len: usize) -> Arc<Slot> {
        let mut slots = self.slots.lock();
        let found = slots.iter().position(|slot| slot.index == index && slot.len == len);
        let slot = match found.and_then(|at| slots.remove(at)) {
            Some(slot) => slot,
            None => Arc::new(Slot { index, len, chunk: Mutex::new(None) }),
        };
        slots.push_back(Arc::clone(&slot));
        let mut kept: usize = slots.iter().map(|slot| slot.len).sum();
        while kept > self.budget && slots.len() > 1 {
            kept -= slots.pop_front().map_or(0, |slot| slot.len);
        }
        slot
    }
}

impl fmt::Debug for ChunkCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkCache").field("budget", &self.budget).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn count(cache: &ChunkCache, index: u64, decoded: &mut u32) -> u8 {
        let chunk = cache.get(index, 4, |bytes| {
            *decoded += 1;
            bytes.fill(u8::try_from(index).unwrap());
            Ok(())
        });
        chunk.unwrap()[0]
    }

    #[test]
    fn the_oldest_chunk_goes_first() {
        let (cache, mut decoded) = (ChunkCache::new(8), 0);
        for index in [1, 2, 1, 3, 1, 2] {
            assert_eq!(u64::from(count(&cache, index, &mut decoded)), index);
        }
        assert_eq!(decoded, 4, "1, 2 and 3, and 2 once more");
        cache.clear();
        count(&cache, 2, &mut decoded);
        assert_eq!(decoded, 5);
    }

    #[test]
    fn a_failure_is_not_kept() {
        let (cache, mut decoded) = (ChunkCache::new(8), 0);
        assert!(cache.get(1, 4, |_| Err(Error::corrupt("no"))).is_err());
        assert_eq!(count(&cache, 1, &mut decoded), 1);
    }

    #[test]
    fn a_chunk_beyond_the_budget_is_kept_alone() {
        let (cache, mut decoded) = (ChunkCache::new(1), 0);
        for index in [1, 1, 2, 2, 1] {
            count(&cache, index, &mut decoded);
        }
        assert_eq!(decoded, 3);
    }
}
