//! [`ImageSpec`]: how a user says which image is meant, and its parsers (§3 to §5 of the notes on names).
//!
//! Parsing is pure: no file is touched, and no text makes it panic.

use diskimg_core::options::{RuntimeOptions, RuntimeValue, split_options};
use diskimg_core::{Error, Result};

use crate::json::{self, Json};
use crate::name::JSON_PREFIX;

/// Which image is meant.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageSpec {
    pub(crate) label: String,
    pub(crate) kind: SpecKind,
    pub(crate) warnings: Vec<String>,
    pub(crate) reference: Option<ReferenceSource>,
    /// Options besides the name.
    pub(crate) more: RuntimeOptions,
}

/// The ways to name an image.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SpecKind {
    /// A file name, perhaps with a protocol's prefix, or `json:{…}`.
    Name(String),
    /// Options.
    Options(RuntimeOptions),
}

/// The image whose header names another one: that has to pass the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReferenceSource {
    /// The file that holds the referring image.
    pub(crate) from: String,
    /// The name as stored.
    pub(crate) name: String,
}

impl ImageSpec {
    fn new(label: String, kind: SpecKind) -> Self {
        Self { label, kind, warnings: Vec::new(), reference: None, more: RuntimeOptions::new() }
    }

    /// By a file name: a path, `file:…` and other protocols, or `json:{…}`.
    #[must_use]
    pub fn name(name: impl Into<String>) -> Self {
        let name = name.into();
        Self::new(name.clone(), SpecKind::Name(name))
    }

    /// By the text of `--image-opts`: `driver=qcow2,file.filename=a.qcow2`.
    ///
    /// # Errors
    /// `InvalidArg` for a bad `id=`.
    pub fn image_opts(text: &str) -> Result<Self> {
        let parsed = parse_image_opts(text)?;
        Ok(Self { warnings: parsed.warnings, ..Self::options(text, parsed.options) })
    }

    /// By options. `label` is how messages call the image.
    #[must_use]
    pub fn options(label: impl Into<String>, options: RuntimeOptions) -> Self {
        Self::new(label.into(), SpecKind::Options(options))
    }

    /// By a name that the image in the file `from` refers to as `stored`: what is opened has to pass the gate.
    #[must_use]
    pub fn referenced(
        resolved: impl Into<String>,
        from: impl Into<String>,
        stored: impl Into<String>,
    ) -> Self {
        let reference = Some(ReferenceSource { from: from.into(), name: stored.into() });
        Self { reference, ..Self::name(resolved) }
    }

    /// The same with one more option, such as the name of a secret.
    #[must_use]
    pub fn with(mut self, option: &str, value: impl Into<String>) -> Self {
        self.more.set(option, RuntimeValue::Str(value.into()));
        self
    }

    /// How messages call it: the text it was given as.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }
}

/// What the text of `--image-opts` says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageOpts {
    /// The options.
    pub options: RuntimeOptions,
    /// Warnings about outdated spellings.
    pub warnings: Vec<String>,
}

/// Splits `key=value,key=value` (`,,` is a comma; a first item without `=` is `file=`; a later one is a flag).
///
/// # Errors
/// `InvalidArg` if `id=` is not an identifier.
pub fn parse_image_opts(text: &str) -> Result<ImageOpts> {
    let mut parsed = ImageOpts::default();
    for (at, (key, value)) in split_options(text).into_iter().enumerate() {
        let (key, value) = match value {
            Some(value) => (key, value),
            None if at == 0 => ("file".to_owned(), key),
            None => parsed.flag(key),
        };
        if key == "id" && !is_identifier(&value) {
            let hint =
                "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.".to_owned();
            return Err(Error::invalid("Parameter 'id' expects an identifier").with_hint(hint));
        }
        parsed.options.set(key, RuntimeValue::Str(value));
    }
    Ok(parsed)
}

impl ImageOpts {
    fn flag(&mut self, key: String) -> (String, String) {
        let (name, value) = match key.strip_prefix("no") {
            Some(name) => (name.to_owned(), "off"),
            None => (key.clone(), "on"),
        };
        if key != "help" && key != "?" {
            let text =
                format!("short-form boolean option '{key}' deprecated\nPlease use {name}={value} instead");
            self.warnings.push(text);
        }
        (name, value.to_owned())
    }
}

/// Letters, digits, `-`, `.` and `_`, beginning with a letter.
pub(crate) fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
}

/// Parses a name that begins with `json:`, or the JSON alone; nested objects and lists become names with dots.
///
/// # Errors
/// `InvalidArg` with qemu-img's wording.
pub fn parse_json(text: &str) -> Result<RuntimeOptions> {
    let text = text.strip_prefix(JSON_PREFIX).unwrap_or(text);
    let parsed = json::parse(text)
        .map_err(|error| Error::invalid(error).context("Could not parse the JSON options"))?;
    let Json::Object(pairs) = parsed else { return Err(Error::invalid("Invalid JSON object given")) };
    let mut flat = Vec::new();
    flatten(String::new(), pairs, &mut flat);
    // What is nested wins over a dotted name. The last one comes first, as in messages about what nobody knows.
    flat.sort_by_key(|(_, _, depth)| *depth);
    let mut options = RuntimeOptions::new();
    for (key, value, _) in flat.into_iter().rev() {
        if options.get(&key).is_none() {
            options.set(key, value);
        }
    }
    Ok(options)
}

fn flatten(prefix: String, pairs: Vec<(String, Json)>, out: &mut Vec<(String, RuntimeValue, usize)>) {
    let mut open = vec![(prefix, pairs, 0)];
    while let Some((prefix, pairs, depth)) = open.pop() {
        for (key, value) in pairs {
            let key = format!("{prefix}{key}");
            match value {
                Json::Scalar(value) => out.push((key, value, depth)),
                Json::Object(inner) if inner.is_empty() => out.push((key, RuntimeValue::Null, depth)),
                Json::List(inner) if inner.is_empty() => out.push((key, RuntimeValue::Null, depth)),
                Json::Object(inner) => open.push((format!("{key}."), inner, depth + 1)),
                Json::List(inner) => {
                    let numbered = inner.into_iter().enumerate().map(|(at, item)| (at.to_string(), item));
                    open.push((format!("{key}."), numbered.collect(), depth + 1));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> RuntimeValue {
        RuntimeValue::Str(value.to_owned())
    }

    #[test]
    fn image_opts_follow_the_grammar() {
        let rows: [(&str, &[(&str, &str)]); 8] = [
            ("", &[]),
            (",", &[("file", "")]),
            ("b.qcow2", &[("file", "b.qcow2")]),
            ("driver=raw,,x,a.b=c=d", &[("driver", "raw,x"), ("a.b", "c=d")]),
            ("driver=raw,driver=qcow2", &[("driver", "qcow2")]),
            ("driver=raw,size,noback", &[("driver", "raw"), ("size", "on"), ("back", "off")]),
            ("driver=raw,,", &[("driver", "raw,")]),
            ("=x", &[("", "x")]),
        ];
        for (given, wanted) in rows {
            let parsed = parse_image_opts(given).unwrap();
            let got: Vec<_> = parsed.options.iter().map(|(key, value)| (key, value.clone())).collect();
            let wanted: Vec<_> = wanted.iter().map(|(key, value)| (*key, text(value))).collect();
            assert_eq!(got, wanted, "{given}");
        }
        let warnings = parse_image_opts("driver=raw,nosize,help").unwrap().warnings;
        assert_eq!(warnings, ["short-form boolean option 'nosize' deprecated\nPlease use size=off instead"]);
        assert!(parse_image_opts("driver=raw,id=5x").is_err());
    }

    #[test]
    fn json_is_flattened_and_nested_values_win() {
        let parsed = parse_json(
            "json:{'driver':'raw','file.filename':'b','file':{'filename':'a','x':[1,[true]]}, 'y':{}}",
        );
        let parsed = parsed.unwrap();
        assert_eq!(parsed.get("file.filename"), Some(&text("a")));
        assert_eq!(parsed.get("file.x.0"), Some(&RuntimeValue::Int(1)));
        assert_eq!(parsed.get("file.x.1.0"), Some(&RuntimeValue::Bool(true)));
        assert_eq!(parsed.get("y"), Some(&RuntimeValue::Null));
        assert_eq!(parse_json("json:[]").unwrap_err().joined(), "Invalid JSON object given");
        let error = parse_json("json: bad").unwrap_err().joined();
        assert_eq!(error, "Could not parse the JSON options: JSON parse error, invalid keyword 'bad'");
    }
}
