//! The disks that are copied, one behind the other, as one.

use diskimg_chain::{Node, Status};
use diskimg_core::{BlockDevice as _, ByteRange, CompressedClusters, ExtentFlags, HostRef, Result, to_usize};

/// What has to be done for a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Nothing: the target's backing file has it.
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
    /// Layers from this depth on are the target's backing file.
    base_depth: Option<usize>,
}

impl<'a> Sources<'a> {
    pub(super) fn new(nodes: &[&'a Node], base_depth: Option<usize>) -> Self {
        let mut start = 0u64;
        let mut parts = Vec::with_capacity(nodes.len());
        for node in nodes {
            let range = ByteRange::new(start, node.device().len());
            start = range.end();
            parts.push(Part { range, node, origin: 0 });
        }
        Self { parts, base_depth }
    }

    /// The bytes `window` of one disk.
    pub(super) fn window(node: &'a Node, window: ByteRange) -> Self {
        let range = ByteRange::new(0, window.len);
        Self { parts: vec![Part { range, node, origin: window.start }], base_depth: None }
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
        let class = if self.base_depth.is_some_and(|base| self.is_below(base, &status)) {
            Class::Below
        } else if status.flags.contains(ExtentFlags::ZERO) || status.flags.is_empty() {
            Class::Zero
        } else {
            Class::Data
        };
        Ok((class, status.len.min(range.len)))
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

    /// True if none of the layers above `base` answers for it.
    fn is_below(&self, base: usize, status: &Status<'_>) -> bool {
        status.depth >= base || !status.flags.contains(ExtentFlags::PRESENT)
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
