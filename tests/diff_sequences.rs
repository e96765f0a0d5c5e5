//! Random sequences of operations on one image, done by ours and by the installed `qemu-img` and `qemu-io` in turn.
//!
//! Each step is tried by both on copies of the same image; both must end the same way, with the same words, and one of
//! the two images, at random, is gone on with. After each step the check is clean, the contents of the disk and of the
//! snapshots are those of a flat model for both programs, bitmaps have the model's bits, and `info`, `snapshot -l`,
//! `check` and `map` of both print the same. A sequence that goes wrong is made short and printed as shell commands.
//!
//! `DISKIMG_SEQUENCES=500` runs so many, each looked over in full; `DISKIMG_FIRST_SEED=N` begins elsewhere;
//! `DISKIMG_STEPS=N` makes them longer or shorter.
#![allow(unreachable_pub, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "diff_sequences/generate.rs"]
mod generate;
#[path = "diff_sequences/guest.rs"]
mod guest;
#[path = "diff_sequences/layout.rs"]
mod layout;
#[path = "diff_sequences/model.rs"]
mod model;
#[path = "diff_sequences/run.rs"]
mod run;
#[path = "diff_sequences/shorten.rs"]
mod shorten;
#[path = "diff_sequences/step.rs"]
mod step;
#[path = "diff_sequences/stored_bitmaps.rs"]
mod stored_bitmaps;
mod support;
#[path = "diff_sequences/verify.rs"]
mod verify;

use diskimg_testkit::Rng;
use run::{Ground, TOTALS, Trouble, count};
use step::{Step, Who};
use support::suite::{Env, Needs, Test, run_tests};
use verify::Depth;

/// The first argument that makes this program our side's guest.
const GUEST: &str = "our-io";
/// Sequences of a usual run.
const SEQUENCES: u64 = 28;
/// Steps of each.
const STEPS: usize = 20;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|first| first == GUEST) {
        return guest::main(&args[1..]);
    }
    let sequences = number("DISKIMG_SEQUENCES");
    let first = number("DISKIMG_FIRST_SEED").unwrap_or(0);
    let steps = number("DISKIMG_STEPS").map_or(STEPS, |n| n as usize);
    let full = sequences.is_some();
    let mut tests = Vec::new();
    for seed in first..first + sequences.unwrap_or(SEQUENCES) {
        let name = format!("sequence/{seed}/{}", generate::layout(seed).name);
        tests.push(Test::new(name, Needs::Texts, move |env| sequence(env, seed, steps, full)));
    }
    let code = run_tests(tests);
    if let Ok(Some(totals)) = TOTALS.lock().map(|mut totals| totals.take()) {
        println!(
            "sequences: {} run to the end from seed {first} on, {} outputs compared, {} disks and snapshots read, \
             {} bitmaps compared",
            totals.sequences, totals.texts, totals.contents, totals.bitmaps
        );
        for (name, [ours, theirs, failed]) in &totals.actions {
            println!("  {name}: {ours} by ours, {theirs} by theirs, {failed} that fail");
        }
        for harm in &totals.harmed {
            println!("  left: {harm}");
        }
    }
    code
}

/// Runs the sequence of a seed.
fn sequence(env: &Env, seed: u64, count_of_steps: usize, full: bool) -> Result<(), String> {
    let layout = generate::layout(seed);
    let mut rng = Rng::new(seed);
    let ours_begins = rng.chance(50);
    let mut steps: Vec<Step> = Vec::new();
    let mut run = || -> Result<(), (Trouble, Vec<String>)> {
        let mut ground = Ground::new(env, layout, ours_begins).map_err(|trouble| (trouble, Vec::new()))?;
        while steps.len() < count_of_steps {
            let number = steps.len() + 1;
            let step = generate::step(&mut rng, &ground.model, number);
            steps.push(step.clone());
            let depth = if full || number == count_of_steps { Depth::All } else { Depth::Part(number) };
            one(&mut ground, &step, Some(depth)).map_err(|trouble| (trouble, ground.lines.clone()))?;
        }
        Ok(())
    };
    let Err((trouble, lines)) = run() else {
        count(|totals| totals.sequences += 1);
        return Ok(());
    };
    if trouble.theirs {
        let last = lines.last().cloned().unwrap_or_default();
        count(|totals| {
            totals.harmed.push(format!("seed {seed}: {last}: {}", trouble.text.replace('\n', " | ")))
        });
        return Ok(());
    }
    let again = |steps: &[Step]| repeat(env, seed, ours_begins, steps);
    let fails = |steps: &[Step]| again(steps).is_err_and(|(found, _)| found.kind == trouble.kind);
    let short = shorten::shorten(&steps, fails);
    let (trouble, lines) = match again(&short) {
        Err(found) => found,
        Ok(()) => (trouble, lines),
    };
    Err(format!(
        "seed {seed}, {} of {} steps: {}: {}\n{}",
        short.len(),
        steps.len(),
        trouble.kind,
        trouble.text,
        lines.join("\n")
    ))
}

fn one(ground: &mut Ground<'_>, step: &Step, depth: Option<Depth>) -> Result<(), Trouble> {
    let who = ground.step(step)?;
    match (depth, who) {
        (Some(depth), Some(who)) => verify::verify(ground, depth, who == Who::Theirs),
        _ => Ok(()),
    }
}

/// Runs given steps; only the last one is looked over.
fn repeat(env: &Env, seed: u64, ours_begins: bool, steps: &[Step]) -> Result<(), (Trouble, Vec<String>)> {
    let mut ground =
        Ground::new(env, generate::layout(seed), ours_begins).map_err(|trouble| (trouble, Vec::new()))?;
    for (at, step) in steps.iter().enumerate() {
        let depth = (at + 1 == steps.len()).then_some(Depth::All);
        one(&mut ground, step, depth).map_err(|trouble| (trouble, ground.lines.clone()))?;
    }
    Ok(())
}
