//! The configuration file of `blkdebug`: groups in brackets, then `key = "value"` lines, and comments with `#`.

use diskimg_core::{Error, Result};

/// A group's name and its entries in their order.
pub(crate) type Group = (String, Vec<(String, String)>);

/// The groups of a file.
///
/// # Errors
/// `InvalidArg` in qemu-img's words.
pub(crate) fn parse(text: &str) -> Result<Vec<Group>> {
    let mut groups: Vec<Group> = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(head) = line.strip_prefix('[') {
            let name = head.split(']').next().unwrap_or(head);
            // An identifier in quotes may follow.
            let name = name.split(" \"").next().unwrap_or(name);
            if !matches!(name, "inject-error" | "set-state") {
                return Err(Error::invalid(format!("There is no option group '{name}'")));
            }
            groups.push((name.to_owned(), Vec::new()));
            continue;
        }
        let Some((_, entries)) = groups.last_mut() else { return Err(Error::invalid("no group defined")) };
        let (key, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let value = rest.trim_start().strip_prefix('=').map(str::trim_start);
        let value = value.and_then(|quoted| quoted.strip_prefix('"')).and_then(|rest| rest.split('"').next());
        entries.push((key.to_owned(), value.unwrap_or_default().to_owned()));
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_entries() {
        let groups =
            parse("# c\n[inject-error]\n  event = \"none\"\nonce=\"x\"\n[set-state \"i\"]\nerrno = 5\n")
                .unwrap();
        let entry = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(groups.len(), 2);
        assert_eq!(groups[0].1, [entry("event", "none"), entry("once=\"x\"", "")]);
        assert_eq!(groups[1], ("set-state".to_owned(), vec![entry("errno", "")]));
    }

    #[test]
    fn refusals_are_those_that_are_known() {
        let error = |text| parse(text).unwrap_err().to_string();
        assert_eq!(error("[foo]\n"), "There is no option group 'foo'");
        assert_eq!(error("x = \"1\"\n"), "no group defined");
    }
}
