//! Streams as they are found: taken up where they end to be written to, or recovered where writing was interrupted.

use std::collections::BTreeMap;
use std::sync::Arc;

use diskimg_core::{BlockDevice, Error, Result, len_u64, read_table, read_zero_padded, to_usize};

use crate::codec::{Decoders, GrainMarker, MARKER, most_payload};
use crate::geometry::{Geometry, GrainEntry};
use crate::header::{Header, MarkerKind, TRAILER_LEN, parse_marker};
use crate::limits::{MAX_RECOVERED_TABLES, MAX_STREAM_TABLES, SECTOR};
use crate::sparse_write::NewPayload;
use crate::stream::{OpenTable, State, Stream, entries_of};

/// A stream that ends as it should, to be written to.
///
/// # Errors
/// `Unsupported` if its end is not laid out so that it can be continued; `Limit`.
pub(crate) fn take_up(io: &Arc<dyn BlockDevice>, geo: &Geometry, footer: &Header) -> Result<Stream> {
    let foreign =
        || Error::unsupported("The end of this stream is not laid out in a way that can be continued");
    if geo.tables > MAX_STREAM_TABLES {
        return Err(Error::limit("The stream is too large to be written to"));
    }
    let len = geo.tables * 4;
    let directory_end = geo.directory.checked_add(len.next_multiple_of(SECTOR)).ok_or_else(foreign)?;
    let tail = geo.directory.checked_sub(SECTOR).filter(|tail| *tail >= geo.overhead).ok_or_else(foreign)?;
    let mut marker = [0; 16];
    read_zero_padded(&**io, tail, &mut marker)?;
    let announced = parse_marker(&marker)
        .is_some_and(|(_, size, kind)| size == 0 && kind == MarkerKind::Directory as u32);
    if !announced || directory_end.checked_add(TRAILER_LEN) != Some(io.len()) {
        return Err(foreign());
    }
    let directory = entries_of(&read_table(&**io, geo.directory, len, len, "grain directory")?);
    if directory.iter().any(|table| u64::from(*table) * SECTOR + geo.table_len() > tail) {
        return Err(foreign());
    }
    let state = State { directory, open: BTreeMap::new(), tail, unclean: false, dirty: false };
    Ok(Stream::new(Arc::clone(io), geo.clone(), footer.clone(), state))
}

/// A stream whose writing was interrupted: its grains are found by their markers, from the front on. It ends in front of
/// the first thing that is no valid grain and no table.
///
/// # Errors
/// `Limit`; the storage's.
pub(crate) fn recover(io: &Arc<dyn BlockDevice>, geo: &Geometry, header: &Header) -> Result<Stream> {
    let decoders = Decoders::default();
    let mut open: BTreeMap<u64, OpenTable> = BTreeMap::new();
    let mut tail = geo.overhead;
    let mut payload = Vec::new();
    loop {
        let mut head = [0; 16];
        read_zero_padded(&**io, tail, &mut head)?;
        let Some((value, size, kind)) = parse_marker(&head) else { break };
        if size == 0 {
            let skipped = value.checked_add(1).and_then(|sectors| sectors.checked_mul(SECTOR));
            let next = skipped.and_then(|len| tail.checked_add(len)).filter(|next| *next <= io.len());
            match next.filter(|_| kind == MarkerKind::Table as u32) {
                Some(next) => tail = next,
                None => break,
            }
            continue;
        }
        let Some(marker) = GrainMarker::parse(&head) else { break };
        let Some(grain) = valid_grain(io, geo, &decoders, tail, marker, &mut payload)? else { break };
        let (table, index) = geo.entry_of(grain);
        let entries =
            open.entry(table).or_insert_with(|| OpenTable::new(vec![0; to_usize(geo.table_entries)]));
        if let Some(entry) = entries.entries.get_mut(to_usize(index)) {
            *entry = Geometry::encode(GrainEntry::At(tail));
        }
        if open.len() > MAX_RECOVERED_TABLES {
            return Err(Error::limit("The interrupted stream is too large to be recovered"));
        }
        tail += NewPayload::stored_len(marker.len.into());
    }
    if geo.tables > MAX_STREAM_TABLES {
        return Err(Error::limit("The interrupted stream is too large to be recovered"));
    }
    let directory = vec![0; to_usize(geo.tables)];
    let state = State { directory, open, tail, unclean: true, dirty: true };
    Ok(Stream::new(Arc::clone(io), geo.clone(), header.clone(), state))
}

/// The number of the grain that `marker` at `place` announces, if all of it is there.
fn valid_grain(
    io: &Arc<dyn BlockDevice>,
    geo: &Geometry,
    decoders: &Decoders,
    place: u64,
    marker: GrainMarker,
    payload: &mut Vec<u8>,
) -> Result<Option<u64>> {
    let len = u64::from(marker.len);
    let start = marker.sector.checked_mul(SECTOR).filter(|start| *start < geo.len);
    let end = place.checked_add(MARKER + len).filter(|end| *end <= io.len());
    let (Some(start), Some(_)) = (start, end) else { return Ok(None) };
    if !start.is_multiple_of(geo.grain) || len > most_payload(geo.grain) {
        return Ok(None);
    }
    payload.clear();
    payload.resize(to_usize(len), 0);
    read_zero_padded(&**io, place + MARKER, payload)?;
    let grain = geo.grain_of(start);
    let enough = decoders.measure(payload, geo.grain).is_some_and(|out| out >= geo.grain_range(grain).len);
    debug_assert!(len_u64(payload) == len, "the whole stream");
    Ok(enough.then_some(grain))
}
