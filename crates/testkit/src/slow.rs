//! [`SlowDevice`]: yields or sleeps before each request, so that threads meet in every order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use diskimg_core::{BlockDevice, ByteRange, Extent, HostRef, Prealloc, Result, ZeroMode};

use crate::rng::Rng;

/// A device with delays that follow from a seed.
#[derive(Debug)]
pub struct SlowDevice {
    inner: Arc<dyn BlockDevice>,
    most: Duration,
    calls: AtomicU64,
}

impl SlowDevice {
    /// `inner`, each request delayed by up to `most`.
    #[must_use]
    pub fn new(inner: Arc<dyn BlockDevice>, most: Duration, seed: u64) -> Self {
        Self { inner, most, calls: AtomicU64::new(seed) }
    }

    fn delay(&self) {
        let mut rng = Rng::new(self.calls.fetch_add(1, Ordering::Relaxed));
        match rng.below(4) {
            0 => {}
            1 | 2 => std::thread::yield_now(),
            _ => std::thread::sleep(self.most.mul_f64(rng.below(100) as f64 / 100.0)),
        }
    }
}

impl BlockDevice for SlowDevice {
    diskimg_core::pass_on!(inner: len limits is_read_only describe);

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.delay();
        self.inner.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.delay();
        self.inner.write_at(offset, buf)
    }

    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        self.delay();
        self.inner.write_zeroes(range, how)
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        self.delay();
        self.inner.discard(range)
    }

    fn flush(&self) -> Result<()> {
        self.delay();
        self.inner.flush()
    }

    fn set_len(&self, len: u64, prealloc: Prealloc) -> Result<()> {
        self.delay();
        self.inner.set_len(len, prealloc)
    }

    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        let inner = self.inner.extent_at(range)?;
        Ok(Extent { host: inner.host.map(|host| HostRef { device: self, ..host }), ..inner })
    }
}
