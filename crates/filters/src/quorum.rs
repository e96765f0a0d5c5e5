//! `quorum`: several copies of one disk. Writes go to all; reads are put to the vote, or come from the first that works.

use std::sync::Arc;

use diskimg_core::filter::{ChildRole, FilterChild, FilterDriver, FilterOpen};
use diskimg_core::options::RuntimeOptions;
use diskimg_core::{
    BlockDevice, ByteRange, Child, Error, ErrorKind, Extent, ExtentFlags, FormatDriver, Image, ImageInfo,
    Prealloc, Result, ZeroMode, errno,
};

use crate::node::{CHANGES, never_plain, no_name, node};

static NODE: FormatDriver = node("quorum", CHANGES);

/// The filter.
pub static QUORUM: FilterDriver = FilterDriver {
    node: &NODE,
    prefix: None,
    is_protocol: false,
    roles: &[ChildRole { name: "children", is_image: true, many: true }],
    is_transparent: false,
    has_folder: false,
    parse_name: no_name,
    files: &[],
    is_strong: |name| matches!(name, "vote-threshold" | "blkverify" | "rewrite-corrupted" | "read-pattern"),
    plain_name: never_plain,
    open,
};

/// How a read is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// So many copies have to agree.
    Vote(usize),
    /// The first copy that can be read.
    First,
}

fn open(request: FilterOpen<'_>) -> Result<Arc<dyn Image>> {
    if request.children.is_empty() {
        return Err(Error::invalid("Number of provided children must be 1 or more"));
    }
    let reading = take_reading(request.options, request.children.len())?;
    let rewrite = request.options.take_bool("rewrite-corrupted")?.unwrap_or(false);
    let blkverify = request.options.take_bool("blkverify")?.unwrap_or(false);
    if blkverify && (request.children.len() != 2 || reading != Reading::Vote(2)) {
        let text = "blkverify=on can only be set if there are exactly two files and vote-threshold is 2";
        return Err(Error::invalid(text));
    }
    if rewrite && blkverify {
        return Err(Error::invalid("rewrite-corrupted=on cannot be used with blkverify=on"));
    }
    if rewrite && !request.write {
        return Err(Error::new(ErrorKind::ReadOnly, "Block node is read-only"));
    }
    let quorum = Quorum { children: request.children, reading, rewrite };
    let mut lens = quorum.children.iter().map(|child| child.device.len());
    let first = lens.next().unwrap_or(0);
    if lens.any(|len| len != first) {
        let differ = Error::from_errno(errno::EIO);
        return Err(differ.context("Could not refresh total sector count"));
    }
    Ok(Arc::new(quorum))
}

fn take_reading(options: &mut RuntimeOptions, count: usize) -> Result<Reading> {
    let threshold = match options.take("vote-threshold") {
        None => 0,
        Some(value) => diskimg_core::size::parse_option_number("vote-threshold", &value.to_string())?,
    };
    let threshold = usize::try_from(threshold).unwrap_or(usize::MAX);
    if threshold < 1 {
        return Err(Error::invalid("Parameter 'vote-threshold' expects a value >= 1"));
    }
    if threshold > count {
        return Err(Error::invalid("threshold may not exceed children count"));
    }
    match options.take_str("read-pattern")?.as_deref() {
        None | Some("quorum") => Ok(Reading::Vote(threshold)),
        Some("fifo") => Ok(Reading::First),
        Some(_) => Err(Error::invalid("Please set read-pattern as fifo or quorum")),
    }
}

#[derive(Debug)]
struct Quorum {
    children: Vec<FilterChild>,
    reading: Reading,
    /// Copies that were voted down are written anew.
    rewrite: bool,
}

impl Quorum {
    fn devices(&self) -> impl Iterator<Item = &Arc<dyn BlockDevice>> {
        self.children.iter().map(|child| &child.device)
    }

    /// Does `change` to all; it worked if it worked for as many as have to agree.
    fn on_all(&self, change: impl Fn(&dyn BlockDevice) -> Result<()>) -> Result<()> {
        let needed = if let Reading::Vote(threshold) = self.reading { threshold } else { 1 };
        let (mut good, mut failure) = (0, None);
        for device in self.devices() {
            match change(&**device) {
                Ok(()) => good += 1,
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) if good < needed => Err(error),
            _ => Ok(()),
        }
    }

    fn read_first(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut failure = Error::from_errno(errno::EIO);
        for device in self.devices() {
            match device.read_at(offset, buf) {
                Ok(()) => return Ok(()),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn vote(&self, threshold: usize, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut versions: Vec<Option<Vec<u8>>> = Vec::new();
        for device in self.devices() {
            let mut bytes = vec![0; buf.len()];
            versions.push(device.read_at(offset, &mut bytes).ok().map(|()| bytes));
        }
        let votes = |version: &Vec<u8>| versions.iter().flatten().filter(|other| *other == version).count();
        let winner = versions
            .iter()
            .flatten()
            .map(|version| (votes(version), version))
            .max_by_key(|(votes, _)| *votes);
        let Some((_, winner)) = winner.filter(|(votes, _)| *votes >= threshold) else {
            return Err(Error::from_errno(errno::EIO));
        };
        buf.copy_from_slice(winner);
        if self.rewrite {
            for (version, device) in versions.iter().zip(self.devices()) {
                if version.as_ref().is_some_and(|version| version != winner) {
                    device.write_at(offset, winner)?;
                }
            }
        }
        Ok(())
    }
}

impl Image for Quorum {
    fn driver(&self) -> &'static FormatDriver {
        &NODE
    }
    fn info(&self) -> Result<ImageInfo> {
        Ok(ImageInfo::default())
    }
    fn children(&self) -> Vec<Child> {
        self.devices().map(|device| Child { role: "children.", device: Arc::clone(device) }).collect()
    }
}

impl BlockDevice for Quorum {
    fn len(&self) -> u64 {
        self.devices().map(|device| device.len()).next().unwrap_or(0)
    }

    fn is_read_only(&self) -> bool {
        self.devices().any(|device| device.is_read_only())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        match self.reading {
            Reading::First => self.read_first(offset, buf),
            Reading::Vote(threshold) => self.vote(threshold, offset, buf),
        }
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.on_all(|device| device.write_at(offset, buf))
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        self.on_all(|device| device.write_zeroes(range, how))
    }

    fn discard(&self, _: ByteRange) -> Result<()> {
        Err(Error::unsupported("Operation not supported"))
    }

    fn flush(&self) -> Result<()> {
        self.on_all(|device| device.flush())
    }

    fn set_len(&self, _: u64, _: Prealloc) -> Result<()> {
        Err(Error::unsupported("Image format driver does not support resize"))
    }

    /// Zeros are what all copies know to be zeros.
    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        let mut len = range.len;
        let mut zero = true;
        for device in self.devices() {
            let extent = device.extent_at(ByteRange::new(range.start, len))?;
            len = len.min(extent.len.max(1));
            zero &= extent.is_zero();
        }
        let flags = if zero {
            ExtentFlags::PRESENT | ExtentFlags::ZERO
        } else {
            ExtentFlags::PRESENT | ExtentFlags::DATA
        };
        Ok(Extent { len, flags, host: None })
    }

    fn allocated_len(&self) -> Result<Option<u64>> {
        let mut sum = 0_u64;
        for device in self.devices() {
            match device.allocated_len()? {
                Some(len) => sum = sum.saturating_add(len),
                None => return Ok(None),
            }
        }
        Ok(Some(sum))
    }
}
