//! The snapshot table (specification, "Snapshots"): parsing it, within its limits.
//!
//! An ordinary open reads it strictly. A repair reads it leniently: what exceeds a limit is dropped and counted, so that
//! the table can be written anew.

use diskimg_core::{BlockDevice, Error, Fields, Result, SnapshotInfo, to_usize};

use crate::cursor::TableCursor;
use crate::extensions::until_nul;
use crate::header::{Header, SNAPSHOT_HEAD_LEN};
use crate::limits::{MAX_SNAPSHOT_EXTRA, MAX_SNAPSHOT_TABLE_BYTES, MAX_SNAPSHOTS};

/// Entries start at multiples of it, in bytes.
pub(crate) const ENTRY_ALIGN: u64 = 8;
/// Extra data that is understood, in bytes: VM state size, disk size, instruction count.
pub(crate) const KNOWN_EXTRA: u32 = 24;
/// Extra data that version 3 demands, in bytes.
pub(crate) const V3_EXTRA: u32 = 16;
/// Bytes of an identifier that are shown.
const SHOWN_ID: usize = 127;
/// Bytes of a name that are shown.
const SHOWN_NAME: usize = 255;
/// Stands for "not recorded".
pub(crate) const NO_ICOUNT: u64 = u64::MAX;

/// A snapshot as the table has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Host offset of its L1 table.
    pub l1_offset: u64,
    /// Entries of that table.
    pub l1_size: u32,
    /// Identifier, as stored.
    pub id: Vec<u8>,
    /// Name, as stored.
    pub name: Vec<u8>,
    /// Seconds since 1970.
    pub date_sec: u32,
    /// Nanoseconds of that second.
    pub date_nsec: u32,
    /// The guest's clock, in nanoseconds.
    pub vm_clock_nsec: u64,
    /// Bytes of VM state.
    pub vm_state_size: u64,
    /// Size of the disk, in bytes.
    pub disk_size: u64,
    /// Instructions executed, if recorded.
    pub icount: Option<u64>,
    /// Bytes of extra data as stored.
    pub extra_len: u32,
    /// Extra data behind what is understood.
    pub unknown_extra: Vec<u8>,
}

impl Snapshot {
    /// The identifier as shown.
    pub(crate) fn shown_id(&self) -> String {
        shown(&self.id, SHOWN_ID)
    }

    /// The name as shown.
    pub(crate) fn shown_name(&self) -> String {
        shown(&self.name, SHOWN_NAME)
    }

    /// What `info` tells of it.
    pub(crate) fn info(&self) -> SnapshotInfo {
        SnapshotInfo {
            id: self.shown_id(),
            name: self.shown_name(),
            vm_state_size: self.vm_state_size,
            date_sec: self.date_sec,
            date_nsec: self.date_nsec,
            vm_clock_nsec: self.vm_clock_nsec,
            icount: self.icount,
            disk_size: self.disk_size,
        }
    }
}

fn shown(bytes: &[u8], most: usize) -> String {
    let bytes = bytes.get(..most).unwrap_or(bytes);
    String::from_utf8_lossy(until_nul(bytes)).into_owned()
}

/// The table and what was found while reading it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SnapshotTable {
    /// The snapshots, in order.
    pub snapshots: Vec<Snapshot>,
    /// Bytes that the table takes on the host.
    pub len: u64,
    /// Entries whose extra data was cut, with its length; only when read leniently.
    pub cut_extra: Vec<(usize, u32)>,
    /// Snapshots that were dropped because there are too many; only when read leniently.
    pub overhanging: u32,
    /// Snapshots that were dropped because the table is too long; only when read leniently.
    pub too_long: u32,
}

/// Reads the table as opening does.
///
/// # Errors
/// `Limit` where the table exceeds one; the storage's.
pub(crate) fn read(storage: &dyn BlockDevice, header: &Header) -> Result<SnapshotTable> {
    read_table(storage, header, false)
}

/// Reads the table for a repair: cuts and counts what exceeds a limit.
///
/// # Errors
/// The storage's.
pub(crate) fn read_leniently(storage: &dyn BlockDevice, header: &Header) -> Result<SnapshotTable> {
    read_table(storage, header, true)
}

fn read_table(storage: &dyn BlockDevice, header: &Header, lenient: bool) -> Result<SnapshotTable> {
    let mut table = SnapshotTable::default();
    let count = header.snapshot_count.min(MAX_SNAPSHOTS);
    table.overhanging = header.snapshot_count - count;
    let mut reader = TableCursor::new(storage, header.snapshots_offset);
    for index in 0..count {
        let (snapshot, stored_extra) = read_entry(&mut reader, header, lenient, index)?;
        if stored_extra > MAX_SNAPSHOT_EXTRA {
            table.cut_extra.push((to_usize(index.into()), stored_extra));
        }
        if reader.position() > MAX_SNAPSHOT_TABLE_BYTES {
            if lenient {
                table.too_long = count - index;
                break;
            }
            return Err(too_big(header.snapshot_count - index));
        }
        table.len = reader.position();
        table.snapshots.push(snapshot);
    }
    Ok(table)
}

fn too_big(overhanging: u32) -> Error {
    Error::limit("Snapshot table is too big").with_hint(removal_hint(overhanging))
}

/// How to get rid of the snapshots that are too many.
pub(crate) fn removal_hint(overhanging: u32) -> String {
    format!("You can force-remove all {overhanging} overhanging snapshots with qemu-img check -r all")
}

fn too_much_extra(index: u32) -> Error {
    Error::limit(format!("Too much extra metadata in snapshot table entry {index}"))
        .with_hint("You can force-remove this extra metadata with qemu-img check -r all")
}

/// One entry, and the length of its extra data before it was cut.
fn read_entry(
    reader: &mut TableCursor<'_>,
    header: &Header,
    lenient: bool,
    index: u32,
) -> Result<(Snapshot, u32)> {
    let unreadable = |error: Error| error.context("Failed to read snapshot table");
    reader.align(ENTRY_ALIGN);
    let head = reader.take(SNAPSHOT_HEAD_LEN).map_err(unreadable)?;
    let Some((mut snapshot, id_len, name_len)) = parse_head(&head) else {
        return Err(Error::corrupt("Snapshot table entry is cut short"));
    };
    let stored_extra = snapshot.extra_len;
    if stored_extra > MAX_SNAPSHOT_EXTRA && !lenient {
        return Err(too_much_extra(index));
    }
    let extra = reader.take(stored_extra.min(MAX_SNAPSHOT_EXTRA).into()).map_err(unreadable)?;
    reader.skip(stored_extra.saturating_sub(MAX_SNAPSHOT_EXTRA).into());
    let mut fields = Fields::new(&extra);
    if let Some(vm_state_size) = fields.u64_be() {
        snapshot.vm_state_size = vm_state_size;
    }
    snapshot.disk_size = fields.u64_be().unwrap_or(header.disk_size());
    snapshot.icount = fields.u64_be().filter(|count| *count != NO_ICOUNT);
    if stored_extra > KNOWN_EXTRA {
        snapshot.unknown_extra = fields.rest().to_vec();
    }
    snapshot.extra_len = stored_extra.min(MAX_SNAPSHOT_EXTRA);
    snapshot.id = reader.take(id_len.into()).map_err(unreadable)?;
    snapshot.name = reader.take(name_len.into()).map_err(unreadable)?;
    Ok((snapshot, stored_extra))
}

fn parse_head(bytes: &[u8]) -> Option<(Snapshot, u16, u16)> {
    let mut fields = Fields::new(bytes);
    let (l1_offset, l1_size) = (fields.u64_be()?, fields.u32_be()?);
    let (id_len, name_len) = (fields.u16_be()?, fields.u16_be()?);
    let snapshot = Snapshot {
        l1_offset,
        l1_size,
        date_sec: fields.u32_be()?,
        date_nsec: fields.u32_be()?,
        vm_clock_nsec: fields.u64_be()?,
        vm_state_size: fields.u32_be()?.into(),
        extra_len: fields.u32_be()?,
        ..Snapshot::default()
    };
    Some((snapshot, id_len, name_len))
}

#[cfg(test)]
mod tests;
