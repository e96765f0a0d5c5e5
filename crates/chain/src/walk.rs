//! Walks down a chain: who answers for a range of the disk.
//!
//! A loop, not recursion: a long chain costs no stack. Within one walk, what a layer said is absent is not asked again.

use diskimg_core::{BlockDevice, ByteRange, Error, ExtentFlags, HostRef, Image, Result};

use crate::node::{Node, Status};

/// A piece of the disk and the layer that answers for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment<'a> {
    /// Bytes; never 0.
    pub(crate) len: u64,
    /// As [`Status::flags`], but `ASK_HOST` may still be set.
    pub(crate) flags: ExtentFlags,
    /// Where the bytes stand as they are.
    pub(crate) host: Option<HostRef<'a>>,
    /// How many layers down.
    pub(crate) depth: usize,
}

impl Segment<'_> {
    /// Asks the host file of preallocated bytes whether they are a hole.
    pub(crate) fn ask_host(&mut self) -> Result<()> {
        if !self.flags.contains(ExtentFlags::ASK_HOST) {
            return Ok(());
        }
        self.flags.remove(ExtentFlags::ASK_HOST);
        let Some(host) = self.host else { return Ok(()) };
        let room = host.device.len().saturating_sub(host.offset);
        if room == 0 {
            self.flags.insert(ExtentFlags::ZERO);
            return Ok(());
        }
        let asked = ByteRange::new(host.offset, self.len.min(room));
        let known = host.device.extent_at(asked)?;
        if known.len == 0 {
            return Err(empty_extent());
        }
        let hole_to_end = known.is_zero() && known.len >= room;
        if !hole_to_end {
            self.len = self.len.min(known.len);
        }
        self.flags.set(ExtentFlags::ZERO, known.is_zero());
        Ok(())
    }
}

#[derive(Debug)]
struct Layer<'a> {
    image: &'a dyn BlockDevice,
    len: u64,
    absent_until: u64,
    /// The place reserved for what is absent, and the offset on the disk that it stands for.
    reserved: Option<(u64, HostRef<'a>)>,
}

impl<'a> Layer<'a> {
    fn new(image: &'a dyn Image) -> Self {
        Self { len: image.len(), image, absent_until: 0, reserved: None }
    }
}

/// A walk over a range, front to back.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    layers: Vec<Layer<'a>>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(top: &'a (dyn Image + 'a), below: Option<&'a Node>) -> Self {
        let mut layers = vec![Layer::new(top)];
        for node in below.into_iter().flat_map(Node::layers) {
            layers.push(Layer::new(&**node.image()));
        }
        Self { layers }
    }

    /// The first segment of `range`, which is not empty and lies within the top layer. Calls go front to back.
    pub(crate) fn next(&mut self, range: ByteRange) -> Result<Segment<'a>> {
        let (at, mut end) = (range.start, range.end());
        let (mut deepest, mut reserved) = (0, None);
        for (depth, layer) in self.layers.iter_mut().enumerate() {
            if at >= layer.len {
                break;
            }
            deepest = depth;
            end = end.min(layer.len.max(at));
            if at < layer.absent_until {
                end = end.min(layer.absent_until);
                reserved = layer.reserved;
                continue;
            }
            let extent = layer.image.extent_at(ByteRange::from_bounds(at, end))?;
            if extent.len == 0 {
                return Err(empty_extent());
            }
            end = end.min(at.saturating_add(extent.len));
            if extent.flags.intersects(ExtentFlags::PRESENT | ExtentFlags::UNSPECIFIED) {
                return Ok(Segment { len: end - at, flags: extent.flags, host: extent.host, depth });
            }
            layer.absent_until = end;
            layer.reserved = extent.host.map(|host| (at, host));
            reserved = layer.reserved;
        }
        let host = reserved.map(|(from, host)| host.advance(at.saturating_sub(from)));
        Ok(Segment { len: end - at, flags: ExtentFlags::ZERO, host, depth: deepest })
    }

    /// The first segment, with the node that answers for it; `top` is the node of the first layer.
    pub(crate) fn status(mut self, top: &'a Node, range: ByteRange) -> Result<Status<'a>> {
        if range.is_empty() {
            return Err(Error::invalid("an empty range has no status"));
        }
        let mut segment = self.next(range)?;
        segment.ask_host()?;
        let layer = top.layers().nth(segment.depth).unwrap_or(top);
        let Segment { len, mut flags, host, depth } = segment;
        flags.remove(ExtentFlags::UNSPECIFIED);
        Ok(Status { len, flags, host, depth, layer })
    }
}

fn empty_extent() -> Error {
    Error::corrupt("a layer reported an empty extent")
}
