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
    /// From the value of the option.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match (text, text.strip_prefix("listed:")) {
            ("permissive", _) => Some(Self::Permissive),
            ("same-dir" | "same-directory", _) => Some(Self::SameDirectory),
            ("deny", _) => Some(Self::Deny),
            (_, Some(files)) => Some(Self::Listed(files.split(',').map(str::to_owned).collect())),
            // Anything else is a list, if its names could be those of files.
            (files, _) if files.contains(['/', '.', ',']) => {
                Some(Self::Listed(files.split(',').map(str::to_owned).collect()))
            }
            _ => None,
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
        assert_eq!(References::parse("same-directory"), Some(References::SameDirectory));
        assert_eq!(
            References::parse("listed:a,b/c"),
            Some(References::Listed(vec!["a".to_owned(), "b/c".to_owned()]))
        );
        assert_eq!(References::parse("same-dir"), Some(References::SameDirectory));
        assert_eq!(
            References::parse("base.qcow2,/srv/b"),
            Some(References::Listed(vec!["base.qcow2".to_owned(), "/srv/b".to_owned()]))
        );
        assert_eq!(References::parse("open"), None);
    }
}
