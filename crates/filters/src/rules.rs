//! The rules of `blkdebug`: which requests fail, and when that changes.
//!
//! A rule waits for its event in its state; then it is active, and fails the requests that it fits. Rules of the event
//! `none` are active from the start. Of the events, those of guest requests and flushes come to pass here; those inside
//! a format's driver are known by name and do not.

use diskimg_core::filter::Asked;
use diskimg_core::options::parse_bool;
use diskimg_core::size::parse_option_number;
use diskimg_core::{ByteRange, Error, Result, errno};
use parking_lot::Mutex;

/// Events by name.
const EVENTS: [&str; 48] = [
    "l1_update",
    "l1_grow_alloc_table",
    "l1_grow_write_table",
    "l1_grow_activate_table",
    "l2_load",
    "l2_update",
    "l2_update_compressed",
    "l2_alloc_cow_read",
    "l2_alloc_write",
    "read_aio",
    "read_backing_aio",
    "read_compressed",
    "write_aio",
    "write_compressed",
    "vmstate_load",
    "vmstate_save",
    "cow_read",
    "cow_write",
    "reftable_load",
    "reftable_grow",
    "reftable_update",
    "refblock_load",
    "refblock_update",
    "refblock_update_part",
    "refblock_alloc",
    "refblock_alloc_hookup",
    "refblock_alloc_write",
    "refblock_alloc_write_blocks",
    "refblock_alloc_write_table",
    "refblock_alloc_switch_table",
    "cluster_alloc",
    "cluster_alloc_bytes",
    "cluster_free",
    "flush_to_os",
    "flush_to_disk",
    "pwritev_rmw_head",
    "pwritev_rmw_after_head",
    "pwritev_rmw_tail",
    "pwritev_rmw_after_tail",
    "pwritev",
    "pwritev_zero",
    "pwritev_done",
    "empty_image_prepare",
    "l1_shrink_write_table",
    "l1_shrink_free_l2_clusters",
    "cor_write",
    "cluster_alloc_space",
    "none",
];

/// The event of rules that are active from the start.
const NONE: &str = "none";

/// Bytes of a sector, in which rules count.
const SECTOR: u64 = 512;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Read,
    Write,
    WriteZeroes,
    Discard,
    Flush,
    /// A look at what is stored where. Only rules that name it fail it.
    Status,
}

impl Request {
    const NAMES: [(&'static str, Self); 6] = [
        ("read", Self::Read),
        ("write", Self::Write),
        ("write-zeroes", Self::WriteZeroes),
        ("discard", Self::Discard),
        ("flush", Self::Flush),
        ("block-status", Self::Status),
    ];

    /// What comes to pass when it is made for a request of that kind: `read_aio` and `write_aio` are the guest's bytes.
    fn events(self, asked: Asked) -> &'static [&'static str] {
        match (self, asked) {
            (Self::Read, Asked::Read) => &["read_aio"],
            (Self::Write, Asked::Write) => &["pwritev", "write_aio"],
            (Self::Write, _) => &["pwritev"],
            (Self::WriteZeroes, _) => &["pwritev_zero"],
            (Self::Flush, _) => &["flush_to_os", "flush_to_disk"],
            (Self::Read | Self::Discard | Self::Status, _) => &[],
        }
    }
}

/// What a rule does once its event came.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Inject { errno: i32, sector: Option<u64>, once: bool, request: Option<Request> },
    SetState(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    event: &'static str,
    /// 0: any.
    state: u64,
    action: Action,
    active: bool,
    spent: bool,
}

/// The rules of a node and the state they are in.
#[derive(Debug, Default)]
pub(crate) struct Rules(Mutex<State>);

#[derive(Debug)]
struct State {
    state: u64,
    rules: Vec<Rule>,
}

impl Default for State {
    fn default() -> Self {
        Self { state: 1, rules: Vec::new() }
    }
}

impl Rules {
    /// Adds the rule of a group, `inject-error` or `set-state`. `unknown` words the refusal of an entry.
    ///
    /// # Errors
    /// `InvalidArg` in qemu-img's words.
    pub(crate) fn add(
        &mut self,
        group: &str,
        entries: &[(String, String)],
        unknown: &dyn Fn(&str) -> Error,
    ) -> Result<()> {
        let injects = group == "inject-error";
        let (mut event, mut state, mut new_state) = (None, 0, 0);
        let (mut errno, mut sector, mut once, mut request) = (errno::EIO, None, false, None);
        for (key, value) in entries {
            match key.as_str() {
                "event" => event = Some(find_event(value)?),
                "state" => state = parse_option_number(key, value)?,
                "new_state" if !injects => new_state = parse_option_number(key, value)?,
                "errno" if injects => {
                    let number = parse_option_number(key, value)?;
                    errno = i32::try_from(number.cast_signed()).unwrap_or(errno::EIO);
                }
                "sector" if injects => {
                    sector = Some(parse_option_number(key, value)?).filter(|sector| *sector != u64::MAX);
                }
                "once" if injects => once = parse_bool(key, value)?,
                "immediately" if injects => {
                    parse_bool(key, value)?;
                }
                "iotype" if injects => request = Some(find_request(value)?),
                _ => return Err(unknown(key)),
            }
        }
        let event = event.ok_or_else(|| Error::invalid("Missing event name for rule"))?;
        let action = if injects {
            Action::Inject { errno, sector, once, request }
        } else {
            Action::SetState(new_state)
        };
        let active = injects && event == NONE;
        self.0.get_mut().rules.push(Rule { event, state, action, active, spent: false });
        Ok(())
    }

    /// The events of a request come to pass.
    pub(crate) fn happen(&self, request: Request, asked: Asked) {
        let mut state = self.0.lock();
        for event in request.events(asked) {
            state.happen(event);
        }
    }

    /// The failure of a request, if a rule fits.
    ///
    /// # Errors
    /// The rule's.
    pub(crate) fn check(&self, request: Request, range: ByteRange) -> Result<()> {
        let mut state = self.0.lock();
        for rule in state.rules.iter_mut().filter(|rule| rule.active && !rule.spent) {
            let Action::Inject { errno, sector, once, request: only } = rule.action else { continue };
            let fits = match only {
                None => request != Request::Status,
                Some(only) => only == request,
            };
            let hit = sector.is_none_or(|sector| {
                sector.checked_mul(SECTOR).is_some_and(|at| at >= range.start && at < range.end())
            });
            if fits && hit {
                rule.spent |= once;
                return Err(Error::from_errno(errno));
            }
        }
        Ok(())
    }

    /// Bytes at the start of `range` before the first sector that a look at is to fail for; at least one sector.
    pub(crate) fn known_len(&self, range: ByteRange) -> u64 {
        let state = self.0.lock();
        let mut len = range.len;
        for rule in state.rules.iter().filter(|rule| rule.active && !rule.spent) {
            if let Action::Inject { sector: Some(sector), request: Some(Request::Status), .. } = rule.action
                && let Some(at) =
                    sector.checked_mul(SECTOR).filter(|at| *at >= range.start && *at < range.end())
            {
                len = len.min((at - range.start).max(SECTOR)).min(range.len);
            }
        }
        len
    }
}

impl State {
    fn happen(&mut self, event: &str) {
        let now = self.state;
        let mut next = now;
        let mut injected = false;
        let mut active = Vec::new();
        for (at, rule) in self.rules.iter().enumerate() {
            if rule.event != event || rule.spent || (rule.state != 0 && rule.state != now) {
                continue;
            }
            match rule.action {
                Action::SetState(state) => next = state,
                Action::Inject { .. } => {
                    injected = true;
                    active.push(at);
                }
            }
        }
        if injected {
            for (at, rule) in self.rules.iter_mut().enumerate() {
                rule.active = active.contains(&at) || (rule.active && rule.event == NONE);
            }
        }
        self.state = next;
    }
}

fn find_event(name: &str) -> Result<&'static str> {
    EVENTS.iter().find(|event| **event == name).copied().ok_or_else(|| invalid_value(name))
}

fn find_request(name: &str) -> Result<Request> {
    let found = Request::NAMES.iter().find(|(known, _)| *known == name);
    found.map(|(_, request)| *request).ok_or_else(|| invalid_value(name))
}

fn invalid_value(name: &str) -> Error {
    Error::invalid(format!("invalid parameter value: {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(groups: &[(&str, &[(&str, &str)])]) -> Result<Rules> {
        let mut rules = Rules::default();
        for (group, entries) in groups {
            let entries: Vec<_> = entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            rules.add(group, &entries, &|key| Error::invalid(format!("Invalid parameter '{key}'")))?;
        }
        Ok(rules)
    }

    const SECTORS: ByteRange = ByteRange { start: 1024, len: 1024 };

    #[test]
    fn rules_of_no_event_fail_what_they_fit() {
        let rules =
            rules(&[("inject-error", &[("event", "none"), ("iotype", "read"), ("sector", "3")])]).unwrap();
        assert!(rules.check(Request::Read, SECTORS).is_err());
        assert!(rules.check(Request::Read, ByteRange::new(0, 1536)).is_ok());
        assert!(rules.check(Request::Write, SECTORS).is_ok());
    }

    #[test]
    fn states_decide_which_rules_wake_up() {
        let rules = rules(&[
            ("set-state", &[("event", "read_aio"), ("state", "1"), ("new_state", "2")]),
            ("inject-error", &[("event", "read_aio"), ("state", "2"), ("errno", "28"), ("once", "on")]),
        ])
        .unwrap();
        rules.happen(Request::Read, Asked::Read);
        assert!(rules.check(Request::Read, SECTORS).is_ok());
        rules.happen(Request::Read, Asked::Read);
        assert_eq!(rules.check(Request::Read, SECTORS).unwrap_err().errno(), errno::ENOSPC);
        rules.happen(Request::Read, Asked::Read);
        assert!(rules.check(Request::Read, SECTORS).is_ok());
    }

    #[test]
    fn looks_fail_only_where_they_are_named() {
        let status =
            rules(&[("inject-error", &[("event", "none"), ("iotype", "block-status"), ("sector", "3")])])
                .unwrap();
        assert_eq!(status.known_len(SECTORS), 512);
        assert!(status.check(Request::Status, ByteRange::new(1536, 512)).is_err());
        let any = rules(&[("inject-error", &[("event", "none")])]).unwrap();
        assert!(any.check(Request::Status, SECTORS).is_ok());
    }

    #[test]
    fn wrong_entries_are_refused() {
        let error = |entries: &[(&str, &str)]| rules(&[("inject-error", entries)]).unwrap_err().to_string();
        assert_eq!(error(&[("event", "foo")]), "invalid parameter value: foo");
        assert_eq!(error(&[("errno", "5")]), "Missing event name for rule");
        assert_eq!(error(&[("errno", "x")]), "Parameter 'errno' expects a number");
        assert_eq!(error(&[("new_state", "2")]), "Invalid parameter 'new_state'");
    }
}
