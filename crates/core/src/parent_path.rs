//! Names of parents as Windows writes them, and as files are called here.

/// A stored path as it is used here: relative to the image's folder, if it does not start with a slash. Of a path with a
/// drive or a server the last part is left, which is looked for beside the image. `None` if that is no name.
#[must_use]
pub fn from_windows(stored: &str) -> Option<String> {
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

/// A name that is relative to the image's folder, as Windows writes it; `None` for one that is not relative.
#[must_use]
pub fn to_windows(name: &str) -> Option<String> {
    if name.starts_with('/') {
        return None;
    }
    let path = name.replace('/', "\\");
    Some(if path.starts_with('.') { path } else { format!(".\\{path}") })
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
            assert_eq!(from_windows(stored).as_deref(), expected, "{stored}");
        }
    }

    #[test]
    fn relative_names_are_found_again() {
        for (name, stored) in [("a.vhd", ".\\a.vhd"), ("../b/a.vhd", "..\\b\\a.vhd"), ("./a", ".\\a")] {
            assert_eq!(to_windows(name).as_deref(), Some(stored));
            let back = from_windows(stored).unwrap();
            assert_eq!(back.trim_start_matches("./"), name.trim_start_matches("./"));
        }
        assert_eq!(to_windows("/a/b"), None);
    }
}
