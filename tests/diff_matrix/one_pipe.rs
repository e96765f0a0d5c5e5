//! Both streams in one pipe, as scripts and test-suites read them: the order of results and messages is qemu-img's.
//! (Repairs of refcount blocks out of reach stand here too: their images are not the same afterwards.)

use std::path::Path;

use crate::support::case::Fixture;
use crate::support::folder;
use crate::support::process;
use crate::support::suite::{Env, Needs, Test};

const DAMAGED: Fixture = Fixture {
    name: "damaged",
    pick: false,
    script: "create -f raw small.raw 1M
             create -f raw wrong.raw 64k
             create -f qcow2 snap.qcow2 1M
             img snapshot -c one snap.qcow2
             img snapshot -c two snap.qcow2
             create -f qcow2 far.qcow2 1M
             create -f qcow2 many.qcow2 4M
             img bitmap --add many.qcow2 b0",
};

/// Words that are put into an image, in front of each its place.
type Changes = &'static [(u64, u64)];

/// An image, how it is changed, and the command.
const LINES: &[(&str, Changes, &str)] = &[
    // The L1 table of the first snapshot is not where a table can be; the header's last cluster is a leak.
    ("snap.qcow2", &[(0x50000, 0x1)], "check -r leaks snap.qcow2"),
    ("snap.qcow2", &[(0x50000, 0x1)], "check -r all snap.qcow2"),
    ("snap.qcow2", &[(0x50000, 0x1)], "check -r all --output=json snap.qcow2"),
    ("far.qcow2", &[(0x10008, 0x8000000000000000)], "check -r all far.qcow2"),
    ("far.qcow2", &[(0x10008, 0xffffffffffff0000)], "check -r all far.qcow2"),
    ("many.qcow2", &[(88, 0x0)], "info many.qcow2"),
    ("many.qcow2", &[(88, 0x0)], "check many.qcow2"),
    ("small.raw", &[], "bench -f raw -c 2 -d 1 -s 1M -o 7M small.raw"),
    ("small.raw", &[], "compare -f raw -F raw small.raw wrong.raw"),
    ("small.raw", &[], "create -f qcow2 -b nosuch -F raw new.qcow2 1M"),
    ("small.raw", &[], "create -f qcow2 -o preallocation=full,data_file=nodir/x new.qcow2 1M"),
    ("small.raw", &[], "convert -p -f raw -O raw small.raw nodir/x"),
    ("small.raw", &[], "resize -f raw small.raw 2M"),
];

/// All tests of this file.
pub fn tests() -> Vec<Test> {
    LINES
        .iter()
        .enumerate()
        .map(|(at, (image, changes, line))| {
            let name = format!("one pipe {at}: {line}");
            Test::new(name, Needs::Contents, |env| same(env, image, changes, line))
        })
        .collect()
}

fn same(env: &Env, image: &str, changes: Changes, line: &str) -> Result<(), String> {
    let expected = told(env, &env.oracle_link, (image, changes), line)?;
    let got = told(env, &env.our_link, (image, changes), line)?;
    if expected == got { Ok(()) } else { Err(format!("qemu-img:\n{expected}\nours:\n{got}")) }
}

/// What `program` prints into one pipe, and how it ends.
fn told(env: &Env, program: &Path, (image, changes): (&str, Changes), line: &str) -> Result<String, String> {
    let dir = env.fresh_folder();
    folder::copy_tree(&env.fixtures.get(DAMAGED.script, &env.tools())?, &dir, &|_| true)?;
    let path = dir.join(image);
    let mut bytes = std::fs::read(&path).map_err(|e| e.to_string())?;
    for (at, patch) in changes {
        let place = usize::try_from(*at).map_err(|e| e.to_string())?;
        bytes.get_mut(place..place + 8).ok_or("behind the end")?.copy_from_slice(&patch.to_be_bytes());
    }
    std::fs::write(&path, bytes).map_err(|e| e.to_string())?;
    let mut args = vec!["-c", "exec \"$0\" \"$@\" 2>&1", program.to_str().ok_or("no text")?];
    args.extend(line.split(' '));
    let done = process::run(Path::new("/bin/sh"), &args, &dir)?;
    std::fs::remove_dir_all(&dir).map_err(|e| e.to_string())?;
    Ok(format!("{}{}exit {}", done.stdout, done.stderr, done.exit))
}
