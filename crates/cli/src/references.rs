//! `--references`: which files that an image names (backing file, data file) may be opened. An option of this
//! program only, in front of the subcommand: `qemu-img-rs --references=deny convert …`. Files named on the command
//! line are always opened.

use diskimg::Context;
use diskimg::chain::{Deny, Listed, SameDirectory};

/// The policy for one run of the program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum References {
    /// All, as qemu-img does.
    #[default]
    Permissive,
    /// Those in the folder of the image that names them.
    SameDirectory,
    /// These.
    Listed(Vec<String>),
    /// None.
    Deny,
}

impl References {
    /// From the value of the option: a word, or file names with commas between them (`./deny` is a file).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Some(files) = text.strip_prefix("listed:") {
            return Some(Self::Listed(files.split(',').map(str::to_owned).collect()));
        }
        match text {
            "" => None,
            "permissive" => Some(Self::Permissive),
            "same-dir" | "same-directory" => Some(Self::SameDirectory),
            "deny" => Some(Self::Deny),
            files => Some(Self::Listed(files.split(',').map(str::to_owned).collect())),
        }
    }

    /// `context` with the gate of this policy.
    pub(crate) fn guard(&self, context: Context) -> Context {
        match self {
            Self::Permissive => context,
            Self::SameDirectory => context.with_gate(SameDirectory),
            Self::Listed(files) => context.with_gate(Listed::new(files)),
            Self::Deny => context.with_gate(Deny),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_have_names() {
        assert_eq!(References::parse("deny"), Some(References::Deny));
        assert_eq!(References::parse("same-dir"), Some(References::SameDirectory));
        assert_eq!(
            References::parse("a,b/c"),
            Some(References::Listed(vec!["a".to_owned(), "b/c".to_owned()]))
        );
        assert_eq!(References::parse(""), None);
        assert_eq!(References::parse("same-directory"), Some(References::SameDirectory));
        assert_eq!(References::parse("listed:a"), Some(References::Listed(vec!["a".to_owned()])));
    }
}
