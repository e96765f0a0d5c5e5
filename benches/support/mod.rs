//! Images in memory, and contents that compress about as well as a file system does.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::sync::Arc;

use diskimg::chain::NodeParts;
use diskimg::driver::{CreateContext, Notices, OpenContext, OpenMode};
use diskimg::opener::NoReferences;
use diskimg::options::{ParsedOptions, RuntimeOptions};
use diskimg::{BlockDevice, FormatDriver, MemDevice, Node};

/// The driver of that name.
pub(crate) fn driver(name: &str) -> &'static FormatDriver {
    diskimg::registry().format(name).expect("a format of the features")
}

/// A new image of `len` bytes in memory.
pub(crate) fn image(name: &str, len: u64, options: &str) -> Node {
    let driver = driver(name);
    let storage: Arc<dyn BlockDevice> = Arc::new(MemDevice::new(0));
    let mut parsed = ParsedOptions::new(&[driver.options]);
    parsed.parse(options).unwrap();
    parsed.set_number("size", len);
    let create = CreateContext {
        storage: Arc::clone(&storage),
        filename: "image",
        options: &parsed,
        opener: &NoReferences,
    };
    (driver.creator.unwrap().create)(&create).unwrap();
    let mode = OpenMode { write: true, ..OpenMode::default() };
    let (mut options, notices) = (RuntimeOptions::new(), Notices::default());
    let open = OpenContext {
        storage,
        filename: "image",
        mode,
        options: &mut options,
        opener: &NoReferences,
        notices,
    };
    Node::assemble(NodeParts::new((driver.open)(open).unwrap(), "image"), None)
}

/// `len` bytes: runs of text, of noise and of zeros.
pub(crate) fn contents(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let run = 2048 + usize::try_from(next() % 60_000).unwrap_or_default();
        match next() % 4 {
            0 => bytes.resize(bytes.len() + run, 0),
            1 => bytes.extend((0..run).map(|_| next().to_le_bytes()[0])),
            _ => bytes.extend((0..run).map(|at| {
                b"static int lookup(struct table *t, long key)\n"[at % 45]
                    .wrapping_add(u8::from(next() % 16 == 0))
            })),
        }
    }
    bytes.truncate(len);
    bytes
}
