//! What a crash could have left of recorded changes.
//!
//! Everything before a device's last flush is there. Of each later change, any set of its 512-byte sectors may be
//! there or not, in the order of the changes: a later write to a sector is never overtaken by an earlier one. The
//! length of a file is kept in order by file systems: once one `set_len` is lost, the later ones are lost too.

use diskimg_core::{ByteRange, to_usize};

use crate::record::{Change, Trace};
use crate::rng::Rng;

/// Bytes that are written as one, or not at all.
const SECTOR: u64 = 512;

/// How many states are tried.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// Sampled states over the whole trace, besides every prefix.
    pub samples: usize,
    /// Where random choices start.
    pub seed: u64,
}

/// A state that a crash could have left.
#[derive(Clone, Debug)]
pub struct CrashState {
    /// The devices' bytes.
    pub disks: Vec<Vec<u8>>,
    /// Events that had happened when the crash came.
    pub position: usize,
    /// Which of them are missing, for messages.
    pub story: String,
}

/// How pending changes are chosen.
#[derive(Clone, Copy, Debug)]
enum Choice {
    /// Each with this chance in percent.
    Density(u64),
    /// All but this one.
    Without(usize),
    /// Only this one.
    Only(usize),
    /// From this one on.
    From(usize),
    /// Each sector of each with this chance in percent.
    Sectors(u64),
}

impl Trace {
    /// Calls `visit` with every prefix of the trace and with sampled states; returns how many there were.
    ///
    /// # Errors
    /// The first error of `visit`.
    pub fn explore<E>(
        &self,
        sampling: Sampling,
        mut visit: impl FnMut(CrashState) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut rng = Rng::new(sampling.seed);
        let (mut count, mut sampled) = (0, 0);
        let mut current = self.initial.clone();
        let mut durable = self.initial.clone();
        let mut pending: Vec<usize> = Vec::new();
        for position in 0..=self.events.len() {
            if let Some(last) = position.checked_sub(1) {
                self.step(last, &mut current, &mut durable, &mut pending);
            }
            visit(CrashState { disks: current.clone(), position, story: "all written".into() })?;
            count += 1;
            // Spread evenly; where nothing is open, the samples are left to the next moment.
            let upto = sampling.samples * (position + 1) / (self.events.len() + 1);
            while sampled < upto && !pending.is_empty() {
                visit(self.sample(&durable, &pending, position, &mut rng))?;
                sampled += 1;
            }
        }
        Ok(count + sampled)
    }

    /// Takes in event number `last`.
    fn step(&self, last: usize, current: &mut [Vec<u8>], durable: &mut [Vec<u8>], pending: &mut Vec<usize>) {
        let event = &self.events[last];
        if matches!(event.change, Change::Barrier) {
            pending.retain(|at| {
                let flushed = self.events[*at].disk == event.disk;
                if flushed {
                    apply(&mut durable[event.disk], &self.events[*at].change, |_| true);
                }
                !flushed
            });
        } else {
            apply(&mut current[event.disk], &event.change, |_| true);
            pending.push(last);
        }
    }

    fn sample(&self, durable: &[Vec<u8>], pending: &[usize], position: usize, rng: &mut Rng) -> CrashState {
        let choice = match rng.below(6) {
            0 => Choice::Without(rng.index(pending.len())),
            1 => Choice::Only(rng.index(pending.len())),
            2 => Choice::From(rng.index(pending.len())),
            3 => Choice::Sectors(5 + rng.below(90)),
            _ => Choice::Density(5 + rng.below(90)),
        };
        let torn = rng.chance(40).then(|| rng.index(pending.len()));
        let mut disks = durable.to_vec();
        let mut length_lost = vec![false; disks.len()];
        let mut kept = Vec::new();
        for (number, at) in pending.iter().enumerate() {
            let event = &self.events[*at];
            let keep = match choice {
                Choice::Density(percent) => rng.chance(percent),
                Choice::Without(one) => number != one,
                Choice::Only(one) => number == one,
                Choice::From(first) => number >= first,
                Choice::Sectors(_) => true,
            };
            if matches!(event.change, Change::SetLen(_)) {
                length_lost[event.disk] |= !keep;
                if length_lost[event.disk] {
                    continue;
                }
            }
            if !keep {
                continue;
            }
            kept.push(*at);
            let disk = &mut disks[event.disk];
            match choice {
                Choice::Sectors(percent) => apply(disk, &event.change, |_| rng.chance(percent)),
                _ if torn == Some(number) => apply(disk, &event.change, |_| rng.chance(50)),
                _ => apply(disk, &event.change, |_| true),
            }
        }
        let story = format!("{choice:?}, torn {torn:?}, pending {pending:?}, kept {kept:?}");
        CrashState { disks, position, story }
    }
}

/// Makes a change, sector by sector, where `keep` (given the number of the sector) says so.
fn apply(disk: &mut Vec<u8>, change: &Change, mut keep: impl FnMut(u64) -> bool) {
    match change {
        Change::Write(offset, bytes) => {
            let range = ByteRange::new(*offset, bytes.len() as u64);
            each_sector(range, |part| {
                if keep(part.start / SECTOR) {
                    let from = to_usize(part.start - offset);
                    put(disk, part, &bytes[from..from + to_usize(part.len)]);
                }
            });
        }
        Change::Zero(range) | Change::Discard(range) => {
            let zeros = [0; 512];
            let range = match change {
                Change::Discard(_) => range.intersect(ByteRange::new(0, disk.len() as u64)),
                _ => *range,
            };
            each_sector(range, |part| {
                if keep(part.start / SECTOR) {
                    put(disk, part, &zeros[..to_usize(part.len)]);
                }
            });
        }
        Change::SetLen(len) => disk.resize(to_usize(*len), 0),
        Change::Barrier => {}
    }
}

fn each_sector(range: ByteRange, mut each: impl FnMut(ByteRange)) {
    let mut at = range.start;
    while at < range.end() {
        let end = range.end().min((at / SECTOR + 1) * SECTOR);
        each(ByteRange::from_bounds(at, end));
        at = end;
    }
}

fn put(disk: &mut Vec<u8>, part: ByteRange, bytes: &[u8]) {
    let (start, end) = (to_usize(part.start), to_usize(part.end()));
    if disk.len() < end {
        disk.resize(end, 0);
    }
    disk[start..end].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Recorder;
    use diskimg_core::BlockDevice;
    use std::collections::BTreeSet;

    fn states(record: impl FnOnce(&dyn BlockDevice)) -> BTreeSet<Vec<u8>> {
        let recorder = Recorder::new();
        record(&*recorder.device(vec![0; 1024]));
        let mut seen = BTreeSet::new();
        let sampling = Sampling { samples: 500, seed: 1 };
        let visit = |state: CrashState| {
            seen.insert(state.disks[0].iter().step_by(512).copied().collect());
            Ok::<(), ()>(())
        };
        recorder.trace().explore(sampling, visit).unwrap();
        seen
    }

    #[test]
    fn writes_between_barriers_are_independent_and_those_before_are_kept() {
        let seen = states(|device| {
            device.write_at(0, &[1; 512]).unwrap();
            device.flush().unwrap();
            device.write_at(0, &[2; 512]).unwrap();
            device.write_at(512, &[3; 512]).unwrap();
        });
        let all: BTreeSet<Vec<u8>> =
            [vec![0, 0], vec![1, 0], vec![2, 0], vec![1, 3], vec![2, 3]].into_iter().collect();
        assert_eq!(seen, all);
    }

    #[test]
    fn a_write_is_torn_at_sectors() {
        let seen = states(|device| device.write_at(0, &[1; 1024]).unwrap());
        let all: BTreeSet<Vec<u8>> = [vec![0, 0], vec![1, 0], vec![0, 1], vec![1, 1]].into_iter().collect();
        assert_eq!(seen, all);
    }

    #[test]
    fn a_later_length_is_not_kept_without_an_earlier_one() {
        use diskimg_core::Prealloc;
        let seen = states(|device| {
            device.write_at(0, &[1; 1024]).unwrap();
            device.flush().unwrap();
            device.set_len(512, Prealloc::Off).unwrap();
            device.set_len(1024, Prealloc::Off).unwrap();
        });
        assert!(
            seen.contains(&vec![1, 1]) && seen.contains(&vec![1]) && seen.contains(&vec![1, 0]),
            "{seen:?}"
        );
    }
}
