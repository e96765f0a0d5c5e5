//! Standard output as C's library has it: a terminal sees each text at once; a file or a pipe gets whole blocks, and the
//! rest when it is flushed. Where both streams go to one pipe, messages thus stand in front of the results that were
//! printed before them, as those of qemu-img do.
//!
//! `Ui` prints through it; who writes to standard output by itself flushes it first. Failed writes are ignored.

use std::io::{IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a block.
const BLOCK: usize = 4096;

/// What was printed and not yet written. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Output {
    held: Arc<Mutex<Vec<u8>>>,
}

impl Output {
    /// Prints `text`.
    pub(crate) fn print(&self, text: &str) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.extend_from_slice(text.as_bytes());
        let mut out = std::io::stdout().lock();
        let ready = if out.is_terminal() { held.len() } else { blocks(held.len()) };
        if let Some(now) = held.get(..ready).filter(|now| !now.is_empty()) {
            let _ = out.write_all(now).and_then(|()| out.flush());
            held.drain(..ready);
        }
    }

    /// Writes what was held.
    pub(crate) fn flush(&self) {
        let held = std::mem::take(&mut *self.held.lock().unwrap_or_else(PoisonError::into_inner));
        if !held.is_empty() {
            let mut out = std::io::stdout().lock();
            let _ = out.write_all(&held).and_then(|()| out.flush());
        }
    }
}

/// How many of `len` bytes are written at once: a block goes when there is more than it holds.
fn blocks(len: usize) -> usize {
    if len > BLOCK { len - len % BLOCK } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_blocks_are_written() {
        for (len, written) in [(0, 0), (1, 0), (4096, 0), (4097, 4096), (8192, 8192), (8193, 8192)] {
            assert_eq!(blocks(len), written, "{len}");
        }
    }
}
