//! Replacing the header of an image that others may find after a crash at any moment.
//!
//! A sector is written as one or not at all, so a change within one sector is one write. Else, with a barrier at each
//! `|`: a copy of the backing name behind everything | a first sector that refers to it and takes back the word of the
//! bitmaps | the other sectors | the first sector | zeros over the copy. At each moment the image opens as the one it was
//! or as the one it becomes, perhaps without its bitmaps. (Extensions that this crate does not know and that the change
//! moves over the edge of a sector are the exception.)
//!
//! Only [`crate::meta`] uses this.

use diskimg_core::{BlockDevice, Result, read_zero_padded, to_usize};

use crate::features;

/// Bytes that the host writes as one or not at all.
const SECTOR: usize = 512;
/// Where the header holds the backing name's offset (8 bytes) and length (4).
const BACKING_FIELDS: std::ops::Range<usize> = 8..20;
/// Where the header holds the autoclear features (8 bytes).
const AUTOCLEAR_FIELD: std::ops::Range<usize> = 88..96;

/// Replaces cluster 0 by `new`. Everything that it refers to is durable.
///
/// # Errors
/// The storage's; the header then is the old one or the new one, perhaps without its bitmaps.
pub(crate) fn replace(storage: &dyn BlockDevice, new: &[u8]) -> Result<()> {
    let mut old = vec![0; new.len()];
    read_zero_padded(storage, 0, &mut old)?;
    let changed: Vec<usize> = (0..)
        .zip(old.chunks(SECTOR).zip(new.chunks(SECTOR)))
        .filter(|(_, (old, new))| old != new)
        .map(|(number, _)| number)
        .collect();
    match changed.as_slice() {
        [] => return Ok(()),
        [one] => return write_durably(storage, new, one * SECTOR..(one + 1) * SECTOR),
        _ => {}
    }
    let copy = move_name(storage, &mut old, new)?;
    if let Some(field) = old.get_mut(AUTOCLEAR_FIELD)
        && let Some(last) = field.last_mut()
        && u64::from(*last) & features::BITMAPS != 0
        && is_v3(new)
    {
        *last &= !features::BITMAPS.to_le_bytes().first().copied().unwrap_or(0);
        write_durably(storage, &old, 0..SECTOR)?;
    }
    let mut between = new.to_vec();
    if let Some((place, name)) =
        copy.clone().and_then(|place| Some((between.get_mut(place.clone())?, old.get(place)?)))
    {
        place.copy_from_slice(name);
    }
    write_durably(storage, &between, SECTOR..new.len())?;
    write_durably(storage, new, 0..SECTOR)?;
    copy.map_or(Ok(()), |copy| write_durably(storage, new, copy))
}

/// The version field; version 2 has no features.
fn is_v3(cluster: &[u8]) -> bool {
    cluster.get(7).is_some_and(|version| *version >= 3)
}

fn write_durably(storage: &dyn BlockDevice, cluster: &[u8], part: std::ops::Range<usize>) -> Result<()> {
    let start = part.start;
    let part = start..part.end.min(cluster.len());
    storage.write_at(start as u64, cluster.get(part).unwrap_or_default())?;
    storage.flush()
}

/// Puts the backing name of `old` where neither header has anything, if it is about to be overwritten and there is room.
fn move_name(
    storage: &dyn BlockDevice,
    old: &mut [u8],
    new: &[u8],
) -> Result<Option<std::ops::Range<usize>>> {
    let mut fields = diskimg_core::Fields::new(old.get(BACKING_FIELDS).unwrap_or_default());
    let (offset, len) = (fields.u64_be().unwrap_or(0), fields.u32_be().unwrap_or(0));
    let place = to_usize(offset)..to_usize(offset).saturating_add(to_usize(len.into()));
    let (Some(name), true) = (old.get(place.clone()), offset != 0) else { return Ok(None) };
    if new.get(place) == Some(name) {
        return Ok(None);
    }
    let name = name.to_vec();
    let used = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let start = used(old).max(used(new)).next_multiple_of(8);
    let copy = start..start + name.len();
    let Some(room) = old.get_mut(copy.clone()) else { return Ok(None) };
    room.copy_from_slice(&name);
    write_durably(storage, old, copy.clone())?;
    if let Some(field) = old.get_mut(BACKING_FIELDS).and_then(|fields| fields.get_mut(..8)) {
        field.copy_from_slice(&(start as u64).to_be_bytes());
    }
    write_durably(storage, old, 0..SECTOR)?;
    Ok(Some(copy))
}
