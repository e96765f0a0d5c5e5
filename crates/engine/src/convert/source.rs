//! The disks that are copied, one behind the other, as one; and which part of them is to be copied.

use diskimg_chain::{Node, Status};
use diskimg_core::{BlockDevice as _, ByteRange, CompressedClusters, ExtentFlags, HostRef, Result, to_usize};

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
#[derive(Clone, Copy, Debug)]
struct Part<'a> {
    /// Where its bytes come.
    range: ByteRange,
    node: &'a Node,
    /// The byte of the disk that comes first.
    origin: u64,
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
            parts.push(Part { range, node, origin: 0 });
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
        let parts = vec![Part { range, node, origin: window.start }];
        Self { parts, scope: Scope::All, base_len: 0, shared: 0 }
    }

    /// Bytes of all sources.
    pub(super) fn len(&self) -> u64 {
        self.parts.last().map_or(0, |part| part.range.end())
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

    /// What has to be done for the start of `range` (not empty), and for how many bytes.
    pub(super) fn classify(&self, range: ByteRange) -> Result<(Class, u64)> {
        let Some((_, status)) = self.status(range)? else { return Ok((Class::Zero, range.len)) };
        let len = status.len.min(range.len);
        let in_top = status.depth == 0 && status.flags.contains(ExtentFlags::PRESENT);
        let below = match self.scope {
            Scope::All => false,
            Scope::Above(base) => self.is_below(base, range.start, &status),
            Scope::Between(base) => {
                in_top || base.is_some_and(|base| self.is_below(base, range.start, &status))
            }
            Scope::Unlike(_) if in_top => true,
            Scope::Unlike(None) => reads_zero(&status),
            Scope::Unlike(Some(disk)) => {
                return self.differs(disk, &status, ByteRange::new(range.start, len));
            }
        };
        let class = match below {
            true => Class::Below,
            false if reads_zero(&status) => Class::Zero,
            false => Class::Data,
        };
        Ok((class, len))
    }

    /// Whether what `status` says of `range` has to be compared with `disk`, and for how many bytes that holds.
    fn differs(&self, disk: &'a Node, status: &Status<'_>, range: ByteRange) -> Result<(Class, u64)> {
        let there = range.intersect(ByteRange::new(0, disk.device().len()));
        if there.is_empty() {
            return Ok((if reads_zero(status) { Class::Below } else { Class::Data }, range.len));
        }
        let other = disk.status(there)?;
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

    /// What the disk is compared with while it is copied: reads `len` bytes there; zeros behind its end.
    pub(super) fn read_compared(&self, offset: u64, len: usize, buf: &mut Vec<u8>) -> Result<bool> {
        let Scope::Unlike(disk) = self.scope else { return Ok(false) };
        buf.resize(len, 0);
        let len = disk.map_or(0, |disk| disk.device().len()).saturating_sub(offset);
        let there = to_usize(len).min(buf.len());
        let (there, behind) = buf.split_at_mut(there);
        behind.fill(0);
        if let Some(disk) = disk.filter(|_| !there.is_empty()) {
            disk.device().read_at(offset, there)?;
        }
        Ok(true)
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

    /// Like [`classify`](Self::classify), in the pieces that qemu-img looks at: each compressed cluster is one, and a
    /// piece that is longer than what it holds of its last cluster ends before that cluster.
    pub(super) fn look(&self, range: ByteRange) -> Result<(Class, u64)> {
        let (class, mut len) = self.classify(range)?;
        let Some((at, status)) = self.status(range)? else { return Ok((class, len)) };
        if status.flags.contains(ExtentFlags::COMPRESSED)
            && let Some(clusters) = status.layer.image().as_compressed()
        {
            let cluster = clusters.cluster_len().max(1);
            len = len.min(cluster - at % cluster);
        }
        if let Some(part) = self.part_at(range.start)
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
            part.node.device().read_at(part.own(at), now)?;
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

fn reads_zero(status: &Status<'_>) -> bool {
    status.flags.contains(ExtentFlags::ZERO) || status.flags.is_empty()
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
