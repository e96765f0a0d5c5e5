//! What a server sends, from memory: for fuzzers and tests of hostile servers. No socket is involved.

use std::io::sink;

use crate::extents::whole_blocks;
use crate::negotiate::{ALLOCATION, Wanted, negotiate};
use crate::reply::Reply;
use crate::wire::{command, read_reply};

/// The read and the block status that are pretended to be under way, in bytes.
const ASKED: u64 = 64 << 10;

/// Negotiates with a server that sends `bytes`, and takes what is left as replies to a read and a block status.
/// How many replies it understood; `None`: it did not get that far.
#[must_use]
pub fn hear(mut bytes: &[u8]) -> Option<usize> {
    let from = &mut bytes;
    let session = negotiate(from, &mut sink(), Wanted { export: "x", context: ALLOCATION }).ok()?;
    let mut understood = 0;
    for (cookie, command) in [(1, command::READ), (2, command::BLOCK_STATUS)] {
        let mut buf = vec![0; usize::try_from(ASKED).unwrap_or_default()];
        let mut reply = Reply::new(command, 0, ASKED, session.context, session.style);
        loop {
            let head = read_reply(from, session.style).ok()?;
            let target = (head.cookie == cookie).then_some(buf.as_mut_slice());
            if reply.absorb(from, head.body, target).ok()? {
                break;
            }
        }
        if let Ok(outcome) = reply.finish() {
            understood += 1;
            let runs = outcome.runs.clone();
            outcome.fill(&mut buf);
            let whole = whole_blocks(runs, 0, session.size, u64::from(session.min_block));
            debug_assert!(whole.iter().all(|(len, _)| *len > 0));
        }
    }
    Some(understood)
}
