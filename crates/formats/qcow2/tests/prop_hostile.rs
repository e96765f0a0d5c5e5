//! Images that lie cost neither memory nor time, and nothing panics. One test in a program of its own, because it
//! measures the memory of the whole program.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::path::Path;
use std::time::Instant;

use diskimg_qcow2::DRIVER;
use diskimg_testkit::{FormatSubject, contract};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bytes that a hostile image may cost on top of what was in use before.
const MOST_MEMORY: usize = 64 << 20;

/// Inputs that fuzzing found, and images written by hand.
const CORPUS: &[&str] = &["../../../tests/data/fuzz/open_qcow2", "../../../tests/data/qcow2"];

/// Offset and width of the header's numbers.
const FIELDS: &[(usize, usize)] = &[
    (8, 8),
    (16, 4),
    (20, 4),
    (24, 8),
    (32, 4),
    (36, 4),
    (40, 8),
    (48, 8),
    (56, 4),
    (60, 4),
    (64, 8),
    (96, 4),
    (100, 4),
];

/// Numbers that are too large in one way or another.
const VALUES: &[u64] =
    &[u64::MAX, i64::MAX.unsigned_abs(), 1 << 62, 1 << 40, 0xffff_fe00, 0x0040_0000, 0x8000, 513];

fn measured<T>(what: &dyn Fn() -> String, loud: bool, run: impl FnOnce() -> T) -> T {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let start = Instant::now();
    let result = run();
    let peak = MEMORY.peak_usage().saturating_sub(before);
    if loud {
        println!("{}: {:?}, peak {} KiB", what(), start.elapsed(), peak >> 10);
    }
    assert!(peak < MOST_MEMORY, "{}: {peak} bytes of memory", what());
    result
}

#[test]
fn lies_cost_neither_memory_nor_time() {
    let sorts: &[&[&str]] = &[
        &["cluster_size=512"],
        &["cluster_size=512", "compat=0.10"],
        &[],
        &["cluster_size=16k", "extended_l2=on"],
        &["cluster_size=4k", "compression_type=zstd", "refcount_bits=64"],
        &["cluster_size=4k", "data_file=data"],
    ];
    for options in sorts {
        let subject = FormatSubject::new(&DRIVER, 128 << 10, options);
        let story = || options.join(",");
        let report = measured(&story, true, || contract::flipped_bytes(&subject, 112, 400));
        println!("{report:?}");
        measured(&story, true, || contract::truncated(&subject));
    }
    huge_numbers();
    known_findings();
}

/// Numeric fields of the header at their extremes, two at a time.
fn huge_numbers() {
    let subject = FormatSubject::new(&DRIVER, 64 << 10, &["cluster_size=512"]);
    let image = contract::hostile_image(&subject).swap_remove(0);
    for (first, width) in FIELDS {
        for (second, other) in FIELDS {
            for (a, b) in VALUES.iter().zip(VALUES.iter().rev()) {
                let mut bytes = image.clone();
                put(&mut bytes, *first, *width, *a);
                put(&mut bytes, *second, *other, *b);
                let story = || format!("field at {first} is {a:#x}, at {second} {b:#x}");
                measured(&story, false, || contract::poke(&subject, &[bytes], &story));
            }
        }
    }
}

fn known_findings() {
    let subject = FormatSubject::new(&DRIVER, 0, &[]);
    for folder in CORPUS {
        let Ok(entries) = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            let story = || path.display().to_string();
            measured(&story, true, || contract::poke(&subject, &[bytes], &story));
        }
    }
}

fn put(bytes: &mut [u8], at: usize, width: usize, value: u64) {
    let value = if width == 4 { value & 0xffff_ffff } else { value };
    bytes[at..at + width].copy_from_slice(&value.to_be_bytes()[8 - width..]);
}
