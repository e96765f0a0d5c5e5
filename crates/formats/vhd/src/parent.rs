//! The parent of a differencing image: which of its names is taken, and how a Windows path becomes one of ours.

use diskimg_core::{BlockDevice, Error, Image, Result, read_zero_padded, to_usize};

use crate::footer::FOOTER_LEN;
use crate::header::{Header, Locator, text};
use crate::open::find_footer;

/// Kinds of names, the best one first: a path relative to the image, a URL, a path.
const ORDER: [&[u8; 4]; 3] = [b"W2ru", b"MacX", b"W2ku"];

/// The parent's name as a backing file's: relative to the image's folder, if it does not start with a slash.
pub(crate) fn name(storage: &dyn BlockDevice, header: &Header) -> Result<String> {
    for platform in ORDER {
        for locator in header.locators.iter().filter(|locator| locator.platform == *platform) {
            if let Some(path) = path(&read(storage, locator)?) {
                return Ok(path);
            }
        }
    }
    path(&header.parent_name)
        .ok_or_else(|| Error::corrupt("the differencing VHD image does not name its parent"))
}

/// The text that a locator points to.
fn read(storage: &dyn BlockDevice, locator: &Locator) -> Result<String> {
    let there = storage.len().saturating_sub(locator.offset);
    let mut bytes = vec![0; to_usize(u64::from(locator.len).min(there))];
    read_zero_padded(storage, locator.offset, &mut bytes)?;
    Ok(if locator.platform == *b"MacX" {
        let url = String::from_utf8_lossy(&bytes);
        url.trim_end_matches('\0').trim_start_matches("file://").to_owned()
    } else {
        text(bytes.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit)))
    })
}

/// A path as it is used here. Of a Windows path with a drive or a server the last part is left, which is looked for
/// beside the image.
fn path(stored: &str) -> Option<String> {
    let path = stored.replace('\\', "/");
    let foreign = stored.starts_with("\\\\") || path.get(1..2) == Some(":");
    let path = match path.rsplit_once('/') {
        Some((_, last)) if foreign => last,
        None if foreign => path.get(2..).unwrap_or_default(),
        _ => &path,
    };
    if path.is_empty() || path.ends_with('/') {
        return None;
    }
    // Without a slash in front, a colon would make a protocol of what is before it.
    let plain = path.starts_with(['/', '.']) || !path.contains(':');
    Some(if plain { path.to_owned() } else { format!("./{path}") })
}

/// Whether `backing` is the image that a child was made for, which names it by `uuid`.
pub(crate) fn accepts(uuid: [u8; 16], backing: &dyn Image) -> Result<()> {
    let wrong = || Error::corrupt("the parent is not the one that the VHD image was made for");
    if backing.driver().name != crate::DRIVER.name {
        return Err(wrong());
    }
    let child = backing.children().into_iter().next().ok_or_else(wrong)?;
    let found = find_footer(&*child.device)?;
    debug_assert_eq!(found.footer.bytes.len(), FOOTER_LEN);
    if found.footer.uuid == uuid { Ok(()) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_other_systems_are_looked_for_beside_the_image() {
        let cases = [
            (".\\fat-parent.vhd", Some("./fat-parent.vhd")),
            ("..\\base\\a.vhd", Some("../base/a.vhd")),
            ("a.vhd", Some("a.vhd")),
            ("C:\\disks\\a.vhd", Some("a.vhd")),
            ("C:a.vhd", Some("a.vhd")),
            ("\\\\server\\share\\a.vhd", Some("a.vhd")),
            ("/disks/a.vhd", Some("/disks/a.vhd")),
            ("nbd:a.vhd", Some("./nbd:a.vhd")),
            ("C:\\disks\\", None),
            ("", None),
        ];
        for (stored, expected) in cases {
            assert_eq!(path(stored).as_deref(), expected, "{stored}");
        }
    }
}
