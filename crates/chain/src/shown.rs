//! [`Shown`]: the name by which an image is displayed: its file's where that says it all, else `json:{…}` (§4).

use std::fmt::Write as _;

use diskimg_core::options::RuntimeValue;

use crate::name::JSON_PREFIX;

/// The longest displayed name, in bytes; a longer one is cut and ends in `...`.
const MAX_NAME: usize = 4095;

/// What the displayed name of a node is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Shown {
    /// The file's name, if it says it all.
    pub(crate) plain: Option<String>,
    /// The options that would open the same node.
    pub(crate) options: Vec<(String, ShownValue)>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ShownValue {
    Value(RuntimeValue),
    Node(Shown),
    List(Vec<Shown>),
}

impl Shown {
    /// The displayed name.
    pub(crate) fn name(&self) -> String {
        if let Some(plain) = &self.plain {
            return plain.clone();
        }
        let mut text = self.json();
        text.insert_str(0, JSON_PREFIX);
        if text.len() > MAX_NAME {
            // Only ASCII is written.
            text.truncate(MAX_NAME - 3);
            text.push_str("...");
        }
        text
    }

    /// The options as JSON.
    pub(crate) fn json(&self) -> String {
        let mut text = String::new();
        self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) {
        let mut rows: Vec<_> = self.options.iter().collect();
        rows.sort_by_key(|(key, _)| key_order(key));
        out.push('{');
        for (at, (key, value)) in rows.into_iter().enumerate() {
            if at > 0 {
                out.push_str(", ");
            }
            write_string(out, key);
            out.push_str(": ");
            match value {
                ShownValue::Value(value) => write_value(out, value),
                ShownValue::Node(node) => node.write(out),
                ShownValue::List(nodes) => {
                    out.push('[');
                    for (at, node) in nodes.iter().enumerate() {
                        if at > 0 {
                            out.push_str(", ");
                        }
                        node.write(out);
                    }
                    out.push(']');
                }
            }
        }
        out.push('}');
    }

    /// Options chose another backing file than the one that the image names (`None`: none at all).
    pub(crate) fn override_backing(&mut self, backing: Option<&Self>) {
        let value = match backing {
            Some(backing) => ShownValue::Node(backing.clone()),
            None => ShownValue::Value(RuntimeValue::Null),
        };
        self.plain = None;
        self.options.push(("backing".to_owned(), value));
    }
}

/// Keys are shown in the order of this hash's low bits, as seen in qemu-img's output: the well-known hash of the
/// "trivial database" (TDB), over 512 buckets.
pub(crate) fn key_order(key: &str) -> u32 {
    let len = u32::try_from(key.len()).unwrap_or(u32::MAX);
    let mut value = 0x238F_13AF_u32.wrapping_mul(len);
    for (shift, byte) in (0..24).step_by(1).map(|i| i * 5 % 24).cycle().zip(key.bytes()) {
        value = value.wrapping_add(u32::from(byte).wrapping_shl(shift));
    }
    value.wrapping_mul(1_103_515_243).wrapping_add(12345) % 512
}

fn write_value(out: &mut String, value: &RuntimeValue) {
    let _ = match value {
        RuntimeValue::Str(text) => {
            write_string(out, text);
            Ok(())
        }
        RuntimeValue::Int(number) => write!(out, "{number}"),
        RuntimeValue::Uint(number) => write!(out, "{number}"),
        RuntimeValue::Float(number) => write!(out, "{number}"),
        RuntimeValue::Bool(yes) => write!(out, "{yes}"),
        RuntimeValue::Null => write!(out, "null"),
    };
}

fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        let _ = match c {
            '"' => write!(out, "\\\""),
            '\\' => write!(out, "\\\\"),
            '\u{8}' => write!(out, "\\b"),
            '\u{c}' => write!(out, "\\f"),
            '\n' => write!(out, "\\n"),
            '\r' => write!(out, "\\r"),
            '\t' => write!(out, "\\t"),
            ' '..='~' => write!(out, "{c}"),
            _ => {
                let mut units = [0; 2];
                c.encode_utf16(&mut units).iter().try_for_each(|unit| write!(out, "\\u{unit:04X}"))
            }
        };
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> ShownValue {
        ShownValue::Value(RuntimeValue::Str(value.to_owned()))
    }

    fn node(options: Vec<(&str, ShownValue)>) -> Shown {
        let options = options.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Shown { plain: None, options }
    }

    #[test]
    fn keys_come_in_the_order_that_qemu_shows_them() {
        let file = node(vec![("filename", text("r.raw")), ("driver", text("file"))]);
        let raw = node(vec![
            ("file", ShownValue::Node(file.clone())),
            ("driver", text("raw")),
            ("size", ShownValue::Value(RuntimeValue::Int(512))),
            ("offset", text("1k")),
        ]);
        assert_eq!(
            raw.name(),
            r#"json:{"offset": "1k", "driver": "raw", "size": 512, "file": {"driver": "file", "filename": "r.raw"}}"#
        );
        let luks = node(vec![
            ("driver", text("luks")),
            ("key-secret", text("s")),
            ("file", ShownValue::Node(file.clone())),
            ("header", ShownValue::Node(file)),
        ]);
        let keys: Vec<_> = luks.name().split('"').skip(1).step_by(2).map(str::to_owned).collect();
        assert_eq!(keys[0], "header");
        assert_eq!(keys.last().map(String::as_str), Some("s"));
    }

    #[test]
    fn names_are_ascii_and_cut_at_the_limit() {
        let odd = node(vec![("filename", text("é\"\\\n😀\u{7f}"))]);
        assert_eq!(odd.name(), r#"json:{"filename": "\u00E9\"\\\n\uD83D\uDE00\u007F"}"#);
        let long = node(vec![("filename", text(&"x".repeat(5000)))]).name();
        assert_eq!((long.len(), long.ends_with("...")), (4095, true));
    }
}
