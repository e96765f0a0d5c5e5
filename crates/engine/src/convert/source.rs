//! The disks that are copied, one behind the other, as one; and which part of them is to be copied.

use std::sync::Arc;

use diskimg_chain::{Asking, Node, Status, StatusWalk};
use diskimg_core::{
    BlockDevice, ByteRange, CompressedClusters, ENDLESS, Error, ExtentFlags, HostRef, Result, align_up,
    is_zero, to_usize,
};

use super::failure::CopyError;
use super::plan::SECTOR;

/// How far is looked ahead in what is read from front to end, in bytes.
const LOOK_AHEAD: u64 = 1 << 20;

/// Bytes of a disk from which on nobody knows where it ends.
const NO_END: u64 = ENDLESS / 2;

/// Which part of a disk is copied.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scope<'a> {
    /// All of it.
    All,
    /// What the layers above this depth answer for: the target has, or is over, the layer at that depth.
    Above(usize),
    /// What the layers between the top and the one at this depth answer for (`None`: all below the top). The top is the
    /// target.
    Between(Option<usize>),
    /// What the top does not hold itself, where it is not as in this disk (`None`: zeros). The top is the target.
    Unlike(Option<&'a Node>),
}

/// What has to be done for a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Nothing: the target or its backing file has it.
    Below,
    /// It is known to be zeros.
    Zero,
    /// It has to be read.
    Data,
}

/// A disk, or a part of one, at its place among the others.
#[derive(Clone, Debug)]
struct Part<'a> {
    /// Where its bytes come.
    range: ByteRange,
    node: &'a Node,
    /// The byte of the disk that comes first.
    origin: u64,
    /// What it is read from, if that is read from front to end.
    pipe: Option<Pipe>,
}

/// What is read from front to end.
#[derive(Clone, Debug)]
struct Pipe {
    device: Arc<dyn BlockDevice>,
    /// Where the disk starts in it, if the disk is what it holds, up to an end that nobody knows.
    endless_from: Option<u64>,
}

impl Pipe {
    /// The pipe that holds `node`.
    fn of(node: &Node) -> Option<Self> {
        let device = node.image().children().into_iter().next()?.device;
        device.as_forward()?;
        let first = ByteRange::new(0, SECTOR);
        let start = || node.image().extent_at(first).ok()?.host.map(|host| host.offset);
        let endless_from = if node.device().len() >= NO_END { start() } else { None };
        Some(Self { device, endless_from })
    }

    /// The length of the disk, if it was seen to end.
    fn end(&self) -> Option<u64> {
        let end = self.device.as_forward()?.seen_end()?;
        align_up(end.saturating_sub(self.endless_from?), SECTOR)
    }

    /// Reads the disk from byte `offset` on. Behind its end there are zeros.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Option<Result<()>> {
        let (pipe, start) = (self.device.as_forward()?, self.endless_from?);
        Some(pipe.read_some(offset.saturating_add(start), buf).map(|there| {
            buf.get_mut(there..).unwrap_or_default().fill(0);
        }))
    }
}

/// True if `node` is read from front to end and nobody knows how long it is: its length says nothing.
#[must_use]
pub fn is_endless(node: &Node) -> bool {
    Pipe::of(node).is_some_and(|pipe| pipe.endless_from.is_some())
}

impl Part<'_> {
    /// The disk's own offset of byte `at` of all sources.
    fn own(&self, at: u64) -> u64 {
        at - self.range.start + self.origin
    }
}

/// The sources. Offsets are in bytes of all of them together.
#[derive(Debug)]
pub(super) struct Sources<'a> {
    parts: Vec<Part<'a>>,
    scope: Scope<'a>,
    /// Length of the layer that the scope ends above, in bytes.
    base_len: u64,
    /// For [`Scope::Unlike`]: the deepest layers that both chains have.
    shared: usize,
}

impl<'a> Sources<'a> {
    pub(super) fn new(nodes: &[&'a Node], scope: Scope<'a>) -> Self {
        let mut start = 0u64;
        let mut parts = Vec::with_capacity(nodes.len());
        for node in nodes {
            let range = ByteRange::new(start, node.device().len());
            start = range.end();
            parts.push(Part { range, node, origin: 0, pipe: Pipe::of(node) });
        }
        let base = match scope {
            Scope::Above(depth) | Scope::Between(Some(depth)) => {
                nodes.first().and_then(|top| top.layers().nth(depth))
            }
            _ => None,
        };
        let shared = match (scope, nodes.first()) {
            (Scope::Unlike(Some(disk)), Some(top)) => shared_layers(top, disk),
            _ => 0,
        };
        Self { parts, scope, base_len: base.map_or(0, |base| base.device().len()), shared }
    }

    /// The bytes `window` of one disk.
    pub(super) fn window(node: &'a Node, window: ByteRange) -> Self {
        let range = ByteRange::new(0, window.len);
        let parts = vec![Part { range, node, origin: window.start, pipe: None }];
        Self { parts, scope: Scope::All, base_len: 0, shared: 0 }
    }

    /// Bytes of all sources.
    pub(super) fn len(&self) -> u64 {
        self.parts.last().map_or(0, |part| part.range.end())
    }

    /// True if a source is read from front to end: by one thread at a time, in guest order.
    pub(super) fn in_order(&self) -> bool {
        self.parts.iter().any(|part| part.pipe.is_some())
    }

    /// True if nobody knew how long the last source is.
    pub(super) fn is_endless(&self) -> bool {
        self.last_pipe().is_some_and(|(_, pipe)| pipe.endless_from.is_some())
    }

    fn last_pipe(&self) -> Option<(u64, &Pipe)> {
        let part = self.parts.last()?;
        Some((part.range.start, part.pipe.as_ref()?))
    }

    /// Bytes of all sources, as far as that is known by now.
    pub(super) fn known_len(&self) -> u64 {
        let end = self.last_pipe().and_then(|(start, pipe)| start.checked_add(pipe.end()?));
        end.unwrap_or(self.len()).min(self.len())
    }

    /// A walk over a disk of which the layers below the scope are not copied.
    fn walk(&self, node: &'a Node) -> StatusWalk<'a> {
        match self.scope {
            Scope::Above(base) | Scope::Between(Some(base)) => node.status_walk().asking_above(base),
            Scope::All | Scope::Between(None) | Scope::Unlike(_) => node.status_walk(),
        }
    }

    /// The source that has byte `at`.
    fn part_at(&self, at: u64) -> Option<&Part<'a>> {
        let next = self.parts.partition_point(|part| part.range.end() <= at);
        self.parts.get(next).filter(|part| !part.range.is_empty())
    }

    /// What the chain knows of the start of `range`, with its offset in its own disk.
    fn status(&self, range: ByteRange) -> Result<Option<(u64, Status<'a>)>> {
        let Some(part) = self.part_at(range.start) else { return Ok(None) };
        let within = range.intersect(part.range);
        let own = part.own(within.start);
        let status = part.node.status(ByteRange::new(own, within.len))?;
        Ok(Some((own, status)))
    }

    /// What has to be done for the start of `range`, of which the chain knows `status`, and for how many bytes.
    fn classify(
        &self,
        range: ByteRange,
        status: &Status<'_>,
        other: &mut Option<StatusWalk<'a>>,
    ) -> Result<(Class, u64)> {
        let len = status.len.min(range.len);
        let in_top = status.depth == 0 && status.flags.contains(ExtentFlags::PRESENT);
        let below = match self.scope {
            Scope::All => false,
            Scope::Above(base) => self.is_below(base, range.start, status),
            Scope::Between(base) => {
                in_top || base.is_some_and(|base| self.is_below(base, range.start, status))
            }
            Scope::Unlike(_) if in_top => true,
            Scope::Unlike(None) => reads_zero(status),
            Scope::Unlike(Some(disk)) => {
                let walk = other.get_or_insert_with(|| disk.status_walk());
                return self.differs(disk, walk, status, ByteRange::new(range.start, len));
            }
        };
        let class = match below {
            true => Class::Below,
            false if reads_zero(status) => Class::Zero,
            false => Class::Data,
        };
        Ok((class, len))
    }

    /// Whether what `status` says of `range` has to be compared with `disk`, and for how many bytes that holds.
    fn differs(
        &self,
        disk: &Node,
        walk: &mut StatusWalk<'a>,
        status: &Status<'_>,
        range: ByteRange,
    ) -> Result<(Class, u64)> {
        let there = range.intersect(ByteRange::new(0, disk.device().len()));
        if there.is_empty() {
            return Ok((if reads_zero(status) { Class::Below } else { Class::Data }, range.len));
        }
        let other = walk.status(there)?;
        let len = other.len.min(there.len);
        let old_end = self
            .part_at(range.start)
            .and_then(|part| part.node.backing())
            .map_or(0, |old| old.device().len());
        if range.start >= old_end {
            return Ok((if reads_zero(&other) { Class::Below } else { Class::Zero }, len));
        }
        // Counted from the bottom, which both have in common.
        let height = |top: &Node, depth: usize| top.layers().count().saturating_sub(depth);
        let own_height = self.part_at(range.start).map_or(0, |part| height(part.node, status.depth));
        let one_layer = own_height == height(disk, other.depth) && own_height <= self.shared;
        let present = ExtentFlags::PRESENT;
        let same = one_layer && status.flags.contains(present) && other.flags.contains(present);
        let equal = same || (reads_zero(status) && reads_zero(&other));
        Ok((if equal { Class::Below } else { Class::Data }, len))
    }

    /// Calls `each` with the runs of whole units (of `unit` bytes) of `range` whose `bytes` have to be copied, and where
    /// they start in `bytes`: all of it, or what is not as in the disk it is compared with. `then` is a buffer for what
    /// that one has.
    pub(super) fn differing(
        &self,
        range: ByteRange,
        bytes: &[u8],
        unit: usize,
        then: &mut Vec<u8>,
        each: &mut dyn FnMut(ByteRange, usize) -> Result<(), CopyError>,
    ) -> Result<(), CopyError> {
        let Scope::Unlike(disk) = self.scope else { return each(range, 0) };
        let there = disk.map_or(0, |disk| disk.device().len()).saturating_sub(range.start).min(range.len);
        let Some(disk) = disk.filter(|_| there > 0) else {
            return runs(range, bytes.chunks(unit).map(|now| (now.len(), !is_zero(now))), each);
        };
        then.resize(bytes.len(), 0);
        let (known, behind) = then.split_at_mut(to_usize(there).min(bytes.len()));
        behind.fill(0);
        disk.device().read_at(range.start, known).map_err(|error| CopyError::comparing(range, error))?;
        runs(
            range,
            bytes.chunks(unit).zip(then.chunks(unit)).map(|(now, then)| (now.len(), now != then)),
            each,
        )
    }

    /// True if units of zeros are left out when they are read, whatever else is asked for.
    pub(super) fn leaves_zeros_out(&self) -> bool {
        matches!(self.scope, Scope::Unlike(None))
    }

    /// True if the target is not a layer of the source.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.scope, Scope::All | Scope::Above(_))
    }

    /// True if what reads as zeros has to be held by the target's own layer: it is going to have another one below it, or
    /// has one.
    pub(super) fn target_holds_zeros(&self, target: &Node) -> bool {
        matches!(self.scope, Scope::Between(_) | Scope::Unlike(_)) || target.backing().is_some()
    }

    /// True if the target is the top layer, and holds a part of `range` already.
    pub(super) fn target_holds_part(&self, range: ByteRange) -> Result<bool> {
        let (Scope::Between(_) | Scope::Unlike(_), Some(part)) = (self.scope, self.part_at(range.start))
        else {
            return Ok(false);
        };
        let mut at = range.start;
        while at < range.end() {
            let extent = part.node.image().extent_at(ByteRange::from_bounds(at, range.end()))?;
            if extent.is_present() {
                return Ok(true);
            }
            at = at.saturating_add(extent.len.max(1));
        }
        Ok(false)
    }

    /// True if none of the layers above `base` answers for byte `at`. One that is too short does, with zeros.
    fn is_below(&self, base: usize, at: u64, status: &Status<'_>) -> bool {
        let nobody = !status.flags.contains(ExtentFlags::PRESENT);
        status.depth >= base || (nobody && (status.depth + 1 >= base || at >= self.base_len))
    }

    /// Reads across the borders of sources.
    pub(super) fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let Some(part) = self.part_at(at) else {
                rest.fill(0);
                return Ok(());
            };
            let room = to_usize(part.range.end() - at).min(rest.len());
            let (now, later) = rest.split_at_mut(room);
            match part.pipe.as_ref().and_then(|pipe| pipe.read_at(part.own(at), now)) {
                Some(read) => read?,
                None => part.node.device().read_at(part.own(at), now)?,
            }
            at += diskimg_core::len_u64(now);
            rest = later;
        }
        Ok(())
    }

    /// Where the bytes at the start of `range` stand as they are, and how many of them.
    pub(super) fn host_at(&self, range: ByteRange) -> Result<(Option<HostRef<'a>>, u64)> {
        let Some((_, status)) = self.status(range)? else { return Ok((None, range.len)) };
        let is_data = status.flags.contains(ExtentFlags::DATA) && !status.flags.contains(ExtentFlags::ZERO);
        Ok((status.host.filter(|_| is_data), status.len.min(range.len)))
    }

    /// The payload of the compressed cluster at `range`, where a layer stores it in the way `target` does.
    pub(super) fn payload(
        &self,
        range: ByteRange,
        target: &dyn CompressedClusters,
        payload: &mut Vec<u8>,
    ) -> Result<bool> {
        let Some((at, status)) = self.status(range)? else { return Ok(false) };
        let whole = status.len >= range.len && range.len == target.cluster_len();
        if !whole || !status.flags.contains(ExtentFlags::COMPRESSED) {
            return Ok(false);
        }
        let image = status.layer.image();
        match image.as_compressed() {
            Some(source)
                if source.codec() == target.codec()
                    && source.cluster_len() == target.cluster_len()
                    && at.is_multiple_of(source.cluster_len())
                    && range.len <= image.len().saturating_sub(at) =>
            {
                source.read_encoded(at, payload)
            }
            _ => Ok(false),
        }
    }
}

/// A walk over the sources, front to back.
#[derive(Debug)]
pub(super) struct SourceWalk<'a> {
    sources: &'a Sources<'a>,
    /// The part that was asked about last: where it starts.
    part: Option<(u64, StatusWalk<'a>)>,
    /// The disk that the sources are compared with.
    other: Option<StatusWalk<'a>>,
    asking: Asking,
}

impl SourceWalk<'_> {
    /// The error of a place of which nothing could be told.
    pub(super) fn failed(&self, at: u64, cause: Error) -> CopyError {
        match self.sources.in_order() {
            true => CopyError::status_of_pipe(at, cause),
            false => CopyError::status(at, cause),
        }
    }

    /// As [`Sources::known_len`].
    pub(super) fn known_len(&self) -> u64 {
        self.sources.known_len()
    }
}

impl<'a> SourceWalk<'a> {
    pub(super) fn new(sources: &'a Sources<'a>) -> Self {
        Self { sources, part: None, other: None, asking: Asking::default() }
    }

    /// The same, with other questions to the host.
    pub(super) fn asking(self, asking: Asking) -> Self {
        Self { asking, ..self }
    }

    /// As [`Sources::status`].
    fn status(&mut self, range: ByteRange) -> Result<Option<(u64, Status<'a>)>> {
        let Some(part) = self.sources.part_at(range.start) else { return Ok(None) };
        let start = part.range.start;
        if self.part.as_ref().is_none_or(|(known, _)| *known != start) {
            self.part = Some((start, self.sources.walk(part.node).asking(self.asking)));
        }
        let Some((_, walk)) = &mut self.part else { return Ok(None) };
        let within = range.intersect(part.range);
        let own = part.own(within.start);
        Ok(Some((own, walk.status(ByteRange::new(own, within.len))?)))
    }

    /// What has to be done for the start of `range` (not empty), and for how many bytes.
    pub(super) fn classify(&mut self, range: ByteRange) -> Result<(Class, u64)> {
        let ahead = if self.sources.in_order() { LOOK_AHEAD } else { range.len };
        let range = ByteRange::new(range.start, range.len.min(ahead));
        match self.status(range)? {
            Some((_, status)) => self.sources.classify(range, &status, &mut self.other),
            None => Ok((Class::Zero, range.len)),
        }
    }

    /// Like [`classify`](Self::classify), in the pieces that qemu-img looks at: each compressed cluster is one, and a
    /// piece that is longer than what it holds of its last cluster ends before that cluster.
    pub(super) fn look(&mut self, range: ByteRange) -> Result<(Class, u64)> {
        let Some((at, status)) = self.status(range)? else { return Ok((Class::Zero, range.len)) };
        let (class, mut len) = self.sources.classify(range, &status, &mut self.other)?;
        if status.flags.contains(ExtentFlags::COMPRESSED)
            && let Some(clusters) = status.layer.image().as_compressed()
        {
            let cluster = clusters.cluster_len().max(1);
            len = len.min(cluster - at % cluster);
        }
        if let Some(part) = self.sources.part_at(range.start)
            && let Some(cluster) =
                part.node.image().as_compressed().map(|clusters| clusters.cluster_len().max(1))
        {
            let tail = (at + len) % cluster;
            if len > tail {
                len -= tail;
            }
        }
        Ok((class, len))
    }
}

/// Calls `each` with the runs of those units (their lengths, from the start of `range` on) that are marked, and where they
/// start from there.
fn runs(
    range: ByteRange,
    units: impl Iterator<Item = (usize, bool)>,
    each: &mut dyn FnMut(ByteRange, usize) -> Result<(), CopyError>,
) -> Result<(), CopyError> {
    // Where the run of marked units began, and where the unit starts.
    let (mut run, mut at) = (None, 0);
    let on_disk = |from: usize, end: usize| ByteRange::new(range.start + from as u64, (end - from) as u64);
    for (len, marked) in units {
        if marked {
            run.get_or_insert(at);
        } else if let Some(from) = run.take() {
            each(on_disk(from, at), from)?;
        }
        at += len;
    }
    run.map_or(Ok(()), |from| each(on_disk(from, at), from))
}

/// What nobody says anything of is not taken for zeros: a server may call a hole what has bytes.
fn reads_zero(status: &Status<'_>) -> bool {
    status.flags.contains(ExtentFlags::ZERO)
}

/// How many of their deepest layers two chains have in common.
fn shared_layers(a: &Node, b: &Node) -> usize {
    let layers = |node: &'_ Node| -> Vec<Node> { node.layers().cloned().collect() };
    let (a, b) = (layers(a), layers(b));
    a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| same_image(a, b)).count()
}

/// True if both are the same image in the same file, opened alike.
fn same_image(a: &Node, b: &Node) -> bool {
    let plain = |node: &Node| node.name() == node.filename();
    let same_name = a.name() == b.name() && !a.name().is_empty();
    let file = || plain(a) && plain(b) && super::same_file(a.filename(), b.filename());
    a.format() == b.format() && (same_name || file())
}
