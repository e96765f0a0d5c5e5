//! [`AppendSpace`]: the space of formats that only ever take more at the end of their file.

use parking_lot::Mutex;

use super::Space;
use crate::device::BlockDevice;
use crate::error::{Error, Result, errno};
use crate::range::align_up;

/// The end of a file, and space that was taken and not used.
#[derive(Debug)]
pub struct AppendSpace {
    cluster: u64,
    /// No byte is given away from here on.
    limit: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    end: u64,
    /// Before it somebody may have written.
    touched: u64,
    returned: bool,
    unused: Vec<Space>,
}

impl AppendSpace {
    /// Space of clusters of `cluster` bytes in `storage`, from byte `end` on and below byte `limit`.
    #[must_use]
    pub fn new(storage: &dyn BlockDevice, cluster: u64, end: u64, limit: u64) -> Self {
        // Nothing is known of what the file holds already.
        let state = Mutex::new(State { end, touched: storage.len(), returned: false, unused: Vec::new() });
        Self { cluster: cluster.max(1), limit, state }
    }

    /// Where the next space begins.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.state.lock().end
    }

    /// True if what begins at `offset` lies behind all that anybody may have written to before it was taken.
    #[must_use]
    pub fn is_fresh(&self, offset: u64) -> bool {
        offset >= self.state.lock().touched
    }

    /// `len` bytes at a multiple of `unit`.
    ///
    /// # Errors
    /// `Limit` if there is no room.
    pub fn take(&self, len: u64, unit: u64) -> Result<u64> {
        Self::append(&mut self.state.lock(), len, unit, self.limit)
    }

    fn append(state: &mut State, len: u64, unit: u64, limit: u64) -> Result<u64> {
        let no_room = || Error::limit("the image has no more room").with_errno(errno::EFBIG);
        let place = align_up(state.end, unit).ok_or_else(no_room)?;
        state.end = place.checked_add(len).filter(|end| *end <= limit).ok_or_else(no_room)?;
        Ok(place)
    }

    /// Up to `most` clusters, at least one.
    ///
    /// # Errors
    /// `Limit` if there is no room.
    pub fn take_clusters(&self, most: u64) -> Result<Space> {
        let mut state = self.state.lock();
        if let Some(mut space) = state.unused.pop() {
            if space.count > most {
                let rest = Space {
                    offset: space.offset.saturating_add(most.saturating_mul(self.cluster)),
                    count: space.count - most,
                    ..space
                };
                state.unused.push(rest);
                space.count = most;
            }
            return Ok(space);
        }
        let len = most.saturating_mul(self.cluster);
        let offset = Self::append(&mut state, len, self.cluster, self.limit)?;
        Ok(Space { offset, count: most, fresh: offset >= state.touched })
    }

    /// Takes back what was not used; it may have been written to.
    pub fn give_back(&self, space: Space) {
        let len = space.count.saturating_mul(self.cluster);
        if !self.give_back_end(space.offset, space.offset.saturating_add(len)) {
            self.state.lock().unused.push(Space { fresh: false, ..space });
        }
    }

    /// Takes back the bytes from `start` on if all up to `end` was taken and nothing behind it; true if so.
    pub fn give_back_end(&self, start: u64, end: u64) -> bool {
        let mut state = self.state.lock();
        let is_end = state.end == end;
        if is_end {
            state.end = start;
            // The next one is told to be fresh only where nobody may have written.
            state.touched = state.touched.max(end);
            state.returned = true;
        }
        is_end
    }

    /// Everything from byte `end` on is free again.
    pub fn start_again(&self, end: u64) {
        let mut state = self.state.lock();
        state.touched = state.touched.max(state.end);
        state.end = end;
        state.unused.clear();
    }

    /// Where the file can be cut off: behind it is nothing but space that was taken and given back.
    #[must_use]
    pub fn surplus(&self) -> Option<u64> {
        let state = self.state.lock();
        (state.returned && state.end < state.touched).then_some(state.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::MemDevice;

    #[test]
    fn space_comes_from_the_end_and_unused_space_first() {
        let space = AppendSpace::new(&MemDevice::new(5000), 4096, 4096, 40_000);
        let first = space.take_clusters(2).unwrap();
        assert_eq!((first.offset, first.count, first.fresh), (4096, 2, false));
        assert_eq!(space.take(10, 512).unwrap(), 12_288);
        assert_eq!(space.take_clusters(1).unwrap(), Space { offset: 16_384, count: 1, fresh: true });
        space.give_back(first);
        assert_eq!(space.take_clusters(1).unwrap(), Space { offset: 4096, count: 1, fresh: false });
        assert_eq!(space.take_clusters(9).unwrap(), Space { offset: 8192, count: 1, fresh: false });
        assert!(space.take_clusters(9).is_err());
        assert_eq!(space.end(), 20_480);
        assert_eq!(space.surplus(), None);
        assert!(!space.give_back_end(8192, 12_288) && space.give_back_end(16_384, 20_480));
        assert_eq!(space.surplus(), Some(16_384));
        assert!(!space.is_fresh(16_384) && space.is_fresh(20_480));
    }
}
