//! [`Generic`]: the options that every node has, whatever its driver (§5).

use diskimg_core::options::{RuntimeOptions, RuntimeValue, parse_bool};
use diskimg_core::protocol::CacheMode;
use diskimg_core::{Error, ErrorKind, Result};

use crate::shown::key_order;
use crate::spec::is_identifier;
use crate::stack::{DetectZeroes, StackOptions};

/// The longest node name, in bytes.
const MAX_NODE_NAME: usize = 31;

/// The generic options of a node, as given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Generic {
    pub(crate) read_only: Option<bool>,
    pub(crate) force_share: Option<bool>,
    unmap: Option<bool>,
    detect_zeroes: DetectZeroes,
    direct: Option<bool>,
    no_flush: Option<bool>,
}

impl Generic {
    /// Takes the generic options out of `options`.
    ///
    /// # Errors
    /// `InvalidArg` with qemu-img's wording.
    pub(crate) fn take(options: &mut RuntimeOptions) -> Result<Self> {
        let mut generic = Self::default();
        if let Some(name) = take_text(options, "node-name") {
            check_node_name(&name)?;
        }
        generic.read_only = take_bool(options, "read-only")?;
        let _ = take_bool(options, "auto-read-only")?;
        generic.force_share = take_bool(options, "force-share")?;
        generic.direct = take_bool(options, "cache.direct")?;
        generic.no_flush = take_bool(options, "cache.no-flush")?;
        generic.unmap = match take_text(options, "discard").as_deref() {
            None => None,
            Some("off" | "ignore") => Some(false),
            Some("on" | "unmap") => Some(true),
            Some(_) => return Err(Error::invalid("Invalid discard option")),
        };
        generic.detect_zeroes = match take_text(options, "detect-zeroes").as_deref() {
            None | Some("off") => DetectZeroes::Off,
            Some("on") => DetectZeroes::On,
            Some("unmap") if generic.unmap == Some(true) => DetectZeroes::Unmap,
            Some("unmap") => {
                return Err(Error::invalid(
                    "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap",
                ));
            }
            Some(other) => return Err(Error::invalid(format!("invalid parameter value: {other}"))),
        };
        Ok(generic)
    }

    /// An error if they contradict a use for writing.
    pub(crate) fn check_write(&self, write: bool) -> Result<()> {
        if write && self.force_share == Some(true) {
            return Err(force_share_write());
        }
        if write && self.read_only == Some(true) {
            return Err(Error::new(ErrorKind::ReadOnly, "Block node is read-only"));
        }
        Ok(())
    }

    /// The cache mode that results where `base` is asked for.
    pub(crate) fn cache(&self, base: CacheMode) -> CacheMode {
        let direct = self.direct.unwrap_or(base.is_direct());
        let no_flush = self.no_flush.unwrap_or(base.ignores_flush());
        match (direct, no_flush, base.is_write_through()) {
            (false, true, _) => CacheMode::Unsafe,
            // Flushes are rather done than left out where both are asked for.
            (true, _, false) => CacheMode::None,
            (true, _, true) => CacheMode::DirectSync,
            (false, false, true) => CacheMode::WriteThrough,
            (false, false, false) => CacheMode::WriteBack,
        }
    }

    /// Zeroing and discarding, where `unmap` is asked for.
    pub(crate) fn stack(&self, unmap: bool) -> StackOptions {
        StackOptions { unmap: self.unmap.unwrap_or(unmap), detect_zeroes: self.detect_zeroes }
    }
}

/// The error of force-share together with writing.
pub(crate) fn force_share_write() -> Error {
    Error::invalid("force-share=on can only be used with read-only images")
}

fn check_node_name(name: &str) -> Result<()> {
    if !is_identifier(name) {
        return Err(Error::invalid(format!("Invalid node-name: '{name}'")));
    }
    if name.len() > MAX_NODE_NAME {
        return Err(Error::invalid("Node name too long"));
    }
    Ok(())
}

/// Takes an option out as text, whatever its type was; `null` counts as absent.
pub(crate) fn take_text(options: &mut RuntimeOptions, name: &str) -> Option<String> {
    Some(match options.take(name)? {
        RuntimeValue::Str(text) => text,
        RuntimeValue::Int(number) => number.to_string(),
        RuntimeValue::Uint(number) => number.to_string(),
        RuntimeValue::Float(number) => number.to_string(),
        RuntimeValue::Bool(yes) => if yes { "on" } else { "off" }.to_owned(),
        RuntimeValue::Null => return None,
    })
}

fn take_bool(options: &mut RuntimeOptions, name: &str) -> Result<Option<bool>> {
    take_text(options, name).map(|text| parse_bool(name, &text)).transpose()
}

/// Takes an option out if it is text; another type counts as absent.
pub(crate) fn take_only_text(options: &mut RuntimeOptions, name: &str) -> Option<String> {
    match options.take(name) {
        Some(RuntimeValue::Str(text)) => Some(text),
        _ => None,
    }
}

/// The option that is named in the message about options that nobody knows.
pub(crate) fn first_unknown(options: &RuntimeOptions) -> Option<&str> {
    options.iter().map(|(name, _)| name).min_by_key(|name| key_order(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::parse_image_opts;

    fn take(text: &str) -> Result<Generic, String> {
        let mut options = parse_image_opts(text).unwrap().options;
        Generic::take(&mut options).map_err(|error| error.joined())
    }

    #[test]
    fn wrong_values_have_the_known_messages() {
        let rows = [
            ("discard=foo", "Invalid discard option"),
            ("detect-zeroes=foo", "invalid parameter value: foo"),
            ("read-only=foo", "Parameter 'read-only' expects 'on' or 'off'"),
            ("node-name=.foo", "Invalid node-name: '.foo'"),
            ("node-name=", "Invalid node-name: ''"),
            ("node-name=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "Node name too long"),
            ("cache.direct=5", "Parameter 'cache.direct' expects 'on' or 'off'"),
            (
                "detect-zeroes=unmap",
                "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap",
            ),
        ];
        for (text, message) in rows {
            assert_eq!(take(text), Err(message.to_owned()), "{text}");
        }
        assert_eq!(take("detect-zeroes=unmap,discard=unmap").unwrap().detect_zeroes, DetectZeroes::Unmap);
    }

    #[test]
    fn cache_options_change_the_mode_that_was_asked_for() {
        let rows = [
            ("cache.direct=on", CacheMode::WriteBack, CacheMode::None),
            ("cache.direct=on", CacheMode::WriteThrough, CacheMode::DirectSync),
            ("cache.direct=off", CacheMode::None, CacheMode::WriteBack),
            ("cache.no-flush=on", CacheMode::WriteBack, CacheMode::Unsafe),
            ("cache.no-flush=off", CacheMode::Unsafe, CacheMode::WriteBack),
            ("", CacheMode::DirectSync, CacheMode::DirectSync),
        ];
        for (text, base, wanted) in rows {
            assert_eq!(take(text).unwrap().cache(base), wanted, "{text} {base:?}");
        }
    }
}
