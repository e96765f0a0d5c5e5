//! Base64 as secrets have it: qemu-img's rules, which are laxer than any library's.
//!
//! Line ends are skipped, padding counts wherever it stands, and an incomplete last group is dropped.

use diskimg_core::{Error, Result};
use zeroize::Zeroizing;

/// The value of a character; padding counts as zero.
fn value(c: u8) -> Option<u32> {
    Some(match c {
        b'A'..=b'Z' => u32::from(c - b'A'),
        b'a'..=b'z' => u32::from(c - b'a') + 26,
        b'0'..=b'9' => u32::from(c - b'0') + 52,
        b'+' => 62,
        b'/' => 63,
        b'=' => 0,
        _ => return None,
    })
}

/// The bytes of `text`.
///
/// # Errors
/// `InvalidArg` for characters that have no place in it.
pub(crate) fn decode(text: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    if text.iter().any(|c| *c != b'\n' && value(*c).is_none()) {
        return Err(Error::invalid("Base64 data contains invalid characters"));
    }
    let chars: Zeroizing<Vec<u8>> = Zeroizing::new(text.iter().copied().filter(|c| *c != b'\n').collect());
    let mut bytes = Zeroizing::new(Vec::with_capacity(chars.len() / 4 * 3));
    for group in chars.as_chunks::<4>().0 {
        let bits = group.iter().fold(0, |bits, c| (bits << 6) | value(*c).unwrap_or(0));
        let [_, first, second, third] = bits.to_be_bytes();
        let [.., before_last, last] = *group;
        bytes.push(first);
        if before_last != b'=' {
            bytes.push(second);
        }
        if last != b'=' {
            bytes.push(third);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_4648() {
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmE=", "fooba"),
            ("Zm9vYmFy", "foobar"),
            ("Zm9v\nYmFy\n", "foobar"),
        ] {
            assert_eq!(decode(text.as_bytes()).unwrap().as_slice(), bytes.as_bytes(), "{text}");
        }
        assert_eq!(decode(b"+/+/").unwrap().as_slice(), [0xfb, 0xff, 0xbf]);
    }

    #[test]
    fn odd_texts_are_taken_as_far_as_they_go() {
        assert_eq!(decode(b"Zm9vYm").unwrap().as_slice(), b"foo");
        for bad in ["Zm 9v", "Zm9v\r\n", "Zm9-", "%"] {
            let error = decode(bad.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), "Base64 data contains invalid characters", "{bad}");
        }
    }
}
