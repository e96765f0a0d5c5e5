//! Makes a failing sequence of operations short: what is left is needed for the failure.

use std::cell::Cell;
use std::fmt::Debug;
use std::sync::Once;

use crate::suite::caught;

/// Attempts to shorten one sequence.
const MOST_ATTEMPTS: usize = 400;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// The text of the panic of `run`, if it panics; nothing is printed meanwhile.
pub fn panics(run: impl FnOnce()) -> Option<String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                usual(info);
            }
        }));
    });
    QUIET.set(true);
    let outcome = caught(run);
    QUIET.set(false);
    outcome.err()
}

/// Runs `run` with `ops`; if that panics, finds a short part of them that still does.
///
/// # Panics
/// If `run` panics: with the short sequence and its message.
pub fn run_shrinking<T: Clone + Debug>(ops: &[T], run: impl Fn(&[T])) {
    let Some(mut text) = panics(|| run(ops)) else { return };
    let mut kept = ops.to_vec();
    let mut size = kept.len().div_ceil(2);
    let mut attempts = 0;
    while size > 0 {
        let mut at = 0;
        let mut shorter = false;
        while at < kept.len() && attempts < MOST_ATTEMPTS {
            let mut fewer = kept.clone();
            fewer.drain(at..kept.len().min(at + size));
            attempts += 1;
            match panics(|| run(&fewer)) {
                Some(now) => {
                    (text, kept, shorter) = (now, fewer, true);
                }
                None => at += size,
            }
        }
        if !shorter {
            size /= 2;
        }
    }
    panic!("{text}\nwith these {} of {} operations: {kept:#x?}", kept.len(), ops.len());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Op;

    #[test]
    fn only_what_is_needed_is_left() {
        let ops: Vec<Op> = (0..50)
            .map(|n| {
                if n == 20 {
                    Op::SetLen(512)
                } else if n == 33 {
                    Op::Check
                } else {
                    Op::Flush
                }
            })
            .collect();
        let fails =
            |ops: &[Op]| assert!(!(ops.contains(&Op::Check) && ops.contains(&Op::SetLen(512))), "both");
        let text = panics(|| run_shrinking(&ops, fails)).unwrap();
        assert!(text.contains("with these 2 of 51") || text.contains("with these 2 of 50"), "{text}");
    }
}
