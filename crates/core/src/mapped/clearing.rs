//! Emptying an image: all entries go first, durably; the space when nobody reads it any more.

use std::time::Duration;

use parking_lot::RwLockWriteGuard;

use super::{ClusterMap, MappedImage};
use crate::backing::Emptying;
use crate::error::{Error, Result};
use crate::range_lock::RangeGuard;

/// How long a running request is waited for at a time.
const PATIENCE: Duration = Duration::from_millis(1);
/// How long new changes are kept waiting for those that run before they are let pass once more: one of them may be what
/// the others wait for.
const PATIENCE_WITH_CHANGES: Duration = Duration::from_millis(20);

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
    /// Waits until no change runs and no place is reserved, and keeps new changes waiting. So all requests that run are
    /// those of readers, who wait for nobody.
    fn alone(&self) -> (RwLockWriteGuard<'_, ()>, RangeGuard<'_>) {
        loop {
            if let Some(gate) = self.changes.try_write_for(PATIENCE_WITH_CHANGES) {
                if let Some(claim) = self.claims.try_lock_all() {
                    return (gate, claim);
                }
                drop(gate);
                // Whoever reserved a place may have to write before the place is committed.
                self.claims.wait_until_idle();
            }
        }
    }

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
        let _nobody_writes = self.alone();
        self.write_tables()?;
        let _nobody_writes_tables = self.write_back.lock();
        clearing.clear_tables()?;
        self.unpacked.clear();
        self.outlive_requests();
        clearing.drop_space()
    }
}
