//! Backs up a disk in full, then only what was written since, and restores it.
//!
//!     cargo run --example incremental_backup -- FOLDER
//!
//! Makes `disk.qcow2`, `full.qcow2`, `monday.qcow2` and `restored.raw` in FOLDER. The recipe is explained in
//! `docs/INCREMENTAL-BACKUP.md`.

use std::process::ExitCode;

use diskimg::engine::{backup, convert};
use diskimg::prelude::*;

const SIZE: u64 = 64 << 20;

fn main() -> ExitCode {
    let Some(folder) = std::env::args().nth(1) else {
        eprintln!("usage: incremental_backup FOLDER");
        return ExitCode::FAILURE;
    };
    match run(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("incremental_backup: {}", error.joined());
            ExitCode::FAILURE
        }
    }
}

fn run(folder: &str) -> Result<()> {
    let path = |name: &str| format!("{folder}/{name}");
    diskimg::create(&path("disk.qcow2"), "qcow2", SIZE)?;
    let disk = diskimg::open_writable(&path("disk.qcow2"))?;
    disk.write_at(0, &[1; 1 << 20])?;

    // Full: the bitmap first, then a copy of everything.
    backup::start(&disk, "daily")?;
    diskimg::create(&path("full.qcow2"), "qcow2", SIZE)?;
    let full = diskimg::open_writable(&path("full.qcow2"))?;
    convert(&[&disk], &full, &ConvertOptions::default(), &Task::quiet())?;
    drop(full);

    // A day passes; then only what was written, into an image over the backup before.
    disk.write_at(40 << 20, &[2; 100_000])?;
    let monday = path("monday.qcow2");
    let full = path("full.qcow2");
    let request = CreateRequest {
        filename: &monday,
        format: "qcow2",
        size: Some(SIZE),
        backing: Some(&full),
        backing_format: Some("qcow2"),
        ..CreateRequest::default()
    };
    CreatePlan::new(&diskimg::context(), &request)?.run()?;
    let target = diskimg::open_writable(&monday)?;
    let report = backup::increment(&disk, "daily", &target, &Task::quiet())?;
    println!("{} bytes marked, {} copied", report.marked, report.copied);
    drop(target);

    // Restore: the last increment's chain reads as the disk did.
    diskimg::create(&path("restored.raw"), "raw", SIZE)?;
    let restored = diskimg::open_writable(&path("restored.raw"))?;
    convert(&[&diskimg::open(&monday)?], &restored, &ConvertOptions::default(), &Task::quiet())?;
    let (mut then, mut now) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for at in (0..SIZE).step_by(1 << 20) {
        disk.read_at(at, &mut then)?;
        restored.read_at(at, &mut now)?;
        if then != now {
            return Err(Error::corrupt(format!("the restored disk differs behind byte {at}")));
        }
    }
    println!("restored.raw equals the disk");
    Ok(())
}
