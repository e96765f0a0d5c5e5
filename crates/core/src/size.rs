//! Sizes as people type them, in qemu-img's syntax and with its messages.
//!
//! Optional leading spaces and `+`, then a whole number, a number with a fraction, or hexadecimal (`0x10`, without
//! fraction or suffix), then at most one suffix `b k M G T P E` (powers of 1024). A fraction needs a suffix above `b`.

use crate::error::{Error, ErrorKind, Result};

/// Why a text is no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeError {
    /// Not in the syntax of sizes.
    Syntax,
    /// 2^64 or more, or a negative whole number.
    Range,
}

/// Suffixes and the power of two each stands for.
const SUFFIXES: [(char, u32); 7] =
    [('b', 0), ('k', 10), ('m', 20), ('g', 30), ('t', 40), ('p', 50), ('e', 60)];

/// The greatest size of an image, in bytes.
pub const MAX_IMAGE_SIZE: u64 = i64::MAX.unsigned_abs();

/// Bytes of a size.
///
/// # Errors
/// See [`SizeError`].
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let text = text.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    if text.strip_prefix('-').is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_digit()))
    {
        return Err(SizeError::Range);
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return parse_hex(digits);
    }
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (whole, rest) = text.split_at(digits_end);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(after) => after.split_at(after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len())),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(SizeError::Syntax);
    }
    let shift = parse_suffix(rest)?;
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().map_err(|_| SizeError::Range)? };
    let whole = whole.checked_mul(1 << shift.unwrap_or(0)).ok_or(SizeError::Range)?;
    let fraction = scale_fraction(fraction, shift.unwrap_or(0)).ok_or(SizeError::Syntax)?;
    whole.checked_add(fraction).ok_or(SizeError::Range)
}

fn parse_hex(digits: &str) -> Result<u64, SizeError> {
    if digits.is_empty() || !digits.chars().all(|c| c.is_ascii_hexdigit()) {
        return Err(SizeError::Syntax);
    }
    u64::from_str_radix(digits, 16).map_err(|_| SizeError::Range)
}

fn parse_suffix(text: &str) -> Result<Option<u32>, SizeError> {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return Ok(None) };
    let known = SUFFIXES.iter().find(|(suffix, _)| *suffix == first.to_ascii_lowercase());
    match (known, chars.next()) {
        (Some((_, shift)), None) => Ok(Some(*shift)),
        _ => Err(SizeError::Syntax),
    }
}

/// `0.DIGITS` times 2^shift, rounded half up; `None` for a fraction of a byte's unit. The fraction has the precision of a
/// `double`, as with qemu-img.
fn scale_fraction(digits: &str, shift: u32) -> Option<u64> {
    /// Bits of a double's mantissa without the leading one.
    const MANTISSA_BITS: u32 = 52;
    /// The value of an exponent field of 0 is 2^-1075 times the mantissa with its leading one.
    const UNIT_EXPONENT: u32 = 1075;
    if digits.chars().all(|c| c == '0') {
        return Some(0);
    }
    if shift == 0 {
        return None;
    }
    let bits = format!("0.{digits}").parse::<f64>().ok()?.to_bits();
    let exponent = u32::try_from(bits >> MANTISSA_BITS).ok()?.max(1);
    let mantissa = bits & ((1 << MANTISSA_BITS) - 1) | (1 << MANTISSA_BITS);
    // The value is mantissa times 2^(exponent - 1075): at most 1, so that its unit is at least 52 bits down.
    let (up, down) = (shift.checked_add(exponent)?, UNIT_EXPONENT);
    if up >= down {
        return mantissa.checked_shl(up - down);
    }
    let half = 1_u64.checked_shl(down - up - 1).unwrap_or(0);
    Some(mantissa.checked_add(half)?.checked_shr(down - up).unwrap_or(0))
}

/// An option's size.
///
/// # Errors
/// `InvalidArg` with qemu-img's wording and hint.
pub fn parse_option_size(name: &str, text: &str) -> Result<u64> {
    parse_size(text).map_err(|error| match error {
        SizeError::Syntax => {
            Error::invalid(format!("Parameter '{name}' expects a non-negative number below 2^64")).with_hint(
                "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.",
            )
        }
        SizeError::Range => Error::invalid(format!("Value '{text}' is out of range for parameter '{name}'")),
    })
}

/// The parts of a whole number as C reads it (decimal, octal with `0`, hexadecimal with `0x`): whether a minus stands in
/// front, and its digits in their base, which may be too many. `None` if it is no number.
#[must_use]
pub fn split_number(text: &str) -> Option<(bool, &str, u32)> {
    let trimmed = text.trim_start();
    let (negative, digits) = match trimmed.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, trimmed.strip_prefix('+').unwrap_or(trimmed)),
    };
    let (digits, radix) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None => (digits, if digits.starts_with('0') { 8 } else { 10 }),
    };
    let is_number = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
    is_number.then_some((negative, digits, radix))
}

/// An option's number: decimal, octal with `0`, hexadecimal with `0x`. Negative ones count down from 2^64.
///
/// # Errors
/// `InvalidArg` with qemu-img's wording.
pub fn parse_option_number(name: &str, text: &str) -> Result<u64> {
    let not_one = || Error::invalid(format!("Parameter '{name}' expects a number"));
    let (negative, digits, radix) = split_number(text).ok_or_else(not_one)?;
    let too_large = |_| Error::invalid(format!("Value '{text}' is too large for parameter '{name}'"));
    let value = u64::from_str_radix(digits, radix).map_err(too_large)?;
    Ok(if negative { value.wrapping_neg() } else { value })
}

/// A size given on a command line; `what` names it in the message (`image size`, `bs`, …).
///
/// # Errors
/// `InvalidArg` with qemu-img's wording: not a size, or above [`MAX_IMAGE_SIZE`].
pub fn parse_argument_size(what: &str, text: &str) -> Result<u64> {
    match parse_size(text) {
        Ok(size) if size <= MAX_IMAGE_SIZE => Ok(size),
        Err(SizeError::Syntax) => Err(Error::invalid(format!("Invalid {what} specified: '{text}'."))),
        Ok(_) | Err(SizeError::Range) => {
            let text = format!("Invalid {what} specified. Must be between 0 and {MAX_IMAGE_SIZE}.");
            Err(Error::new(ErrorKind::InvalidArg, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_the_grammar() {
        let good = [
            ("0", 0),
            ("010", 10),
            (" +12", 12),
            ("0x10", 16),
            ("1.5k", 1536),
            (".5k", 512),
            ("1.k", 1024),
            ("1.1k", 1126),
            ("1.0", 1),
            ("1.0b", 1),
            ("7E", 7 << 60),
            // As exact as a double, and no more.
            ("7.9999E", 9_223_256_744_704_315_136),
            ("0.00000000000000000001E", 0),
            ("0.99999999999999999999k", 1024),
            ("0.0009765625k", 1),
            ("0.3333k", 341),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, bytes) in good {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in [
            "", "k", ".", "1.5", "1.5b", "0x10k", "0x", "0x1.8", "1kB", "1KiB", "1e3", "1 ", "1 k", "-1k",
            "+-1",
        ] {
            assert_eq!(parse_size(text), Err(SizeError::Syntax), "{text}");
        }
        for text in ["16E", "18446744073709551616", "0x10000000000000000", "-1", "-0"] {
            assert_eq!(parse_size(text), Err(SizeError::Range), "{text}");
        }
    }

    #[test]
    fn option_numbers_have_three_bases_and_wrap() {
        let number = |text| parse_option_number("n", text).map_err(|error| error.to_string());
        assert_eq!([number("16"), number("020"), number(" +0x10")], [Ok(16), Ok(16), Ok(16)]);
        assert_eq!(number("-1"), Ok(u64::MAX));
        for text in ["", "++1", "--1", "08", "0x", "1k"] {
            assert_eq!(number(text), Err("Parameter 'n' expects a number".to_owned()), "{text}");
        }
        let large = "Value '18446744073709551616' is too large for parameter 'n'";
        assert_eq!(number("18446744073709551616"), Err(large.to_owned()));
    }
}
