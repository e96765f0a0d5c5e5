//! The format's description: the one place where it says what it is and can do.

use diskimg_core::FormatDriver;
use diskimg_core::driver::{Caps, Creator, ProbeInput, Score};

use crate::header::MAGIC;
use crate::{create, measure, open, options};

/// The probe of a file with the format's magic number.
const SURE: Score = 100;

/// The qcow2 format, versions 2 and 3.
pub static DRIVER: FormatDriver = FormatDriver {
    name: "qcow2",
    extensions: &["qcow2", "qcow", "img"],
    caps: Caps::WRITE
        .union(Caps::CREATE)
        .union(Caps::ENCRYPT)
        .union(Caps::BACKING)
        .union(Caps::CHECK)
        .union(Caps::REPAIR)
        .union(Caps::COMPRESS)
        .union(Caps::RESIZE)
        .union(Caps::BITMAPS)
        .union(Caps::PREALLOCATE)
        .union(Caps::AMEND)
        .union(Caps::SNAPSHOTS)
        .union(Caps::FORWARD),
    options: &options::OPTIONS,
    strong_options: &["encrypt.key-secret"],
    probe,
    open: open::open,
    creator: Some(Creator {
        validate: create::validate,
        create: create::create,
        order: options::write_order,
    }),
    measure: Some(measure::measure),
};

/// The magic number and a version of 2 or more; later ones are refused when the image is opened.
fn probe(input: &ProbeInput<'_>) -> Score {
    let Some((magic, rest)) = input.head.split_first_chunk() else { return 0 };
    let Some(version) = rest.first_chunk() else { return 0 };
    let known = u32::from_be_bytes(*magic) == MAGIC && u32::from_be_bytes(*version) >= 2;
    if known { SURE } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_one_is_another_format() {
        let score = |head: &[u8]| probe(&ProbeInput { head, filename: "x" });
        assert_eq!(score(b"QFI\xfb\0\0\0\x01"), 0);
        assert_eq!(score(b"QFI\xfb\0\0\0\x02"), SURE);
        assert_eq!(score(b"QFI\xfb\0\0\0\x09"), SURE);
        assert_eq!(score(b"QFI\xfb"), 0);
        assert_eq!(score(b""), 0);
    }
}
