//! [`Stack`]: the layered device. It joins one image with the chain below it: copy-on-write is written here, once.
//!
//! Invariants:
//! - The driver sees `write_zeroes`, `discard` and `reserve` only in whole write units (the device's end counts as a
//!   border), and a write of a part of a unit only where the unit is `PRESENT` in it; else the unit is padded from below.
//! - Writers of one unit exclude each other; writers of different units, and readers, run at the same time.
//! - Nothing below the top is ever written.
//!
//! Called by [`Node`](crate::Node)'s front end, which has checked bounds, alignment and permission.

use std::sync::Arc;

use diskimg_core::{
    BlockDevice, ByteRange, Description, Device, EachExtent, Error, ErrorKind, Extent, ExtentFlags, HostRef,
    Image, Limits, Prealloc, Publish, RangeGuard, RangeLock, Reservation, Result, Widened, ZeroMode, is_zero,
    len_u64, to_usize,
};

use crate::node::Node;
use crate::walk::Walk;

/// The size of the zero buffer where zeros have to be written as data, in bytes.
const ZERO_CHUNK: u64 = 1 << 20;

/// Whether writes of zeros are turned into zeroing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DetectZeroes {
    /// No.
    #[default]
    Off,
    /// Yes, space stays allocated.
    On,
    /// Yes, space may be given back.
    Unmap,
}

/// Zeroing and discarding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackOptions {
    /// Space may be given back: without it discards are ignored, and zeroing keeps space allocated.
    pub unmap: bool,
    /// Whether writes of zeros are turned into zeroing.
    pub detect_zeroes: DetectZeroes,
}

impl Default for StackOptions {
    fn default() -> Self {
        Self { unmap: true, detect_zeroes: DetectZeroes::Off }
    }
}

/// An image joined with the chain below it.
#[derive(Debug)]
pub struct Stack {
    top: Arc<dyn Image>,
    /// The top as its user's requests reach it; what it knows of its bytes is asked of itself.
    door: Arc<dyn BlockDevice>,
    /// The top's own front end: keeps to its alignment.
    layer: Device,
    below: Option<Node>,
    options: StackOptions,
    writers: RangeLock,
    /// A layer (0 is the top) that does not accept what is below it: nothing deeper is read.
    refused: Option<usize>,
}

impl Stack {
    /// `top` over `below`.
    #[must_use]
    pub fn new(top: Arc<dyn Image>, below: Option<Node>, options: StackOptions) -> Self {
        let door: Arc<dyn BlockDevice> = Arc::<dyn Image>::clone(&top);
        let refused = first_refusal(&*top, below.as_ref()).map(|(depth, _)| depth);
        let layer = Device::new(Arc::clone(&door));
        Self { top, door, layer, below, options, writers: RangeLock::default(), refused }
    }

    /// The same with `door` in front of the top for its user's requests.
    pub(crate) fn behind(self, door: Arc<dyn BlockDevice>) -> Self {
        Self { layer: Device::new(Arc::clone(&door)), door, ..self }
    }

    /// The error of the layer that does not accept what is below it, if `segment` was to be found there.
    fn check_accepted(&self, depth: usize, present: bool) -> Result<()> {
        match self.refused {
            Some(refused) if depth > refused || !present => {
                let error = first_refusal(&*self.top, self.below.as_ref()).map(|(_, error)| error);
                error.map_or(Ok(()), Err)
            }
            _ => Ok(()),
        }
    }

    fn unit(&self) -> u64 {
        self.top.limits().write_unit.max(1)
    }

    /// The units that `range` touches, cut at the device's end.
    fn outer(&self, range: ByteRange, unit: u64) -> ByteRange {
        range.align_outwards(unit).intersect(ByteRange::new(0, self.top.len().max(range.end())))
    }

    /// The whole units of `range`; its end counts as a border where it is the device's.
    fn inner(&self, range: ByteRange, unit: u64) -> ByteRange {
        let start = range.start.checked_next_multiple_of(unit).unwrap_or(u64::MAX);
        let at_end = range.end() >= self.top.len();
        let end = if at_end { range.end() } else { range.align_inwards(unit).end().min(range.end()) };
        ByteRange::from_bounds(start.min(range.end()), end.min(range.end()))
    }

    fn walk(&self) -> Walk<'_> {
        Walk::new(&*self.top, self.below.as_ref())
    }

    /// The layer's front end, by depth.
    fn layer_at(&self, depth: usize) -> &Device {
        let below = depth.checked_sub(1).and_then(|up| self.below.as_ref()?.layers().nth(up));
        below.map_or(&self.layer, Node::layer_device)
    }

    fn read_joined(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let range = ByteRange::new(offset, len_u64(buf));
        let mut walk = self.walk();
        let mut run = Run::default();
        let mut at = range.start;
        while at < range.end() {
            let segment = walk.next(ByteRange::from_bounds(at, range.end()))?;
            self.check_accepted(segment.depth, segment.flags.contains(ExtentFlags::PRESENT))?;
            let source = (!segment.flags.contains(ExtentFlags::ZERO)).then_some(segment.depth);
            if run.source != source || run.range.is_empty() {
                self.read_run(run, range.start, buf)?;
                run = Run { source, range: ByteRange::new(at, 0) };
            }
            run.range.len += segment.len;
            at += segment.len;
        }
        self.read_run(run, range.start, buf)
    }

    fn read_run(&self, run: Run, start: u64, buf: &mut [u8]) -> Result<()> {
        let from = to_usize(run.range.start.saturating_sub(start));
        let part = buf.get_mut(from..from.saturating_add(to_usize(run.range.len))).unwrap_or_default();
        match run.source {
            _ if part.is_empty() => Ok(()),
            Some(depth) => self.layer_at(depth).read_at(run.range.start, part),
            None => {
                part.fill(0);
                Ok(())
            }
        }
    }
}

/// The first layer that does not accept what is below it, and what it says.
fn first_refusal(top: &dyn Image, below: Option<&Node>) -> Option<(usize, Error)> {
    let mut upper = top;
    for (depth, node) in below?.layers().enumerate() {
        let lower = &**node.image();
        if let Err(error) = upper.accepts_backing(lower) {
            return Some((depth, error));
        }
        upper = lower;
    }
    None
}

/// Neighbouring segments that one layer answers for (`None`: zeros), to be read at once.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    source: Option<usize>,
    range: ByteRange,
}

/// What the top knows of a range as a whole.
#[derive(Clone, Copy, Debug)]
struct TopState {
    /// All of it is present.
    present: bool,
    /// Some of it is stored as bytes.
    data: bool,
}

/// Writing. All of these run while the units concerned are locked.
impl Stack {
    fn top_state(&self, range: ByteRange) -> Result<TopState> {
        let mut state = TopState { present: true, data: false };
        let mut at = range.start;
        while at < range.end() {
            let extent = self.top.extent_at(ByteRange::from_bounds(at, range.end()))?;
            state.present &= extent.is_present();
            state.data |= extent.flags.contains(ExtentFlags::DATA);
            at = at.saturating_add(extent.len.max(1));
        }
        Ok(state)
    }

    fn reads_zero(&self, range: ByteRange) -> Result<bool> {
        let mut walk = self.walk();
        let mut at = range.start;
        while at < range.end() {
            let segment = walk.next(ByteRange::from_bounds(at, range.end()))?;
            if !segment.flags.contains(ExtentFlags::ZERO) {
                return Ok(false);
            }
            at += segment.len;
        }
        Ok(true)
    }

    /// The unit at the front of `range`, if it is only partly in it; then the one at its end.
    fn partial_units(&self, range: ByteRange, unit: u64) -> (Option<ByteRange>, Option<ByteRange>) {
        let unit_of = |at: u64| self.outer(ByteRange::new(at, 1), unit);
        let whole = |u: &ByteRange| range.start <= u.start && u.end() <= range.end();
        let head = Some(unit_of(range.start)).filter(|u| !whole(u));
        let tail = Some(unit_of(range.end() - 1)).filter(|u| !whole(u) && Some(*u) != head);
        (head, tail)
    }

    fn write_locked(&self, range: ByteRange, buf: &[u8], unit: u64) -> Result<()> {
        let absent = |u: &ByteRange| Ok::<_, Error>(!self.top_state(*u)?.present);
        let (head, tail) = self.partial_units(range, unit);
        let mut direct = range;
        if let Some(unit) = head
            && absent(&unit)?
        {
            self.write_padded(unit, range, buf)?;
            direct = ByteRange::from_bounds(unit.end().min(range.end()), range.end());
        }
        let tail = match tail {
            Some(unit) if absent(&unit)? => Some(unit),
            _ => None,
        };
        if let Some(unit) = tail {
            direct = ByteRange::from_bounds(direct.start, unit.start);
        }
        if !direct.is_empty() {
            self.layer.write_at(direct.start, cut(buf, range, direct))?;
        }
        tail.map_or(Ok(()), |unit| self.write_padded(unit, range, buf))
    }

    /// Writes all of `unit`: the bytes of `buf` (which stand for `range`) where they reach it, else what is read now.
    fn write_padded(&self, unit: ByteRange, range: ByteRange, buf: &[u8]) -> Result<()> {
        let mut padded = vec![0; to_usize(unit.len)];
        let part = unit.intersect(range);
        let (from, to) = (to_usize(part.start - unit.start), to_usize(part.end() - unit.start));
        if let Some(head) = padded.get_mut(..from).filter(|head| !head.is_empty()) {
            self.read_joined(unit.start, head)?;
        }
        if let Some(tail) = padded.get_mut(to..).filter(|tail| !tail.is_empty()) {
            self.read_joined(part.end(), tail)?;
        }
        if let Some(middle) = padded.get_mut(from..to) {
            middle.copy_from_slice(cut(buf, range, part));
        }
        self.layer.write_widened(Widened::Bytes(unit.start, &padded), part)
    }

    fn write_zero_bytes(&self, range: ByteRange, unit: u64) -> Result<()> {
        // Whole units a time, so that no unit between is padded.
        let step = ZERO_CHUNK.max(unit).next_multiple_of(unit);
        let zeros = vec![0; to_usize(step.min(range.len))];
        let mut at = range.start;
        while at < range.end() {
            let end = (at - at % unit).saturating_add(step).min(range.end());
            let part = ByteRange::from_bounds(at, end.min(at.saturating_add(len_u64(&zeros))));
            self.write_locked(part, cut(&zeros, ByteRange::new(at, len_u64(&zeros)), part), unit)?;
            at = part.end();
        }
        Ok(())
    }

    fn zero_locked(&self, range: ByteRange, how: ZeroMode, unit: u64) -> Result<()> {
        let (head, tail) = self.partial_units(range, unit);
        let mut whole = range;
        for partial in [head, tail].into_iter().flatten() {
            let part = partial.intersect(range);
            if self.rest_is_zero(partial, part)? {
                let (start, end) = (whole.start.min(partial.start), whole.end().max(partial.end()));
                whole = ByteRange::from_bounds(start, end);
                continue;
            }
            if how == ZeroMode::FastOnly {
                return Err(Error::unsupported("part of a unit can't be zeroed fast"));
            }
            self.write_zero_bytes(part, unit)?;
            let front = part.start == whole.start;
            whole = if front {
                ByteRange::from_bounds(part.end(), whole.end())
            } else {
                ByteRange::from_bounds(whole.start, part.start)
            };
        }
        if whole.is_empty() {
            return Ok(());
        }
        let asked = whole.intersect(range);
        match self.door.write_widened(Widened::Zeroes(whole, how), asked) {
            Err(error) if error.kind() == ErrorKind::Unsupported && how != ZeroMode::FastOnly => {
                // The rest of it is zeros already.
                self.write_zero_bytes(asked, unit)
            }
            other => other,
        }
    }

    /// True if `unit` holds no bytes in the top and reads as zeros outside of `part`.
    fn rest_is_zero(&self, unit: ByteRange, part: ByteRange) -> Result<bool> {
        Ok(!self.top_state(unit)?.data
            && self.reads_zero(ByteRange::from_bounds(unit.start, part.start))?
            && self.reads_zero(ByteRange::from_bounds(part.end(), unit.end()))?)
    }

    /// After growth: the part of a stored unit that lay behind the old end, should the driver have left something there.
    fn clear_tail(&self, old_len: u64, unit: u64) -> Result<()> {
        let last = self.outer(ByteRange::new(old_len, 1), unit);
        let tail = ByteRange::from_bounds(old_len, last.end().min(self.top.len()));
        if tail.is_empty() || last.start == old_len || !self.top_state(tail)?.data {
            return Ok(());
        }
        let mut bytes = vec![0; to_usize(tail.len)];
        self.layer.read_at(tail.start, &mut bytes)?;
        if is_zero(&bytes) {
            return Ok(());
        }
        bytes.fill(0);
        self.layer.write_at(tail.start, &bytes)
    }

    /// After growth: what a longer backing file would show in the new part becomes zeros.
    fn hide_below(&self, old_len: u64, unit: u64) -> Result<()> {
        let below_len = self.below.as_ref().map_or(0, BlockDevice::len);
        let grown = ByteRange::from_bounds(old_len, self.top.len().min(below_len));
        let mut at = grown.start;
        while at < grown.end() {
            let extent = self.top.extent_at(ByteRange::from_bounds(at, grown.end()))?;
            let part = ByteRange::new(at, extent.len.max(1)).intersect(grown);
            if !extent.is_present() {
                self.zero_locked(part, ZeroMode::KeepAllocated, unit)?;
            }
            at = part.end();
        }
        Ok(())
    }
}

/// The bytes of `part` in `buf`, which stands for `range`.
fn cut(buf: &[u8], range: ByteRange, part: ByteRange) -> &[u8] {
    let from = to_usize(part.start.saturating_sub(range.start));
    buf.get(from..from.saturating_add(to_usize(part.len))).unwrap_or_default()
}

impl BlockDevice for Stack {
    fn len(&self) -> u64 {
        self.top.len()
    }

    fn limits(&self) -> Limits {
        Limits { growable: false, ..self.top.limits() }
    }

    fn is_read_only(&self) -> bool {
        self.top.is_read_only()
    }

    fn describe(&self) -> Description<'_> {
        self.top.describe()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        match self.below {
            None => self.door.read_at(offset, buf),
            Some(_) => self.read_joined(offset, buf),
        }
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let range = ByteRange::new(offset, len_u64(buf));
        if range.is_empty() {
            return Ok(());
        }
        if self.options.detect_zeroes != DetectZeroes::Off && is_zero(buf) {
            let unmap = self.options.detect_zeroes == DetectZeroes::Unmap;
            let how = if unmap { ZeroMode::MayUnmap } else { ZeroMode::KeepAllocated };
            match self.write_zeroes(range, how) {
                Err(error) if error.kind() == ErrorKind::Unsupported => {}
                other => return other,
            }
        }
        let unit = self.unit();
        if unit == 1 {
            return self.door.write_at(offset, buf);
        }
        let _alone = self.writers.lock(self.outer(range, unit));
        self.write_locked(range, buf, unit)
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let how =
            if how == ZeroMode::MayUnmap && !self.options.unmap { ZeroMode::KeepAllocated } else { how };
        let unit = self.unit();
        if unit == 1 {
            return self.door.write_zeroes(range, how);
        }
        let _alone = self.writers.lock(self.outer(range, unit));
        self.zero_locked(range, how, unit)
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        let unit = self.unit();
        let inner = self.inner(range, unit);
        if !self.options.unmap || inner.is_empty() {
            return Ok(());
        }
        let _alone = self.writers.lock(inner);
        self.door.discard(inner)
    }

    fn flush(&self) -> Result<()> {
        self.door.flush()
    }

    fn set_len(&self, len: u64, prealloc: Prealloc) -> Result<()> {
        let _alone = self.writers.lock(ByteRange::new(0, u64::MAX));
        let old_len = self.top.len();
        self.top.set_len(len, prealloc)?;
        if len <= old_len {
            return Ok(());
        }
        self.clear_tail(old_len, self.unit())?;
        self.hide_below(old_len, self.unit())
    }

    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        let mut segment = self.walk().only(range)?;
        segment.ask_host()?;
        Ok(Extent { len: segment.len, flags: segment.flags, host: segment.host })
    }

    fn each_extent(&self, range: ByteRange, each: &mut EachExtent<'_>) -> Result<()> {
        let mut walk = self.walk();
        let mut at = range.start;
        while at < range.end() {
            let mut segment = walk.next_of_many(ByteRange::from_bounds(at, range.end()))?;
            segment.ask_host()?;
            each(at, &Extent { len: segment.len, flags: segment.flags, host: segment.host })?;
            at += segment.len;
        }
        Ok(())
    }

    fn reserve(&self, range: ByteRange) -> Result<Option<Reservation<'_>>> {
        let unit = self.unit();
        if range.is_empty() || self.inner(range, unit) != range {
            return Ok(None);
        }
        // Before the driver's own claim, as all writers have it: who has one waits for nobody who waits for the other.
        let alone = self.writers.lock(range);
        let Some(reserved) = self.door.reserve(range)? else { return Ok(None) };
        let pieces = reserved.pieces().to_vec();
        let publish = LockedPublish { reserved, _alone: alone };
        Ok(Some(Reservation::new(pieces, Box::new(publish))))
    }

    fn copy_from(&self, offset: u64, source: HostRef<'_>, len: u64) -> Result<u64> {
        let range = ByteRange::new(offset, len);
        if range.is_empty() || self.inner(range, self.unit()) != range {
            return Ok(0);
        }
        let _alone = self.writers.lock(range);
        self.door.copy_from(offset, source, len)
    }

    fn allocated_len(&self) -> Result<Option<u64>> {
        self.top.allocated_len()
    }
}

/// A reservation during which no other writer is between looking at one of its units and writing it.
struct LockedPublish<'a> {
    reserved: Reservation<'a>,
    _alone: RangeGuard<'a>,
}

impl Publish for LockedPublish<'_> {
    fn commit(self: Box<Self>) -> Result<()> {
        self.reserved.commit()
    }

    fn abandon(self: Box<Self>) {
        drop(self.reserved);
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.reserved.write_at(offset, buf)
    }
}
