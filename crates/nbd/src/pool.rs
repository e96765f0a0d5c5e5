//! [`Pool`]: the connections of one device: one, or a few if the server says that they see the same bytes; and new ones
//! in place of those that are lost, if that is wanted.
//!
//! Invariant: all connections agreed on the same size and on at least what the first one can do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use diskimg_core::{Error, ErrorKind, Result};

use crate::connection::{Connection, Failure};
use crate::limits::{BUSY, MAX_CONNECTIONS, RETRY_PAUSE};
use crate::negotiate::{ALLOCATION, Session};
use crate::options::NbdOptions;
use crate::reply::Outcome;
use crate::wire::{Request, can};

#[derive(Debug)]
pub(crate) struct Pool {
    options: NbdOptions,
    session: Session,
    connections: RwLock<Vec<Arc<Connection>>>,
    /// More connections may be made.
    extends: AtomicBool,
    /// Held while one is made.
    making: Mutex<()>,
}

impl Pool {
    /// Makes the first connection; tries it for as long as the options say.
    pub(crate) fn open(options: NbdOptions) -> Result<Self> {
        let first = connect_until(&options, Instant::now() + options.open_timeout)?;
        let session = *first.session();
        let extends = AtomicBool::new(session.can(can::MULTI_CONN));
        let connections = RwLock::new(vec![Arc::new(first)]);
        Ok(Self { options, session, connections, extends, making: Mutex::new(()) })
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// Makes a request; again on a new connection if one is lost and the options allow the time.
    pub(crate) fn call(&self, request: Request, data: &[u8], buf: &mut [u8]) -> Result<Outcome> {
        let mut give_up = None;
        loop {
            let error = match self.pick()?.call(request, data, buf) {
                Err(Failure::Lost(error)) => error,
                other => return other.map_err(Failure::into_error),
            };
            let delay = self.options.reconnect_delay;
            let until = *give_up.get_or_insert_with(|| Instant::now() + delay);
            if delay == Duration::ZERO || Instant::now() >= until || self.replace(until).is_err() {
                return Err(error);
            }
        }
    }

    /// The connection with the fewest requests; perhaps a new one if all have many.
    fn pick(&self) -> Result<Arc<Connection>> {
        let (best, count) = {
            let all = self.connections.read();
            (all.iter().min_by_key(|one| one.busy()).map(Arc::clone), all.len())
        };
        let best = best.ok_or_else(|| Error::new(ErrorKind::Io, "no connection to the NBD server"))?;
        let wants_more = best.busy() >= BUSY && count < MAX_CONNECTIONS;
        if wants_more && self.extends.load(Ordering::Relaxed) {
            return Ok(self.extend().unwrap_or(best));
        }
        Ok(best)
    }

    fn extend(&self) -> Option<Arc<Connection>> {
        let _alone = self.making.try_lock()?;
        let made = self.connect().ok();
        let Some(made) = made else {
            self.extends.store(false, Ordering::Relaxed);
            return None;
        };
        let made = Arc::new(made);
        self.connections.write().push(Arc::clone(&made));
        Some(made)
    }

    /// One more connection, which must be like the first.
    fn connect(&self) -> Result<Connection> {
        let made = Connection::open(&self.options, context(&self.options))?;
        let (old, new) = (&self.session, made.session());
        let same = new.size == old.size
            && new.style == old.style
            && new.min_block <= old.min_block
            && new.max_block >= old.max_block
            && new.context == old.context
            && new.flags & old.flags == old.flags;
        if same { Ok(made) } else { Err(Error::corrupt("the export has changed")) }
    }

    /// Takes lost connections out, and makes a new one if none is left.
    fn replace(&self, until: Instant) -> Result<()> {
        let _alone = self.making.lock();
        self.connections.write().retain(|one| !one.is_broken());
        if !self.connections.read().is_empty() {
            return Ok(());
        }
        let made = loop {
            match self.connect() {
                Ok(made) => break made,
                Err(error) if Instant::now() >= until => {
                    return Err(error);
                }
                Err(_) => std::thread::sleep(RETRY_PAUSE),
            }
        };
        self.connections.write().push(Arc::new(made));
        Ok(())
    }
}

/// The metadata context that is asked for.
fn context(options: &NbdOptions) -> &str {
    options.dirty_bitmap.as_deref().unwrap_or(ALLOCATION)
}

fn connect_until(options: &NbdOptions, until: Instant) -> Result<Connection> {
    loop {
        match Connection::open(options, context(options)) {
            Err(_) if Instant::now() < until => std::thread::sleep(RETRY_PAUSE),
            done => return done,
        }
    }
}
