//! Saves the state of a machine with its disk, brings both back, and forgets them: what `savevm`, `loadvm` and `delvm`
//! do in a monitor.
//!
//!     cargo run --example savevm -- save IMAGE NAME STATE-FILE
//!     cargo run --example savevm -- load IMAGE NAME STATE-FILE
//!     cargo run --example savevm -- delete IMAGE NAME
//!
//! A machine with several disks makes the same snapshot in each; its state goes into one of them.

use std::fs::File;
use std::io::{Read, Write};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use diskimg::core::{NewSnapshot, SnapshotInfo, SnapshotKey, Snapshots};
use diskimg::prelude::*;

/// Bytes of state that are moved at once.
const STEP: usize = 1 << 20;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["save", image, name, state] => with(image, |disk| save(disk, name, state)),
        ["load", image, name, state] => with(image, |disk| load(disk, name, state)),
        ["delete", image, name] => with(image, |disk| disk.delete_snapshot(&SnapshotKey::name(name))),
        _ => {
            eprintln!("usage: savevm save|load IMAGE NAME STATE-FILE, or savevm delete IMAGE NAME");
            return ExitCode::FAILURE;
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("savevm: {}", error.joined());
            ExitCode::FAILURE
        }
    }
}

/// Opens the image and calls `job` with its snapshots.
fn with(image: &str, job: impl FnOnce(&dyn Snapshots) -> Result<()>) -> Result<()> {
    let node = Node::open(&diskimg::context(), &ImageSpec::name(image), &OpenOptions::write())?;
    let none = || Error::unsupported(format!("images in the format {} have no snapshots", node.format()));
    job(node.image().as_snapshots().ok_or_else(none)?)
}

/// The machine is stopped: its state goes into the state area, and the snapshot takes that over.
fn save(disk: &dyn Snapshots, name: &str, state: &str) -> Result<()> {
    let mut file = File::open(state)?;
    let mut buffer = vec![0; STEP];
    let mut size = 0;
    loop {
        let count = file.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
        disk.write_vm_state(size, bytes)?;
        size += count as u64;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let new = NewSnapshot {
        name: name.to_owned(),
        date_sec: u32::try_from(now.as_secs()).unwrap_or(u32::MAX),
        date_nsec: now.subsec_nanos(),
        vm_state_size: size,
        ..NewSnapshot::default()
    };
    let made = disk.create_snapshot(&new)?;
    println!("snapshot {} '{}' with {size} bytes of state", made.id, made.name);
    Ok(())
}

/// The disk becomes what it was; then the machine's state is read and the machine can go on.
fn load(disk: &dyn Snapshots, name: &str, state: &str) -> Result<()> {
    let found = |snapshot: &SnapshotInfo| snapshot.name == name;
    let all = disk.snapshots();
    let Some(snapshot) = all.iter().find(|snapshot| found(snapshot)) else {
        return Err(Error::invalid(format!("no snapshot '{name}'")));
    };
    disk.apply_snapshot(&SnapshotKey::id(&snapshot.id))?;
    let mut file = File::create(state)?;
    let mut buffer = vec![0; STEP];
    let mut at = 0;
    while at < snapshot.vm_state_size {
        let count = usize::try_from(snapshot.vm_state_size - at).unwrap_or(STEP).min(STEP);
        let Some(bytes) = buffer.get_mut(..count) else { break };
        disk.read_vm_state(at, bytes)?;
        file.write_all(bytes)?;
        at += count as u64;
    }
    println!("{at} bytes of state, saved at {}", snapshot.date_sec);
    Ok(())
}
