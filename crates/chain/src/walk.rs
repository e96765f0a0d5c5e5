//! Walks down a chain: who answers for a range of the disk.
//!
//! A loop, not recursion: a long chain costs no stack. Within one walk, what a layer said is not asked again.

use diskimg_core::{BlockDevice, ByteRange, Error, Extent, ExtentFlags, HostRef, Image, Result};

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

/// How far ahead of what is asked for a layer is asked, in bytes: what it says then serves the next questions.
const AHEAD: u64 = 64 << 20;

/// What a layer said.
#[derive(Clone, Copy, Debug)]
struct Known<'a> {
    start: u64,
    extent: Extent<'a>,
    /// Where the question ended.
    asked_to: u64,
}

impl<'a> Known<'a> {
    /// The extent from `at` on, if it is in here and nothing would be gained by asking as far as `end`.
    fn from(&self, at: u64, end: u64) -> Option<Extent<'a>> {
        let known_to = self.start.saturating_add(self.extent.len);
        let is_cut = known_to >= self.asked_to && known_to < end;
        if at < self.start || at >= known_to || is_cut {
            return None;
        }
        let host = self.extent.host.map(|host| host.advance(at - self.start));
        Some(Extent { len: known_to - at, host, ..self.extent })
    }
}

#[derive(Debug)]
struct Layer<'a> {
    image: &'a dyn BlockDevice,
    len: u64,
    known: Option<Known<'a>>,
}

impl<'a> Layer<'a> {
    fn new(image: &'a dyn Image) -> Self {
        Self { len: image.len(), image, known: None }
    }

    /// The extent at `at` as far as `end`; the question goes as far as `ask_to`.
    fn extent(&mut self, at: u64, end: u64, ask_to: u64) -> Result<Extent<'a>> {
        if let Some(extent) = self.known.and_then(|known| known.from(at, end)) {
            return Ok(extent);
        }
        let asked_to = end.max(ask_to.min(self.len));
        let extent = self.image.extent_at(ByteRange::from_bounds(at, asked_to))?;
        if extent.len == 0 {
            return Err(empty_extent());
        }
        self.known = Some(Known { start: at, extent, asked_to });
        Ok(extent)
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
        self.next_ahead(range, range.end())
    }

    /// The same where the walk goes on for long.
    pub(crate) fn next_of_many(&mut self, range: ByteRange) -> Result<Segment<'a>> {
        let ahead = range.start.saturating_add(AHEAD) / AHEAD * AHEAD;
        self.next_ahead(range, ahead.min(range.end()))
    }

    /// The first segment of `range`, for a walk that ends there: what a layer would say of more is of no use.
    pub(crate) fn only(mut self, range: ByteRange) -> Result<Segment<'a>> {
        self.next_ahead(range, 0)
    }

    /// The same as [`Self::next`]; lower layers are asked as far as `ask_to`, also where those above them end earlier.
    fn next_ahead(&mut self, range: ByteRange, ask_to: u64) -> Result<Segment<'a>> {
        let (at, mut end) = (range.start, range.end());
        let (mut deepest, mut reserved) = (0, None);
        for (depth, layer) in self.layers.iter_mut().enumerate() {
            if at >= layer.len {
                break;
            }
            deepest = depth;
            end = end.min(layer.len);
            let extent = layer.extent(at, end, ask_to)?;
            end = end.min(at.saturating_add(extent.len));
            if extent.flags.intersects(ExtentFlags::PRESENT | ExtentFlags::UNSPECIFIED) {
                return Ok(Segment { len: end - at, flags: extent.flags, host: extent.host, depth });
            }
            reserved = extent.host;
        }
        Ok(Segment { len: end - at, flags: ExtentFlags::ZERO, host: reserved, depth: deepest })
    }

    /// The first segment, with the node that answers for it; `top` is the node of the first layer.
    pub(crate) fn status(self, top: &'a Node, range: ByteRange) -> Result<Status<'a>> {
        check_not_empty(range)?;
        self.only(range)?.into_status(top)
    }
}

impl<'a> Segment<'a> {
    fn into_status(mut self, top: &'a Node) -> Result<Status<'a>> {
        self.ask_host()?;
        let layer = top.layers().nth(self.depth).unwrap_or(top);
        let Segment { len, mut flags, host, depth } = self;
        flags.remove(ExtentFlags::UNSPECIFIED);
        Ok(Status { len, flags, host, depth, layer })
    }
}

/// A walk over a disk, front to back, that remembers what each layer said: the layers are asked about once for each
/// extent of theirs, however those of the others lie. For a disk that nobody changes ahead of it.
#[derive(Debug)]
pub struct StatusWalk<'a> {
    top: &'a Node,
    walk: Walk<'a>,
    asking: Asking,
    /// Nothing is asked about layers from this depth on.
    depth: usize,
}

/// How a walk finds out whether preallocated bytes are a hole on the host, that is zeros: each question costs a system call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asking {
    /// To the byte.
    #[default]
    Exactly,
    /// A run of fewer bytes is a hole as a whole, or data.
    Roughly(u64),
    /// A run of fewer bytes is data: for somebody who looks for zeros in what is read.
    LongRuns(u64),
}

impl<'a> StatusWalk<'a> {
    pub(crate) fn new(top: &'a Node) -> Self {
        Self {
            top,
            walk: Walk::new(&**top.image(), top.backing()),
            asking: Asking::default(),
            depth: usize::MAX,
        }
    }

    /// The same, with other questions to the host.
    #[must_use]
    pub fn asking(self, asking: Asking) -> Self {
        Self { asking, ..self }
    }

    /// The same for somebody to whom layers from `depth` on are all one: nothing is asked about their preallocated bytes.
    #[must_use]
    pub fn asking_above(self, depth: usize) -> Self {
        Self { depth, ..self }
    }

    /// As [`Node::status`].
    ///
    /// # Errors
    /// As [`Node::status`].
    pub fn status(&mut self, range: ByteRange) -> Result<Status<'a>> {
        if self.top.is_transparent() {
            return self.top.status(range);
        }
        range.check_within(self.top.device().len())?;
        check_not_empty(range)?;
        let mut segment = self.walk.next_of_many(range)?;
        if segment.depth >= self.depth {
            segment.flags.remove(ExtentFlags::ASK_HOST);
        }
        let asks = segment.flags.contains(ExtentFlags::ASK_HOST);
        match self.asking {
            Asking::LongRuns(from) if segment.len < from => segment.flags.remove(ExtentFlags::ASK_HOST),
            Asking::Roughly(from) if asks && segment.len < from => {
                let mut part = segment;
                part.ask_host()?;
                let is_hole = part.len == segment.len && part.flags.contains(ExtentFlags::ZERO);
                segment.flags.remove(ExtentFlags::ASK_HOST);
                segment.flags.set(ExtentFlags::ZERO, is_hole);
            }
            _ => {}
        }
        segment.into_status(self.top)
    }
}

fn check_not_empty(range: ByteRange) -> Result<()> {
    if range.is_empty() {
        return Err(Error::invalid("an empty range has no status"));
    }
    Ok(())
}

fn empty_extent() -> Error {
    Error::corrupt("a layer reported an empty extent")
}
