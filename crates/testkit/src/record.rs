//! [`RecordDevice`]: memory that remembers each change and each flush, in order, over one or several devices.
//!
//! All devices of one [`Recorder`] share its log, so that a crash stops them at one moment. A flush is a barrier for its
//! own device only.

use std::sync::Arc;

use diskimg_core::{
    BlockDevice, ByteRange, Description, Extent, Limits, MemDevice, Prealloc, Result, ZeroMode,
};
use parking_lot::Mutex;

/// One change of a device.
#[derive(Clone, Debug)]
pub enum Change {
    /// Bytes were written at an offset.
    Write(u64, Arc<[u8]>),
    /// The range was zeroed.
    Zero(ByteRange),
    /// The range was discarded: it reads as zeros, and nothing grows.
    Discard(ByteRange),
    /// The length (bytes) was set.
    SetLen(u64),
    /// A flush returned: all earlier changes of the device are durable.
    Barrier,
}

/// A change and the number of its device.
#[derive(Clone, Debug)]
pub struct Event {
    /// Number of the device, in the order of [`Recorder::device`].
    pub disk: usize,
    /// What happened.
    pub change: Change,
}

/// What devices held at first and all that happened to them since.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// The devices' bytes at the start.
    pub initial: Vec<Vec<u8>>,
    /// What happened, in order.
    pub events: Vec<Event>,
}

/// The log that several devices share. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<Mutex<Trace>>);

impl Recorder {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A new device that holds `bytes`.
    #[must_use]
    pub fn device(&self, bytes: Vec<u8>) -> Arc<RecordDevice> {
        let mut log = self.0.lock();
        log.initial.push(bytes.clone());
        let disk = log.initial.len() - 1;
        Arc::new(RecordDevice { disk, recorder: self.clone(), memory: MemDevice::from(bytes) })
    }

    /// A device for each of `disks`, in their order.
    #[must_use]
    pub fn devices(&self, disks: impl IntoIterator<Item = Vec<u8>>) -> Vec<Arc<dyn BlockDevice>> {
        disks.into_iter().map(|bytes| self.device(bytes) as Arc<dyn BlockDevice>).collect()
    }

    /// Events so far: a moment in the log.
    #[must_use]
    pub fn position(&self) -> usize {
        self.0.lock().events.len()
    }

    /// A copy of the log.
    #[must_use]
    pub fn trace(&self) -> Trace {
        self.0.lock().clone()
    }
}

/// Memory whose changes are recorded.
#[derive(Debug)]
pub struct RecordDevice {
    disk: usize,
    recorder: Recorder,
    memory: MemDevice,
}

impl RecordDevice {
    /// A copy of all bytes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.memory.to_vec()
    }

    /// Makes the change and logs it as one step: the log's order is the order of effects.
    fn record(&self, change: Change, apply: impl FnOnce(&MemDevice) -> Result<()>) -> Result<()> {
        let mut log = self.recorder.0.lock();
        apply(&self.memory)?;
        log.events.push(Event { disk: self.disk, change });
        Ok(())
    }
}

impl BlockDevice for RecordDevice {
    fn len(&self) -> u64 {
        self.memory.len()
    }

    fn limits(&self) -> Limits {
        self.memory.limits()
    }

    fn describe(&self) -> Description<'_> {
        Description { driver: "record", filename: "" }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.memory.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.record(Change::Write(offset, buf.into()), |memory| memory.write_at(offset, buf))
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        self.record(Change::Zero(range), |memory| memory.write_zeroes(range, how))
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        self.record(Change::Discard(range), |memory| memory.discard(range))
    }

    fn flush(&self) -> Result<()> {
        self.record(Change::Barrier, |memory| memory.flush())
    }

    fn set_len(&self, len: u64, prealloc: Prealloc) -> Result<()> {
        self.record(Change::SetLen(len), |memory| memory.set_len(len, prealloc))
    }

    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        let inner = self.memory.extent_at(range)?;
        Ok(Extent { host: inner.host.map(|host| diskimg_core::HostRef { device: self, ..host }), ..inner })
    }
}
