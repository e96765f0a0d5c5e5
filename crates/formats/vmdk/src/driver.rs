//! The format's description: the one place where it says what it is and can do.

use diskimg_core::FormatDriver;
use diskimg_core::driver::{Caps, Creator, ProbeInput, Score};

use crate::header::{COWD, KDMV};
use crate::{create, open, options};

/// The probe of a file with a magic number, or with the first lines of a descriptor.
const SURE: Score = 100;
/// First lines of descriptors.
const VERSIONS: [&[u8]; 3] = [b"version=1", b"version=2", b"version=3"];

/// The VMDK format.
pub static DRIVER: FormatDriver = FormatDriver {
    name: "vmdk",
    extensions: &["vmdk"],
    caps: Caps::WRITE.union(Caps::CREATE).union(Caps::BACKING).union(Caps::CHECK).union(Caps::COMPRESS),
    options: &options::OPTIONS,
    strong_options: &[],
    probe,
    open: open::open,
    creator: Some(Creator { validate: create::validate, create: create::create, order: create::write_order }),
    measure: None,
};

fn probe(input: &ProbeInput<'_>) -> Score {
    let is_known =
        input.head.starts_with(&KDMV) || input.head.starts_with(&COWD) || is_descriptor(input.head);
    if is_known { SURE } else { 0 }
}

/// Comments and lines of blanks, then a version that is known.
fn is_descriptor(head: &[u8]) -> bool {
    let mut lines = head.split_inclusive(|byte| *byte == b'\n');
    let first = lines.find(|line| !line.starts_with(b"#") && !is_blank(line));
    first.is_some_and(|line| {
        let text = line.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        text.is_some_and(|text| VERSIONS.contains(&text))
    })
}

/// At least one blank, and nothing else but the line's end.
fn is_blank(line: &[u8]) -> bool {
    let Some(line) = line.strip_suffix(b"\n") else { return false };
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    !line.is_empty() && line.iter().all(|byte| *byte == b' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(text: &str) -> Score {
        let mut head = text.as_bytes().to_vec();
        head.resize(512, 0);
        probe(&ProbeInput { head: &head, filename: "x" })
    }

    #[test]
    fn magic_numbers_and_descriptors_are_known() {
        for text in ["KDMV", "COWD", "version=1\n", "# c\n  \n \r\nversion=3\r\n", "# c\r\nversion=2\n"] {
            assert_eq!(score(text), 100, "{text:?}");
        }
        for text in [
            "",
            "VMDK",
            "version=4\n",
            "version=1",
            "\nversion=1\n",
            "version=1 \n",
            "# c\n",
            "x\nversion=1\n",
        ] {
            assert_eq!(score(text), 0, "{text:?}");
        }
    }
}
