//! What a text descriptor says. Pure text work; hostile texts give errors.
//!
//! Reading is as forgiving as qemu-img's: a value is looked for anywhere, line ends are LF or CRLF, unknown lines are
//! skipped. Unlike it, an empty line in front of an extent line has no meaning.

use crate::error::VmdkError;
use crate::extent_line::{self, ExtentLine};
use crate::limits::{MAX_CREATE_TYPE, MAX_EXTENTS, MAX_PARENT_NAME};

/// The content identifier of a parent that does not exist.
pub(crate) const NO_PARENT: u32 = u32::MAX;

/// Types of disks whose parts a text descriptor names.
const TEXT_TYPES: [&str; 6] =
    ["monolithicFlat", "vmfs", "vmfsSparse", "seSparse", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"];

/// The identifiers and the parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Changes with the contents.
    pub cid: u32,
    /// What the parent's was when the image was made; [`NO_PARENT`] without one.
    pub parent_cid: u32,
    /// The name of the parent.
    pub parent: Option<String>,
}

/// A descriptor's text up to its first zero byte.
pub(crate) fn text_of(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let mut text = String::with_capacity(end);
    for chunk in bytes.get(..end).unwrap_or_default().utf8_chunks() {
        text.push_str(chunk.valid());
        // One for each byte: places in the text are places in the file.
        text.extend(chunk.invalid().iter().map(|_| '?'));
    }
    text
}

/// The type of the disk; `None` if it is not said.
pub(crate) fn create_type(text: &str) -> Option<String> {
    let rest = after(text, "createType")?;
    let value = rest.trim_start_matches([' ', '\t']).strip_prefix('=')?;
    let value = value.trim_start_matches([' ', '\t']).strip_prefix('"')?;
    let end = value.find('"')?;
    value.get(..end).filter(|value| value.len() <= MAX_CREATE_TYPE).map(str::to_owned)
}

/// The type of a disk whose parts a text descriptor names.
pub(crate) fn text_type(text: &str) -> Result<String, VmdkError> {
    let name = create_type(text).ok_or(VmdkError::NoCreateType)?;
    if TEXT_TYPES.contains(&name.as_str()) { Ok(name) } else { Err(VmdkError::CreateType(name)) }
}

/// The extents that the text names, in order.
pub(crate) fn extents(text: &str) -> Result<Vec<ExtentLine>, VmdkError> {
    let mut extents = Vec::new();
    for line in text.split('\n') {
        if let Some(extent) = extent_line::parse(line.trim_end_matches('\r'))? {
            extents.push(extent);
        }
        if extents.len() > MAX_EXTENTS {
            return Err(VmdkError::TooManyExtents(MAX_EXTENTS));
        }
    }
    if extents.is_empty() { Err(VmdkError::NoExtents) } else { Ok(extents) }
}

/// The identifiers and the parent.
pub(crate) fn identity(text: &str) -> Result<Identity, VmdkError> {
    let parent = match after(text, "parentFileNameHint") {
        Some(rest) => Some(quoted(rest).ok_or(VmdkError::Invalid)?),
        None => None,
    };
    let hex = |at: Option<usize>| at.and_then(|at| number(text.get(at..)?)).ok_or(VmdkError::Invalid);
    Ok(Identity {
        cid: hex(cid_value(text))?,
        parent_cid: hex(parent_cid_value(text))?,
        parent: parent.filter(|name| !name.is_empty()),
    })
}

/// Where the value of `CID` starts: that of a line of its own, else of the first place that has the word.
pub(crate) fn cid_value(text: &str) -> Option<usize> {
    let own_line = || text.find("\nCID=").map(|at| at + 1);
    let first = if text.starts_with("CID=") { Some(0) } else { own_line().or_else(|| text.find("CID")) };
    first.map(|at| at + "CID=".len())
}

/// Where the value of `parentCID` starts.
pub(crate) fn parent_cid_value(text: &str) -> Option<usize> {
    text.find("parentCID").map(|at| at + "parentCID=".len())
}

/// Length of the hexadecimal number at the start of `text`, in bytes.
pub(crate) fn hex_len(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_hexdigit).count()
}

/// A hexadecimal number, perhaps behind blanks and `0x`.
fn number(text: &str) -> Option<u32> {
    let text = text.trim_start();
    let text = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    let digits = text.get(..hex_len(text)).filter(|digits| !digits.is_empty())?;
    let tail = digits.get(digits.len().saturating_sub(8)..)?;
    u32::from_str_radix(tail, 16).ok()
}

fn after<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    text.get(text.find(word)? + word.len()..)
}

/// The text between quotes behind `=`.
fn quoted(text: &str) -> Option<String> {
    let value = text.trim_start_matches([' ', '\t', '=']).strip_prefix('"')?;
    value.get(..value.find('"')?).filter(|value| value.len() <= MAX_PARENT_NAME).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "# Disk DescriptorFile\nversion=1\nCID=5e15c260\nparentCID=ffffffff\n\
        createType=\"monolithicFlat\"\n\n# Extent description\n\nRW 10 FLAT \"a-flat.vmdk\" 0\n";

    #[test]
    fn a_descriptor_is_read() {
        assert_eq!(text_type(SAMPLE).unwrap(), "monolithicFlat");
        let identity = identity(SAMPLE).unwrap();
        assert_eq!((identity.cid, identity.parent_cid, identity.parent), (0x5e15_c260, NO_PARENT, None));
        // The empty line in front of it does not count it twice.
        assert_eq!(extents(SAMPLE).unwrap().len(), 1);
        let crlf = SAMPLE.replace('\n', "\r\n");
        assert_eq!((extents(&crlf).unwrap().len(), identity_of(&crlf)), (1, 0x5e15_c260));
    }

    fn identity_of(text: &str) -> u32 {
        identity(text).unwrap().cid
    }

    #[test]
    fn the_own_identifier_is_not_taken_for_the_parents() {
        let text = "parentCID=1\nCID=0x2\nparentFileNameHint=\"p.vmdk\"\n";
        let identity = identity(text).unwrap();
        assert_eq!((identity.cid, identity.parent_cid, identity.parent.as_deref()), (2, 1, Some("p.vmdk")));
        assert!(identity_err("CID=1\n") && identity_err("parentCID=zz CID=1"));
        assert!(identity_err("CID=1\nparentCID=1\nparentFileNameHint=\"open"));
    }

    fn identity_err(text: &str) -> bool {
        identity(text).is_err()
    }

    #[test]
    fn types_that_have_no_text_descriptor_are_refused() {
        let text = |name: &str| format!("createType=\"{name}\"");
        assert_eq!(
            text_type(&text("fullDevice")).unwrap_err().to_string(),
            "Unsupported image type 'fullDevice'"
        );
        assert_eq!(text_type("x").unwrap_err().to_string(), "invalid VMDK image descriptor");
        assert!(text_type(&text(&"x".repeat(128))).is_err());
        assert_eq!(create_type("createType = \"vmfs\"").as_deref(), Some("vmfs"));
    }
}
