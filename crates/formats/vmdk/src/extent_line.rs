//! Lines of a descriptor that name an extent: `ACCESS SECTORS TYPE "FILE" [OFFSET]`.
//!
//! Pure text work. Lines that are no such line are skipped; one that begins as one and does not end as one is refused.

use crate::error::VmdkError;
use crate::limits::{MAX_EXTENT_NAME, MAX_EXTENT_WORD, SECTOR};

/// What may be done with an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    ReadWrite,
    ReadOnly,
    None,
}

/// What an extent's file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExtentType {
    /// The bytes as they are, from a byte offset on.
    Flat { offset: u64 },
    /// A sparse extent: the file's magic number says of which kind.
    Sparse,
    /// ESX's seSparse.
    SeSparse,
    /// Zeros, without a file.
    Zero,
}

/// A line that names an extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExtentLine {
    pub access: Access,
    /// Bytes; for sparse extents their own header says it.
    pub len: u64,
    /// The word that stands for the type.
    pub word: String,
    pub kind: ExtentType,
    /// Empty for zeros.
    pub file: String,
}

/// Access words.
const ACCESS: [(&str, Access); 3] =
    [("RW", Access::ReadWrite), ("RDONLY", Access::ReadOnly), ("NOACCESS", Access::None)];

/// What stands where in a line.
struct Tokens<'a> {
    access: Access,
    sectors: i64,
    word: &'a str,
    file: Option<&'a str>,
    offset: Option<i64>,
}

/// The extent that `line` names; `None`: it names none.
pub(crate) fn parse(line: &str) -> Result<Option<ExtentLine>, VmdkError> {
    let Some(tokens) = tokens(line) else { return Ok(None) };
    let bad = || VmdkError::ExtentLine(line.trim_end().to_owned());
    let Some(file) = tokens.file else {
        let is_zero = tokens.word == "ZERO" && tokens.sectors > 0;
        return Ok(is_zero.then(|| extent(&tokens, ExtentType::Zero, "")));
    };
    let kind = match (tokens.word, tokens.offset) {
        ("FLAT", Some(offset)) => {
            let offset = u64::try_from(offset).ok().and_then(|offset| offset.checked_mul(SECTOR));
            ExtentType::Flat { offset: offset.ok_or_else(bad)? }
        }
        ("VMFS", None) => ExtentType::Flat { offset: 0 },
        ("SPARSE" | "VMFSSPARSE", None) => ExtentType::Sparse,
        ("SESPARSE", None) => ExtentType::SeSparse,
        ("ZERO", None) => ExtentType::Zero,
        ("FLAT", None) | (_, Some(_)) => return Err(bad()),
        (_, None) => return Ok(None),
    };
    Ok((tokens.sectors > 0).then(|| extent(&tokens, kind, file)))
}

fn extent(tokens: &Tokens<'_>, kind: ExtentType, file: &str) -> ExtentLine {
    let sectors = u64::try_from(tokens.sectors).unwrap_or(0);
    ExtentLine {
        access: tokens.access,
        len: sectors.saturating_mul(SECTOR),
        word: tokens.word.to_owned(),
        kind,
        file: file.to_owned(),
    }
}

/// The words of a line that begins with an access word and a number of sectors.
fn tokens(line: &str) -> Option<Tokens<'_>> {
    let (access, rest) = word(line)?;
    let access = ACCESS.iter().find(|(name, _)| *name == access).map(|(_, access)| *access)?;
    let (sectors, rest) = word(rest)?;
    let sectors = sectors.parse().ok()?;
    let (kind, rest) = word(rest)?;
    if kind.len() > MAX_EXTENT_WORD {
        return None;
    }
    let (file, offset) = match rest.trim_start().strip_prefix('"').and_then(|rest| rest.split_once('"')) {
        Some((file, _)) if file.is_empty() || file.len() > MAX_EXTENT_NAME => return None,
        Some((file, rest)) => (Some(file), word(rest).and_then(|(number, _)| number.parse().ok())),
        None => (None, None),
    };
    Some(Tokens { access, sectors, word: kind, file, offset })
}

/// The first word of `text` and what follows it.
fn word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let (word, rest) = text.split_at_checked(end)?;
    (!word.is_empty()).then_some((word, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(line: &str) -> Option<ExtentType> {
        parse(line).unwrap().map(|extent| extent.kind)
    }

    #[test]
    fn lines_of_every_type_are_read() {
        assert_eq!(kind("RW 100 SPARSE \"a b.vmdk\""), Some(ExtentType::Sparse));
        assert_eq!(kind("  RW 100 VMFSSPARSE \"a\"\r"), Some(ExtentType::Sparse));
        assert_eq!(kind("RW 100 FLAT \"a\" 3"), Some(ExtentType::Flat { offset: 1536 }));
        assert_eq!(kind("RDONLY 100 VMFS \"a\""), Some(ExtentType::Flat { offset: 0 }));
        assert_eq!(kind("RW 100 SESPARSE \"a\""), Some(ExtentType::SeSparse));
        assert_eq!(kind("RW 100 ZERO"), Some(ExtentType::Zero));
        let line = parse("RW 100 FLAT \"a b\" 0").unwrap().unwrap();
        assert_eq!((line.len, line.file.as_str(), line.word.as_str()), (51_200, "a b", "FLAT"));
    }

    #[test]
    fn other_lines_are_skipped_and_broken_ones_refused() {
        for line in [
            "",
            "# RW 100 SPARSE \"a\"",
            "RW",
            "RW x SPARSE \"a\"",
            "RW 0 SPARSE \"a\"",
            "ddb.x = \"1\"",
            "RW 100 VMFSRDM \"a\"",
            "RW -5 SPARSE \"a\"",
            "RW 100 SPARSE a",
        ] {
            assert_eq!(kind(line), None, "{line}");
        }
        for line in
            ["RW 100 FLAT \"a\"", "RW 100 FLAT \"a\" -1", "RW 100 SPARSE \"a\" 0", "RW 9 OTHER \"a\" 0"]
        {
            let error = parse(line).unwrap_err();
            assert_eq!(error.to_string(), format!("Invalid extent line: {line}"));
        }
    }
}
