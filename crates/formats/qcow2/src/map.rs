//! From guest offsets to what is there: runs of one nature, at subcluster granularity.

use diskimg_core::{ByteRange, Extent, ExtentFlags, HostRef, Result};

use crate::entry::{ClusterKind, L2Entry};
use crate::image::Qcow2;
use crate::meta::{Miss, SliceView, State, hex};

/// What a run of guest bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunKind {
    /// Not in this layer.
    Absent,
    /// Not in this layer, but with a host cluster reserved for it.
    Reserved { host: u64 },
    /// Zeros, perhaps with a host cluster kept.
    Zero { host: Option<u64> },
    /// Bytes at `host`; `copied`: nobody else refers to them.
    Data { host: u64, copied: bool },
    /// Part of a compressed cluster.
    Compressed { entry: L2Entry },
}

/// A run of guest bytes of one nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Bytes.
    pub len: u64,
    pub kind: RunKind,
}

impl RunKind {
    /// True if `next`, `len` bytes further on, continues this run.
    fn continues(self, len: u64, next: Self) -> bool {
        let follows = |a: u64, b: u64| a.checked_add(len) == Some(b);
        match (self, next) {
            (Self::Absent, Self::Absent) => true,
            (Self::Reserved { host: a }, Self::Reserved { host: b }) => follows(a, b),
            (Self::Zero { host: None }, Self::Zero { host: None }) => true,
            (Self::Zero { host: Some(a) }, Self::Zero { host: Some(b) }) => follows(a, b),
            (Self::Data { host: a, copied: x }, Self::Data { host: b, copied: y }) => x == y && follows(a, b),
            _ => false,
        }
    }

    /// By how much the descriptors of clusters grow that are wholly of this kind and continue each other; `None`:
    /// nothing follows from a descriptor alone.
    const fn step(self, cluster_size: u64) -> Option<u64> {
        match self {
            Self::Absent | Self::Zero { host: None } => Some(0),
            Self::Zero { host: Some(_) } | Self::Data { .. } => Some(cluster_size),
            Self::Reserved { .. } | Self::Compressed { .. } => None,
        }
    }
}

impl Qcow2 {
    /// The first run of `range` (not empty, within the disk).
    pub(crate) fn run_at(&self, range: ByteRange) -> Result<Run> {
        self.meta.look(|state| self.run_in(state, range))
    }

    fn run_in(&self, state: &State, range: ByteRange) -> Result<Run, Miss> {
        let mut found: Option<Run> = None;
        while found.is_none_or(|run| run.len < range.len) {
            let done = found.map_or(0, |run| run.len);
            let rest = ByteRange::from_bounds(range.start + done, range.end());
            let piece = match self.run_in_slice(state, rest) {
                Ok(piece) => piece,
                // What is known already is an answer.
                Err(Miss::Slice(..) | Miss::Corrupt(_)) if found.is_some() => break,
                Err(miss) => return Err(miss),
            };
            match &mut found {
                None => found = Some(piece),
                Some(run) if run.kind.continues(run.len, piece.kind) => run.len += piece.len,
                Some(_) => break,
            }
            // What ended before its slice did is not continued by the next.
            let end = rest.start + piece.len;
            if !end.is_multiple_of(state.l2_slice_coverage()) {
                break;
            }
        }
        Ok(found.unwrap_or(Run { len: range.len, kind: RunKind::Absent }))
    }

    /// The first run of `range` as far as one slice of an L2 table tells.
    fn run_in_slice(&self, state: &State, range: ByteRange) -> Result<Run, Miss> {
        let geo = &self.meta.geo;
        let Some(slice) = state.l2_slice(range.start)? else {
            let table_end = range.start - range.start % geo.l2_coverage() + geo.l2_coverage();
            return Ok(Run { len: range.len.min(table_end - range.start), kind: RunKind::Absent });
        };
        let mut at = range.start;
        let mut found: Option<Run> = None;
        let mut index = geo.l2_index(at);
        while at < range.end() {
            let Some(entry) = slice.entry(index) else { break };
            let piece = match self.run_in_cluster(&slice, index, entry, at) {
                Ok(piece) => piece,
                Err(Miss::Corrupt(_)) if found.is_some() => break,
                Err(miss) => return Err(miss),
            };
            let len = piece.len.min(range.end() - at);
            match &mut found {
                None => found = Some(Run { len, kind: piece.kind }),
                Some(run) if run.kind.continues(run.len, piece.kind) => run.len += len,
                Some(_) => break,
            }
            at += len;
            if geo.is_aligned(at) {
                // What says the same as a whole cluster before it is not taken apart again.
                if len == geo.cluster_size()
                    && let Some(step) = piece.kind.step(geo.cluster_size())
                    && let Some(run) = &mut found
                {
                    let more = slice.going_on(index, step, (range.end() - at) >> geo.cluster_bits);
                    let bytes = more << geo.cluster_bits;
                    (run.len, at, index) = (run.len + bytes, at + bytes, index + more);
                }
                index += 1;
            }
        }
        Ok(found.unwrap_or(Run { len: range.len, kind: RunKind::Absent }))
    }

    /// The run from guest byte `at` to where the nature changes in its cluster.
    fn run_in_cluster(
        &self,
        slice: &SliceView<'_>,
        index: u64,
        entry: L2Entry,
        at: u64,
    ) -> Result<Run, Miss> {
        let geo = &self.meta.geo;
        let within = geo.in_cluster(at);
        let rest = geo.cluster_size() - within;
        let place = || format!("(L2 offset: {}, L2 index: {})", hex(slice.table), hex(index));
        let kind = entry.kind(geo, self.data_file.is_some());
        if self.meta.version() == 2 && matches!(kind, ClusterKind::ZeroPlain | ClusterKind::ZeroAllocated) {
            return Err(Miss::Corrupt(format!("Zero cluster entry found in pre-v3 image {}", place())));
        }
        if matches!(kind, ClusterKind::Normal | ClusterKind::ZeroAllocated) {
            let offset = entry.offset();
            if !geo.is_aligned(offset) {
                let text = format!("Cluster allocation offset {} unaligned {}", hex(offset), place());
                return Err(Miss::Corrupt(text));
            }
            let guest = geo.cluster_start(at);
            if self.data_file.is_some() && offset != guest {
                let (offset, guest, index) = (hex(offset), hex(guest), hex(index));
                let text = format!(
                    "External data file host cluster offset {offset} does not match guest cluster offset: {guest}, L2 index: {index})"
                );
                return Err(Miss::Corrupt(text));
            }
        }
        let host = entry.offset() + within;
        Ok(match kind {
            ClusterKind::Compressed if self.data_file.is_some() => {
                let text =
                    format!("Compressed cluster entry found in image with external data file {}", place());
                return Err(Miss::Corrupt(text));
            }
            ClusterKind::Compressed => Run { len: rest, kind: RunKind::Compressed { entry } },
            ClusterKind::ZeroPlain => Run { len: rest, kind: RunKind::Zero { host: None } },
            ClusterKind::ZeroAllocated => Run { len: rest, kind: RunKind::Zero { host: Some(host) } },
            _ if geo.extended_l2 => return self.run_in_subclusters(entry, at, &place),
            ClusterKind::Unallocated => Run { len: rest, kind: RunKind::Absent },
            ClusterKind::Normal => Run { len: rest, kind: RunKind::Data { host, copied: entry.is_copied() } },
        })
    }

    fn run_in_subclusters(&self, entry: L2Entry, at: u64, place: &dyn Fn() -> String) -> Result<Run, Miss> {
        let geo = &self.meta.geo;
        let has_host = entry.kind(geo, self.data_file.is_some()) == ClusterKind::Normal;
        let (allocated, zero) = (entry.allocated_mask(), entry.zero_mask());
        if allocated & zero != 0 || (!has_host && allocated != 0) {
            return Err(Miss::Corrupt(format!("Invalid cluster entry found  {}", place())));
        }
        let first = u32::try_from(geo.in_cluster(at) / geo.subcluster_size()).unwrap_or(0);
        let nature = |index: u32| (allocated >> index & 1, zero >> index & 1);
        let end = (first..geo.subclusters()).find(|index| nature(*index) != nature(first)).unwrap_or(32);
        let len = u64::from(end) * geo.subcluster_size() - geo.in_cluster(at);
        let host = entry.offset() + geo.in_cluster(at);
        let kind = match nature(first) {
            (1, _) => RunKind::Data { host, copied: entry.is_copied() },
            (_, 1) => RunKind::Zero { host: has_host.then_some(host) },
            _ if has_host => RunKind::Reserved { host },
            _ => RunKind::Absent,
        };
        Ok(Run { len, kind })
    }

    /// The first extent of `range`: compressed clusters that follow each other are one.
    pub(crate) fn extent(&self, range: ByteRange) -> Result<Extent<'_>> {
        let first = self.run_at(range)?;
        let mut extent = self.extent_of(first);
        while extent.flags.contains(ExtentFlags::COMPRESSED) && extent.len < range.len {
            let rest = ByteRange::from_bounds(range.start + extent.len, range.end());
            match self.run_at(rest)? {
                Run { len, kind: RunKind::Compressed { .. } } => extent.len += len,
                _ => break,
            }
        }
        Ok(extent)
    }

    fn extent_of(&self, run: Run) -> Extent<'_> {
        let as_is = !self.is_encrypted();
        let at = |offset| as_is.then(|| HostRef { device: &**self.data_device(), offset });
        match run.kind {
            RunKind::Absent => Extent::absent(run.len),
            RunKind::Reserved { host } => Extent { host: at(host), ..Extent::absent(run.len) },
            RunKind::Zero { host } => Extent { host: host.and_then(at), ..Extent::zero(run.len) },
            RunKind::Data { host, .. } => {
                let mut extent = Extent::data(run.len, at(host));
                // Zeros on the host are no zeros of the guest where they would be decrypted.
                if as_is && self.metadata_preallocated() {
                    extent.flags |= ExtentFlags::ASK_HOST;
                }
                extent
            }
            RunKind::Compressed { .. } => {
                let mut extent = Extent::data(run.len, None);
                extent.flags |= ExtentFlags::COMPRESSED;
                extent
            }
        }
    }
}
