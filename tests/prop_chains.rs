//! Chains of random images under random operations, against flat copies of every disk: overlays, writes, zeroes, commit,
//! rebase, stream, resize, snapshots. After each step every image of the tree reads as its copy; `qemu-img check` finds
//! the image that was changed clean, and `qemu-img compare` finds it equal to the copy.
//! `DISKIMG_CHAINS` asks for another number of trees.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use diskimg::chain::{Context, ImageSpec, Node, OpenOptions};
use diskimg::engine::commit::find_layer;
use diskimg::engine::rebase::open_backing;
use diskimg::engine::{
    CommitOptions, CreatePlan, CreateRequest, NewSize, RebaseOptions, ResizeOptions, SnapshotName,
    StreamOptions, commit, rebase, resize, snapshot, stream,
};
use diskimg::{BackingRef, BlockDevice, ByteRange, ErrorKind, Prealloc, Task, ZeroMode, to_usize};
use diskimg_testkit::{CheckVerdict, Oracle, Rng, pattern, suite};

/// Steps for each tree.
const STEPS: usize = 40;
/// The longest chain.
const DEEPEST: usize = 12;
/// Disks are not longer, in sectors.
const MOST_SECTORS: u64 = 1400;
const SECTOR: u64 = 512;

/// Formats of images without a backing file, with options.
const BASES: &[(&str, &str)] = &[
    ("raw", ""),
    ("qcow2", "cluster_size=4k"),
    ("qcow2", "cluster_size=64k,extended_l2=on"),
    ("qcow2", "compat=0.10,cluster_size=512"),
    ("vmdk", ""),
    ("vdi", ""),
    ("parallels", ""),
    ("vpc", ""),
    ("vhdx", "block_size=1M"),
    ("qed", "cluster_size=4k"),
    ("qcow", ""),
];

/// Formats of overlays; a chain is made of the first of them mostly.
const OVERLAYS: &[(&str, &str)] = &[
    ("qcow2", "cluster_size=4k"),
    ("qcow2", ""),
    ("qcow2", "cluster_size=512"),
    ("qcow2", "cluster_size=16k,extended_l2=on"),
    ("qcow2", "compat=0.10,cluster_size=2k"),
    ("qcow2", "cluster_size=32k,refcount_bits=1"),
    ("qcow2", "cluster_size=128k,compression_type=zstd"),
    ("qed", "cluster_size=8k"),
    ("qcow", ""),
];

fn main() -> ExitCode {
    let trees = diskimg_testkit::asked("DISKIMG_CHAINS", 10);
    let seeds = (0..trees)
        .map(|seed| suite::with_oracle(format!("tree {seed}"), move |oracle| Tree::new(seed, oracle).grow()));
    suite::run(seeds.collect())
}

/// An image, what it reads as, and the index of its backing file.
#[derive(Clone, Debug)]
struct Leaf {
    name: String,
    format: &'static str,
    backing: Option<usize>,
    contents: Vec<u8>,
    /// It was overtaken by a commit: nobody may read it any more.
    spoilt: bool,
}

struct Tree {
    folder: tempfile::TempDir,
    ctx: Context,
    oracle: &'static Oracle,
    rng: Rng,
    leaves: Vec<Leaf>,
    story: Vec<String>,
    marks: u64,
}

impl Tree {
    fn new(seed: u64, oracle: &'static Oracle) -> Self {
        let (folder, ctx) = (tempfile::tempdir().unwrap(), diskimg::context());
        Self { folder, ctx, oracle, rng: Rng::new(seed), leaves: Vec::new(), story: Vec::new(), marks: 0 }
    }

    fn path(&self, at: usize) -> String {
        self.folder.path().join(&self.leaves[at].name).to_str().unwrap().to_owned()
    }

    fn open(&self, at: usize, write: bool) -> Node {
        let spec = ImageSpec::name(self.path(at));
        let options = if write { OpenOptions::write() } else { OpenOptions::read() };
        let options = options.with_format(Some(self.leaves[at].format));
        patiently(|| Node::open(&self.ctx, &spec, &options))
            .unwrap_or_else(|error| self.fail(&format!("open {at}: {}", error.joined())))
    }

    fn fail(&self, what: &str) -> ! {
        panic!("{what}\nafter:\n{}", self.story.join("\n"))
    }

    fn tell(&mut self, what: String) {
        self.story.push(what);
    }

    /// Fresh bytes.
    fn noise(&mut self, len: u64) -> Vec<u8> {
        self.marks += 1;
        pattern(self.marks, 0, len)
    }

    fn grow(mut self) {
        self.base();
        for _ in 0..STEPS {
            let changed = match self.rng.below(20) {
                0 => Some(self.base()),
                1..=4 => self.overlay(),
                5..=7 => self.write(),
                8..=10 => self.commit(),
                11..=13 => self.rebase(),
                14..=16 => self.stream(),
                17..=18 => self.resize(),
                _ => self.snapshot(),
            };
            if let Some(changed) = changed {
                self.judge(changed);
            }
        }
    }

    fn usable(&self, at: usize) -> bool {
        !self.leaves[at].spoilt
    }

    fn has_overlays(&self, at: usize) -> bool {
        (0..self.leaves.len()).any(|over| over != at && self.usable(over) && self.chain(over).contains(&at))
    }

    /// The image and those below it.
    fn chain(&self, at: usize) -> Vec<usize> {
        std::iter::successors(Some(at), |at| self.leaves[*at].backing).collect()
    }

    /// One of the images that `fits`.
    fn pick(&mut self, fits: impl Fn(&Self, usize) -> bool) -> Option<usize> {
        let all: Vec<usize> =
            (0..self.leaves.len()).filter(|at| self.usable(*at) && fits(self, *at)).collect();
        (!all.is_empty()).then(|| *self.rng.pick(&all))
    }

    fn create(
        &mut self,
        (format, options): (&'static str, &'static str),
        backing: Option<usize>,
    ) -> Option<usize> {
        self.ctx.registry.format(format)?;
        let size = (1 + self.rng.below(MOST_SECTORS)) * SECTOR;
        let (name, other) = (format!("i{}.{format}", self.leaves.len()), backing.map(|at| &self.leaves[at]));
        let path = self.folder.path().join(&name);
        let request = CreateRequest {
            filename: path.to_str().unwrap(),
            format,
            size: Some(size),
            options,
            backing: other.map(|leaf| leaf.name.as_str()),
            backing_format: other.map(|leaf| leaf.format),
            unchecked: false,
            for_convert: false,
        };
        CreatePlan::new(&self.ctx, &request).and_then(|plan| plan.run()).unwrap();
        let mut contents = other.map_or_else(Vec::new, |leaf| leaf.contents.clone());
        self.leaves.push(Leaf { name, format, backing, contents: Vec::new(), spoilt: false });
        let new = self.leaves.len() - 1;
        // Some formats round it.
        contents.resize(to_usize(self.open(new, false).len()), 0);
        self.leaves[new].contents = contents;
        self.tell(format!("create {new} {format} {options} over {backing:?}, {size} bytes"));
        Some(new)
    }

    /// A new image without a backing file.
    fn base(&mut self) -> usize {
        loop {
            let kind = *self.rng.pick(BASES);
            if let Some(new) = self.create(kind, None) {
                self.write_to(new);
                return new;
            }
        }
    }

    fn overlay(&mut self) -> Option<usize> {
        let below = self.pick(|tree, at| tree.chain(at).len() < DEEPEST)?;
        let kind = *self.rng.pick(OVERLAYS);
        let new = self.create(kind, Some(below))?;
        self.write_to(new);
        Some(new)
    }

    fn write(&mut self) -> Option<usize> {
        let at = self.pick(|tree, at| !tree.has_overlays(at))?;
        self.write_to(at);
        Some(at)
    }

    fn write_to(&mut self, at: usize) {
        let node = self.open(at, true);
        for _ in 0..1 + self.rng.below(5) {
            let len = node.len();
            let start = self.rng.below(len);
            let range = ByteRange::new(start, 1 + self.rng.below(90_000)).intersect(ByteRange::new(0, len));
            let part = to_usize(range.start)..to_usize(range.end());
            if self.rng.chance(25) {
                node.write_zeroes(range, ZeroMode::MayUnmap).unwrap();
                self.leaves[at].contents[part].fill(0);
            } else {
                let bytes = self.noise(range.len);
                node.write_at(range.start, &bytes).unwrap();
                self.leaves[at].contents[part].copy_from_slice(&bytes);
            }
            self.tell(format!("write {at}: {range:?}"));
        }
        node.flush().unwrap();
    }

    /// Images over `below` that are not `top` or below it read otherwise now.
    fn spoil(&mut self, top: usize, base: usize) {
        let chain = self.chain(top);
        let between: Vec<usize> = chain.iter().copied().skip(1).take_while(|at| *at != base).collect();
        for at in 0..self.leaves.len() {
            let over = self.chain(at);
            if at != top && at != base && over.contains(&base) && !over.contains(&top) {
                self.leaves[at].spoilt = true;
            }
        }
        assert!(between.iter().all(|at| self.leaves[*at].spoilt));
    }

    fn commit(&mut self) -> Option<usize> {
        let top = self.pick(|tree, at| tree.leaves[at].backing.is_some())?;
        let chain = self.chain(top);
        let depth = 1 + self.rng.index(chain.len() - 1);
        let base = chain[depth];
        if !self.usable(base) {
            return None;
        }
        let options = CommitOptions {
            depth: NonZero::new(depth),
            keep: depth > 1 || self.rng.chance(30),
            rate_limit: None,
        };
        self.tell(format!("commit {top} to {base}: {options:?}"));
        let done = patiently(|| commit(&self.ctx, self.open(top, true), &options, &Task::quiet()));
        if let Err(error) = done {
            // A base whose length is fixed.
            let shorter = self.leaves[base].contents.len() < self.leaves[top].contents.len();
            if error.kind() != ErrorKind::Unsupported || !shorter {
                self.fail(&error.joined());
            }
            return Some(top);
        }
        self.spoil(top, base);
        let contents = self.leaves[top].contents.clone();
        let below = &mut self.leaves[base].contents;
        let kept = below.split_off(contents.len().min(below.len()));
        *below = contents;
        below.extend(kept);
        self.judge(base);
        Some(top)
    }

    fn rebase(&mut self) -> Option<usize> {
        let top = self.pick(|tree, at| tree.leaves[at].format != "raw")?;
        let onto = self.pick(|tree, at| !tree.chain(at).contains(&top) && tree.chain(at).len() < DEEPEST);
        let onto = onto.filter(|_| self.rng.chance(80));
        let longest = (0..self.leaves.len()).filter(|at| self.usable(*at) && self.chain(*at).contains(&top));
        let above = longest.map(|at| self.chain(at).iter().position(|at| *at == top).unwrap()).max().unwrap();
        if above + 1 + onto.map_or(0, |onto| self.chain(onto).len()) > DEEPEST {
            return None;
        }
        let compress = self.leaves[top].format == "qcow2" && self.rng.chance(30);
        self.tell(format!("rebase {top} onto {onto:?}, compressed {compress}"));
        let node = self.open(top, true);
        let name = onto
            .map(|onto| &self.leaves[onto])
            .map(|leaf| BackingRef { name: leaf.name.clone(), format: Some(leaf.format.to_owned()) });
        let read = OpenOptions::read();
        let open = |name| patiently(|| open_backing(&self.ctx, &node, name, &read)).unwrap();
        let other = name.as_ref().map(open);
        let options = RebaseOptions { compress, ..RebaseOptions::default() };
        let able = node.image().as_backing_change().is_some();
        match rebase(&node, name.as_ref().zip(other.as_ref()), &options, &Task::quiet()) {
            Ok(_) => self.leaves[top].backing = onto,
            Err(error) if able => self.fail(&error.joined()),
            Err(_) => {}
        }
        Some(top)
    }

    fn stream(&mut self) -> Option<usize> {
        let top = self.pick(|tree, at| tree.leaves[at].backing.is_some())?;
        let chain = self.chain(top);
        let base = chain[1..].get(self.rng.index(chain.len())).copied();
        let compress = self.leaves[top].format == "qcow2" && self.rng.chance(30);
        self.tell(format!("stream {top} down to {base:?}, compressed {compress}"));
        let node = self.open(top, true);
        let depth = base.map(|base| find_layer(&node, &self.leaves[base].name).unwrap());
        let able = node.image().as_backing_change().is_some();
        match stream(&node, &StreamOptions { depth, compress, rate_limit: None }, &Task::quiet()) {
            Ok(_) => self.leaves[top].backing = base,
            Err(error) if able => self.fail(&error.joined()),
            Err(_) => {}
        }
        Some(top)
    }

    fn resize(&mut self) -> Option<usize> {
        let at = self.pick(|tree, at| !tree.has_overlays(at))?;
        let size = (1 + self.rng.below(MOST_SECTORS)) * SECTOR;
        self.tell(format!("resize {at} to {size}"));
        let node = self.open(at, true);
        let options = ResizeOptions { size: NewSize::Exact(size), shrink: true, prealloc: Prealloc::Off };
        match resize(&node, &options, &Task::quiet()) {
            Ok(len) => self.leaves[at].contents.resize(to_usize(len), 0),
            Err(error) if error.kind() != ErrorKind::Unsupported && is_flexible(self.leaves[at].format) => {
                self.fail(&error.joined())
            }
            Err(_) => self.leaves[at].contents.resize(to_usize(node.len()), 0),
        }
        Some(at)
    }

    /// A snapshot, something else, and back.
    fn snapshot(&mut self) -> Option<usize> {
        let one_bit = |tree: &Self, at: usize| {
            let info = tree.open(at, false).image().info().unwrap();
            format!("{info:?}").contains("refcount-bits\", Int(1)")
        };
        let fits = |tree: &Self, at: usize| {
            tree.leaves[at].format == "qcow2" && !tree.has_overlays(at) && !one_bit(tree, at)
        };
        let at = self.pick(fits)?;
        let name = format!("s{}", self.story.len());
        self.tell(format!("snapshot {at} {name}"));
        if snapshot::create(&self.open(at, true), &name).is_err() {
            return Some(at);
        }
        let contents = self.leaves[at].contents.clone();
        self.write_to(at);
        let node = self.open(at, true);
        let view = snapshot::view(&node, &SnapshotName::Either(name.clone())).unwrap();
        assert!(read_all(&view) == contents, "the view of the snapshot");
        if self.rng.chance(60) {
            snapshot::apply(&node, &name).unwrap();
            self.leaves[at].contents = contents;
            self.tell("applied".to_owned());
        }
        if self.rng.chance(50) {
            snapshot::delete(&node, &name).unwrap();
            self.tell("deleted".to_owned());
        }
        Some(at)
    }

    /// Every image reads as its copy; the oracle says the same of `changed`.
    fn judge(&mut self, changed: usize) {
        for at in 0..self.leaves.len() {
            if self.usable(at) && self.chain(at).contains(&changed) {
                let found = read_all(&self.open(at, false));
                let wanted = &self.leaves[at].contents;
                if found != *wanted {
                    let first = found.iter().zip(wanted).position(|(a, b)| a != b);
                    self.fail(&format!(
                        "{at} differs at {first:?}; {} and {} bytes",
                        found.len(),
                        wanted.len()
                    ));
                }
            }
        }
        let Leaf { name, format, contents, .. } = &self.leaves[changed];
        let folder: &Path = self.folder.path();
        std::fs::write(PathBuf::from(folder).join("flat"), contents).unwrap();
        if let Err(text) = self.oracle.compare_raw(folder, format, name, "flat") {
            self.fail(&format!("qemu-img compare of {changed}: {text}"));
        }
        let checked = ["qcow2", "vdi", "vmdk", "vhdx", "qed", "parallels"];
        if checked.contains(format) {
            let verdict = self.oracle.check(folder, format, name);
            if verdict != CheckVerdict::Clean {
                self.fail(&format!("qemu-img check of {changed}: {verdict:?}"));
            }
        }
    }
}

/// Its images can have any length.
fn is_flexible(format: &str) -> bool {
    matches!(format, "raw" | "qcow2" | "qed")
}

/// Again while a file is locked: a process that another test starts has our files open for a moment, and with them
/// their locks.
fn patiently<T>(mut open: impl FnMut() -> diskimg::Result<T>) -> diskimg::Result<T> {
    for _ in 0..100 {
        match open() {
            Err(error) if error.kind() == ErrorKind::Locked => std::thread::sleep(Duration::from_millis(10)),
            other => return other,
        }
    }
    open()
}

fn read_all(node: &Node) -> Vec<u8> {
    let mut bytes = vec![0; to_usize(node.len())];
    node.read_at(0, &mut bytes).unwrap();
    bytes
}
