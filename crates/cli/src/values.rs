//! Values that several subcommands take, with qemu-img's messages.

use std::ops::RangeInclusive;

use diskimg::core::protocol::CacheMode;
use diskimg::core::size::{SizeError, parse_argument_size, parse_size, split_number};

use crate::command::Value;
use crate::ui::{Exit, Ui};

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OutputFormat {
    /// Text for people.
    #[default]
    Human,
    /// JSON.
    Json,
}

impl OutputFormat {
    /// From the value of `--output`.
    pub(crate) fn parse(ui: &Ui, value: Value) -> Result<Self, Exit> {
        match value.text(ui)?.as_str() {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            other => Err(ui.usage(format!("--output expects 'human' or 'json' not '{other}'"))),
        }
    }
}

/// A size below 2^63; `what` names it in messages.
pub(crate) fn size(ui: &Ui, what: &str, text: &str) -> Result<u64, Exit> {
    parse_argument_size(what, text).map_err(|error| ui.library_error(&error))
}

/// A size within `range`; `what` names it in messages.
pub(crate) fn size_within(ui: &Ui, what: &str, range: RangeInclusive<u64>, text: &str) -> Result<u64, Exit> {
    match parse_size(text) {
        Ok(size) if range.contains(&size) => Ok(size),
        Err(SizeError::Syntax) => Err(ui.fail(format!("Invalid {what} specified: '{text}'."))),
        Ok(_) | Err(SizeError::Range) => Err(out_of_range(ui, what, range)),
    }
}

fn out_of_range(ui: &Ui, what: &str, range: RangeInclusive<u64>) -> Exit {
    let (least, most) = range.into_inner();
    ui.fail(format!("Invalid {what} specified. Must be between {least} and {most}."))
}

/// The cache mode that images are read with.
pub(crate) fn source_cache(ui: &Ui, name: Option<&str>) -> Result<CacheMode, Exit> {
    cache(name, CacheMode::WriteBack).map_err(|name| ui.fail(format!("Invalid source cache option: {name}")))
}

/// The cache mode that a new image is written with.
pub(crate) fn target_cache(ui: &Ui, name: Option<&str>) -> Result<CacheMode, Exit> {
    cache(name, CacheMode::Unsafe).map_err(|name| ui.fail(format!("Invalid cache option: {name}")))
}

/// The cache mode that an image is changed with.
pub(crate) fn changed_cache(ui: &Ui, name: Option<&str>) -> Result<CacheMode, Exit> {
    cache(name, CacheMode::WriteBack).map_err(|name| ui.fail(format!("Invalid cache option: {name}")))
}

fn cache(name: Option<&str>, default: CacheMode) -> Result<CacheMode, &str> {
    name.map_or(Ok(default), |name| CacheMode::from_name(name).ok_or(name))
}

/// Adds an `-o` argument to those before it. An empty list and one with a comma at an end are refused.
pub(crate) fn add_options(ui: &Ui, list: &mut Option<String>, value: Value) -> Result<(), Exit> {
    let text = value.text(ui)?;
    let commas_at_end = text.len() - text.trim_end_matches(',').len();
    if text.is_empty() || text.starts_with(',') || commas_at_end % 2 == 1 {
        return Err(ui.fail(format!("Invalid option list: {text}")));
    }
    match list {
        Some(list) => *list = format!("{list},{text}"),
        None => *list = Some(text),
    }
    Ok(())
}

/// True if the list asks for help.
pub(crate) fn asks_for_help(list: Option<&str>) -> bool {
    let items = diskimg::core::options::split_options(list.unwrap_or_default());
    items.iter().any(|(name, value)| value.is_none() && matches!(name.as_str(), "help" | "?"))
}

/// The only operand of a subcommand.
pub(crate) fn one_image(ui: &Ui, operands: Vec<std::ffi::OsString>) -> Result<String, Exit> {
    match <[_; 1]>::try_from(operands) {
        Ok([name]) => ui.text(name),
        Err(_) => Err(ui.usage("Expecting one image file name")),
    }
}

/// A whole number (decimal, octal with `0`, hexadecimal with `0x`) within `range`; `what` names it in messages.
pub(crate) fn number(ui: &Ui, what: &str, range: RangeInclusive<u64>, text: &str) -> Result<u64, Exit> {
    let not_one = || ui.fail(format!("Invalid {what} specified: '{text}'."));
    let (negative, digits, radix) = split_number(text).ok_or_else(not_one)?;
    match u64::from_str_radix(digits, radix) {
        Ok(value) if !negative && range.contains(&value) => Ok(value),
        _ => Err(out_of_range(ui, what, range)),
    }
}
