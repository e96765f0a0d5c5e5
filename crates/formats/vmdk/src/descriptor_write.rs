//! The text of a new descriptor, and the names of the files that it names.

use std::fmt::Write as _;
use std::hash::{BuildHasher as _, Hasher as _};

use crate::descriptor::NO_PARENT;
use crate::limits::SECTOR;

/// What a new descriptor says.
#[derive(Clone, Debug)]
pub(crate) struct NewDescriptor<'a> {
    pub cid: u32,
    /// The parent's identifier and its name.
    pub parent: Option<(u32, &'a str)>,
    pub create_type: &'a str,
    /// Lines that name the extents, each with its line end.
    pub extents: &'a str,
    pub hardware_version: &'a str,
    pub tools_version: &'a str,
    pub adapter_type: &'a str,
    /// Heads of the geometry.
    pub heads: u64,
    /// Length of the disk in bytes.
    pub disk_len: u64,
}

/// Sectors of a track in every geometry.
const TRACK: u64 = 63;

impl NewDescriptor<'_> {
    /// The text, with LF line ends.
    pub(crate) fn text(&self) -> String {
        let mut text = String::from("# Disk DescriptorFile\nversion=1\n");
        let (parent_cid, hint) = match self.parent {
            Some((cid, name)) => (cid, format!("parentFileNameHint=\"{name}\"")),
            None => (NO_PARENT, String::new()),
        };
        let cylinders = self.disk_len / (TRACK * self.heads.max(1) * SECTOR);
        let _ = write!(
            text,
            "CID={:x}\nparentCID={parent_cid:x}\ncreateType=\"{}\"\n{hint}\n# Extent description\n{}\n\
             # The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"{}\"\n\
             ddb.geometry.cylinders = \"{cylinders}\"\nddb.geometry.heads = \"{}\"\n\
             ddb.geometry.sectors = \"{TRACK}\"\nddb.adapterType = \"{}\"\nddb.toolsVersion = \"{}\"\n",
            self.cid,
            self.create_type,
            self.extents,
            self.hardware_version,
            self.heads,
            self.adapter_type,
            self.tools_version,
        );
        text
    }
}

/// A content identifier of `digits` hexadecimal digits, other than `old`: so that it takes the other one's place.
pub(crate) fn new_cid(digits: usize, old: u32) -> u32 {
    let bits = u32::try_from(digits.clamp(1, 8) * 4).unwrap_or(32);
    let mask = u32::MAX >> (32 - bits);
    let top = 1 << (bits - 4);
    loop {
        let random = random();
        let cid = random & mask;
        // No leading zero, and not the mark of "no parent".
        if cid >= top && cid != old && cid != NO_PARENT {
            return cid;
        }
    }
}

/// A number from the system's source of randomness, as the standard library draws it for its hash tables.
fn random() -> u32 {
    let number = std::collections::hash_map::RandomState::new().build_hasher().finish();
    u32::try_from(number >> 32).unwrap_or(0)
}

/// The parts of a file's name that the names of extents are made of: prefix and suffix (with its dot).
pub(crate) fn split_name(filename: &str) -> (&str, &str) {
    let base = ['/', '\\', ':'].iter().find_map(|mark| filename.rsplit_once(*mark).map(|(_, base)| base));
    let base = base.unwrap_or(filename);
    base.rfind('.').and_then(|at| base.split_at_checked(at)).unwrap_or((base, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_keep_their_length() {
        for digits in 1..=8 {
            let cid = new_cid(digits, 1);
            assert_eq!(format!("{cid:x}").len(), digits);
        }
    }

    #[test]
    fn names_are_split_at_the_last_dot_of_the_base_name() {
        let rows = [
            ("d.vmdk", "d", ".vmdk"),
            ("a/sub.dir.name.vmdk", "sub.dir.name", ".vmdk"),
            ("x.y/noext", "noext", ""),
            ("file:d.vmdk", "d", ".vmdk"),
            (r"c\d.vmdk", "d", ".vmdk"),
        ];
        for (name, prefix, suffix) in rows {
            assert_eq!(split_name(name), (prefix, suffix), "{name}");
        }
    }
}
