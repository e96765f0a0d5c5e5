//! Writing the snapshot table: always as a whole, at a new place. What is not understood of an entry is kept.

use diskimg_core::Result;

use super::{as_u32, too_large};
use crate::header::SNAPSHOT_HEAD_LEN;
use crate::limits::{MAX_SNAPSHOT_TABLE_BYTES, MAX_SNAPSHOTS};
use crate::snapshot_table::{ENTRY_ALIGN, KNOWN_EXTRA, NO_ICOUNT, Snapshot};

/// Bytes that the table of `snapshots` takes as it was stored.
pub(crate) fn stored_len(snapshots: &[Snapshot]) -> u64 {
    snapshots.iter().fold(0u64, |at, snapshot| {
        let texts = (snapshot.id.len() + snapshot.name.len()) as u64;
        at.next_multiple_of(ENTRY_ALIGN) + SNAPSHOT_HEAD_LEN + u64::from(snapshot.extra_len) + texts
    })
}

/// The table of `snapshots`, whose entries are brought up to date with what is written of them.
///
/// # Errors
/// `Limit` for too many snapshots, or too long a table.
pub(super) fn encode(snapshots: &mut [Snapshot]) -> Result<Vec<u8>> {
    if snapshots.len() as u64 > u64::from(MAX_SNAPSHOTS) {
        return Err(too_large());
    }
    let mut table = Vec::new();
    for snapshot in snapshots {
        table.resize(table.len().next_multiple_of(8), 0);
        push_entry(&mut table, snapshot)?;
        if table.len() as u64 > MAX_SNAPSHOT_TABLE_BYTES {
            return Err(too_large());
        }
    }
    Ok(table)
}

fn push_entry(table: &mut Vec<u8>, snapshot: &mut Snapshot) -> Result<()> {
    let as_u16 = |len: usize| u16::try_from(len).map_err(|_| too_large());
    let small_state = u32::try_from(snapshot.vm_state_size).unwrap_or(0);
    snapshot.extra_len = KNOWN_EXTRA + as_u32(snapshot.unknown_extra.len() as u64)?;
    table.extend_from_slice(&snapshot.l1_offset.to_be_bytes());
    table.extend_from_slice(&snapshot.l1_size.to_be_bytes());
    table.extend_from_slice(&as_u16(snapshot.id.len())?.to_be_bytes());
    table.extend_from_slice(&as_u16(snapshot.name.len())?.to_be_bytes());
    table.extend_from_slice(&snapshot.date_sec.to_be_bytes());
    table.extend_from_slice(&snapshot.date_nsec.to_be_bytes());
    table.extend_from_slice(&snapshot.vm_clock_nsec.to_be_bytes());
    table.extend_from_slice(&small_state.to_be_bytes());
    table.extend_from_slice(&snapshot.extra_len.to_be_bytes());
    table.extend_from_slice(&snapshot.vm_state_size.to_be_bytes());
    table.extend_from_slice(&snapshot.disk_size.to_be_bytes());
    table.extend_from_slice(&snapshot.icount.unwrap_or(NO_ICOUNT).to_be_bytes());
    table.extend_from_slice(&snapshot.unknown_extra);
    table.extend_from_slice(&snapshot.id);
    table.extend_from_slice(&snapshot.name);
    Ok(())
}
