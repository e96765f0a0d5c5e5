//! [`Session`]: runs operations on an open disk and on its model side by side.

use std::sync::Arc;

use diskimg_core::{
    BlockDevice, ByteRange, CheckReport, Error, ErrorKind, Prealloc, Repair, Result, Task, to_usize,
};

use crate::history::History;
use crate::ops::{Op, pattern};
use crate::subject::{Opened, Subject};

/// Bytes read at once when the whole disk is read.
const CHUNK: u64 = 1 << 20;

/// What became of an operation that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was done.
    Done,
    /// The disk does not have such an operation, or not here (a compressed cluster over an older one).
    Skipped,
}

/// A disk that is open, and its history.
pub struct Session<'s> {
    subject: &'s dyn Subject,
    disks: Vec<Arc<dyn BlockDevice>>,
    opened: Option<Opened>,
    history: History,
    clock: Box<dyn Fn() -> usize + 's>,
}

impl<'s> Session<'s> {
    /// Opens the disk for writing; it holds `contents`. Moments in the history are those of `clock`.
    ///
    /// # Errors
    /// Those of opening.
    pub fn open(
        subject: &'s dyn Subject,
        disks: Vec<Arc<dyn BlockDevice>>,
        contents: Vec<u8>,
        clock: impl Fn() -> usize + 's,
    ) -> Result<Self> {
        let opened = subject.open(&disks, true)?;
        let mut history = History::new(contents);
        if opened.layers.len() > 1 {
            history.set_backed();
        }
        Ok(Self { subject, disks, opened: Some(opened), history, clock: Box::new(clock) })
    }

    /// A new disk in memory.
    ///
    /// # Panics
    /// If it can't be made.
    #[must_use]
    pub fn in_memory(subject: &'s dyn Subject) -> Self {
        let memory = || Arc::new(diskimg_core::MemDevice::new(0)) as Arc<dyn BlockDevice>;
        let disks: Vec<_> = subject.disks().iter().map(|_| memory()).collect();
        let name = subject.name();
        subject.create(&disks).unwrap_or_else(|error| panic!("create {name}: {error:?}"));
        Self::open(subject, disks, subject.initial(), || 0)
            .unwrap_or_else(|error| panic!("open {name}: {error:?}"))
    }

    /// What is open.
    ///
    /// # Panics
    /// If an earlier reopening failed.
    #[must_use]
    pub fn opened(&self) -> &Opened {
        self.opened.as_ref().expect("an open disk")
    }

    /// What was done so far.
    #[must_use]
    pub const fn history(&self) -> &History {
        &self.history
    }

    /// The storages.
    #[must_use]
    pub fn disks(&self) -> &[Arc<dyn BlockDevice>] {
        &self.disks
    }

    /// The disk became another one, durably: it went back to what a snapshot kept.
    pub fn became(&mut self, contents: Vec<u8>) {
        let begin = (self.clock)();
        self.history.resized(begin, true, contents.len() as u64);
        self.history.observed(begin, 0, contents);
    }

    /// Closes the disk and gives the history.
    #[must_use]
    pub fn close(mut self) -> History {
        self.opened = None;
        self.history
    }

    /// Does `op` to the disk and its model.
    ///
    /// # Errors
    /// The disk's; the model then allows both what was before and what was to be.
    ///
    /// # Panics
    /// If a reader sees what it must not see.
    pub fn apply(&mut self, op: &Op) -> Result<Applied> {
        if self.opened.is_none() {
            self.opened = Some(self.subject.open(&self.disks, true)?);
        }
        let op = &self.clipped(op);
        match op {
            Op::Write(range, _) | Op::Zero(range, _) | Op::Discard(range) | Op::Read(range)
                if range.is_empty() =>
            {
                Ok(Applied::Skipped)
            }
            Op::Write(range, seed) => self.write(*range, *seed),
            Op::Zero(range, how) => {
                let begin = (self.clock)();
                let done = self.opened().device.write_zeroes(*range, *how);
                self.history.wrote(begin, done.is_ok(), range.start, vec![0; to_usize(range.len)]);
                done.map(|()| Applied::Done)
            }
            Op::Discard(range) => self.discard(*range),
            Op::SetLen(len) => self.set_len(*len),
            Op::Reserve(range, seed, commit) => self.reserve(*range, *seed, *commit),
            Op::Compress(cluster, seed) => self.compress(*cluster, *seed),
            Op::Read(range) => self.read(*range),
            Op::Flush => {
                let acts = self.history.count();
                self.opened().device.flush()?;
                self.history.flushed((self.clock)(), acts);
                Ok(Applied::Done)
            }
            Op::Reopen => {
                self.opened = None;
                self.opened = Some(self.subject.open(&self.disks, true)?);
                Ok(Applied::Done)
            }
            Op::Check => {
                self.check_clean(u64::MAX)?;
                Ok(Applied::Done)
            }
            Op::Extents => {
                crate::contract::extents_agree(&self.opened().device)?;
                Ok(Applied::Done)
            }
        }
    }

    /// The operation within the disk as long as it is now.
    fn clipped(&self, op: &Op) -> Op {
        let disk = ByteRange::new(0, self.opened().device.len());
        match op.clone() {
            Op::Write(range, seed) => Op::Write(range.intersect(disk), seed),
            Op::Zero(range, how) => Op::Zero(range.intersect(disk), how),
            Op::Discard(range) => Op::Discard(range.intersect(disk)),
            Op::Read(range) => Op::Read(range.intersect(disk)),
            Op::Reserve(range, seed, commit) => Op::Reserve(range.intersect(disk), seed, commit),
            // Where the disk could not be made as long as the script has it.
            other => other,
        }
    }

    /// [`Session::apply`], where nothing may fail.
    ///
    /// # Panics
    /// If it fails.
    pub fn must(&mut self, op: &Op) -> Applied {
        self.apply(op).unwrap_or_else(|error| panic!("{}: {op:?}: {error:?}", self.subject.name()))
    }

    fn write(&mut self, range: ByteRange, seed: u64) -> Result<Applied> {
        let bytes = pattern(seed, range.start, range.len);
        let begin = (self.clock)();
        let done = self.opened().device.write_at(range.start, &bytes);
        self.history.wrote(begin, done.is_ok(), range.start, bytes);
        done.map(|()| Applied::Done)
    }

    fn discard(&mut self, range: ByteRange) -> Result<Applied> {
        let begin = (self.clock)();
        let device = &self.opened().device;
        let mut after = vec![0; to_usize(range.len)];
        if let Err(error) = device.discard(range).and_then(|()| device.read_at(range.start, &mut after)) {
            self.history.wrote(begin, false, range.start, vec![0; to_usize(range.len)]);
            return Err(error);
        }
        if !self.history.is_uncertain() {
            let before = &self.history.latest()[to_usize(range.start)..to_usize(range.end())];
            let strange = before.iter().zip(&after).position(|(old, new)| *new != 0 && new != old);
            assert_eq!(strange, None, "{}: strange byte after discard of {range:?}", self.subject.name());
        }
        self.history.observed(begin, range.start, after);
        Ok(Applied::Done)
    }

    fn set_len(&mut self, len: u64) -> Result<Applied> {
        let begin = (self.clock)();
        match self.opened().device.set_len(len, Prealloc::Off) {
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(Applied::Skipped),
            done => {
                self.history.resized(begin, done.is_ok(), len);
                if done.is_err() {
                    self.history.length_seen(self.opened().device.len());
                }
                done.map(|()| Applied::Done)
            }
        }
    }

    fn reserve(&mut self, range: ByteRange, seed: u64, commit: bool) -> Result<Applied> {
        if range.is_empty() {
            return Ok(Applied::Skipped);
        }
        let bytes = pattern(seed, range.start, range.len);
        let begin = (self.clock)();
        let device = &self.opened().device;
        let done = device.reserve(range).and_then(|reservation| {
            let Some(reservation) = reservation else { return Ok(Applied::Skipped) };
            reservation.write_at(range.start, &bytes)?;
            if commit { reservation.commit().map(|()| Applied::Done) } else { Ok(Applied::Skipped) }
        });
        match done {
            Ok(Applied::Skipped) => {}
            _ => self.history.wrote(begin, done.is_ok(), range.start, bytes),
        }
        done
    }

    fn compress(&mut self, cluster: u64, seed: u64) -> Result<Applied> {
        let begin = (self.clock)();
        let Some(image) = self.opened().layers.first().cloned() else { return Ok(Applied::Skipped) };
        let Some(clusters) = image.as_compressed() else { return Ok(Applied::Skipped) };
        let start = cluster * clusters.cluster_len();
        let range = ByteRange::new(start, clusters.cluster_len()).intersect(ByteRange::new(0, image.len()));
        if range.is_empty() {
            return Ok(Applied::Skipped);
        }
        let mut bytes = pattern(seed, start, clusters.cluster_len());
        // Behind the end of the disk a cluster holds zeros.
        bytes[to_usize(range.len)..].fill(0);
        let mut payload = Vec::new();
        if !clusters.encoder()?.encode(&bytes, &mut payload)? {
            return Ok(Applied::Skipped);
        }
        let reservation = match clusters.reserve_encoded(start, payload.len() as u64) {
            Ok(reservation) => reservation,
            // An older cluster (or its place) can't be replaced; nothing has changed.
            Err(error) if matches!(error.kind(), ErrorKind::Io | ErrorKind::Unsupported) => {
                return Ok(Applied::Skipped);
            }
            Err(error) => return Err(error),
        };
        let done = reservation.write_at(0, &payload).and_then(|()| reservation.commit());
        bytes.truncate(to_usize(range.len));
        self.history.wrote(begin, done.is_ok(), start, bytes);
        done.map(|()| Applied::Done)
    }

    fn read(&mut self, range: ByteRange) -> Result<Applied> {
        let range = range.intersect(ByteRange::new(0, self.history.latest().len() as u64));
        let mut got = vec![0xaa; to_usize(range.len)];
        self.opened().device.read_at(range.start, &mut got)?;
        if !self.history.is_uncertain() {
            let expected = &self.history.latest()[to_usize(range.start)..to_usize(range.end())];
            assert_same(&self.subject.name(), range.start, &got, expected);
        }
        Ok(Applied::Done)
    }

    /// Reads the whole disk and compares with the model.
    ///
    /// # Panics
    /// If it can't be read or differs.
    pub fn verify_all(&self) {
        let name = self.subject.name();
        let got = read_all(&self.opened().device).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(got.len(), self.history.latest().len(), "{name}: length");
        assert_same(&name, 0, &got, self.history.latest());
    }

    /// Checks each layer that has a check; at most `leaks` leaks, nothing else.
    ///
    /// # Errors
    /// Those of checking.
    ///
    /// # Panics
    /// If it finds damage.
    pub fn check_clean(&self, leaks: u64) -> Result<()> {
        for layer in &self.opened().layers {
            if let Some((report, said)) = checked(layer.as_ref())? {
                let bad = report.corruptions + report.check_errors > 0 || report.leaks > leaks;
                assert!(!bad, "{}: {report:?}\n{}", self.subject.name(), said.join("\n"));
            }
        }
        Ok(())
    }

    /// Flushes, closes, opens again; compares everything; the check must not even find a leak.
    ///
    /// # Panics
    /// If anything fails.
    pub fn verify_reopened(&mut self) {
        self.verify_all();
        self.must(&Op::Flush);
        self.must(&Op::Reopen);
        self.verify_all();
        self.check_clean(0).unwrap_or_else(|error| panic!("{}: check: {error:?}", self.subject.name()));
        self.must(&Op::Extents);
    }
}

/// The layer's own check, if it has one, and what it said.
///
/// # Errors
/// Those of checking.
pub(crate) fn checked(layer: &dyn diskimg_core::Image) -> Result<Option<(CheckReport, Vec<String>)>> {
    let Some(check) = layer.as_check() else { return Ok(None) };
    let mut said = Vec::new();
    let report = check.check(Repair::Nothing, &mut |line| said.push(line.to_owned()), &Task::quiet())?;
    said.truncate(20);
    Ok(Some((report, said)))
}

/// The whole contents.
///
/// # Errors
/// The device's; `Limit` above 1 GiB.
pub(crate) fn read_all(device: &dyn BlockDevice) -> Result<Vec<u8>> {
    let len = device.len();
    if len > 1 << 30 {
        return Err(Error::limit("too long to be read whole"));
    }
    let mut bytes = vec![0xaa; to_usize(len)];
    let mut at = 0;
    for part in bytes.chunks_mut(to_usize(CHUNK)) {
        device.read_at(at, part)?;
        at += part.len() as u64;
    }
    Ok(bytes)
}

/// Panics with the first difference and its surroundings.
fn assert_same(name: &str, start: u64, got: &[u8], expected: &[u8]) {
    if got == expected {
        return;
    }
    let at = got.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(0);
    let show = |bytes: &[u8]| format!("{:02x?}", &bytes[at..bytes.len().min(at + 16)]);
    let count = got.iter().zip(expected).filter(|(a, b)| a != b).count();
    let place = start + at as u64;
    panic!("{name}: byte {place:#x}: read {}, not {}; {count} bytes differ", show(got), show(expected));
}
