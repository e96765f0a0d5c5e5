//! Operations on a disk, made at random from a seed, and the bytes they write.

use diskimg_core::{ByteRange, ZeroMode, align_down, to_usize};

use crate::rng::Rng;

/// One operation of a [`Session`](crate::Session).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes [`pattern`] `seed` over the range.
    Write(ByteRange, u64),
    /// Zeroes the range.
    Zero(ByteRange, ZeroMode),
    /// Discards the range.
    Discard(ByteRange),
    /// Sets the length in bytes.
    SetLen(u64),
    /// Writes in two phases (whole units): commits, or drops the reservation after its bytes were written.
    Reserve(ByteRange, u64, bool),
    /// Writes cluster number N compressed.
    Compress(u64, u64),
    /// Reads the range and compares.
    Read(ByteRange),
    /// Flushes.
    Flush,
    /// Closes and opens again, without a flush of its own.
    Reopen,
    /// The format's own check, which must find nothing.
    Check,
    /// All extents, which must tile the disk and agree with what is read.
    Extents,
}

/// How often each sort of operation comes, relative to the others.
#[derive(Clone, Copy, Debug)]
pub struct OpMix {
    /// [`Op::Write`].
    pub write: u64,
    /// [`Op::Zero`].
    pub zero: u64,
    /// [`Op::Discard`].
    pub discard: u64,
    /// [`Op::SetLen`].
    pub set_len: u64,
    /// [`Op::Reserve`].
    pub reserve: u64,
    /// [`Op::Compress`].
    pub compress: u64,
    /// [`Op::Read`].
    pub read: u64,
    /// [`Op::Flush`].
    pub flush: u64,
    /// [`Op::Reopen`].
    pub reopen: u64,
    /// [`Op::Check`].
    pub check: u64,
    /// [`Op::Extents`].
    pub extents: u64,
    /// [`Op::SetLen`] stays at or below this length (bytes) and is a multiple of 512.
    pub longest: u64,
}

impl OpMix {
    /// Everything now and then; lengths up to `longest` bytes.
    #[must_use]
    pub const fn all(longest: u64) -> Self {
        Self {
            write: 30,
            zero: 10,
            discard: 8,
            set_len: 2,
            reserve: 8,
            compress: 8,
            read: 12,
            flush: 6,
            reopen: 3,
            check: 2,
            extents: 2,
            longest,
        }
    }

    /// Changes and flushes only: for crash and fault tests.
    #[must_use]
    pub const fn changes(longest: u64) -> Self {
        Self { read: 0, check: 0, extents: 0, reopen: 1, flush: 10, ..Self::all(longest) }
    }

    /// Flushes only, to which a test adds what it is about.
    #[must_use]
    pub const fn flushes(longest: u64) -> Self {
        Self {
            write: 0,
            zero: 0,
            discard: 0,
            set_len: 0,
            reserve: 0,
            compress: 0,
            reopen: 0,
            ..Self::changes(longest)
        }
    }

    /// The next operation on a disk of `len` bytes with write units of `unit` bytes.
    pub fn next(&self, rng: &mut Rng, len: u64, unit: u64) -> Op {
        let weights = [
            self.write,
            self.zero,
            self.discard,
            self.set_len,
            self.reserve,
            self.compress,
            self.read,
            self.flush,
            self.reopen,
            self.check,
            self.extents,
        ];
        let mut left = rng.below(weights.iter().sum());
        let mut kind = 0;
        for (number, weight) in weights.iter().enumerate() {
            if left < *weight {
                kind = number;
                break;
            }
            left -= weight;
        }
        let seed = if rng.chance(10) { 0 } else { 1 + rng.below(1 << 40) };
        match kind {
            0 => Op::Write(some_range(rng, len, unit), seed),
            1 => Op::Zero(
                some_range(rng, len, unit),
                *rng.pick(&[ZeroMode::MayUnmap, ZeroMode::KeepAllocated]),
            ),
            2 => Op::Discard(some_range(rng, len, unit)),
            3 => Op::SetLen(rng.below(self.longest / 512 + 1).max(1) * 512),
            4 => {
                let range = some_range(rng, len, unit).align_outwards(unit);
                Op::Reserve(range.intersect(ByteRange::new(0, len)), seed, rng.chance(70))
            }
            5 => Op::Compress(rng.below(len.div_ceil(unit).max(1)), seed),
            6 => Op::Read(some_range(rng, len, unit)),
            7 => Op::Flush,
            8 => Op::Reopen,
            9 => Op::Check,
            _ => Op::Extents,
        }
    }

    /// `count` operations from `seed` on a disk of `len` bytes, the last one a flush.
    #[must_use]
    pub fn script(&self, seed: u64, count: usize, len: u64, unit: u64) -> Vec<Op> {
        let mut rng = Rng::new(seed);
        let mut len = len;
        let mut ops: Vec<Op> = (0..count)
            .map(|_| {
                let op = self.next(&mut rng, len, unit);
                if let Op::SetLen(new) = op {
                    len = new;
                }
                op
            })
            .collect();
        ops.push(Op::Flush);
        ops
    }
}

/// A range of up to a few units: whole units, whole sectors, or any bytes. Not empty unless `len` is 0.
fn some_range(rng: &mut Rng, len: u64, unit: u64) -> ByteRange {
    let grain = *rng.pick(&[unit, unit, 512, 4096, 1]);
    let start = align_down(rng.below(len), grain);
    let most = if rng.chance(50) { unit } else { unit * 4 };
    let size = (1 + rng.below(most.div_ceil(grain))).saturating_mul(grain);
    ByteRange::new(start, size).intersect(ByteRange::new(0, len))
}

/// The bytes of pattern `seed` at `offset`: each depends on its own offset, so that bytes that went astray show.
/// Pattern 0 is zeros; every third pattern compresses well; no byte of another pattern is zero.
#[must_use]
pub fn pattern(seed: u64, offset: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; to_usize(len)];
    if seed == 0 {
        return bytes;
    }
    let word = |number: u64| Rng::new(seed.wrapping_mul(0x1_0001) ^ (number << 20)).next_u64();
    let grain = if seed % 3 == 1 { 512 } else { 8 };
    let mut at = 0;
    while at < len {
        let place = offset + at;
        let end = len.min((place / grain + 1) * grain - offset);
        let source = (word(place / grain) | 0x0101_0101_0101_0101).to_le_bytes();
        let part = &mut bytes[to_usize(at)..to_usize(end)];
        match grain {
            8 => part.copy_from_slice(&source[to_usize(place % 8)..][..part.len()]),
            _ => part.fill(source[0]),
        }
        at = end;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_does_not_depend_on_where_a_request_starts() {
        for seed in [1, 2, 3] {
            let whole = pattern(seed, 1000, 3000);
            assert_eq!(whole[500..], pattern(seed, 1500, 2500)[..]);
            assert!(whole.iter().all(|byte| *byte != 0));
        }
    }

    #[test]
    fn operations_stay_on_the_disk() {
        let mut rng = Rng::new(7);
        for _ in 0..2000 {
            let op = OpMix::all(1 << 20).next(&mut rng, 100_352, 65536);
            if let Op::Write(range, _) | Op::Zero(range, _) | Op::Discard(range) | Op::Reserve(range, ..) = op
            {
                assert!(range.end() <= 100_352 && !range.is_empty(), "{op:?}");
            }
        }
    }
}
