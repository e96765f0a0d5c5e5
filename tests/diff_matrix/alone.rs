//! Where qemu-img has nothing to compare with: it opens an image that refers to itself until it runs out of file
//! descriptors. Ours refuses, at once and in little memory.

use crate::fixtures::CHAINS;
use crate::support::folder;
use crate::support::process;
use crate::support::suite::{Env, Needs, Test};

const LOOPS: &[&str] = &[
    "map loop.qcow2",
    "check loop.qcow2",
    "measure loop.qcow2",
    "convert -O raw loop.qcow2 out.raw",
    "compare loop.qcow2 base.raw",
    "resize loop.qcow2 8M",
    "info --backing-chain loop.qcow2",
    "map loopa.qcow2",
    "convert -O qcow2 loopb.qcow2 out.qcow2",
    "create -f qcow2 -b loopa.qcow2 -F qcow2 new.qcow2",
    "convert -O qcow2 -B loopa.qcow2 -F qcow2 base.raw out.qcow2",
];

/// All tests of this file.
pub fn tests() -> Vec<Test> {
    LOOPS
        .iter()
        .map(|line| Test::new(format!("loops: {line}"), Needs::Contents, |env| refused(env, line)))
        .collect()
}

fn refused(env: &Env, line: &str) -> Result<(), String> {
    let dir = env.fresh_folder();
    folder::copy_tree(&env.fixtures.get(CHAINS.script, &env.tools())?, &dir, &|_| true)?;
    let args: Vec<&str> = line.split(' ').collect();
    let done = process::run_within(&env.our_link, &args, &dir, Some(128 << 20))?;
    std::fs::remove_dir_all(&dir).map_err(|e| e.to_string())?;
    // compare keeps 1 for a difference.
    let code = if line.starts_with("compare") { "2" } else { "1" };
    if done.exit != code || !done.stderr.contains("infinite loop") || !done.stdout.is_empty() {
        return Err(format!("exit {}\n{}{}", done.exit, done.stdout, done.stderr));
    }
    Ok(())
}
