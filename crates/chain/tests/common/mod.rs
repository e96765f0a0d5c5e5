//! A fake image whose every call is held to the contract between the layered device and drivers.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

pub mod world;

use std::sync::{Arc, Mutex};

use diskimg_chain::{Node, NodeParts};
use diskimg_core::driver::Caps;
use diskimg_core::{
    BlockDevice, ByteRange, Child, Error, Extent, FormatDriver, HostRef, Image, ImageInfo, Limits, Piece,
    Prealloc, Publish, Reservation, Result, ZeroMode, to_usize,
};

pub static FAKE: FormatDriver = FormatDriver {
    name: "fake",
    extensions: &[],
    caps: Caps::WRITE.union(Caps::BACKING).union(Caps::RESIZE),
    options: &[],
    strong_options: &["strong"],
    probe: |_| 0,
    open: |_| Err(Error::unsupported("fake images are made, not opened")),
    creator: None,
    measure: None,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unit {
    Absent,
    Zero,
    Data(Vec<u8>),
}

/// An image of units in memory. A call that breaks the contract panics.
#[derive(Debug)]
pub struct FakeImage {
    unit: u64,
    zeroing: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    len: u64,
    units: Vec<Unit>,
}

impl FakeImage {
    pub fn new(len: u64, unit: u64, zeroing: bool) -> Self {
        let count = to_usize(len.div_ceil(unit));
        let units = vec![Unit::Absent; count];
        Self { unit, zeroing, state: Mutex::new(State { len, units }) }
    }

    pub fn set(&self, at: usize, unit: Unit) {
        let mut state = self.state.lock().unwrap();
        if let Some(slot) = state.units.get_mut(at) {
            *slot = unit;
        }
    }

    pub fn node(self, below: Option<Node>) -> Node {
        Node::assemble(NodeParts::new(Arc::new(self), "fake"), below)
    }

    pub fn states(&self) -> Vec<Unit> {
        self.state.lock().unwrap().units.clone()
    }

    fn check_whole(&self, range: ByteRange, len: u64, what: &str) {
        let whole = |at: u64| at.is_multiple_of(self.unit) || at == len;
        assert!(
            !range.is_empty() && range.end() <= len && whole(range.start) && whole(range.end()),
            "{what} of {range:?}"
        );
    }

    fn write_unit(&self, state: &mut State, at: u64, bytes: &[u8]) {
        let index = to_usize(at / self.unit);
        let within = to_usize(at % self.unit);
        let unit_end = (at - at % self.unit + self.unit).min(state.len);
        let whole = within == 0 && at + bytes.len() as u64 == unit_end;
        let old = match std::mem::replace(&mut state.units[index], Unit::Absent) {
            Unit::Absent if !whole => panic!("partial write of an absent unit at {at}"),
            // What nobody may ever see: space that held something else before.
            Unit::Absent => vec![0xee; to_usize(self.unit)],
            Unit::Zero => vec![0; to_usize(self.unit)],
            Unit::Data(old) => old,
        };
        let mut new = old;
        new[within..within + bytes.len()].copy_from_slice(bytes);
        state.units[index] = Unit::Data(new);
    }
}

impl BlockDevice for FakeImage {
    fn len(&self) -> u64 {
        self.state.lock().unwrap().len
    }

    fn limits(&self) -> Limits {
        Limits { write_unit: self.unit, ..Limits::default() }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let state = self.state.lock().unwrap();
        assert!(offset + buf.len() as u64 <= state.len, "read beyond the end");
        for (i, byte) in buf.iter_mut().enumerate() {
            let at = offset + i as u64;
            *byte = match &state.units[to_usize(at / self.unit)] {
                Unit::Data(bytes) => bytes[to_usize(at % self.unit)],
                Unit::Absent | Unit::Zero => 0,
            };
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        let end = offset + buf.len() as u64;
        assert!(end <= state.len, "write beyond the end");
        let mut at = offset;
        while at < end {
            let next = (at - at % self.unit + self.unit).min(end);
            self.write_unit(&mut state, at, &buf[to_usize(at - offset)..to_usize(next - offset)]);
            at = next;
        }
        Ok(())
    }

    fn write_zeroes(&self, range: ByteRange, _how: ZeroMode) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        self.check_whole(range, state.len, "write_zeroes");
        if !self.zeroing {
            return Err(Error::unsupported("no zeroing"));
        }
        for at in range.start / self.unit..range.end().div_ceil(self.unit) {
            state.units[to_usize(at)] = Unit::Zero;
        }
        Ok(())
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        self.check_whole(range, self.len(), "discard");
        self.write_zeroes(range, ZeroMode::MayUnmap)
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64, _prealloc: Prealloc) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        let count = to_usize(len.div_ceil(self.unit));
        state.units.resize(count, Unit::Absent);
        let within = to_usize(len % self.unit);
        // A driver keeps what lies behind its end zero.
        if let Some(Unit::Data(last)) = state.units.last_mut().filter(|_| within != 0) {
            last[within..].fill(0);
        }
        state.len = len;
        Ok(())
    }

    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        let state = self.state.lock().unwrap();
        assert!(!range.is_empty() && range.end() <= state.len, "extent of {range:?}");
        let first = to_usize(range.start / self.unit);
        let kind = std::mem::discriminant(&state.units[first]);
        let same =
            state.units[first..].iter().take_while(|unit| std::mem::discriminant(*unit) == kind).count();
        let len = ((first + same) as u64 * self.unit).min(range.end()) - range.start;
        Ok(match state.units[first] {
            Unit::Absent => Extent::absent(len),
            Unit::Zero => Extent::zero(len),
            Unit::Data(_) => Extent::data(len, None),
        })
    }

    fn reserve(&self, range: ByteRange) -> Result<Option<Reservation<'_>>> {
        self.check_whole(range, self.len(), "reserve");
        let place = Box::leak(Box::new(diskimg_core::MemDevice::new(to_usize(range.len))));
        let piece = Piece { range, host: Some(HostRef { device: place, offset: 0 }), fresh: false };
        Ok(Some(Reservation::new(vec![piece], Box::new(FakePublish { image: self, range, place }))))
    }
}

struct FakePublish<'a> {
    image: &'a FakeImage,
    range: ByteRange,
    place: &'static diskimg_core::MemDevice,
}

impl Publish for FakePublish<'_> {
    fn commit(self: Box<Self>) -> Result<()> {
        self.image.write_at(self.range.start, &self.place.to_vec())
    }

    fn abandon(self: Box<Self>) {}
}

impl Image for FakeImage {
    fn driver(&self) -> &'static FormatDriver {
        &FAKE
    }

    fn info(&self) -> Result<ImageInfo> {
        Ok(ImageInfo::default())
    }

    fn children(&self) -> Vec<Child> {
        Vec::new()
    }
}
