//! Command line options as GNU `getopt_long` reads them: clusters of short options, `-oVALUE`, `--long=VALUE`,
//! unambiguous abbreviations, operands between options, `--`, and its error messages to the byte.
//!
//! Own code because these details are part of the drop-in contract: scripts depend on the permutation and on
//! the abbreviations, and people search for the messages. Used by `command` only; it knows no option's meaning.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

/// A long option, a short option, or both. `K` names its meaning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opt<K: 'static> {
    /// What it means.
    pub key: K,
    /// Its letter.
    pub short: Option<u8>,
    /// Its long names; all mean the same.
    pub long: &'static [&'static str],
    /// It takes a value.
    pub value: bool,
}

/// How operands between options are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Options are found behind operands too; operands come last.
    Permute,
    /// The first operand ends the options.
    Strict,
    /// Operands are reported where they stand.
    InPlace,
}

impl Order {
    /// Permutation, unless the environment asks for POSIX rules.
    pub(crate) fn permute() -> Self {
        if std::env::var_os("POSIXLY_CORRECT").is_some() { Self::Strict } else { Self::Permute }
    }
}

/// One step through the arguments.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item<K> {
    /// An option with its value.
    Option(K, Option<OsString>),
    /// An operand ([`Order::InPlace`] only).
    Operand(OsString),
}

/// A message without the program's name, as bytes: it may quote arguments that are not UTF-8.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UsageError(pub(crate) Vec<u8>);

/// Walks through arguments.
pub(crate) struct Getopt<'a, K: 'static> {
    args: &'a [OsString],
    opts: &'static [Opt<K>],
    /// Options of this program alone: never abbreviated, and no reason for an abbreviation to be ambiguous.
    own: &'static [Opt<K>],
    order: Order,
    cluster: &'a [u8],
    operands: Vec<OsString>,
}

fn message(parts: &[&[u8]]) -> UsageError {
    UsageError(parts.concat())
}

impl<'a, K: Copy + PartialEq> Getopt<'a, K> {
    /// Starts at the first of `args`, which are without the program's name.
    pub(crate) fn new(args: &'a [OsString], opts: &'static [Opt<K>], order: Order) -> Self {
        Self { args, opts, own: &[], order, cluster: &[], operands: Vec::new() }
    }

    /// The same with options of this program alone.
    pub(crate) fn with_own(self, own: &'static [Opt<K>]) -> Self {
        Self { own, ..self }
    }

    /// The next option; `None` when there is none left.
    pub(crate) fn next(&mut self) -> Result<Option<Item<K>>, UsageError> {
        loop {
            if let Some((letter, rest)) = self.cluster.split_first() {
                self.cluster = rest;
                return self.short(*letter).map(Some);
            }
            let Some((arg, rest)) = self.args.split_first() else { return Ok(None) };
            let bytes = arg.as_bytes();
            if bytes == b"--" {
                self.args = rest;
                return Ok(None);
            }
            if let Some(long) = bytes.strip_prefix(b"--") {
                self.args = rest;
                return self.long(long).map(Some);
            }
            if bytes.len() > 1 && bytes.starts_with(b"-") {
                self.args = rest;
                self.cluster = bytes.get(1..).unwrap_or_default();
                continue;
            }
            match self.order {
                Order::Strict => return Ok(None),
                Order::Permute => self.operands.push(arg.clone()),
                Order::InPlace => {
                    self.args = rest;
                    return Ok(Some(Item::Operand(arg.clone())));
                }
            }
            self.args = rest;
        }
    }

    /// The next argument as it is, if `wanted` says so; for a value that looks like an option.
    pub(crate) fn take_if(&mut self, wanted: impl Fn(&OsStr) -> bool) -> Option<OsString> {
        let (arg, rest) = self.args.split_first()?;
        if !wanted(arg) {
            return None;
        }
        self.args = rest;
        Some(arg.clone())
    }

    /// All operands, once [`Getopt::next`] has ended.
    pub(crate) fn operands(mut self) -> Vec<OsString> {
        self.operands.extend(self.args.iter().cloned());
        self.operands
    }

    fn take_value(&mut self) -> Option<OsString> {
        self.take_if(|_| true)
    }

    fn short(&mut self, letter: u8) -> Result<Item<K>, UsageError> {
        let Some(opt) = self.opts.iter().find(|opt| opt.short == Some(letter)) else {
            return Err(message(&[b"invalid option -- '", &[letter], b"'"]));
        };
        if !opt.value {
            return Ok(Item::Option(opt.key, None));
        }
        let attached = std::mem::take(&mut self.cluster);
        if !attached.is_empty() {
            return Ok(Item::Option(opt.key, Some(OsStr::from_bytes(attached).to_owned())));
        }
        match self.take_value() {
            Some(value) => Ok(Item::Option(opt.key, Some(value))),
            None => Err(message(&[b"option requires an argument -- '", &[letter], b"'"])),
        }
    }

    fn long(&mut self, text: &[u8]) -> Result<Item<K>, UsageError> {
        let mut halves = text.splitn(2, |byte| *byte == b'=');
        let name = halves.next().unwrap_or_default();
        let given = halves.next();
        let (opt, full) = self.find_long(text, name)?;
        match (opt.value, given) {
            (false, None) => Ok(Item::Option(opt.key, None)),
            (false, Some(_)) => {
                Err(message(&[b"option '--", full.as_bytes(), b"' doesn't allow an argument"]))
            }
            (true, Some(value)) => Ok(Item::Option(opt.key, Some(OsStr::from_bytes(value).to_owned()))),
            (true, None) => match self.take_value() {
                Some(value) => Ok(Item::Option(opt.key, Some(value))),
                None => Err(message(&[b"option '--", full.as_bytes(), b"' requires an argument"])),
            },
        }
    }

    /// The option that `name` is or abbreviates. Abbreviations of options that mean the same are not ambiguous. The
    /// program's own options are never abbreviated, and their values stand behind `=`: all else is qemu-img's.
    fn find_long(&self, text: &[u8], name: &[u8]) -> Result<(&'static Opt<K>, &'static str), UsageError> {
        let own: &'static [Opt<K>] = self.own;
        let mut own = own.iter().flat_map(|opt| opt.long.iter().map(move |long| (opt, *long)));
        let valued = text.len() > name.len();
        if let Some(exact) = own.find(|(opt, long)| opt.value == valued && long.as_bytes() == name) {
            return Ok(exact);
        }
        let opts: &'static [Opt<K>] = self.opts;
        let all = opts.iter().flat_map(|opt| opt.long.iter().map(move |long| (opt, *long)));
        let fits: Vec<_> = all.filter(|(_, long)| long.as_bytes().starts_with(name)).collect();
        if let Some(exact) = fits.iter().find(|(_, long)| long.as_bytes() == name) {
            return Ok(*exact);
        }
        let Some(first) = fits.first() else {
            return Err(message(&[b"unrecognized option '--", text, b"'"]));
        };
        let others: Vec<_> = fits.iter().filter(|(opt, _)| opt.key != first.0.key).collect();
        if others.is_empty() {
            return Ok(*first);
        }
        let mut error = message(&[b"option '--", text, b"' is ambiguous; possibilities:"]);
        for (_, long) in std::iter::once(first).chain(others) {
            error.0.extend_from_slice(format!(" '--{long}'").as_bytes());
        }
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Key {
        Format,
        Quiet,
        Object,
        Output,
    }

    const OPTS: &[Opt<Key>] = &[
        Opt { key: Key::Format, short: Some(b'f'), long: &["format", "fmt-alias"], value: true },
        Opt { key: Key::Quiet, short: Some(b'q'), long: &["quiet"], value: false },
        Opt { key: Key::Output, short: None, long: &["output"], value: true },
        Opt { key: Key::Object, short: None, long: &["object"], value: true },
    ];

    fn run(order: Order, args: &[&str]) -> (Vec<String>, Result<Vec<String>, String>) {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let mut getopt = Getopt::new(&args, OPTS, order);
        let mut seen = Vec::new();
        loop {
            match getopt.next() {
                Ok(Some(Item::Option(key, value))) => {
                    seen.push(format!("{key:?}={}", value.unwrap_or_default().display()));
                }
                Ok(Some(Item::Operand(text))) => seen.push(text.display().to_string()),
                Ok(None) => break,
                Err(error) => return (seen, Err(String::from_utf8_lossy(&error.0).into_owned())),
            }
        }
        let rest = getopt.operands().iter().map(|text| text.display().to_string()).collect();
        (seen, Ok(rest))
    }

    fn error(args: &[&str]) -> String {
        run(Order::Permute, args).1.unwrap_err()
    }

    #[test]
    fn options_are_found_behind_operands() {
        let (seen, rest) = run(Order::Permute, &["a", "-qfraw", "b", "-f", "x", "--", "-q", "c"]);
        assert_eq!(seen, ["Quiet=", "Format=raw", "Format=x"]);
        assert_eq!(rest.unwrap(), ["a", "b", "-q", "c"]);
    }

    #[test]
    fn strict_order_stops_at_the_first_operand() {
        let (seen, rest) = run(Order::Strict, &["-q", "info", "-q"]);
        assert_eq!((seen, rest.unwrap()), (vec!["Quiet=".into()], vec!["info".into(), "-q".into()]));
    }

    #[test]
    fn in_place_order_reports_operands_where_they_stand() {
        let (seen, rest) = run(Order::InPlace, &["a", "-q", "-", "--", "b"]);
        assert_eq!((seen, rest.unwrap()), (vec!["a".into(), "Quiet=".into(), "-".into()], vec!["b".into()]));
    }

    #[test]
    fn long_options_take_values_both_ways_and_abbreviate() {
        let (seen, _) = run(Order::Permute, &["--form=a=b", "--output", "json", "--fmt=", "--qu"]);
        assert_eq!(seen, ["Format=a=b", "Output=json", "Format=", "Quiet="]);
        assert_eq!(run(Order::Permute, &["--f=x"]).0, ["Format=x"]);
    }

    #[test]
    fn messages_are_those_of_the_gnu_library() {
        assert_eq!(error(&["-z"]), "invalid option -- 'z'");
        assert_eq!(error(&["-qf"]), "option requires an argument -- 'f'");
        assert_eq!(error(&["--foo=1"]), "unrecognized option '--foo=1'");
        assert_eq!(error(&["--out"]), "option '--output' requires an argument");
        assert_eq!(error(&["--quiet=1"]), "option '--quiet' doesn't allow an argument");
        assert_eq!(
            error(&["--o=json"]),
            "option '--o=json' is ambiguous; possibilities: '--output' '--object'"
        );
    }
}
