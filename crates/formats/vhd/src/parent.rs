//! The parent of a differencing image: which of its names is taken, and whether it is the right one.

use diskimg_core::parent_path::from_windows;
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
            if let Some(path) = from_windows(&read(storage, locator)?) {
                return Ok(path);
            }
        }
    }
    from_windows(&header.parent_name)
        .ok_or_else(|| Error::corrupt("the differencing VHD image does not name its parent"))
}

/// The text that a locator points to.
fn read(storage: &dyn BlockDevice, locator: &Locator) -> Result<String> {
    let there = storage.len().saturating_sub(locator.offset);
    let mut bytes = vec![0; to_usize(u64::from(locator.len).min(there))];
    read_zero_padded(storage, locator.offset, &mut bytes)?;
    Ok(if locator.platform == *b"MacX" {
        from_url(&String::from_utf8_lossy(&bytes))
    } else {
        text(bytes.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit)))
    })
}

/// The path of a `file` URL: without a host, its escapes (`%20`) resolved.
fn from_url(url: &str) -> String {
    let url = url.trim_end_matches('\0');
    let path = url.strip_prefix("file://").unwrap_or(url);
    let path = path.strip_prefix("localhost").filter(|rest| rest.starts_with('/')).unwrap_or(path);
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind.get(..2).filter(|_| *first == b'%');
        let escaped = digits
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { behind.get(2..).unwrap_or_default() } else { behind };
    }
    String::from_utf8_lossy(&bytes).into_owned()
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
    use super::from_url;

    #[test]
    fn a_url_gives_its_path() {
        let cases = [
            ("file:///a/b.vhd\0\0", "/a/b.vhd"),
            ("file://localhost/Users/a%20b/%C3%BC.vhd", "/Users/a b/ü.vhd"),
            ("file://./b.vhd", "./b.vhd"),
            ("localhost.vhd", "localhost.vhd"),
            ("file:///100%/a%2", "/100%/a%2"),
        ];
        for (url, path) in cases {
            assert_eq!(from_url(url), path);
        }
    }
}
