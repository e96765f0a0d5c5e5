//! `throttle`: the rate limits of a group, which several nodes may share.
//!
//! A group counts how long the requests that passed take at its limits, and lets the next one wait until that time has
//! gone by. Invariant: waiting is done without the lock.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use diskimg_core::filter::{FilterDriver, FilterOpen, SharedObject};
use diskimg_core::{BlockDevice, ByteRange, Error, FormatDriver, Image, Result, ZeroMode, len_u64};
use parking_lot::Mutex;

use crate::node::{CHANGES, in_front, node, over};

static NODE: FormatDriver = node("throttle", CHANGES);

/// The filter.
pub static THROTTLE: FilterDriver =
    FilterDriver { is_strong: |name| name == "throttle-group", ..in_front(&NODE, open) };

/// What is limited: the total, reads, writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Limit {
    total: u64,
    read: u64,
    write: u64,
}

/// Limits that the nodes of a group have together.
#[derive(Debug, Default)]
pub struct ThrottleGroup {
    bytes: Limit,
    requests: Limit,
    /// When the next read and the next write may begin.
    next: Mutex<[Option<Instant>; 2]>,
}

impl SharedObject for ThrottleGroup {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A request for as long as this is never waited for longer.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// A name of a limit, whose value is ignored: how far it may be exceeded for a while, and how long.
const BURSTS: [&str; 3] = ["-max", "-max-length", "-size"];

impl ThrottleGroup {
    /// A group with properties such as `x-bps-total` or `limits.iops-read`, as text.
    ///
    /// # Errors
    /// `InvalidArg` in qemu-img's words: an unknown property, a value that is no number or negative, a total together
    /// with its parts.
    pub fn new<'a>(properties: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let mut group = Self::default();
        for (name, value) in properties {
            group.set(name, value)?;
        }
        let mixed = |limit: &Limit| limit.total > 0 && (limit.read > 0 || limit.write > 0);
        if mixed(&group.bytes) || mixed(&group.requests) {
            let text = "bps/iops/max total values and read/write values cannot be used at the same time";
            return Err(Error::invalid(text));
        }
        Ok(group)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let unknown = || Error::invalid(format!("Parameter '{name}' is unexpected"));
        let short = name.strip_prefix("x-").or_else(|| name.strip_prefix("limits.")).ok_or_else(unknown)?;
        let number = value.strip_prefix('-').unwrap_or(value);
        let parsed: u64 =
            number.parse().map_err(|_| Error::invalid(format!("Parameter '{name}' expects integer")))?;
        let (limit, rest) = match short.split_once('-') {
            Some(("bps", rest)) => (&mut self.bytes, rest),
            Some(("iops", rest)) => (&mut self.requests, rest),
            _ => return Err(unknown()),
        };
        if value.starts_with('-') {
            return Err(Error::invalid("Property values cannot be negative"));
        }
        match rest {
            "total" => limit.total = parsed,
            "read" => limit.read = parsed,
            "write" => limit.write = parsed,
            "size" => {}
            _ if BURSTS.iter().any(|burst| rest.ends_with(burst)) => {}
            _ => return Err(unknown()),
        }
        Ok(())
    }

    /// Waits until a request of `len` bytes may begin.
    fn pass(&self, write: bool, len: u64) {
        let side = |limit: &Limit| if write { limit.write } else { limit.read };
        let cost = |per_second: u64, amount: u64| {
            let nanos = u128::from(amount).saturating_mul(1_000_000_000).checked_div(per_second.into());
            Duration::from_nanos(nanos.and_then(|nanos| u64::try_from(nanos).ok()).unwrap_or(0))
        };
        let own = cost(side(&self.bytes), len).max(cost(side(&self.requests), 1));
        let common = cost(self.bytes.total, len).max(cost(self.requests.total, 1));
        if own.is_zero() && common.is_zero() {
            return;
        }
        let wait = {
            let now = Instant::now();
            let mut next = self.next.lock();
            let [reads, writes] = &mut *next;
            let (mine, other) = if write { (writes, reads) } else { (reads, writes) };
            let start = mine.unwrap_or(now).max(now);
            *mine = Some(start + own.max(common));
            if !common.is_zero() {
                *other = Some(other.unwrap_or(now).max(start + common));
            }
            start.saturating_duration_since(now)
        };
        std::thread::sleep(wait.min(LONGEST_WAIT));
    }
}

fn open(request: FilterOpen<'_>) -> Result<Arc<dyn Image>> {
    let Some(name) = request.options.take_str("throttle-group")? else {
        return Err(Error::invalid("Please specify a throttle group"));
    };
    let group = request.objects.get(&name).filter(|object| object.as_any().is::<ThrottleGroup>());
    let Some(group) = group else {
        return Err(Error::invalid(format!("Throttle group '{name}' does not exist")));
    };
    let child = request.only_child()?;
    Ok(Arc::new(Throttle { device: child.device, image: child.image, group: Arc::clone(group) }))
}

#[derive(Debug)]
struct Throttle {
    device: Arc<dyn BlockDevice>,
    image: Arc<dyn Image>,
    group: Arc<dyn SharedObject>,
}

impl Throttle {
    fn pass(&self, write: bool, len: u64) {
        if let Some(group) = self.group.as_any().downcast_ref::<ThrottleGroup>() {
            group.pass(write, len);
        }
    }
}

impl Image for Throttle {
    over!("file");
}

impl BlockDevice for Throttle {
    diskimg_core::pass_on!(device: len limits check_room is_read_only flush set_len extent_at allocated_len);

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.pass(false, len_u64(buf));
        self.device.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.pass(true, len_u64(buf));
        self.device.write_at(offset, buf)
    }
    fn write_zeroes(&self, range: ByteRange, how: ZeroMode) -> Result<()> {
        self.pass(true, range.len);
        self.device.write_zeroes(range, how)
    }
    fn discard(&self, range: ByteRange) -> Result<()> {
        self.pass(true, range.len);
        self.device.discard(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_checked() {
        let error = |name, value| ThrottleGroup::new([(name, value)]).unwrap_err().to_string();
        assert_eq!(error("foo", "1"), "Parameter 'foo' is unexpected");
        assert_eq!(error("x-iops-total", "-1"), "Property values cannot be negative");
        let both = ThrottleGroup::new([("x-bps-total", "10"), ("x-bps-read", "10")]);
        assert!(both.unwrap_err().to_string().ends_with("at the same time"));
        assert!(ThrottleGroup::new([("limits.iops-read-max-length", "3"), ("x-iops-size", "3")]).is_ok());
    }

    #[test]
    fn requests_wait_for_those_before_them() {
        let group = ThrottleGroup::new([("x-iops-total", "100")]).unwrap();
        let start = Instant::now();
        for at in 0..4 {
            group.pass(at % 2 == 0, 512);
        }
        assert!(start.elapsed() >= Duration::from_millis(29));
    }
}
