//! Images in memory for the tests of the engines.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::cast_possible_truncation)]

use std::sync::Arc;

use diskimg_chain::{Node, NodeParts};
use diskimg_core::driver::{FormatDriver, OpenMode};
use diskimg_core::opener::NoReferences;
use diskimg_core::{BlockDevice, ByteRange, MemDevice, Task};
use diskimg_testkit::{FormatSubject, Rng, open_image};

/// An image on `storage` as a node over `below`.
pub(crate) fn node_on(
    driver: &FormatDriver,
    storage: Arc<dyn BlockDevice>,
    write: bool,
    below: Option<Node>,
) -> Node {
    let mode = OpenMode { write, ..OpenMode::default() };
    let image = open_image(driver, storage, mode, &NoReferences).unwrap();
    Node::assemble(NodeParts::new(image, "image"), below)
}

/// A new image of `len` bytes, its storage and a node that writes to it.
pub(crate) fn fresh(
    driver: &'static FormatDriver,
    len: u64,
    options: &[&'static str],
) -> (Arc<MemDevice>, Node) {
    let storage = FormatSubject::new(driver, len, options).fresh().remove(0);
    let node = node_on(driver, Arc::clone(&storage) as _, true, None);
    (storage, node)
}

pub(crate) fn qcow2(len: u64, options: &[&'static str]) -> (Arc<MemDevice>, Node) {
    fresh(&diskimg_qcow2::DRIVER, len, options)
}

pub(crate) fn raw(bytes: Vec<u8>) -> Node {
    node_on(&diskimg_raw::DRIVER, Arc::new(MemDevice::from(bytes)), true, None)
}

pub(crate) fn contents(device: &dyn BlockDevice) -> Vec<u8> {
    let mut bytes = vec![0; device.len() as usize];
    device.read_at(0, &mut bytes).unwrap();
    bytes
}

/// A disk with runs of zeros, of text that compresses and of noise, of all lengths, mostly on borders of 512.
pub(crate) fn speckled(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut at = 0;
    while at < len {
        let unit = *rng.pick(&[512, 4096, 65536, 262_144]);
        let end = len.min(at + unit * (1 + rng.index(6)));
        match rng.index(4) {
            0 | 1 => {}
            2 => bytes[at..end].iter_mut().enumerate().for_each(|(i, byte)| *byte = (i / 7 % 50 + 1) as u8),
            _ => bytes[at..end].iter_mut().for_each(|byte| *byte = rng.index(256) as u8),
        }
        at = end;
    }
    bytes
}

/// Writes the parts of `bytes` that are not zeros, in runs of the length of a piece, to `node`.
pub(crate) fn fill(node: &Node, bytes: &[u8], piece: usize) {
    for (index, part) in bytes.chunks(piece).enumerate() {
        if part.iter().any(|byte| *byte != 0) {
            node.write_at((index * piece) as u64, part).unwrap();
        }
    }
    node.flush().unwrap();
}

/// How many bytes of the disk are stored.
pub(crate) fn stored(node: &Node) -> u64 {
    let mut sum = 0;
    diskimg_engine::map(node, ByteRange::new(0, node.len()), &Task::quiet(), &mut |entry| {
        sum += if entry.data { entry.length } else { 0 };
        Ok(())
    })
    .unwrap();
    sum
}
