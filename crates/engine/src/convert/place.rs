//! Puts a unit into the target: first places for all of it, in order; then the bytes.

use diskimg_chain::Node;
use diskimg_core::{
    BlockDevice as _, ByteRange, CompressedClusters, Device, Error, Image, Reservation, Result, ZeroMode,
    to_usize,
};

use super::failure::CopyError;
use super::manner::{Manner, unplanned};
use super::pipeline::{Content, Segment, Work};
use super::source::Sources;
use super::zero_detect::{ZeroRules, split};

/// Bytes that are copied at once where the host can't do it.
const BOUNCE: u64 = 256 << 10;

/// The target of a conversion.
pub(super) struct Placer<'a> {
    device: &'a Device,
    /// The target's own layer, where it has to hold zeros too: some formats leave them out if the image names no backing
    /// file now.
    layer: Option<&'a dyn Image>,
    compressed: Option<&'a dyn CompressedClusters>,
    sources: &'a Sources<'a>,
    /// Placing decides about the layout, so what has no second phase is written at once.
    pub(super) ordered: bool,
    leave_out: LeaveOut,
    manner: Manner<'a>,
}

/// Zeros within data that need not be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeaveOut {
    /// Where the target has a place already.
    pub(super) in_place: Option<ZeroRules>,
    /// In a place that is new.
    pub(super) in_fresh: Option<ZeroRules>,
}

/// A unit's segments with the places they got.
pub(super) type Places<'a> = Vec<(usize, Option<Reservation<'a>>)>;

impl<'a> Placer<'a> {
    pub(super) fn new(
        target: &'a Node,
        sources: &'a Sources<'a>,
        ordered: bool,
        leave_out: LeaveOut,
        manner: Manner<'a>,
    ) -> Self {
        let compressed = target.image().as_compressed();
        let layer = sources.target_holds_zeros(target).then(|| &**target.image());
        Self { device: target.device(), layer, compressed, sources, ordered, leave_out, manner }
    }

    /// Finds places for all segments of `work`, and zeroes what is to be zeroed.
    pub(super) fn place(&self, work: &Work) -> Result<Places<'a>, CopyError> {
        let mut places = Vec::with_capacity(work.segments.len());
        for (index, segment) in work.segments.iter().enumerate() {
            let placed =
                self.place_segment(segment).map_err(|error| CopyError::writing(segment.range, error))?;
            match placed {
                Placed::Done => {}
                Placed::Reserved(place) if let Some(sketch) = self.manner.sketch => sketch.note(place)?,
                Placed::Nowhere if self.manner.sketch.is_some() => return Err(unplanned().into()),
                Placed::Reserved(place) if self.manner.at_once => self.write(work, segment, Some(place))?,
                Placed::Reserved(reservation) => places.push((index, Some(reservation))),
                Placed::Nowhere if self.ordered => self.write(work, segment, None)?,
                Placed::Nowhere => places.push((index, None)),
            }
        }
        Ok(places)
    }

    fn place_segment(&self, segment: &Segment) -> Result<Placed<'a>> {
        let reserved = match segment.content {
            Content::Zeros => {
                self.zero(segment.range)?;
                return Ok(Placed::Done);
            }
            Content::Payload { len, .. } => match self.compressed {
                Some(clusters) => Some(clusters.reserve_encoded(segment.range.start, to_u64(len))?),
                None => return Err(Error::unsupported("Compression not supported for this file format")),
            },
            Content::Bytes { .. } | Content::OnHost => self.device.reserve(segment.range)?,
        };
        Ok(reserved.map_or(Placed::Nowhere, Placed::Reserved))
    }

    fn zero(&self, range: ByteRange) -> Result<()> {
        self.device.write_zeroes(range, ZeroMode::MayUnmap)?;
        let Some(layer) = self.layer else { return Ok(()) };
        let mut zeros = Vec::new();
        let mut at = range.start;
        while at < range.end() {
            let rest = ByteRange::from_bounds(at, range.end());
            let extent = layer.extent_at(rest)?;
            let mut len = extent.len.clamp(1, rest.len);
            if !extent.is_present() {
                len = len.min(BOUNCE.max(self.device.limits().write_unit));
                zeros.resize(to_usize(len), 0);
                self.device.write_at(at, &zeros)?;
            }
            at += len;
        }
        Ok(())
    }

    /// True if the bytes for `places` go as they are into a file that takes one write at a time.
    pub(super) fn takes_turns(&self, places: &Places<'a>) -> bool {
        places.iter().all(|(_, place)| match place {
            None => self.device.limits().one_writer,
            Some(place) => {
                let mut hosts = place.pieces().iter().map(|piece| piece.host);
                hosts.all(|host| host.is_some_and(|host| host.device.limits().one_writer))
            }
        })
    }

    /// Writes the bytes to their places and makes them visible.
    pub(super) fn fill(&self, work: &Work, places: Places<'a>) -> Result<(), CopyError> {
        for (index, reservation) in places {
            if let Some(segment) = work.segments.get(index) {
                self.write(work, segment, reservation)?;
            }
        }
        Ok(())
    }

    fn write(&self, work: &Work, segment: &Segment, place: Option<Reservation<'a>>) -> Result<(), CopyError> {
        let written = match segment.content {
            Content::Zeros => Ok(()),
            Content::Bytes { at } => {
                let bytes = slice(&work.buf, at, to_usize(segment.range.len));
                let rules = match &place {
                    Some(place) => self.leave_out.in_fresh.filter(|_| place.is_fresh()),
                    None => self.leave_out.in_place.filter(|_| self.ordered),
                };
                match rules {
                    Some(rules) => self.write_blocks(segment.range, bytes, rules, place.as_ref()),
                    None => self.write_bytes(segment.range.start, bytes, place.as_ref()),
                }
            }
            Content::Payload { at, len } => {
                let payload = slice(&work.payloads, at, len);
                place.as_ref().map_or(Ok(()), |place| place.write_at(0, payload))
            }
            Content::OnHost => self.copy_on_host(segment.range, place.as_ref()),
        };
        written
            .and_then(|()| place.map_or(Ok(()), Reservation::commit))
            .map_err(|error| CopyError::writing(segment.range, error))
    }

    fn write_bytes(&self, offset: u64, bytes: &[u8], place: Option<&Reservation<'a>>) -> Result<()> {
        match place {
            Some(place) => place.write_at(offset, bytes),
            None => self.device.write_at(offset, bytes),
        }
    }

    /// Writes the blocks that are not zeros into clusters that read as zeros.
    fn write_blocks(
        &self,
        range: ByteRange,
        bytes: &[u8],
        rules: ZeroRules,
        place: Option<&Reservation<'a>>,
    ) -> Result<()> {
        let mut result = Ok(());
        split(bytes, range, rules, |run, zero| {
            if !zero && result.is_ok() {
                let part = slice(bytes, to_usize(run.start - range.start), to_usize(run.len));
                result = self.write_bytes(run.start, part, place);
            }
        });
        result
    }

    /// Lets the host copy what stands somewhere as it is; reads and writes the rest.
    fn copy_on_host(&self, range: ByteRange, place: Option<&Reservation<'a>>) -> Result<()> {
        let mut at = range.start;
        while at < range.end() {
            let (host, len) = self.sources.host_at(ByteRange::from_bounds(at, range.end()))?;
            let part = ByteRange::new(at, len);
            let copied = match host {
                Some(host) => self.offload(part, host, place)?,
                None => 0,
            };
            self.bounce(ByteRange::from_bounds(at + copied, part.end()), place)?;
            at = part.end();
        }
        Ok(())
    }

    /// Bytes from the start of `part` that the host copied.
    fn offload(
        &self,
        part: ByteRange,
        host: diskimg_core::HostRef<'_>,
        place: Option<&Reservation<'a>>,
    ) -> Result<u64> {
        let Some(place) = place else { return self.device.copy_from(part.start, host, part.len) };
        let mut copied = 0;
        for piece in place.pieces() {
            let common = piece.range.intersect(part);
            if common.is_empty() {
                continue;
            }
            // What is changed on its way is not for the host to copy.
            let Some(to) = piece.host.map(|to| to.advance(common.start - piece.range.start)) else { break };
            let from = host.advance(common.start - part.start);
            let now = to.device.copy_from(to.offset, from, common.len)?;
            copied += now;
            if now < common.len {
                break;
            }
        }
        Ok(copied)
    }

    fn bounce(&self, range: ByteRange, place: Option<&Reservation<'a>>) -> Result<()> {
        let mut buf = vec![0; to_usize(range.len.min(BOUNCE))];
        let mut at = range.start;
        while at < range.end() {
            let len = to_usize(BOUNCE.min(range.end() - at));
            let part = buf.get_mut(..len).unwrap_or_default();
            self.sources.read_at(at, part)?;
            self.write_bytes(at, part, place)?;
            at += to_u64(len);
        }
        Ok(())
    }
}

/// What became of a segment.
enum Placed<'a> {
    /// It needs nothing more.
    Done,
    /// It has a place.
    Reserved(Reservation<'a>),
    /// The target has no places to give: it is written in one phase.
    Nowhere,
}

fn slice(buf: &[u8], at: usize, len: usize) -> &[u8] {
    buf.get(at..at.saturating_add(len)).unwrap_or_default()
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
