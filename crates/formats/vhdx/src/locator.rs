//! The parent locator of a differencing disk (MS-VHDX 2.6.2.6): names of the parent's file, and the GUID that its data
//! have to have.

use diskimg_core::parent_path::{from_windows, to_windows};
use diskimg_core::{Fields, to_usize};
use uuid::Uuid;

use crate::damage::Damage;
use crate::limits::MAX_LOCATOR_VALUES;

/// The kind of locator that the format has.
const KIND: Uuid = Uuid::from_u128(0xb04aefb7_d19e_4a81_b789_25b8e9445913);
const HEAD_LEN: usize = 20;
const ENTRY_LEN: usize = 12;
/// GUIDs of the parent's data, one of which has to fit.
const LINKAGES: [&str; 2] = ["parent_linkage", "parent_linkage2"];
const RELATIVE: &str = "relative_path";
const ABSOLUTE: &str = "absolute_win32_path";
/// Paths, the best one first.
const PATHS: [&str; 3] = [RELATIVE, "volume_path", ABSOLUTE];

/// Who the parent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    /// Its file, relative to the image's folder if it does not start with a slash.
    pub name: String,
    /// Its data write GUID is one of these.
    pub linkages: Vec<Uuid>,
}

impl Parent {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Damage> {
        let values = values(bytes).ok_or(Damage::Invalid("the parent locator is damaged"))?;
        let value = |key: &str| values.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        let linkages: Vec<Uuid> =
            LINKAGES.iter().filter_map(|key| Uuid::parse_str(value(key)?).ok()).collect();
        let name = PATHS.iter().find_map(|key| from_windows(value(key)?));
        match name {
            _ if linkages.is_empty() => Err(Damage::Invalid("the parent locator has no linkage")),
            Some(name) => Ok(Self { name, linkages }),
            None => Err(Damage::Invalid("the parent locator has no path")),
        }
    }

    /// The locator `bytes` with other linkages, which take as many bytes.
    pub(crate) fn relinked(bytes: &[u8], linkage: Uuid) -> Option<Vec<u8>> {
        let text: Vec<u8> = linkage.braced().to_string().encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut changed = bytes.to_vec();
        for (key, at, len) in places(bytes)? {
            if !LINKAGES.contains(&key.as_str()) {
                continue;
            }
            let value = changed.get_mut(at..at + len).filter(|value| value.len() == text.len())?;
            value.copy_from_slice(&text);
        }
        Some(changed)
    }

    /// The locator that names the file `name` with data `linkage`.
    pub(crate) fn encode(name: &str, linkage: Uuid) -> Vec<u8> {
        let path = match to_windows(name) {
            Some(path) => (RELATIVE, path),
            None => (ABSOLUTE, name.to_owned()),
        };
        let [first, _] = LINKAGES;
        let values = [(first, linkage.braced().to_string()), path];
        let mut bytes = KIND.to_bytes_le().to_vec();
        bytes.extend([0; 2]);
        bytes.extend(u16::try_from(values.len()).unwrap_or_default().to_le_bytes());
        let mut texts: Vec<u8> = Vec::new();
        let texts_at = HEAD_LEN + values.len() * ENTRY_LEN;
        let mut entries = Vec::new();
        for (key, value) in &values {
            let places: Vec<(usize, usize)> = [*key, value.as_str()]
                .iter()
                .map(|text| {
                    let start = texts.len();
                    texts.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
                    (texts_at + start, texts.len() - start)
                })
                .collect();
            for (offset, _) in &places {
                entries.extend(u32::try_from(*offset).unwrap_or(u32::MAX).to_le_bytes());
            }
            for (_, len) in &places {
                entries.extend(u16::try_from(*len).unwrap_or(u16::MAX).to_le_bytes());
            }
        }
        bytes.extend(entries);
        bytes.extend(texts);
        bytes
    }
}

/// All keys with their values; `None` if the locator is damaged.
fn values(bytes: &[u8]) -> Option<Vec<(String, String)>> {
    places(bytes)?.into_iter().map(|(key, at, len)| Some((key, text(bytes, at, len)?))).collect()
}

/// All keys with the places and lengths of their values, in bytes.
fn places(bytes: &[u8]) -> Option<Vec<(String, usize, usize)>> {
    let mut fields = Fields::new(bytes);
    let kind = Uuid::from_bytes_le(fields.array()?);
    fields.u16_le()?;
    let count = fields.u16_le()?;
    if kind != KIND || count > MAX_LOCATOR_VALUES {
        return None;
    }
    let mut values = Vec::new();
    for _ in 0..count {
        let (key_at, value_at) = (fields.u32_le()?, fields.u32_le()?);
        let (key_len, value_len) = (fields.u16_le()?, fields.u16_le()?);
        let key = text(bytes, to_usize(key_at.into()), key_len.into())?;
        values.push((key, to_usize(value_at.into()), value_len.into()));
    }
    Some(values)
}

fn text(bytes: &[u8], at: usize, len: usize) -> Option<String> {
    let part = bytes.get(at..)?.get(..len)?;
    let units = part.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit));
    char::decode_utf16(units).collect::<Result<String, _>>().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locator_is_read_back() {
        let linkage = Uuid::new_v4();
        for (name, read) in [("base.vhdx", "./base.vhdx"), ("../b/ä.vhdx", "../b/ä.vhdx"), ("/d/a", "/d/a")]
        {
            let bytes = Parent::encode(name, linkage);
            let parent = Parent { name: read.to_owned(), linkages: vec![linkage] };
            assert_eq!(Parent::parse(&bytes).unwrap(), parent);
            let other = Uuid::new_v4();
            let relinked = Parent::parse(&Parent::relinked(&bytes, other).unwrap()).unwrap();
            assert_eq!(relinked, Parent { name: read.to_owned(), linkages: vec![other] });
            for cut in 0..bytes.len() {
                assert!(Parent::parse(&bytes[..cut]).is_err());
            }
        }
    }
}
