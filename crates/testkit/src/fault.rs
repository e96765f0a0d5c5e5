//! [`FaultDevice`]: fails chosen requests, counted over all devices that share a [`FaultPlan`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use diskimg_core::{
    BlockDevice, ByteRange, Description, Error, Extent, Limits, MemDevice, Prealloc, Result, ZeroMode, errno,
};

bitflags::bitflags! {
    /// Kinds of requests.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FaultKinds: u8 {
        /// `read_at`.
        const READ = 1;
        /// `write_at`.
        const WRITE = 1 << 1;
        /// `write_zeroes`.
        const ZERO = 1 << 2;
        /// `discard`.
        const DISCARD = 1 << 3;
        /// `flush`.
        const FLUSH = 1 << 4;
        /// `set_len`.
        const SET_LEN = 1 << 5;
        /// Everything that changes something.
        const CHANGES = Self::WRITE.bits() | Self::ZERO.bits() | Self::DISCARD.bits()
            | Self::FLUSH.bits() | Self::SET_LEN.bits();
    }
}

/// Which requests fail and how.
#[derive(Clone, Copy, Debug)]
pub struct FaultSpec {
    /// Requests that count.
    pub kinds: FaultKinds,
    /// The number of the first request that fails, from 0.
    pub nth: u64,
    /// How many fail from there on.
    pub times: u64,
    /// The host's error number.
    pub errno: i32,
    /// A write that fails has written its first half.
    pub torn: bool,
}

impl FaultSpec {
    /// Nothing fails; requests of `kinds` are counted.
    #[must_use]
    pub const fn count_only(kinds: FaultKinds) -> Self {
        Self { kinds, nth: u64::MAX, times: 0, errno: errno::EIO, torn: false }
    }

    /// The `nth` request of `kinds` fails with "Input/output error", once.
    #[must_use]
    pub const fn once(kinds: FaultKinds, nth: u64) -> Self {
        Self { kinds, nth, times: 1, errno: errno::EIO, torn: false }
    }
}

impl FaultSpec {
    /// What an exploration tries with each request: a change fails, a write fails half done, the disk is full from then
    /// on, a read fails.
    #[must_use]
    pub const fn usual() -> [Self; 4] {
        let once = Self::once(FaultKinds::CHANGES, 0);
        [
            once,
            Self { torn: true, kinds: FaultKinds::WRITE, ..once },
            Self {
                errno: errno::ENOSPC,
                times: u64::MAX,
                kinds: FaultKinds::WRITE.union(FaultKinds::SET_LEN),
                ..once
            },
            Self::once(FaultKinds::READ, 0),
        ]
    }
}

/// Counts requests and says which of them fail. Shared by devices.
#[derive(Debug)]
pub struct FaultPlan {
    spec: FaultSpec,
    seen: AtomicU64,
    injected: AtomicU64,
    armed: std::sync::atomic::AtomicBool,
}

impl FaultPlan {
    /// A plan that is in force.
    #[must_use]
    pub fn new(spec: FaultSpec) -> Arc<Self> {
        let zero = AtomicU64::new(0);
        let armed = std::sync::atomic::AtomicBool::new(true);
        Arc::new(Self { spec, seen: zero, injected: AtomicU64::new(0), armed })
    }

    /// Requests counted so far.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    /// Failures injected so far.
    #[must_use]
    pub fn injected(&self) -> u64 {
        self.injected.load(Ordering::Relaxed)
    }

    /// `devices` under this plan.
    #[must_use]
    pub fn over(self: &Arc<Self>, devices: &[Arc<MemDevice>]) -> Vec<Arc<dyn BlockDevice>> {
        let faulty = |device: &Arc<MemDevice>| {
            Arc::new(FaultDevice::new(Arc::clone(device) as _, Arc::clone(self))) as _
        };
        devices.iter().map(faulty).collect()
    }

    /// From now on nothing fails nor counts.
    pub fn disarm(&self) {
        self.armed.store(false, Ordering::Relaxed);
    }

    fn fails(&self, kind: FaultKinds) -> bool {
        if !self.spec.kinds.contains(kind) || !self.armed.load(Ordering::Relaxed) {
            return false;
        }
        let number = self.seen.fetch_add(1, Ordering::Relaxed);
        let fails = number >= self.spec.nth && number - self.spec.nth < self.spec.times;
        if fails {
            self.injected.fetch_add(1, Ordering::Relaxed);
        }
        fails
    }

    fn pass(&self, kind: FaultKinds) -> Result<()> {
        if self.fails(kind) { Err(Error::from_errno(self.spec.errno)) } else { Ok(()) }
    }
}

/// A device whose requests fail as planned.
#[derive(Debug)]
pub struct FaultDevice {
    inner: Arc<dyn BlockDevice>,
    plan: Arc<FaultPlan>,
}

impl FaultDevice {
    /// `inner` under `plan`.
    #[must_use]
    pub fn new(inner: Arc<dyn BlockDevice>, plan: Arc<FaultPlan>) -> Self {
        Self { inner, plan }
    }
}

impl BlockDevice for FaultDevice {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn is_read_only(&self) -> bool {
        self.inner.is_read_only()
    }

    fn describe(&self) -> Description<'_> {
        self.inner.describe()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.plan.pass(FaultKinds::READ)?;
        self.inner.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        if self.plan.fails(FaultKinds::WRITE) {
            if self.plan.spec.torn {
                self.inner.write_at(offset, &buf[..buf.len() / 2])?;
            }
            return Err(Error::from_errno(self.plan.spec.errno));
        }
        self.inner.write_at(offset, buf)
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        self.plan.pass(FaultKinds::ZERO)?;
        self.inner.write_zeroes(range, how)
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        self.plan.pass(FaultKinds::DISCARD)?;
        self.inner.discard(range)
    }

    fn flush(&self) -> Result<()> {
        self.plan.pass(FaultKinds::FLUSH)?;
        self.inner.flush()
    }

    fn set_len(&self, len: u64, prealloc: Prealloc) -> Result<()> {
        self.plan.pass(FaultKinds::SET_LEN)?;
        self.inner.set_len(len, prealloc)
    }

    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        let inner = self.inner.extent_at(range)?;
        Ok(Extent { host: inner.host.map(|host| diskimg_core::HostRef { device: self, ..host }), ..inner })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use diskimg_core::MemDevice;

    #[test]
    fn only_the_chosen_request_fails_and_others_are_not_counted() {
        let plan = FaultPlan::new(FaultSpec::once(FaultKinds::WRITE, 1));
        let device = FaultDevice::new(Arc::new(MemDevice::new(64)), Arc::clone(&plan));
        device.write_at(0, &[1; 8]).unwrap();
        device.flush().unwrap();
        assert_eq!(device.write_at(0, &[2; 8]).unwrap_err().errno(), errno::EIO);
        device.write_at(8, &[3; 8]).unwrap();
        assert_eq!((plan.seen(), plan.injected()), (3, 1));
    }

    #[test]
    fn a_torn_write_leaves_its_first_half() {
        let spec = FaultSpec { torn: true, ..FaultSpec::once(FaultKinds::WRITE, 0) };
        let memory = Arc::new(MemDevice::new(8));
        let device = FaultDevice::new(Arc::clone(&memory) as _, FaultPlan::new(spec));
        assert!(device.write_at(0, &[7; 8]).is_err());
        assert_eq!(memory.to_vec(), [7, 7, 7, 7, 0, 0, 0, 0]);
    }
}
