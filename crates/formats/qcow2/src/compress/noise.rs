//! Is it worth compressing? A quick look that recognises noise (encrypted or compressed data), on which deflate would
//! spend several times as long only to make it no smaller.
//!
//! Saying "noise" of data that could have been made a little smaller costs space; nothing else depends on it.

/// Clusters below this length (bytes) are too short to judge.
const MIN_LEN: usize = 8192;
/// Bytes of a sample.
const SAMPLE: usize = 64;
/// Bytes from one sample to the next: few, which tell most data from noise, then more.
const FEW: usize = 4096;
const MORE: usize = 512;
/// How far the counts of byte values may be from even ones (chi-square, 255 degrees of freedom: noise has 255 with a
/// deviation of 23).
const MAX_CHI_SQUARE: u64 = 400;
/// Of this many positions one, chosen by what stands there, is remembered to find repetitions.
const CHOSEN: u64 = 16;
/// Slots of that memory.
const SLOTS: usize = 1024;

/// True if the byte values of `cluster` are evenly spread and nothing in it repeats.
pub(super) fn is_noise(cluster: &[u8]) -> bool {
    cluster.len() >= MIN_LEN && is_even(cluster, FEW) && is_even(cluster, MORE) && !repeats(cluster)
}

fn is_even(cluster: &[u8], every: usize) -> bool {
    let mut counts = [0u64; 256];
    let mut total = 0;
    for sample in cluster.chunks(every).filter_map(|chunk| chunk.get(..SAMPLE)) {
        for byte in sample {
            if let Some(count) = counts.get_mut(usize::from(*byte)) {
                *count += 1;
            }
        }
        total += 64;
    }
    // The sum of (count - expected)^2 / expected with expected = total / 256, without fractions.
    let squares: u64 = counts.iter().map(|count| (count * 256).abs_diff(total).pow(2)).sum();
    squares <= MAX_CHI_SQUARE * 256 * total
}

/// True if a run of some dozens of bytes stands in it twice (shorter ones are found by chance).
fn repeats(cluster: &[u8]) -> bool {
    let mut memory = [0u64; SLOTS];
    for window in cluster.windows(8) {
        let Ok(bytes) = window.try_into() else { return false };
        let value = u64::from_le_bytes(bytes);
        let hash = value.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        if hash.is_multiple_of(CHOSEN) {
            let slot = usize::try_from(hash / CHOSEN).unwrap_or_default() % SLOTS;
            match memory.get_mut(slot) {
                Some(known) if *known == value => return true,
                Some(known) => *known = value,
                None => return false,
            }
        }
    }
    false
}
