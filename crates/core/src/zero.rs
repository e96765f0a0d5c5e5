//! Is it all zeros? At memory speed: whole chunks are folded with OR before anything is decided.

/// Bytes that are folded before a decision.
const CHUNK: usize = 256;

/// True if every byte of `buf` is 0.
#[must_use]
pub fn is_zero(buf: &[u8]) -> bool {
    let mut chunks = buf.chunks_exact(CHUNK);
    chunks.by_ref().all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
        && chunks.remainder().iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_byte_anywhere_counts() {
        for len in [0, 1, 255, 256, 257, 4096, 5000] {
            let mut buf = vec![0; len];
            assert!(is_zero(&buf));
            for at in [0, len / 2, len.saturating_sub(1)] {
                if let Some(byte) = buf.get_mut(at) {
                    *byte = 1;
                    assert!(!is_zero(&buf), "{at} of {len}");
                }
                buf.fill(0);
            }
        }
    }
}
