//! Giving space back to the host: holes in the file where clusters were freed.
//!
//! A cluster gets its hole when its last reference goes: nothing durable refers to it any more and no request uses it,
//! but it is still counted, so that nobody can be given it meanwhile. Only then its count becomes 0. A crash in between
//! leaves a leak, with or without its bytes.

use diskimg_core::{BlockDevice as _, ByteRange, Device, Result};

use super::alloc::Clusters;
use super::trees::Shift;
use super::{Meta, State};
use crate::limits::HOLE_UNIT;
use crate::settings::{Overlap, Settings};

/// Runs of clusters that wait for their holes before these are made.
const MAX_WAITING: usize = 4096;

/// Why clusters are given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freed {
    /// The guest discarded them or made them zeros.
    Request,
    /// A tree of tables was given up with a snapshot.
    Snapshot,
    /// They lie behind the end of a disk that shrinks.
    Always,
    /// They were replaced by others.
    Other,
}

/// Which clusters leave holes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HoleRules {
    request: bool,
    snapshot: bool,
    other: bool,
}

impl From<&Settings> for HoleRules {
    fn from(settings: &Settings) -> Self {
        Self {
            // Where the node is not to unmap, none of its requests comes here.
            request: settings.pass_discard_request.unwrap_or(true),
            snapshot: settings.pass_discard_snapshot,
            other: settings.pass_discard_other,
        }
    }
}

impl HoleRules {
    pub(super) const fn leave_hole(self, freed: Freed) -> bool {
        match freed {
            Freed::Request => self.request,
            Freed::Snapshot => self.snapshot,
            Freed::Always => true,
            Freed::Other => self.other,
        }
    }
}

impl State {
    /// Keeps the last reference of `cluster` until it has its hole.
    pub(super) fn hole_later(&mut self, cluster: u64) {
        // No payload may go on in it.
        self.alloc.forget_payload(cluster, &self.geo);
        match self.holes.last_mut() {
            Some(last) if last.first + last.count == cluster => last.count += 1,
            _ => self.holes.push(Clusters { first: cluster, count: 1 }),
        }
    }

    /// True if `cluster`, which was the last to be given back, waits for its hole.
    pub(super) fn waits_for_hole(&self, cluster: u64) -> bool {
        self.holes.last().is_some_and(|last| (last.first..last.first + last.count).contains(&cluster))
    }
}

/// Neighbours together, in the order of the host.
fn coalesced(mut runs: Vec<Clusters>) -> Vec<Clusters> {
    runs.sort_unstable_by_key(|run| run.first);
    let mut joined: Vec<Clusters> = Vec::with_capacity(runs.len());
    for run in runs {
        match joined.last_mut() {
            Some(last) if last.first + last.count >= run.first => {
                last.count = last.count.max(run.first + run.count - last.first);
            }
            _ => joined.push(run),
        }
    }
    joined
}

impl Meta {
    /// True if so many clusters wait that they should get their holes now.
    pub(super) fn wants_holes(&self) -> bool {
        self.state.read().holes.len() > MAX_WAITING
    }

    /// Makes the holes and frees the clusters. What the host can't do is left.
    ///
    /// # Errors
    /// `Corrupt` where a hole would hit metadata; the storage's, of metadata.
    pub(super) fn make_holes(&self) -> Result<()> {
        if self.state.read().holes.is_empty() {
            return Ok(());
        }
        let runs = coalesced(std::mem::take(&mut self.state.write().holes));
        let mut rest = runs.as_slice();
        while let Some((run, behind)) = rest.split_first() {
            let made = self.make_hole(*run).and_then(|()| self.free_run_of(*run));
            if let Err(error) = made {
                self.state.write().holes.extend_from_slice(rest);
                return Err(error);
            }
            rest = behind;
        }
        Ok(())
    }

    fn make_hole(&self, run: Clusters) -> Result<()> {
        let bytes = run.bytes(&self.geo);
        self.check_metadata_write(bytes, Overlap::empty())?;
        let hole = bytes.intersect(ByteRange::new(0, self.storage.len())).align_inwards(HOLE_UNIT);
        if !hole.is_empty() {
            // Space that stays taken is no harm.
            let _ = Device::new(self.storage.clone()).discard(hole);
        }
        Ok(())
    }

    /// Takes the last reference of each cluster.
    fn free_run_of(&self, run: Clusters) -> Result<()> {
        let Clusters { mut first, mut count } = run;
        while count > 0 {
            let rest = Clusters { first, count };
            let freed = self.change_unhurried(|state| state.shift_run(rest, 1, Shift::Down, false))?;
            first += freed;
            count -= freed;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_joined_whatever_their_order() {
        let run = |first, count| Clusters { first, count };
        let joined = coalesced(vec![run(5, 2), run(1, 3), run(4, 1), run(9, 1), run(5, 1)]);
        assert_eq!(joined, [run(1, 6), run(9, 1)]);
    }
}
