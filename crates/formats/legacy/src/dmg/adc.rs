//! Apple Data Compression: literals, and copies of what came before, with two- and three-byte references.

/// Decodes `payload` into `out`; `None` unless it gives exactly as many bytes.
pub(super) fn decode(payload: &[u8], out: &mut [u8]) -> Option<()> {
    let mut input = payload.iter().copied();
    let mut at = 0;
    while at < out.len() {
        let control = input.next()?;
        if control & 0x80 != 0 {
            let len = usize::from(control & 0x7f) + 1;
            for target in out.get_mut(at..at + len)? {
                *target = input.next()?;
            }
            at += len;
            continue;
        }
        let (len, distance) = if control & 0x40 != 0 {
            let high = usize::from(input.next()?);
            (usize::from(control & 0x3f) + 4, high << 8 | usize::from(input.next()?))
        } else {
            (usize::from(control >> 2) + 3, usize::from(control & 3) << 8 | usize::from(input.next()?))
        };
        let from = at.checked_sub(distance + 1)?;
        out.get(at..at + len)?;
        // A copy may run into its own output.
        for step in 0..len {
            let byte = *out.get(from + step)?;
            *out.get_mut(at + step)? = byte;
        }
        at += len;
    }
    input.next().is_none().then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_may_overlap_their_output() {
        let mut out = [0; 10];
        // "ab", then five bytes from two back, then three from one back (long form needs four: short form).
        decode(&[0x81, b'a', b'b', 0x08, 1, 0x00, 0], &mut out).unwrap();
        assert_eq!(&out, b"abababaaaa".as_slice().get(..10).unwrap());
    }

    #[test]
    fn nothing_is_read_before_the_start_or_written_behind_the_end() {
        assert!(decode(&[0x80, 1, 0x00, 1], &mut [0; 4]).is_none());
        assert!(decode(&[0x80, 1, 0x3c, 0], &mut [0; 4]).is_none());
        assert!(decode(&[0x41, 0], &mut [0; 5]).is_none());
        assert!(decode(&[0x80, 1, 2], &mut [0; 1]).is_none());
    }
}
