//! [`History`]: what was done to a disk, and with it what a reader may see: exactly the latest bytes in normal life; after
//! a crash or a failure, for each byte, the value that the last flush acknowledged or any that was written after it.

use diskimg_core::{ByteRange, to_usize};

/// Bytes that are compared at once before single bytes are looked at.
const BLOCK: usize = 512;

/// One change of a disk's contents.
#[derive(Clone, Debug)]
struct Act {
    /// The moment it began, on the caller's clock.
    begin: usize,
    /// It was reported as done; otherwise its bytes may be there or not.
    certain: bool,
    /// First byte.
    start: u64,
    /// The new bytes.
    bytes: Vec<u8>,
    /// The new length, if it changed that.
    len: Option<u64>,
    /// While it is under way the bytes may be anything: a backing file may show through where a disk is being cut,
    /// and where it is being made longer before that part is covered with zeros.
    shows_below: bool,
}

impl Act {
    fn range(&self) -> ByteRange {
        ByteRange::new(self.start, self.bytes.len() as u64)
    }
}

/// The contents of a disk and how they came about.
#[derive(Clone, Debug)]
pub struct History {
    base: Vec<u8>,
    acts: Vec<Act>,
    /// Moments of acknowledged flushes, each with the number of acts it covers.
    flushes: Vec<(usize, usize)>,
    latest: Vec<u8>,
    len: u64,
    uncertain: bool,
    backed: bool,
}

impl History {
    /// A disk that durably holds `base`.
    #[must_use]
    pub fn new(base: Vec<u8>) -> Self {
        let len = base.len() as u64;
        Self {
            latest: base.clone(),
            base,
            acts: Vec::new(),
            flushes: vec![(0, 0)],
            len,
            uncertain: false,
            backed: false,
        }
    }

    /// The disk has a backing file.
    pub const fn set_backed(&mut self) {
        self.backed = true;
    }

    /// The bytes that a reader must see now, if everything was certain.
    #[must_use]
    pub fn latest(&self) -> &[u8] {
        &self.latest[..to_usize(self.len)]
    }

    /// True if some change is known neither to be there nor to be missing.
    #[must_use]
    pub const fn is_uncertain(&self) -> bool {
        self.uncertain
    }

    /// Forgets what a discard or a failure left open: a reader saw `bytes` at `start`.
    pub fn observed(&mut self, begin: usize, start: u64, bytes: Vec<u8>) {
        self.act(Act { begin, certain: true, start, bytes, len: None, shows_below: false });
    }

    /// `bytes` were written at `start`; `certain`: successfully.
    pub fn wrote(&mut self, begin: usize, certain: bool, start: u64, bytes: Vec<u8>) {
        self.act(Act { begin, certain, start, bytes, len: None, shows_below: false });
    }

    /// The length was set; what is cut off or added is zeros should the disk grow again.
    pub fn resized(&mut self, begin: usize, certain: bool, len: u64) {
        let (start, end) = (self.len.min(len), self.len.max(len));
        let bytes = vec![0; to_usize(end - start)];
        self.act(Act {
            begin,
            certain,
            start,
            bytes,
            len: Some(len),
            shows_below: len < self.len || self.backed,
        });
    }

    /// After a failed change of the length the disk says that it is `len` bytes long.
    pub fn length_seen(&mut self, len: u64) {
        self.len = len;
        if self.latest.len() < to_usize(len) {
            self.latest.resize(to_usize(len), 0);
        }
    }

    fn act(&mut self, act: Act) {
        self.uncertain |= !act.certain;
        if act.certain || act.len.is_none() {
            overlay(&mut self.latest, &act);
        }
        if let Some(len) = act.len.filter(|_| act.certain) {
            self.length_seen(len);
        }
        self.acts.push(act);
    }

    /// A flush that covers the first `acts` changes was acknowledged at `moment`.
    pub fn flushed(&mut self, moment: usize, acts: usize) {
        self.flushes.push((moment, acts));
    }

    /// Moments of acknowledged flushes, ascending.
    pub fn flush_moments(&self) -> impl Iterator<Item = usize> + '_ {
        self.flushes.iter().map(|(moment, _)| *moment)
    }

    /// Changes so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.acts.len()
    }

    /// Compares states after a crash with what is allowed; moments should ascend.
    #[must_use]
    pub fn verifier(&self) -> Verifier<'_> {
        Verifier { history: self, expected: self.base.clone(), applied: 0 }
    }
}

fn overlay(image: &mut Vec<u8>, act: &Act) {
    let range = act.range();
    if image.len() < to_usize(range.end()) {
        image.resize(to_usize(range.end()), 0);
    }
    image[to_usize(range.start)..to_usize(range.end())].copy_from_slice(&act.bytes);
}

/// Compares what a reader saw with what is allowed.
#[derive(Debug)]
pub struct Verifier<'h> {
    history: &'h History,
    expected: Vec<u8>,
    applied: usize,
}

impl Verifier<'_> {
    /// What is wrong with `got`, the whole contents after a crash at `moment`.
    ///
    /// # Errors
    /// A text that says which byte has a value it can't have.
    pub fn verify(&mut self, moment: usize, got: &[u8]) -> Result<(), String> {
        let begun = self.history.acts.iter().take_while(|act| act.begin < moment).count();
        if begun < self.applied {
            self.expected.clone_from(&self.history.base);
            self.applied = 0;
        }
        for act in &self.history.acts[self.applied..begun] {
            overlay(&mut self.expected, act);
        }
        self.applied = begun;
        let settled = self.history.flushes.iter().filter(|(at, _)| *at <= moment);
        let settled = settled.map(|(_, acts)| *acts).max().unwrap_or(0).min(begun);
        self.check_len(got.len() as u64, begun, settled)?;
        if self.expected.len() < got.len() {
            self.expected.resize(got.len(), 0);
        }
        for (number, block) in got.chunks(BLOCK).enumerate() {
            let start = number * BLOCK;
            let expected = &self.expected[start..start + block.len()];
            if block == expected {
                continue;
            }
            for (at, (got, expected)) in block.iter().zip(expected).enumerate() {
                if got != expected {
                    self.check_byte(start + at, *got, begun, settled)?;
                }
            }
        }
        Ok(())
    }

    fn check_len(&self, got: u64, begun: usize, settled: usize) -> Result<(), String> {
        let mut allowed = Vec::new();
        for (number, act) in self.history.acts[..begun].iter().enumerate().rev() {
            if let Some(len) = act.len {
                allowed.push(len);
                if act.certain && number < settled {
                    break;
                }
            }
        }
        let all_open = self.history.acts[..settled].iter().all(|act| act.len.is_none() || !act.certain);
        if all_open {
            allowed.push(self.history.base.len() as u64);
        }
        // Between two of them: a disk without metadata has grown by a part of a write.
        let within = allowed.iter().min() <= Some(&got) && Some(&got) <= allowed.iter().max();
        if within { Ok(()) } else { Err(format!("{got} bytes long, not within {allowed:?}")) }
    }

    fn check_byte(&self, at: usize, got: u8, begun: usize, settled: usize) -> Result<(), String> {
        let mut allowed = Vec::new();
        for (number, act) in self.history.acts[..begun].iter().enumerate().rev() {
            let Some(value) = at.checked_sub(to_usize(act.start)).and_then(|at| act.bytes.get(at)) else {
                continue;
            };
            allowed.push((number, *value));
            let open = number >= settled || !act.certain;
            if *value == got || (open && act.shows_below) {
                return Ok(());
            }
            if act.certain && number < settled {
                let text = format!("byte {at:#x} is {got:#04x}; (change, value) allowed: {allowed:02x?}");
                return Err(format!("{text}; {settled} of {begun} changes were flushed"));
            }
        }
        let base = self.history.base.get(at).copied().unwrap_or(0);
        if got == base {
            return Ok(());
        }
        let text = format!("byte {at:#x} is {got:#04x}; at first {base:#04x}, then {allowed:02x?}");
        Err(format!("{text}; {settled} of {begun} changes were flushed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flushed_bytes_must_be_there_and_later_ones_may() {
        let mut history = History::new(vec![0; 4]);
        history.wrote(0, true, 0, vec![1; 4]);
        history.flushed(2, 1);
        history.wrote(2, true, 1, vec![2; 2]);
        let mut verifier = history.verifier();
        assert!(verifier.verify(1, &[0, 1, 0, 1]).is_ok());
        assert!(verifier.verify(1, &[0, 2, 0, 1]).is_err(), "not written yet");
        assert!(verifier.verify(3, &[1, 1, 2, 1]).is_ok());
        assert!(verifier.verify(3, &[0, 2, 2, 1]).is_err(), "flushed byte lost");
        assert!(verifier.verify(2, &[1, 1, 1]).is_err(), "length");
    }

    #[test]
    fn a_failed_change_may_be_there_or_not_even_after_a_flush() {
        let mut history = History::new(vec![0; 2]);
        history.wrote(0, true, 0, vec![1; 2]);
        history.wrote(1, false, 0, vec![2; 2]);
        history.flushed(2, 2);
        let mut verifier = history.verifier();
        assert!(verifier.verify(9, &[1, 2]).is_ok());
        assert!(verifier.verify(9, &[0, 2]).is_err());
    }

    #[test]
    fn either_length_may_be_seen_until_the_flush() {
        let mut history = History::new(vec![5; 4]);
        history.resized(0, true, 2);
        let mut verifier = history.verifier();
        assert!(verifier.verify(1, &[5, 5, 5, 0]).is_ok() && verifier.verify(1, &[5, 5]).is_ok());
        history.flushed(1, 1);
        assert!(history.verifier().verify(1, &[5, 5, 5, 5]).is_err());
        history.resized(1, true, 4);
        assert_eq!(history.latest(), [5, 5, 0, 0]);
    }
}
