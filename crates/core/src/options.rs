//! Option tables: one per driver; parsing, help, defaults and the summary line all read it.

use std::fmt::{self, Write as _};

use bitflags::bitflags;

use crate::error::{Error, Result};
use crate::size::parse_option_size;

/// What sort of value an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptKind {
    /// Any text.
    Str,
    /// `on` or `off`.
    Bool,
    /// Bytes, with an optional suffix.
    Size,
    /// A number.
    Number,
}

impl OptKind {
    /// As help texts name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Str => "str",
            Self::Bool => "bool (on/off)",
            Self::Size => "size",
            Self::Number => "num",
        }
    }
}

bitflags! {
    /// Where an option may be used.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct OptUse: u8 {
        /// When an image is created.
        const CREATE = 1;
        /// When an image is amended.
        const AMEND = 1 << 1;
        /// Not shown in help.
        const HIDDEN = 1 << 2;
    }
}

/// One option of a driver.
#[derive(Clone, Copy, Debug)]
pub struct OptSpec {
    /// Its name.
    pub name: &'static str,
    /// The sort of its value.
    pub kind: OptKind,
    /// What it does, one line; empty: none.
    pub help: &'static str,
    /// Its value if it is not given; shown in the summary line.
    pub default: Option<&'static str>,
    /// Where it may be used.
    pub usage: OptUse,
}

impl OptSpec {
    /// The length of the disk, in the words of most drivers.
    pub const SIZE: Self = Self::create("size", OptKind::Size, "Virtual disk size");

    /// An option without a default.
    #[must_use]
    pub const fn new(name: &'static str, kind: OptKind, help: &'static str, usage: OptUse) -> Self {
        Self { name, kind, help, default: None, usage }
    }

    /// An option to create with, without a default.
    #[must_use]
    pub const fn create(name: &'static str, kind: OptKind, help: &'static str) -> Self {
        Self::new(name, kind, help, OptUse::CREATE)
    }

    /// A text to create with that no list shows: `qemu-img` does not have it.
    #[must_use]
    pub const fn hidden(name: &'static str) -> Self {
        Self::new(name, OptKind::Str, "", OptUse::CREATE.union(OptUse::HIDDEN))
    }

    /// It with a default.
    #[must_use]
    pub const fn or(self, default: &'static str) -> Self {
        Self { default: Some(default), ..self }
    }
}

/// A parsed value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptValue {
    /// Text.
    Str(String),
    /// Yes or no.
    Bool(bool),
    /// Bytes, or a number.
    Number(u64),
}

/// Options checked against a table, with its defaults filled in.
#[derive(Clone, Debug, Default)]
pub struct ParsedOptions {
    table: Vec<OptSpec>,
    given: Vec<(&'static str, String, OptValue)>,
}

impl ParsedOptions {
    /// No option given yet, for creating; `tables` are those of the format and, behind it, of its protocol.
    #[must_use]
    pub fn new(tables: &[&[OptSpec]]) -> Self {
        Self::for_usage(tables, OptUse::CREATE)
    }

    /// Like [`ParsedOptions::new`], with the options that may be used where `usage` says.
    #[must_use]
    pub fn for_usage(tables: &[&[OptSpec]], usage: OptUse) -> Self {
        let mut table: Vec<OptSpec> = Vec::new();
        for spec in tables.iter().copied().flatten().filter(|spec| spec.usage.contains(usage)) {
            if !table.iter().any(|known| known.name == spec.name) {
                table.push(*spec);
            }
        }
        Self { table, given: Vec::new() }
    }

    /// The options that exist.
    #[must_use]
    pub fn table(&self) -> &[OptSpec] {
        &self.table
    }

    /// Parses `name=value,name=value` (`,,` is a comma; `name` alone is on, `noname` is off, also
    /// where there is an option of that very name); later ones win.
    ///
    /// # Errors
    /// `InvalidArg` with qemu-img's wording.
    pub fn parse(&mut self, text: &str) -> Result<()> {
        for (name, value) in split_options(text) {
            match value {
                Some(value) => self.set(&name, &value)?,
                None => self.set_flag(&name)?,
            }
        }
        Ok(())
    }

    fn set_flag(&mut self, name: &str) -> Result<()> {
        match name.strip_prefix("no") {
            Some(plain) => self.set(plain, "off"),
            None => self.set(name, "on"),
        }
    }

    /// True if the tables have an option of that name.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.table.iter().any(|spec| spec.name == name)
    }

    /// Sets an option from its text.
    ///
    /// # Errors
    /// `InvalidArg` with qemu-img's wording: an unknown name, or a value that is not of the option's kind.
    pub fn set(&mut self, name: &str, text: &str) -> Result<()> {
        let Some(spec) = self.table.iter().find(|spec| spec.name == name) else {
            return Err(Error::invalid(format!("Invalid parameter '{name}'")));
        };
        let (name, value) = (spec.name, parse_value(spec, text)?);
        self.store(name, text.to_owned(), value);
        Ok(())
    }

    /// Sets a size or number without parsing; ignored if the tables have no such option.
    pub fn set_number(&mut self, name: &str, value: u64) {
        if let Some(spec) = self.table.iter().find(|spec| spec.name == name) {
            self.store(spec.name, value.to_string(), OptValue::Number(value));
        }
    }

    fn store(&mut self, name: &'static str, text: String, value: OptValue) {
        self.given.retain(|(known, ..)| *known != name);
        self.given.push((name, text, value));
    }

    /// True if it was given.
    #[must_use]
    pub fn is_given(&self, name: &str) -> bool {
        self.given.iter().any(|(known, ..)| *known == name)
    }

    /// The value given, or the default.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<OptValue> {
        if let Some((.., value)) = self.given.iter().find(|(known, ..)| *known == name) {
            return Some(value.clone());
        }
        let spec = self.table.iter().find(|spec| spec.name == name)?;
        parse_value(spec, spec.default?).ok()
    }

    /// A text value.
    #[must_use]
    pub fn get_str(&self, name: &str) -> Option<String> {
        match self.get(name)? {
            OptValue::Str(text) => Some(text),
            _ => None,
        }
    }

    /// A yes or no; absent is no.
    #[must_use]
    pub fn get_bool(&self, name: &str) -> bool {
        matches!(self.get(name), Some(OptValue::Bool(true)))
    }

    /// Bytes or a number.
    #[must_use]
    pub fn get_number(&self, name: &str) -> Option<u64> {
        match self.get(name)? {
            OptValue::Number(value) => Some(value),
            _ => None,
        }
    }

    /// Each option that has a value (given or default) with the text a summary shows, in the table's order.
    #[must_use]
    pub fn shown(&self) -> Vec<(&'static str, String)> {
        let mut rows = Vec::new();
        for spec in &self.table {
            let text = match self.given.iter().find(|(known, ..)| *known == spec.name) {
                Some((_, text, value)) => shown_value(spec.kind, text, value),
                None => match spec.default {
                    Some(default) => default.to_owned(),
                    None => continue,
                },
            };
            rows.push((spec.name, text));
        }
        rows
    }

    /// The help lines of all options for `usage`: `  name=<type>` up to column 25, then ` - help`.
    #[must_use]
    pub fn help(&self, usage: OptUse) -> String {
        let mut rows: Vec<_> = self
            .table
            .iter()
            .filter(|spec| spec.usage.contains(usage) && !spec.usage.contains(OptUse::HIDDEN))
            .collect();
        rows.sort_by_key(|spec| spec.name);
        let mut text = String::new();
        for spec in rows {
            let head = format!("  {}=<{}>", spec.name, spec.kind.name());
            let _ = if spec.help.is_empty() {
                writeln!(text, "{head}")
            } else {
                writeln!(text, "{head:<24} - {}", spec.help)
            };
        }
        text
    }
}

fn shown_value(kind: OptKind, text: &str, value: &OptValue) -> String {
    match (kind, value) {
        (OptKind::Size | OptKind::Number, OptValue::Number(number)) => number.cast_signed().to_string(),
        _ => text.to_owned(),
    }
}

fn parse_value(spec: &OptSpec, text: &str) -> Result<OptValue> {
    Ok(match spec.kind {
        OptKind::Str => OptValue::Str(text.to_owned()),
        OptKind::Bool => OptValue::Bool(parse_bool(spec.name, text)?),
        OptKind::Size => OptValue::Number(parse_option_size(spec.name, text)?),
        OptKind::Number => OptValue::Number(crate::size::parse_option_number(spec.name, text)?),
    })
}

/// A yes or no as options spell it.
///
/// # Errors
/// `InvalidArg` with qemu-img's wording.
pub fn parse_bool(name: &str, text: &str) -> Result<bool> {
    match text {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(Error::invalid(format!("Parameter '{name}' expects 'on' or 'off'"))),
    }
}

/// Splits `a=b,c,d=e,,f` into `(a, b) (c, none) (d, "e,f")`.
#[must_use]
pub fn split_options(text: &str) -> Vec<(String, Option<String>)> {
    let mut items = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (item, after) = take_item(rest);
        rest = after;
        match item.split_once('=') {
            Some((name, value)) => items.push((name.to_owned(), Some(value.to_owned()))),
            None => items.push((item, None)),
        }
    }
    items
}

/// The text up to the next single comma, with doubled commas made one, and what follows that comma.
fn take_item(text: &str) -> (String, &str) {
    let mut item = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c != ',' {
            item.push(c);
        } else if chars.next_if(|(_, next)| *next == ',').is_some() {
            item.push(',');
        } else {
            return (item, text.get(at + 1..).unwrap_or_default());
        }
    }
    (item, "")
}

/// A runtime option's value: text from `key=value`, typed from JSON.
#[derive(Clone, Debug, PartialEq)]
pub enum RuntimeValue {
    /// Text.
    Str(String),
    /// A whole number.
    Int(i64),
    /// A whole number above the signed range.
    Uint(u64),
    /// Another number.
    Float(f64),
    /// Yes or no.
    Bool(bool),
    /// Nothing, as in `"backing": null`.
    Null,
}

impl fmt::Display for RuntimeValue {
    /// As `key=value` would give it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Str(text) => f.write_str(text),
            Self::Int(value) => write!(f, "{value}"),
            Self::Uint(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value}"),
            Self::Bool(value) => f.write_str(if *value { "on" } else { "off" }),
            Self::Null => Ok(()),
        }
    }
}

/// Options for opening a node: names with dots, in the order given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuntimeOptions(Vec<(String, RuntimeValue)>);

impl RuntimeOptions {
    /// No option.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets an option; a later value replaces an earlier one.
    pub fn set(&mut self, name: impl Into<String>, value: RuntimeValue) {
        let name = name.into();
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    /// The value of an option.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&RuntimeValue> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Takes an option out. `null` says that it is not given.
    pub fn take(&mut self, name: &str) -> Option<RuntimeValue> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.remove(at).1).filter(|value| *value != RuntimeValue::Null)
    }

    /// Takes a text out.
    ///
    /// # Errors
    /// `InvalidArg` if it is not text.
    pub fn take_str(&mut self, name: &str) -> Result<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(RuntimeValue::Str(text)) => Ok(Some(text)),
            Some(_) => Err(Error::invalid(format!("Invalid parameter type for '{name}', expected: string"))),
        }
    }

    /// Takes a yes or no out, as text or JSON give it.
    ///
    /// # Errors
    /// `InvalidArg` if it is neither.
    pub fn take_bool(&mut self, name: &str) -> Result<Option<bool>> {
        match self.take(name) {
            None => Ok(None),
            Some(RuntimeValue::Bool(value)) => Ok(Some(value)),
            Some(RuntimeValue::Str(text)) => parse_bool(name, &text).map(Some),
            Some(_) => Err(Error::invalid(format!("Invalid parameter type for '{name}', expected: boolean"))),
        }
    }

    /// Takes a size out, as text (with suffix) or JSON number give it.
    ///
    /// # Errors
    /// `InvalidArg` if it is neither.
    pub fn take_size(&mut self, name: &str) -> Result<Option<u64>> {
        match self.take(name) {
            None => Ok(None),
            Some(RuntimeValue::Uint(value)) => Ok(Some(value)),
            Some(other) => parse_option_size(name, &other.to_string()).map(Some),
        }
    }

    /// Takes all options of the child `prefix` out: `prefix.x` comes out as `x`.
    #[must_use]
    pub fn take_child(&mut self, prefix: &str) -> Self {
        let mut child = Vec::new();
        self.0.retain(|(name, value)| {
            match name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.')) {
                Some(rest) => {
                    child.push((rest.to_owned(), value.clone()));
                    false
                }
                None => true,
            }
        });
        Self(child)
    }

    /// True if no option is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values in the order given.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &RuntimeValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}
