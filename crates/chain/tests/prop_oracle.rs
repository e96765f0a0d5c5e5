//! Chains that qemu-img made, changed by random operations through the layered device, judged by qemu-img: `check`,
//! contents, and `map` line by line.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::cast_possible_truncation)]

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use diskimg_chain::{Context, ImageSpec, Node, OpenOptions};
use diskimg_core::protocol::CacheMode;
use diskimg_core::{BlockDevice, ByteRange, ExtentFlags, HostRef, Prealloc, Registry, ZeroMode};
use diskimg_testkit::suite::{Test, run, with_oracle};
use diskimg_testkit::{CheckVerdict, Oracle, Rng};

const SECTOR: u64 = 512;

/// Chains for each kind of top layer.
const SEEDS: usize = 5;

/// Create options of the top layer.
const TOPS: [&str; 7] = [
    "cluster_size=512",
    "cluster_size=4k",
    "cluster_size=64k",
    "cluster_size=64k,extended_l2=on",
    "cluster_size=16k,extended_l2=on",
    "cluster_size=4k,compat=0.10",
    "cluster_size=2M",
];

fn main() -> ExitCode {
    let mut tests: Vec<Test> = Vec::new();
    for (index, options) in TOPS.iter().enumerate() {
        for seed in 0..SEEDS {
            let name = format!("{options} {seed}");
            tests.push(with_oracle(name, move |oracle| one(oracle, options, (index * 1000 + seed) as u64)));
        }
    }
    run(tests)
}

fn context() -> Context {
    let registry = Registry::new().with_format(&diskimg_raw::DRIVER).with_format(&diskimg_qcow2::DRIVER);
    Context::new(registry.with_protocol(&diskimg_file::FILE))
}

/// A few writes of a pattern, some zeros.
fn scribble(oracle: &Oracle, folder: &Path, format: &str, name: &str, len: u64, rng: &mut Rng) {
    for _ in 0..rng.below(6) {
        let at = rng.below(len / SECTOR) * SECTOR;
        let size = (rng.below(40) + 1) * SECTOR * (1 + rng.below(4));
        let size = size.min(len - at);
        let command = match rng.below(4) {
            0 => format!("write -z {at} {size}"),
            _ => format!("write -P {} {at} {size}", rng.below(255) + 1),
        };
        oracle.qemu_io(folder, format, name, &[&command]);
    }
}

fn build(oracle: &Oracle, folder: &Path, top: &str, rng: &mut Rng) {
    let sizes: Vec<u64> = (0..3).map(|_| (rng.below(1500) + 1) * SECTOR).collect();
    let size = |at: usize| sizes[at].to_string();
    let base = *rng.pick(&["raw", "qcow2"]);
    oracle.must(folder, &["create", "-q", "-f", base, "base", &size(0)]);
    scribble(oracle, folder, base, "base", sizes[0], rng);
    let mid =
        *rng.pick(&["cluster_size=4k", "cluster_size=64k,extended_l2=on", "cluster_size=1k,compat=0.10"]);
    oracle
        .must(folder, &["create", "-q", "-f", "qcow2", "-o", mid, "-b", "base", "-F", base, "mid", &size(1)]);
    scribble(oracle, folder, "qcow2", "mid", sizes[1], rng);
    if rng.chance(30) {
        oracle.must(folder, &["convert", "-c", "-O", "qcow2", "-B", "base", "-F", base, "mid", "mid2"]);
        std::fs::rename(folder.join("mid2"), folder.join("mid")).unwrap();
    }
    oracle.must(
        folder,
        &["create", "-q", "-f", "qcow2", "-o", top, "-b", "mid", "-F", "qcow2", "top", &size(2)],
    );
    scribble(oracle, folder, "qcow2", "top", sizes[2], rng);
}

/// One at a time: a process that another thread is just starting keeps the locks of our files for a moment.
static ALONE: Mutex<()> = Mutex::new(());

fn one(oracle: &'static Oracle, top: &str, seed: u64) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut rng = Rng::new(seed);
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    build(oracle, folder, top, &mut rng);
    oracle.must(folder, &["convert", "-O", "raw", "top", "model"]);
    let mut model = std::fs::read(folder.join("model")).unwrap();
    let spec = ImageSpec::name(folder.join("top").to_str().unwrap());
    same_map(oracle, folder, &Node::open(&context(), &spec, &OpenOptions::read()).unwrap());
    {
        let cache =
            *rng.pick(&[CacheMode::WriteBack, CacheMode::None, CacheMode::Unsafe, CacheMode::DirectSync]);
        let node = Node::open(&context(), &spec, &OpenOptions::write().with_cache(cache)).unwrap();
        same_bytes(&node, &model);
        for _ in 0..20 {
            change(&node, &mut model, &mut rng);
        }
        same_bytes(&node, &model);
        node.flush().unwrap();
    }
    let verdict = oracle.check(folder, "qcow2", "top");
    assert_eq!(verdict, CheckVerdict::Clean, "{top} {seed}");
    std::fs::write(folder.join("model"), &model).unwrap();
    oracle.must(folder, &["compare", "-f", "qcow2", "-F", "raw", "top", "model"]);
    let node = Node::open(&context(), &spec, &OpenOptions::read()).unwrap();
    same_bytes(&node, &model);
    same_map(oracle, folder, &node);
}

fn same_bytes(node: &Node, model: &[u8]) {
    assert_eq!(node.len(), model.len() as u64);
    let mut all = vec![0x55; model.len()];
    node.read_at(0, &mut all).unwrap();
    let first = all.iter().zip(model).position(|(a, b)| a != b);
    assert!(first.is_none(), "first difference at {first:?}");
}

fn change(node: &Node, model: &mut Vec<u8>, rng: &mut Rng) {
    let start = rng.below(model.len() as u64);
    let most = *rng.pick(&[100, 5000, 70_000, 400_000]);
    let len = (rng.below(most) + 1).min(model.len() as u64 - start);
    let range = ByteRange::new(start, len);
    match rng.below(10) {
        0..5 => {
            let fill = rng.below(256) as u8;
            let bytes: Vec<u8> = (0..len).map(|i| fill.wrapping_add((i / 100) as u8) | 1).collect();
            node.write_at(start, &bytes).unwrap();
            model[start as usize..range.end() as usize].copy_from_slice(&bytes);
        }
        5..8 => {
            let how = *rng.pick(&[ZeroMode::MayUnmap, ZeroMode::KeepAllocated]);
            node.write_zeroes(range, how).unwrap();
            model[start as usize..range.end() as usize].fill(0);
        }
        8 => {
            // What a discarded range reads as is the format's choice.
            node.discard(range).unwrap();
            node.read_at(start, &mut model[start as usize..range.end() as usize]).unwrap();
        }
        _ => {
            let new = (rng.below(1500) + 1) * SECTOR;
            node.set_len(new, Prealloc::Off).unwrap();
            model.resize(new as usize, 0);
        }
    }
}

/// One line of `map --output=json`.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    start: u64,
    len: u64,
    depth: usize,
    present: bool,
    zero: bool,
    data: bool,
    compressed: bool,
    offset: Option<u64>,
}

/// Lines as they are compared: whether stored bytes are a hole on the host, and where absent ones would go, is left out
/// (the first is a guess about the whole file, the second of no consequence).
fn joined(lines: impl IntoIterator<Item = Line>) -> Vec<Line> {
    let mut all: Vec<Line> = Vec::new();
    for mut line in lines {
        line.zero &= !line.data;
        line.offset = line.offset.filter(|_| line.present);
        match all.last_mut() {
            Some(last) if last.continued_by(&line) => last.len += line.len,
            _ => all.push(line),
        }
    }
    all
}

impl Line {
    fn continued_by(&self, next: &Self) -> bool {
        let offset = match (self.offset, next.offset) {
            (Some(a), Some(b)) => a + self.len == b,
            (None, None) => true,
            _ => false,
        };
        offset
            && (self.depth, self.present, self.zero, self.data, self.compressed)
                == (next.depth, next.present, next.zero, next.data, next.compressed)
    }
}

fn same_map(oracle: &Oracle, folder: &Path, node: &Node) {
    let mut ours: Vec<Line> = Vec::new();
    let mut at = 0;
    while at < node.len() {
        let status = node.status(ByteRange::from_bounds(at, node.len())).unwrap();
        let has = |flag| status.flags.contains(flag);
        let line = Line {
            start: at,
            len: status.len,
            depth: status.depth,
            present: has(ExtentFlags::PRESENT),
            zero: has(ExtentFlags::ZERO),
            data: has(ExtentFlags::DATA),
            compressed: has(ExtentFlags::COMPRESSED),
            offset: status.host.map(|host: HostRef<'_>| host.offset),
        };
        at += status.len;
        ours.push(line);
    }
    let text = oracle.must(folder, &["map", "--output=json", "top"]);
    let theirs: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let theirs = theirs.iter().map(|line| Line {
        start: line["start"].as_u64().unwrap(),
        len: line["length"].as_u64().unwrap(),
        depth: line["depth"].as_u64().unwrap() as usize,
        present: line["present"].as_bool().unwrap(),
        zero: line["zero"].as_bool().unwrap(),
        data: line["data"].as_bool().unwrap(),
        compressed: line["compressed"].as_bool().unwrap(),
        offset: line.get("offset").and_then(serde_json::Value::as_u64),
    });
    assert_eq!(joined(ours), joined(theirs));
}
