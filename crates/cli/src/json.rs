//! JSON as qemu-img prints it: four spaces a level, empty arrays and objects over two lines, everything outside
//! ASCII as upper-case `\uXXXX`.

use std::io::{self, Write};

use serde::Serialize as _;
use serde_json::ser::{CharEscape, Formatter, Serializer};

/// The pretty style of `--output=json`.
#[derive(Default)]
struct Style {
    depth: usize,
}

impl Style {
    fn line<W: ?Sized + Write>(&self, out: &mut W) -> io::Result<()> {
        out.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| out.write_all(b"    "))
    }

    fn open<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        out.write_all(bracket)
    }

    fn close<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth = self.depth.saturating_sub(1);
        self.line(out)?;
        out.write_all(bracket)
    }

    fn next<W: ?Sized + Write>(&self, out: &mut W, first: bool) -> io::Result<()> {
        if !first {
            out.write_all(b",")?;
        }
        self.line(out)
    }
}

impl Formatter for Style {
    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.next(out, first)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.next(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, text: &str) -> io::Result<()> {
        write_ascii(out, text)
    }

    fn write_char_escape<W: ?Sized + Write>(&mut self, out: &mut W, escape: CharEscape) -> io::Result<()> {
        let short: &[u8] = match escape {
            CharEscape::Quote => b"\\\"",
            CharEscape::ReverseSolidus => b"\\\\",
            CharEscape::Solidus => b"/",
            CharEscape::Backspace => b"\\b",
            CharEscape::FormFeed => b"\\f",
            CharEscape::LineFeed => b"\\n",
            CharEscape::CarriageReturn => b"\\r",
            CharEscape::Tab => b"\\t",
            CharEscape::AsciiControl(byte) => return write!(out, "\\u{byte:04X}"),
        };
        out.write_all(short)
    }
}

/// Writes text without quotes and control characters; not ASCII becomes UTF-16 escapes.
fn write_ascii<W: ?Sized + Write>(out: &mut W, text: &str) -> io::Result<()> {
    let mut units = [0_u16; 2];
    for c in text.chars() {
        match c {
            '\u{fffe}' | '\u{ffff}' => out.write_all(b"\\uFFFD")?,
            ' '..='~' => write!(out, "{c}")?,
            _ => c.encode_utf16(&mut units).iter().try_for_each(|unit| write!(out, "\\u{unit:04X}"))?,
        }
    }
    Ok(())
}

/// The pretty text of `value`, without a final newline.
pub(crate) fn pretty(value: &serde_json::Value) -> String {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, Style::default());
    // Writing a value made of strings and numbers to memory does not fail.
    let _ = value.serialize(&mut serializer);
    String::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn empty_containers_take_two_lines() {
        let value = json!({"children": [], "data": {"a": [1, true], "s": {}}});
        let expected = "{
    \"children\": [
    ],
    \"data\": {
        \"a\": [
            1,
            true
        ],
        \"s\": {
        }
    }
}";
        assert_eq!(pretty(&value), expected);
    }

    #[test]
    fn strings_are_escaped_as_qemu_img_does() {
        let cases = [
            (
                "a\u{1}\u{2}\u{1f}\u{7f}\u{8}\u{c}\n\r\tb\"\\_<>&'/",
                r#""a\u0001\u0002\u001F\u007F\b\f\n\r\tb\"\\_<>&'/""#,
            ),
            ("\u{fc}n\u{ef}", r#""\u00FCn\u00EF""#),
            ("emoji\u{1f600}", r#""emoji\uD83D\uDE00""#),
            ("\u{80}\u{a0}", r#""\u0080\u00A0""#),
            ("\u{ffff}\u{fffe}\u{fffd}", r#""\uFFFD\uFFFD\uFFFD""#),
        ];
        for (text, expected) in cases {
            assert_eq!(pretty(&json!(text)), expected);
        }
    }
}
