//! Generated command lines over the grammar of every subcommand, run by the installed `qemu-img` and by ours in equal
//! folders: exit code, stdout, stderr and what is left behind must be equal, but for what `diff_grammar/accepted.rs`
//! lists (with reasons that `docs/COMPATIBILITY.md` has too).
//!
//! `DISKIMG_GRAMMAR_LINES` (default 600; 3000 and more for a full run) and `DISKIMG_GRAMMAR_SEED` choose what is run;
//! the seed is part of each test's name, so that a failure repeats. See `support/mod.rs` for the rest.
#![allow(unreachable_pub, clippy::indexing_slicing)]

#[path = "diff_grammar/accepted.rs"]
mod accepted;
#[path = "diff_grammar/compare.rs"]
mod compare;
#[path = "diff_grammar/generate.rs"]
mod generate;
mod support;
#[path = "diff_grammar/table.rs"]
mod table;

use generate::Generator;
use support::suite::{Needs, Test, run_tests};

/// Lines in one test.
const BATCH: usize = 25;

/// Lines in a run of the continuous integration.
const SAMPLE: usize = 600;

/// The seed of that run.
const SEED: u64 = 10;

fn main() -> std::process::ExitCode {
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let lines = variable("DISKIMG_GRAMMAR_LINES")
        .map_or(SAMPLE, |lines: u64| usize::try_from(lines).unwrap_or(SAMPLE));
    let seed = variable("DISKIMG_GRAMMAR_SEED").unwrap_or(SEED);
    let mut tests =
        vec![Test::new("accepted differences are documented", Needs::Nothing, |_| accepted::documented())];
    for batch in 0..lines.div_ceil(BATCH) {
        let seed = seed.wrapping_mul(1_000_003).wrapping_add(batch as u64);
        tests.push(Test::new(format!("seed {seed}"), Needs::Texts, move |env| {
            let mut generator = Generator::new(seed);
            let mut failures = Vec::new();
            for _ in 0..BATCH {
                let line = generator.line();
                failures.extend(compare::run(env, &line)?);
            }
            if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
        }));
    }
    run_tests(tests)
}
