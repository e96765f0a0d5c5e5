//! Emptying an image: all entries go first, durably; the space when nobody reads it any more.

use std::time::Duration;

use super::{ClusterMap, MappedImage};
use crate::backing::Emptying;
use crate::error::{Error, Result};
use crate::range::ByteRange;

/// How long a running request is waited for at a time.
const PATIENCE: Duration = Duration::from_millis(1);

/// A map's side of emptying. Nobody changes anything meanwhile, and nothing is dirty.
pub trait Clearing: Send + Sync {
    /// Takes all entries out of the tables, durably.
    ///
    /// # Errors
    /// The storage's.
    fn clear_tables(&self) -> Result<()>;

    /// Gives the space back that no table has any more.
    ///
    /// # Errors
    /// The storage's.
    fn drop_space(&self) -> Result<()>;
}

impl<M: ClusterMap> MappedImage<M> {
    /// Waits until all requests have ended that run now.
    fn outlive_requests(&self) {
        let begun = self.requests.advance();
        while self.requests.advance() < begun.saturating_add(2) {
            std::thread::sleep(PATIENCE);
        }
    }
}

impl<M: ClusterMap> Emptying for MappedImage<M> {
    fn make_empty(&self) -> Result<()> {
        self.before_change()?;
        let clearing = self.map.as_clearing().ok_or_else(|| Error::unsupported("Operation not supported"))?;
        let _nobody_writes = self.claims.lock(ByteRange::new(0, u64::MAX));
        self.write_tables()?;
        let _nobody_writes_tables = self.write_back.lock();
        clearing.clear_tables()?;
        self.unpacked.clear();
        self.outlive_requests();
        clearing.drop_space()
    }
}
