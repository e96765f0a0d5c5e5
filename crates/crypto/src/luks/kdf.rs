//! How many iterations of the key derivation take a given time on this machine.

use std::time::{Duration, Instant};

use diskimg_core::{Error, Result, Task};
use zeroize::Zeroizing;

use crate::hash::pbkdf2;
use crate::limits::MIN_ITERATIONS;
use crate::names::Hash;

/// Time for measuring.
const MEASURE_FOR: Duration = Duration::from_millis(8);
/// Iterations of the first measurement.
const FIRST: u32 = 1024;

/// Iterations that take a second for a key of `key_len` bytes.
pub(crate) fn iterations_per_second(hash: Hash, key_len: usize) -> Result<u64> {
    let mut out = Zeroizing::new(vec![0; key_len]);
    let mut rounds = FIRST;
    loop {
        let start = Instant::now();
        pbkdf2(hash, b"password", b"salt", rounds, &mut out, &Task::quiet())?;
        let took = start.elapsed();
        if took >= MEASURE_FOR / 2 || rounds > u32::MAX / 8 {
            let nanos = took.as_nanos().max(1);
            let rate = u128::from(rounds) * 1_000_000_000 / nanos;
            return Ok(u64::try_from(rate).unwrap_or(u64::MAX));
        }
        // As many as will take the time, but never a jump that one slow round could mislead by much.
        let scale = MEASURE_FOR.as_nanos() / took.as_nanos().max(1);
        rounds = rounds.saturating_mul(u32::try_from(scale.clamp(2, 8)).unwrap_or(2));
    }
}

/// The iterations for `millis` of derivation, divided by `share`.
///
/// # Errors
/// `Limit` if there would be more than a header can say.
pub(crate) fn iterations(hash: Hash, key_len: usize, millis: u64, share: u64) -> Result<u32> {
    let rate = iterations_per_second(hash, key_len)?;
    let scaled = rate
        .checked_mul(millis)
        .ok_or_else(|| Error::limit(format!("PBKDF iterations {rate} too large to scale")))?;
    let count = scaled / 1000 / share.max(1);
    let count = u32::try_from(count)
        .map_err(|_| Error::limit(format!("PBKDF iterations {count} larger than {}", u32::MAX)))?;
    Ok(count.max(MIN_ITERATIONS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_means_the_fewest_and_too_much_is_refused() {
        assert_eq!(iterations(Hash::Sha256, 20, 0, 8).unwrap(), MIN_ITERATIONS);
        let error = iterations(Hash::Sha256, 20, u64::MAX, 8).unwrap_err().to_string();
        assert!(error.starts_with("PBKDF iterations ") && error.ends_with(" too large to scale"), "{error}");
        let error = iterations(Hash::Sha256, 20, 1 << 40, 1).unwrap_err().to_string();
        assert!(error.ends_with(" larger than 4294967295"), "{error}");
    }
}
