//! [`DirtyBitmap`]: which parts of a disk were written, in memory.
//!
//! Bits are set through `&self` by any number of threads, without a lock: a bit is set by one atomic operation.
//! Memory is sparse: a chunk of [`CHUNK_BITS`] bits costs 24 bytes while none of its bits is set, and when all were set
//! at once; only mixed chunks have words of their own. What changes more than single bits takes `&mut self`.
//!
//! Invariant: no bit behind the end of the disk is set.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::range::{ByteRange, to_usize};

/// Bits of a word.
const WORD_BITS: u64 = 64;
/// Words of a chunk.
const CHUNK_WORDS: u64 = 512;
/// Bits of a chunk: 4 KiB of them.
const CHUNK_BITS: u64 = WORD_BITS * CHUNK_WORDS;
/// Most bits of a bitmap: chunk headers alone then take 3 MiB.
const MAX_BITS: u64 = 1 << 32;

/// Bits that are looked at together.
#[derive(Debug, Default)]
struct Chunk {
    /// All its bits are set, whatever the words say.
    full: AtomicBool,
    words: OnceLock<Box<[AtomicU64]>>,
}

impl Clone for Chunk {
    fn clone(&self) -> Self {
        let copy = |words: &[AtomicU64]| -> Box<[AtomicU64]> {
            words.iter().map(|word| AtomicU64::new(load(word))).collect()
        };
        let words = self.words.get().map(|words| OnceLock::from(copy(words))).unwrap_or_default();
        Self { full: self.full.load(Ordering::Relaxed).into(), words }
    }
}

fn load(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

fn zero_words() -> Box<[AtomicU64]> {
    (0..CHUNK_WORDS).map(|_| AtomicU64::new(0)).collect()
}

/// `count` ones from bit `first` of a word on.
const fn ones(first: u64, count: u64) -> u64 {
    if count >= WORD_BITS { u64::MAX } else { ((1 << count) - 1) << first }
}

impl Chunk {
    fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    fn word(&self, index: u64) -> u64 {
        if self.is_full() {
            return u64::MAX;
        }
        self.words.get().and_then(|words| words.get(to_usize(index))).map_or(0, load)
    }

    /// Sets bits `first..end`.
    fn set(&self, first: u64, end: u64) {
        if self.is_full() {
            return;
        }
        if first == 0 && end == CHUNK_BITS {
            self.full.store(true, Ordering::Relaxed);
            return;
        }
        let words = self.words.get_or_init(zero_words);
        for_words(first, end, |index, mask| {
            if let Some(word) = words.get(to_usize(index)).filter(|word| load(word) & mask != mask) {
                word.fetch_or(mask, Ordering::Relaxed);
            }
        });
    }

    fn clear(&mut self, first: u64, end: u64) {
        if first == 0 && end == CHUNK_BITS {
            *self = Self::default();
            return;
        }
        if std::mem::take(self.full.get_mut()) {
            self.words =
                OnceLock::from((0..CHUNK_WORDS).map(|_| AtomicU64::new(u64::MAX)).collect::<Box<_>>());
        }
        let Some(words) = self.words.get_mut() else { return };
        for_words(first, end, |index, mask| {
            if let Some(word) = words.get_mut(to_usize(index)) {
                *word.get_mut() &= !mask;
            }
        });
    }

    /// The first bit at or behind `from` that is set (`wanted`) or not.
    fn find(&self, from: u64, wanted: bool) -> Option<u64> {
        if self.is_full() || self.words.get().is_none() {
            return (self.is_full() == wanted && from < CHUNK_BITS).then_some(from);
        }
        let mut at = from;
        while at < CHUNK_BITS {
            let word = if wanted { self.word(at / WORD_BITS) } else { !self.word(at / WORD_BITS) };
            let word = word >> (at % WORD_BITS);
            if word != 0 {
                return Some(at + u64::from(word.trailing_zeros()));
            }
            at = (at / WORD_BITS + 1) * WORD_BITS;
        }
        None
    }

    fn count(&self) -> u64 {
        if self.is_full() {
            return CHUNK_BITS;
        }
        let words = self.words.get().map(|words| &words[..]).unwrap_or_default();
        words.iter().map(|word| u64::from(load(word).count_ones())).sum()
    }
}

/// Calls `each` with the index and mask of each word that holds bits of `first..end`.
fn for_words(first: u64, end: u64, mut each: impl FnMut(u64, u64)) {
    let mut at = first;
    while at < end {
        let stop = end.min((at / WORD_BITS + 1) * WORD_BITS);
        each(at / WORD_BITS, ones(at % WORD_BITS, stop - at));
        at = stop;
    }
}

/// Which parts of a disk were written: a bit for each `granularity` bytes.
///
/// ```
/// use diskimg_core::{ByteRange, DirtyBitmap};
///
/// let bits = DirtyBitmap::new(1 << 20, 65536)?;
/// bits.set(ByteRange::new(100_000, 10));
/// assert_eq!(bits.ranges().collect::<Vec<_>>(), [ByteRange::new(65536, 65536)]);
/// assert!(bits.test(70_000) && !bits.test(0));
/// # Ok::<(), diskimg_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct DirtyBitmap {
    len: u64,
    granularity_bits: u32,
    chunks: Vec<Chunk>,
}

impl DirtyBitmap {
    /// A bitmap over a disk of `len` bytes with no bit set; a bit stands for `granularity` bytes.
    ///
    /// # Errors
    /// `InvalidArg` unless `granularity` is a power of two and at least 512; `Limit` for more than 2^32 bits.
    pub fn new(len: u64, granularity: u64) -> Result<Self> {
        if granularity < 512 || !granularity.is_power_of_two() {
            return Err(Error::invalid("Granularity must be power of 2 and at least 512"));
        }
        let mut bitmap = Self { len: 0, granularity_bits: granularity.trailing_zeros(), chunks: Vec::new() };
        bitmap.resize(len)?;
        Ok(bitmap)
    }

    /// Bytes of the disk.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// True for a disk of no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that a bit stands for.
    #[must_use]
    pub const fn granularity(&self) -> u64 {
        1 << self.granularity_bits
    }

    /// Number of bits.
    #[must_use]
    pub const fn bits(&self) -> u64 {
        self.len.div_ceil(self.granularity())
    }

    /// The bits that stand for bytes of `range`.
    fn bits_of(&self, range: ByteRange) -> (u64, u64) {
        let range = range.intersect(ByteRange::new(0, self.len));
        if range.is_empty() {
            return (0, 0);
        }
        (range.start >> self.granularity_bits, range.end().div_ceil(self.granularity()))
    }

    /// The bytes of bits `first..end`.
    fn bytes_of(&self, first: u64, end: u64) -> ByteRange {
        let end = end.saturating_mul(self.granularity()).min(self.len);
        ByteRange::from_bounds((first << self.granularity_bits).min(end), end)
    }

    /// Marks every granule that `range` touches; what lies behind the end of the disk is left out.
    pub fn set(&self, range: ByteRange) {
        let (first, end) = self.bits_of(range);
        self.each_chunk(first, end, |chunk, first, end| chunk.set(first, end));
    }

    fn each_chunk(&self, first: u64, end: u64, mut each: impl FnMut(&Chunk, u64, u64)) {
        let mut at = first;
        while at < end {
            let number = at / CHUNK_BITS;
            let stop = end.min((number + 1) * CHUNK_BITS);
            if let Some(chunk) = self.chunks.get(to_usize(number)) {
                each(chunk, at - number * CHUNK_BITS, stop - number * CHUNK_BITS);
            }
            at = stop;
        }
    }

    /// Takes the mark off every granule that `range` touches.
    pub fn clear(&mut self, range: ByteRange) {
        let (first, end) = self.bits_of(range);
        let mut at = first;
        while at < end {
            let number = at / CHUNK_BITS;
            let stop = end.min((number + 1) * CHUNK_BITS);
            if let Some(chunk) = self.chunks.get_mut(to_usize(number)) {
                chunk.clear(at - number * CHUNK_BITS, stop - number * CHUNK_BITS);
            }
            at = stop;
        }
    }

    /// Takes all marks off.
    pub fn clear_all(&mut self) {
        self.chunks.fill_with(Chunk::default);
    }

    /// True if the granule of byte `offset` is marked.
    #[must_use]
    pub fn test(&self, offset: u64) -> bool {
        let bit = offset >> self.granularity_bits;
        let chunk = self.chunks.get(to_usize(bit / CHUNK_BITS)).filter(|_| offset < self.len);
        chunk.is_some_and(|chunk| chunk.word(bit % CHUNK_BITS / WORD_BITS) >> (bit % WORD_BITS) & 1 == 1)
    }

    /// The first bit at or behind bit `from` that is set (`wanted`) or not.
    fn find(&self, from: u64, wanted: bool) -> Option<u64> {
        let first = from / CHUNK_BITS;
        let mut within = from % CHUNK_BITS;
        for (number, chunk) in (first..).zip(self.chunks.get(to_usize(first)..)?) {
            if let Some(bit) = chunk.find(within, wanted) {
                return Some(number * CHUNK_BITS + bit).filter(|bit| *bit < self.bits());
            }
            within = 0;
        }
        None
    }

    /// The first run of marked granules that ends behind byte `from`, from its first byte at or behind the start of the
    /// granule of `from`.
    #[must_use]
    pub fn next_dirty(&self, from: u64) -> Option<ByteRange> {
        if from >= self.len {
            return None;
        }
        let first = self.find(from >> self.granularity_bits, true)?;
        let end = self.find(first, false).unwrap_or(self.bits());
        Some(self.bytes_of(first, end))
    }

    /// All runs of marked granules, ascending, in bytes of the disk.
    pub fn ranges(&self) -> impl Iterator<Item = ByteRange> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let run = self.next_dirty(at)?;
            at = run.end();
            Some(run)
        })
    }

    /// Bytes of all marked granules.
    #[must_use]
    pub fn dirty_bytes(&self) -> u64 {
        let bits: u64 = self.chunks.iter().map(Chunk::count).sum();
        // The last granule may be incomplete.
        let missing = self.bits() * self.granularity() - self.len;
        let last_dirty = self.len > 0 && self.test(self.len - 1);
        bits * self.granularity() - if last_dirty { missing } else { 0 }
    }

    /// Marks all that is marked in `other`, whatever its granularity.
    ///
    /// # Errors
    /// `InvalidArg` if it is about a disk of another length.
    pub fn merge(&self, other: &Self) -> Result<()> {
        if self.len != other.len {
            return Err(Error::invalid(format!(
                "Bitmaps are of different sizes (destination size is {}, source size is {}) and can't be merged",
                self.len, other.len
            )));
        }
        other.ranges().for_each(|range| self.set(range));
        Ok(())
    }

    /// The disk has another length from now on: what it gains is not marked, what it loses is forgotten.
    ///
    /// # Errors
    /// `Limit` for more than 2^32 bits.
    pub fn resize(&mut self, len: u64) -> Result<()> {
        let bits = len.div_ceil(self.granularity());
        if bits > MAX_BITS {
            return Err(Error::limit(
                "Too much space will be occupied by the bitmap. Use larger granularity",
            ));
        }
        let old_bits = self.bits();
        let chunks = to_usize(bits.div_ceil(CHUNK_BITS));
        self.chunks.truncate(chunks);
        if bits < old_bits
            && !bits.is_multiple_of(CHUNK_BITS)
            && let Some(last) = self.chunks.last_mut()
        {
            last.clear(bits % CHUNK_BITS, CHUNK_BITS);
        }
        self.chunks.resize_with(chunks, Chunk::default);
        self.len = len;
        Ok(())
    }

    /// Marks what the bytes of a stored bitmap say: bit 0 of byte 0 is bit `8 * first_byte` of this one.
    pub fn load_bytes(&self, first_byte: u64, bytes: &[u8]) {
        for (at, part) in (first_byte..).step_by(8).zip(bytes.chunks(8)) {
            let mut word = [0; 8];
            word.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
            let mut word = u64::from_le_bytes(word);
            while word != 0 {
                let first = u64::from(word.trailing_zeros());
                let count = u64::from((word >> first).trailing_ones());
                let bit = at * 8 + first;
                self.set(self.bytes_of(bit.min(self.bits()), bit + count));
                word &= !ones(first, count);
            }
        }
    }

    /// Bytes `first_byte..` of the bitmap as it is stored, least significant bit first; what lies behind its end is
    /// zeros.
    pub fn store_bytes(&self, first_byte: u64, out: &mut [u8]) {
        for (at, byte) in (first_byte..).zip(out) {
            let bit = at * 8;
            let chunk = self.chunks.get(to_usize(bit / CHUNK_BITS));
            let word = chunk.map_or(0, |chunk| chunk.word(bit % CHUNK_BITS / WORD_BITS));
            let inside = self.bits().saturating_sub(bit).min(8);
            // Eight bits, of which those behind the end are dropped.
            *byte =
                ((word >> (bit % WORD_BITS)) & ones(0, inside)).to_le_bytes().first().copied().unwrap_or(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(bits: &DirtyBitmap) -> Vec<bool> {
        (0..bits.bits()).map(|bit| bits.test(bit * bits.granularity())).collect()
    }

    #[test]
    fn granules_are_marked_whole_and_runs_join() {
        let bits = DirtyBitmap::new(10_000, 512).unwrap();
        bits.set(ByteRange::new(511, 2));
        bits.set(ByteRange::new(1024, 1));
        bits.set(ByteRange::new(9_999, 500));
        assert_eq!(bits.ranges().collect::<Vec<_>>(), [ByteRange::new(0, 1536), ByteRange::new(9728, 272)]);
        assert_eq!(bits.dirty_bytes(), 1536 + 272);
        assert_eq!(bits.next_dirty(600), Some(ByteRange::new(512, 1024)));
        assert_eq!(bits.next_dirty(10_000), None);
        assert!(!bits.test(1 << 40));
    }

    #[test]
    fn bad_shapes_are_refused() {
        for granularity in [0, 1, 256, 768] {
            assert!(DirtyBitmap::new(1 << 20, granularity).is_err());
        }
        assert!(DirtyBitmap::new(1 << 50, 512).is_err());
        assert!(DirtyBitmap::new(0, 512).unwrap().ranges().next().is_none());
    }

    #[test]
    fn random_changes_agree_with_a_flat_model() {
        let mut seed = 1u64;
        let mut next = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        let mut bits = DirtyBitmap::new(200_000 * 512 + 100, 512).unwrap();
        let mut flat = vec![false; 200_001];
        for _ in 0..400 {
            let first = next(200_001);
            let count = if next(3) == 0 { next(150_000) } else { next(40) }.min(200_001 - first);
            let range = bits.bytes_of(first, first + count);
            let value = next(3) > 0;
            if value {
                bits.set(range)
            } else {
                bits.clear(range)
            }
            flat[to_usize(first)..to_usize(first + count)].fill(value);
        }
        assert_eq!(model(&bits), flat);
        let counted = flat.iter().filter(|bit| **bit).count() as u64;
        let mut stored = vec![0; 200_001usize.div_ceil(8) + 5];
        bits.store_bytes(0, &mut stored);
        let from_bytes: Vec<bool> = (0..200_001).map(|bit| stored[bit / 8] >> (bit % 8) & 1 == 1).collect();
        assert_eq!(from_bytes, flat);
        assert!(stored[200_001usize.div_ceil(8)..].iter().all(|byte| *byte == 0));
        let loaded = DirtyBitmap::new(bits.len(), 512).unwrap();
        for (number, part) in stored.chunks(1000).enumerate() {
            loaded.load_bytes(number as u64 * 1000, part);
        }
        assert_eq!(model(&loaded), flat);
        assert_eq!(loaded.dirty_bytes(), bits.dirty_bytes());
        assert_eq!(bits.clone().ranges().count(), bits.ranges().count());
        assert!(bits.dirty_bytes() <= counted * 512);
        bits.resize(70_000 * 512 + 3).unwrap();
        bits.resize(200_001 * 512).unwrap();
        flat[70_001..].fill(false);
        assert_eq!(model(&bits), flat);
        bits.clear_all();
        assert_eq!(bits.ranges().count(), 0);
    }

    #[test]
    fn merging_coarsens_and_refines() {
        let fine = DirtyBitmap::new(1 << 20, 512).unwrap();
        let coarse = DirtyBitmap::new(1 << 20, 65536).unwrap();
        fine.set(ByteRange::new(70_000, 1));
        coarse.merge(&fine).unwrap();
        assert_eq!(coarse.ranges().collect::<Vec<_>>(), [ByteRange::new(65536, 65536)]);
        fine.merge(&coarse).unwrap();
        assert_eq!(fine.ranges().collect::<Vec<_>>(), [ByteRange::new(65536, 65536)]);
        assert!(fine.merge(&DirtyBitmap::new(512, 512).unwrap()).is_err());
    }

    #[test]
    fn many_threads_lose_no_bit() {
        let bits = DirtyBitmap::new(64 << 20, 512).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let bits = &bits;
                scope.spawn(move || {
                    for number in (thread..(64 << 20) / 512).step_by(8) {
                        bits.set(ByteRange::new(number * 512, 512));
                    }
                });
            }
        });
        assert_eq!(bits.ranges().collect::<Vec<_>>(), [ByteRange::new(0, 64 << 20)]);
    }
}
