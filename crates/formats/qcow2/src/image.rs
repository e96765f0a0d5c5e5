//! [`Qcow2`]: an open image, as a block device and as an image layer.
//!
//! The paths are in files of their own: [`crate::map`], [`crate::read`], [`crate::write`], [`crate::zero`],
//! [`crate::reserve`], [`crate::resize`]; all metadata is in [`crate::meta`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use diskimg_core::driver::{Notices, OpenMode};
use diskimg_core::{
    Amend, BackingChange, BackingRef, Bitmaps, BlockDevice, ByteRange, Check, CheckReport, Child,
    CompressedClusters, Description, Emptying, Error, Extent, FormatDriver, Image, ImageInfo, Limits,
    Prealloc, Repair, Reservation, Result, Snapshots, Task, Widened, ZeroMode, read_only_error,
};

use parking_lot::RwLock;

use crate::bitmaps::{BitmapSet, Recording};
use crate::check::{self, CheckInput, Repairable};
use crate::crypt::{self, Encryption};
use crate::header::{Header, SECTOR};
use crate::meta::{FixedArea, HoleRules, Meta, MetaParts};
use crate::open::Parts;
use crate::read::Decompression;
use crate::settings::{Overlap, Settings};
use crate::snapshot_table::Snapshot;
use crate::snapshots::{self, Contents};

/// The best size of a large transfer, in bytes.
const BEST_TRANSFER: u64 = 2 << 20;

/// An open qcow2 image.
#[derive(Debug)]
pub(crate) struct Qcow2 {
    pub(crate) storage: Arc<dyn BlockDevice>,
    pub(crate) data_file: Option<Arc<dyn BlockDevice>>,
    pub(crate) meta: Meta,
    pub(crate) decompression: Decompression,
    pub(crate) crypt: Option<Arc<Encryption>>,
    pub(crate) settings: Settings,
    pub(crate) notices: Notices,
    /// Held, shared, by every change of the image while it runs; alone by what must see none.
    pub(crate) change_gate: RwLock<()>,
    pub(crate) contents: Contents,
    len: AtomicU64,
    pub(crate) mode: OpenMode,
    pub(crate) backing: RwLock<Option<BackingRef>>,
    pub(crate) snapshots: RwLock<Vec<Snapshot>>,
    pub(crate) bitmaps: BitmapSet,
    pub(crate) filename: String,
    preallocated: OnceLock<bool>,
    has_new_payloads: AtomicBool,
}

impl Qcow2 {
    /// The image made of `parts`, which were checked when they were read.
    pub(crate) fn new(parts: Parts) -> Self {
        let header = &parts.header;
        let backing = header.backing_name.clone().map(|name| {
            let format = header.extensions.backing_format.clone();
            BackingRef { name, format }
        });
        let mut fixed = snapshot_areas(header, &parts.snapshots.snapshots);
        fixed.extend(bitmap_area(header));
        fixed.extend(luks_area(header));
        let len = header.disk_size();
        let meta = Meta::new(MetaParts {
            storage: Arc::clone(&parts.storage),
            data_file: parts.data_file.clone(),
            header: parts.header,
            l1: parts.l1,
            reftable: parts.reftable,
            fixed,
            checked: parts.settings.overlap,
            hole_rules: HoleRules::from(&parts.settings),
            lazy_refcounts: parts.settings.lazy_refcounts,
            notices: parts.notices.clone(),
            writable: parts.mode.write,
        });
        Self {
            storage: parts.storage,
            data_file: parts.data_file,
            meta,
            decompression: Decompression::default(),
            crypt: parts.crypt,
            settings: parts.settings,
            notices: parts.notices,
            change_gate: RwLock::new(()),
            contents: Contents::default(),
            len: AtomicU64::new(len),
            mode: parts.mode,
            backing: RwLock::new(backing),
            snapshots: RwLock::new(parts.snapshots.snapshots),
            bitmaps: BitmapSet::new(parts.bitmaps),
            filename: parts.filename,
            preallocated: OnceLock::new(),
            has_new_payloads: AtomicBool::new(false),
        }
    }

    /// What holds guest data that is neither compressed nor encrypted.
    pub(crate) fn data_device(&self) -> &Arc<dyn BlockDevice> {
        self.data_file.as_ref().unwrap_or(&self.storage)
    }

    pub(crate) fn disk_len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    pub(crate) fn set_disk_len(&self, len: u64) {
        self.len.store(len, Ordering::Release);
    }

    /// The backing file as the image names it.
    pub(crate) fn backing_ref(&self) -> Option<BackingRef> {
        self.backing.read().clone()
    }

    pub(crate) fn has_backing(&self) -> bool {
        self.backing.read().is_some()
    }

    pub(crate) fn has_autoclear(&self, bits: u64) -> bool {
        self.meta.header().autoclear & bits != 0
    }

    pub(crate) fn has_snapshots(&self) -> bool {
        !self.snapshots.read().is_empty()
    }

    pub(crate) fn has_bitmaps(&self) -> bool {
        !self.bitmaps.is_empty()
    }

    /// Refuses to change anything where nothing may be written.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.mode.write { self.meta.check_usable() } else { Err(read_only_error()) }
    }

    /// Called before every change: refuses it where nothing may be written, and lets bitmaps record. Before a change of
    /// what the guest reads there is [`Qcow2::before_write`].
    pub(crate) fn before_change(&self) -> Result<()> {
        self.check_writable()?;
        self.begin_recording()
    }

    /// Called before every change of what the guest reads in `range`: bitmaps record it when what is returned is dropped.
    pub(crate) fn before_write(&self, range: ByteRange) -> Result<Recording<'_>> {
        let recording = self.bitmaps.record(range);
        self.before_change()?;
        Ok(recording)
    }

    /// Payloads need not end on a sector: the file is rounded up when the image is closed.
    pub(crate) fn wrote_compressed(&self) {
        self.has_new_payloads.store(true, Ordering::Release);
        self.decompression.forget();
    }

    /// Many more clusters are counted than the host has space for: clusters may be holes that were never written.
    pub(crate) fn metadata_preallocated(&self) -> bool {
        *self.preallocated.get_or_init(|| self.detect_preallocation().unwrap_or(false))
    }

    fn detect_preallocation(&self) -> Result<bool> {
        let Some(space) = self.storage.allocated_len()? else { return Ok(false) };
        let clusters = space >> self.meta.geo.cluster_bits;
        let threshold = (clusters.saturating_mul(10) / 9).max(clusters + 2);
        self.meta.counts_at_least(threshold)
    }

    /// Only when nobody else uses the image any more: the length must not move meanwhile.
    fn round_up_file(&mut self) -> Result<()> {
        if !self.has_new_payloads.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let len = self.storage.len();
        match len.checked_next_multiple_of(SECTOR) {
            Some(rounded) if rounded != len => self.storage.set_len(rounded, Prealloc::Off),
            _ => Ok(()),
        }
    }
}

/// The clusters of some metadata; `None`: it is empty.
fn fixed_area(
    header: &Header,
    offset: u64,
    len: u64,
    kind: Overlap,
    name: &'static str,
) -> Option<FixedArea> {
    let range = ByteRange::new(offset, len).align_outwards(header.geometry().cluster_size());
    (len > 0).then_some(FixedArea { range, kind, name })
}

/// Where the snapshot table and the L1 tables of snapshots are.
pub(crate) fn snapshot_areas(header: &Header, snapshots: &[Snapshot]) -> Vec<FixedArea> {
    let len = snapshots::table::stored_len(snapshots);
    let table = (header.snapshots_offset, len, Overlap::SNAPSHOT_TABLE, "snapshot table");
    let l1 = snapshots.iter().map(|snapshot| {
        (snapshot.l1_offset, u64::from(snapshot.l1_size) * 8, Overlap::INACTIVE_L1, "inactive L1 table")
    });
    let all = std::iter::once(table).chain(l1);
    all.filter_map(|(offset, len, kind, name)| fixed_area(header, offset, len, kind, name)).collect()
}

fn bitmap_area(header: &Header) -> Option<FixedArea> {
    let bitmaps = header.extensions.bitmaps.as_ref()?;
    let (offset, len) = (bitmaps.directory_offset, bitmaps.directory_size);
    fixed_area(header, offset, len, Overlap::BITMAP_DIRECTORY, "bitmap directory")
}

/// Losing it would be losing the whole disk, so it is guarded like the header (qemu-img does not guard it).
fn luks_area(header: &Header) -> Option<FixedArea> {
    let place = header.extensions.crypto.filter(|_| header.crypt_method == crypt::METHOD_LUKS)?;
    fixed_area(header, place.offset, place.len, Overlap::MAIN_HEADER, "LUKS header")
}

impl BlockDevice for Qcow2 {
    fn len(&self) -> u64 {
        self.disk_len()
    }

    fn limits(&self) -> Limits {
        let write_unit = self.meta.geo.subcluster_size();
        let align = if self.is_encrypted() { SECTOR } else { 1 };
        Limits { align, write_unit, best_transfer: BEST_TRANSFER, ..Limits::default() }
    }

    fn is_read_only(&self) -> bool {
        !self.mode.write
    }

    fn describe(&self) -> Description<'_> {
        Description { driver: crate::DRIVER.name, filename: &self.filename }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.contents.read(|| {
            ByteRange::new(offset, diskimg_core::len_u64(buf)).check_within(self.disk_len())?;
            self.meta.check_usable()?;
            self.read_sectors(offset, buf)
        })
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let _shared = self.change_gate.read();
        let range = ByteRange::new(offset, diskimg_core::len_u64(buf));
        range.check_within(self.disk_len())?;
        self.write_guest(offset, buf, range)
    }

    fn write_widened(&self, write: Widened<'_>, asked: ByteRange) -> Result<()> {
        let _shared = self.change_gate.read();
        match write {
            Widened::Bytes(offset, buf) => {
                ByteRange::new(offset, diskimg_core::len_u64(buf)).check_within(self.disk_len())?;
                self.write_guest(offset, buf, asked)
            }
            Widened::Zeroes(range, how) => {
                range.check_within(self.disk_len())?;
                self.zero_guest(range, how, asked)
            }
        }
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        let _shared = self.change_gate.read();
        range.check_within(self.disk_len())?;
        self.zero_guest(range, how, range)
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        let _shared = self.change_gate.read();
        range.check_within(self.disk_len())?;
        self.discard_guest(range)
    }

    fn flush(&self) -> Result<()> {
        if !self.mode.write {
            return Ok(());
        }
        self.meta.check_usable()?;
        self.meta.flush_guest()
    }

    fn set_len(&self, len: u64, prealloc: Prealloc) -> Result<()> {
        self.resize(len, prealloc)
    }

    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        range.check_within(self.disk_len())?;
        if range.is_empty() {
            return Err(Error::invalid("an empty range has no extent"));
        }
        self.meta.check_usable()?;
        self.extent(range)
    }

    fn reserve(&self, range: ByteRange) -> Result<Option<Reservation<'_>>> {
        let _shared = self.change_gate.read();
        range.check_within(self.disk_len())?;
        self.reserve_guest(range)
    }

    fn allocated_len(&self) -> Result<Option<u64>> {
        let own = self.storage.allocated_len()?;
        let data = self.data_file.as_ref().map_or(Ok(None), |data| data.allocated_len())?;
        Ok(own.map(|own| own + data.unwrap_or(0)))
    }
}

impl Image for Qcow2 {
    fn driver(&self) -> &'static FormatDriver {
        &crate::DRIVER
    }

    fn info(&self) -> Result<ImageInfo> {
        let (header, crypt) = (self.meta.header(), self.crypt.as_deref());
        Ok(crate::info::image_info(&header, crypt, &self.snapshots.read(), &self.bitmaps.entries()))
    }

    fn backing(&self) -> Option<BackingRef> {
        self.backing_ref()
    }

    fn children(&self) -> Vec<Child> {
        let mut children = vec![Child { role: "file", device: Arc::clone(&self.storage) }];
        children.extend(self.data_file.clone().map(|device| Child { role: "data-file", device }));
        children
    }

    fn as_check(&self) -> Option<&dyn Check> {
        Some(self)
    }

    fn as_amend(&self) -> Option<&dyn Amend> {
        Some(self)
    }

    fn as_snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }

    fn as_bitmaps(&self) -> Option<&dyn Bitmaps> {
        Some(self)
    }

    fn as_backing_change(&self) -> Option<&dyn BackingChange> {
        Some(self)
    }

    fn as_emptying(&self) -> Option<&dyn Emptying> {
        Some(self)
    }

    fn as_compressed(&self) -> Option<&dyn CompressedClusters> {
        Some(self)
    }
}

impl Check for Qcow2 {
    fn check(&self, repair: Repair, say: &mut dyn FnMut(&str), task: &Task<'_>) -> Result<CheckReport> {
        if repair != Repair::Nothing {
            return self.repair(repair, say, task);
        }
        if self.mode.write {
            self.meta.flush()?;
        }
        let bitmaps = self.bitmaps.stored();
        self.meta.with_tables(|tables| {
            let input = CheckInput {
                storage: &*self.storage,
                header: tables.header,
                geo: tables.header.geometry(),
                l1: tables.l1,
                reftable: tables.reftable,
                bitmaps: &bitmaps,
                data_file: self.data_file.is_some(),
            };
            check::check(input, say, task)
        })
    }
}

impl Qcow2 {
    fn repair(&self, repair: Repair, say: &mut dyn FnMut(&str), task: &Task<'_>) -> Result<CheckReport> {
        if !self.mode.write {
            return Err(read_only_error());
        }
        let _nobody_changes_it = self.exclusive();
        let bitmaps = self.bitmaps.stored();
        let mut damaged_bitmaps = Vec::new();
        let result = self.meta.overhaul(|parts| {
            let mut image = Repairable {
                storage: &*self.storage,
                header: &mut parts.header,
                l1: &mut parts.l1,
                reftable: &mut parts.reftable,
                bitmaps: &bitmaps,
                data_file: self.data_file.is_some(),
                snapshots: None,
                damaged_bitmaps: Vec::new(),
                unsure: false,
            };
            let result = check::repair(&mut image, repair, say, task);
            parts.unsure = image.unsure;
            damaged_bitmaps = std::mem::take(&mut image.damaged_bitmaps);
            if let Some(snapshots) = image.snapshots.take() {
                parts
                    .fixed
                    .retain(|area| !(Overlap::SNAPSHOT_TABLE | Overlap::INACTIVE_L1).contains(area.kind));
                parts.fixed.extend(snapshot_areas(&parts.header, &snapshots));
                *self.snapshots.write() = snapshots;
            }
            parts.sound =
                result.as_ref().is_ok_and(|report| report.corruptions == 0 && report.check_errors == 0);
            result
        })?;
        self.mend_bitmaps(&damaged_bitmaps)?;
        result
    }

    /// A repair that tells nobody what it finds.
    pub(crate) fn repair_quietly(&self, repair: Repair, task: &Task<'_>) -> Result<CheckReport> {
        self.repair(repair, &mut |_| {}, task)
    }
}

impl Drop for Qcow2 {
    fn drop(&mut self) {
        if self.mode.write && self.meta.check_usable().is_ok() {
            self.close_bitmaps();
            let _ = self.round_up_file();
            self.meta.close();
        }
    }
}
