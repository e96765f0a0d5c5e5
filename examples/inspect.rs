//! Looks at a disk image without trusting it: prints its extents and reads all of it from several threads.
//!
//!     cargo run --example inspect -- IMAGE [FORMAT]
//!
//! The gate denies every other file that the image may name, so a backing file is an error and not a way out.
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation)] // a demonstration

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use diskimg::prelude::*;

/// Bytes that a thread reads at once.
const STEP: u64 = 1 << 20;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let Some(name) = args.next() else {
        eprintln!("usage: inspect IMAGE [FORMAT]");
        return ExitCode::FAILURE;
    };
    match inspect(&name, args.next().as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("inspect: {}", error.joined());
            ExitCode::FAILURE
        }
    }
}

fn inspect(name: &str, format: Option<&str>) -> Result<()> {
    let context = diskimg::context().with_gate(diskimg::chain::Deny);
    let disk = Node::open(&context, &ImageSpec::name(name), &OpenOptions::read().with_format(format))?;
    println!("{name}: {}, {} bytes", disk.format(), disk.len());
    print_extents(&disk)?;
    println!("read {} bytes, sum {:016x}", disk.len(), checksum(&disk)?);
    Ok(())
}

/// One line for each run of bytes of one nature.
fn print_extents(disk: &Node) -> Result<()> {
    diskimg::engine::map(disk, ByteRange::new(0, disk.len()), &Task::quiet(), &mut |entry| {
        let what = match (entry.data, entry.zero, entry.compressed) {
            (true, _, true) => "compressed",
            (true, true, _) => "preallocated zeros",
            (true, false, _) => "data",
            (false, ..) if entry.present => "zeros",
            (false, ..) => "unallocated",
        };
        let place = entry.offset.map_or(String::new(), |offset| format!(" at {offset:#x}"));
        println!("{:#14x} +{:#x} {what}{place}", entry.start, entry.length);
        Ok(())
    })
}

/// Reads the whole disk, each thread every n-th step, and adds all bytes up. Holes cost nothing: they are skipped.
fn checksum(disk: &Node) -> Result<u64> {
    let threads = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let sum = AtomicU64::new(0);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..threads)
            .map(|first| {
                let sum = &sum;
                scope.spawn(move || -> Result<()> {
                    let mut buf = vec![0; STEP as usize];
                    let mut at = first * STEP;
                    while at < disk.len() {
                        at = read_step(disk, at, &mut buf, sum)?.max(at + 1).next_multiple_of(STEP);
                        while at / STEP % threads != first {
                            at += STEP;
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        readers.into_iter().try_for_each(|reader| match reader.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    Ok(sum.into_inner())
}

/// Reads the step at `at`; returns where the next one begins. A run of zeros is passed over at once.
fn read_step(disk: &Node, at: u64, buf: &mut [u8], sum: &AtomicU64) -> Result<u64> {
    let extent = disk.extent_at(ByteRange::from_bounds(at, disk.len()))?;
    if extent.is_zero() && extent.len >= STEP {
        return Ok((at + extent.len) / STEP * STEP);
    }
    let len = STEP.min(disk.len() - at) as usize;
    let part = &mut buf[..len];
    disk.read_at(at, part)?;
    let bytes: u64 = part.iter().map(|byte| u64::from(*byte)).sum();
    sum.fetch_add(bytes, Ordering::Relaxed);
    Ok(at + STEP)
}
