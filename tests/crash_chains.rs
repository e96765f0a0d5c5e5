//! commit, rebase and stream survive a crash at any write: after every prefix of the writes, and sampled sets of those
//! since the last barrier, the image reads as it did, every image of the chain is sound, and the same operation run
//! again comes to its end. `DISKIMG_CRASH_SAMPLES` asks for another number of samples.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;

use diskimg_chain::{Context, Node, NodeParts};
use diskimg_core::driver::{CreateContext, OpenMode};
use diskimg_core::opener::NoReferences;
use diskimg_core::{
    BackingRef, BlockDevice, FormatDriver, MemDevice, NewBitmap, Registry, Repair, Task, ZeroMode, to_usize,
};
use diskimg_engine::commit::find_layer;
use diskimg_engine::{CommitOptions, RebaseOptions, StreamOptions, commit, rebase, stream};
use diskimg_testkit::{
    CrashState, FormatSubject, MemOpener, Recorder, Sampling, open_image, panics, pattern,
};

const KIB: u64 = 1024;

/// An image of a chain: name, format, create options, size, name of its backing file.
#[derive(Clone, Copy, Debug)]
struct Layer {
    name: &'static str,
    driver: &'static FormatDriver,
    options: &'static [&'static str],
    size: u64,
    backing: Option<&'static str>,
}

const fn raw(name: &'static str, size: u64) -> Layer {
    Layer { name, driver: &diskimg_raw::DRIVER, options: &[], size, backing: None }
}

const fn qcow2(
    name: &'static str,
    options: &'static [&'static str],
    size: u64,
    backing: Option<&'static str>,
) -> Layer {
    Layer { name, driver: &diskimg_qcow2::DRIVER, options, size, backing }
}

const fn layer(
    driver: &'static FormatDriver,
    name: &'static str,
    options: &'static [&'static str],
    size: u64,
    backing: Option<&'static str>,
) -> Layer {
    Layer { name, driver, options, size, backing }
}

/// The files of a chain, and what of it is known.
#[derive(Clone)]
struct Chain {
    layers: Vec<Layer>,
    disks: Vec<Vec<u8>>,
}

impl Chain {
    /// Every image with a pattern of its own in places.
    fn new(layers: &[Layer]) -> Self {
        let chain = Self { layers: layers.to_vec(), disks: Vec::new() };
        let mut devices: Vec<Arc<dyn BlockDevice>> = Vec::new();
        for (number, layer) in (1..).zip(layers) {
            // From below: some formats remember what their parent was when they were made.
            devices.push(chain.create(layer, &devices));
            let node = chain.open(&devices, layer.name, &|_| true);
            for part in 0..6 {
                let (at, len) = ((part * 97 + number * 31) * KIB + 100, (3 + part * 5) * KIB);
                if at + len < layer.size {
                    node.write_at(at, &pattern(number * 10 + part, at, len)).unwrap();
                }
            }
            let zeros = diskimg_core::ByteRange::new(number * 48 * KIB, 20 * KIB);
            node.write_zeroes(zeros, ZeroMode::MayUnmap).unwrap();
            node.flush().unwrap();
        }
        let disks = devices.iter().map(|device| read_all(&**device)).collect();
        Self { layers: chain.layers, disks }
    }

    /// An empty image over the one that it names.
    fn create(&self, layer: &Layer, devices: &[Arc<dyn BlockDevice>]) -> Arc<dyn BlockDevice> {
        let mut options = FormatSubject::new(layer.driver, layer.size, layer.options).parsed().unwrap();
        if let Some(name) = layer.backing {
            let format = self.layers.iter().find(|layer| layer.name == name).unwrap().driver.name;
            options.set("backing_file", name).unwrap();
            options.set("backing_fmt", format).unwrap();
        }
        let creator = layer.driver.creator.unwrap();
        (creator.validate)(&options).unwrap();
        let storage: Arc<dyn BlockDevice> = Arc::new(MemDevice::new(0));
        let known = self.layers.iter().map(|layer| layer.name.to_owned()).zip(devices.iter().cloned());
        let context = CreateContext {
            storage: Arc::clone(&storage),
            filename: layer.name,
            options: &options,
            opener: &MemOpener::new(known),
        };
        (creator.create)(&context).unwrap();
        storage
    }

    /// Makes each image that remembers what its parent was take note of what that is now. Returns how many had to.
    fn acknowledge(&self, devices: &[Arc<dyn BlockDevice>]) -> usize {
        let open = |name: &str| {
            let at = self.layers.iter().position(|layer| layer.name == name).unwrap();
            let mode = OpenMode { write: true, ..OpenMode::default() };
            open_image(self.layers[at].driver, Arc::clone(&devices[at]), mode, &NoReferences).unwrap()
        };
        let mut stale = 0;
        for layer in &self.layers {
            let image = open(layer.name);
            let Some(backing) = image.backing() else { continue };
            let below = open(&backing.name);
            if image.accepts_backing(&*below).is_err() {
                image.adopt_backing(&*below).unwrap();
                stale += 1;
            }
        }
        stale
    }

    fn devices(&self, make: impl Fn(Vec<u8>) -> Arc<dyn BlockDevice>) -> Vec<Arc<dyn BlockDevice>> {
        self.disks.iter().map(|bytes| make(bytes.clone())).collect()
    }

    /// The image `name` over its backing files, as the images themselves name them.
    fn open(&self, devices: &[Arc<dyn BlockDevice>], name: &str, write: &dyn Fn(&str) -> bool) -> Node {
        let at = self.layers.iter().position(|layer| layer.name == name).unwrap();
        let mode = OpenMode { write: write(name), ..OpenMode::default() };
        let image =
            open_image(self.layers[at].driver, Arc::clone(&devices[at]), mode, &NoReferences).unwrap();
        let below = image.backing().map(|backing| self.open(devices, &backing.name, write));
        Node::assemble(NodeParts::new(image, name), below)
    }
}

fn read_all(device: &dyn BlockDevice) -> Vec<u8> {
    let mut bytes = vec![0; to_usize(device.len())];
    device.read_at(0, &mut bytes).unwrap();
    bytes
}

/// What is done to a chain.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Commit { base: &'static str, keep: bool },
    Rebase { onto: Option<&'static str>, compress: bool },
    Stream { base: Option<&'static str>, compress: bool },
}

impl Operation {
    fn run(self, chain: &Chain, devices: &[Arc<dyn BlockDevice>], image: &str) {
        let task = Task::quiet();
        match self {
            Self::Commit { base, keep } => {
                let top = chain.open(devices, image, &|_| true);
                let depth = Some(find_layer(&top, base).unwrap());
                let options = CommitOptions { depth, keep, rate_limit: None };
                commit(&Context::new(Registry::new()), top, &options, &task).unwrap();
            }
            Self::Rebase { onto, compress } => {
                let top = chain.open(devices, image, &|name| name == image);
                let other = onto.map(|name| chain.open(devices, name, &|_| false));
                let format = other.as_ref().map(|node| node.format().to_owned());
                let name = onto.map(|name| BackingRef { name: name.to_owned(), format });
                let options = RebaseOptions { compress, ..RebaseOptions::default() };
                rebase(&top, name.as_ref().zip(other.as_ref()), &options, &task).unwrap();
            }
            Self::Stream { base, compress } => {
                let top = chain.open(devices, image, &|name| name == image);
                let depth = base.map(|base| find_layer(&top, base).unwrap());
                stream(&top, &StreamOptions { depth, compress, rate_limit: None }, &task).unwrap();
            }
        }
    }

    /// The name of the image's backing file afterwards.
    fn backing_after(self, chain: &Chain, image: &str) -> Option<&'static str> {
        let backing = |name: &str| chain.layers.iter().find(|layer| layer.name == name).unwrap().backing;
        match self {
            Self::Commit { .. } => backing(image),
            Self::Rebase { onto, .. } => onto,
            Self::Stream { base, .. } => base,
        }
    }
}

/// Every image that has a check is sound.
fn check(chain: &Chain, devices: &[Arc<dyn BlockDevice>]) {
    for (layer, device) in chain.layers.iter().zip(devices) {
        let image = open_image(layer.driver, Arc::clone(device), OpenMode::default(), &NoReferences).unwrap();
        let Some(check) = image.as_check() else { continue };
        let mut said = String::new();
        let mut say = |text: &str| said = format!("{said}{text}\n");
        let report = check.check(Repair::Nothing, &mut say, &Task::quiet()).unwrap();
        assert_eq!((report.corruptions, report.check_errors), (0, 0), "{}: {said}", layer.name);
    }
}

#[derive(Default, Debug)]
struct Counts {
    states: usize,
    again: usize,
    /// Where the base had got its new identity, and the overlay did not yet know.
    stale: usize,
}

/// Runs `operation` on `image`, and looks at all that a crash could have left; images in `readers` (the image itself and
/// those over it) have to read as before.
fn explore(chain: &Chain, image: &str, readers: &[&str], operation: Operation, seed: u64) {
    let plain = chain.devices(|bytes| Arc::new(MemDevice::from(bytes)));
    let contents: Vec<Vec<u8>> =
        readers.iter().map(|name| read_all(&chain.open(&plain, name, &|_| false))).collect();
    let recorder = Recorder::new();
    let recorded = chain.devices(|bytes| recorder.device(bytes));
    operation.run(chain, &recorded, image);
    let trace = recorder.trace();
    let mut counts = Counts::default();
    let judge = |state: &CrashState, again: bool| {
        let devices: Vec<Arc<dyn BlockDevice>> =
            state.disks.iter().map(|bytes| Arc::new(MemDevice::from(bytes.clone())) as _).collect();
        let remembers = chain.layers.iter().any(|layer| layer.driver.name == "vmdk");
        let was_stale = remembers && chain.acknowledge(&devices) > 0;
        let same = || {
            for (name, contents) in readers.iter().zip(&contents) {
                assert!(read_all(&chain.open(&devices, name, &|_| false)) == *contents, "{name} differs");
            }
            check(chain, &devices);
        };
        same();
        if again {
            operation.run(chain, &devices, image);
            assert!(!remembers || chain.acknowledge(&devices) == 0, "the overlay does not know its parent");
            same();
            let top = chain.open(&devices, image, &|_| false);
            let backing = top.image().backing().map(|backing| backing.name);
            assert_eq!(backing.as_deref(), operation.backing_after(chain, image));
        }
        was_stale
    };
    let visit = |state: CrashState| {
        counts.states += 1;
        let again = counts.states.is_multiple_of(5) || state.position == trace.events.len();
        counts.again += usize::from(again);
        let stale = &mut counts.stale;
        let run = || *stale += usize::from(judge(&state, again));
        match panics(run) {
            Some(text) => Err(format!(
                "{operation:?} on {image}, again {again}: {} of {} events: {}: {text}",
                state.position,
                trace.events.len(),
                state.story
            )),
            None => Ok(()),
        }
    };
    if let Err(text) = trace.explore(Sampling { samples: diskimg_testkit::crash::samples(150), seed }, visit)
    {
        panic!("{text}");
    }
    println!("{operation:?} on {image}: {} events, {counts:?}", trace.events.len());
    // The moment between two writes, not the time of the copy.
    assert!(counts.stale * 2 < counts.states, "{counts:?}");
}

const SMALL: &[&str] = &["cluster_size=4k"];

/// A chain of four with images of different lengths and clusters.
fn four() -> Chain {
    Chain::new(&[
        raw("base", 500 * KIB),
        qcow2("low", &["cluster_size=16k", "extended_l2=on"], 700 * KIB, Some("base")),
        qcow2("mid", SMALL, 600 * KIB, Some("low")),
        qcow2("top", SMALL, 640 * KIB, Some("mid")),
    ])
}

/// A name that makes the header change in more than one sector.
const LONG: &str =
    "a-name-that-is-so-long-that-the-header-does-not-end-in-its-first-sector-and-more-and-more-of-that";

#[test]
fn commits() {
    let chain = four();
    for (base, keep) in [("mid", false), ("mid", true), ("low", true), ("base", true)] {
        explore(&chain, "top", &["top"], Operation::Commit { base, keep }, 1);
    }
    let chain = Chain::new(&[
        qcow2("base", &["cluster_size=512"], 300 * KIB, None),
        qcow2("top", &["cluster_size=512"], 400 * KIB, Some("base")),
    ]);
    explore(&chain, "top", &["top"], Operation::Commit { base: "base", keep: false }, 2);
}

#[test]
fn commits_of_overlays_that_are_emptied_entry_by_entry() {
    for kind in ["snapshot", "bitmap", "version 2"] {
        let options: &[&str] = if kind == "version 2" { &["compat=0.10", "cluster_size=4k"] } else { SMALL };
        let mut chain = Chain::new(&[raw("base", 500 * KIB), qcow2("top", options, 500 * KIB, Some("base"))]);
        let devices = chain.devices(|bytes| Arc::new(MemDevice::from(bytes)));
        let top = chain.open(&devices, "top", &|name| name == "top");
        let snapshots = top.image().as_snapshots().unwrap();
        let bitmaps = top.image().as_bitmaps().unwrap();
        match kind {
            "snapshot" => drop(snapshots.create_snapshot(&Default::default()).unwrap()),
            "bitmap" => {
                bitmaps.add_bitmap(&NewBitmap { name: "b".into(), granularity: None, enabled: true }).unwrap()
            }
            _ => {}
        }
        drop(top);
        chain.disks = devices.iter().map(|device| read_all(&**device)).collect();
        explore(&chain, "top", &["top"], Operation::Commit { base: "base", keep: false }, 3);
    }
}

#[test]
fn rebases() {
    let mut layers = four().layers;
    layers.push(raw(LONG, 900 * KIB));
    let chain = Chain::new(&layers);
    for (onto, compress) in
        [(None, false), (Some("low"), false), (Some("base"), true), (Some(LONG), false), (Some(LONG), true)]
    {
        explore(&chain, "top", &["top"], Operation::Rebase { onto, compress }, 4);
    }
    explore(&chain, "mid", &["mid", "top"], Operation::Rebase { onto: Some(LONG), compress: false }, 5);
    explore(&chain, "low", &["low", "mid", "top"], Operation::Rebase { onto: None, compress: false }, 6);
}

#[test]
fn streams() {
    let chain = four();
    for (base, compress) in
        [(None, false), (None, true), (Some("base"), false), (Some("low"), true), (Some("mid"), false)]
    {
        explore(&chain, "top", &["top"], Operation::Stream { base, compress }, 7);
    }
    explore(&chain, "mid", &["mid", "top"], Operation::Stream { base: Some("base"), compress: false }, 8);
    explore(&chain, "low", &["low", "mid", "top"], Operation::Stream { base: None, compress: false }, 9);
}

/// qcow is emptied after a commit, qed is not; the base is raw, or of the same format and shorter.
#[test]
fn commits_in_formats_with_tables_of_tables() {
    const QED: &[&str] = &["cluster_size=4k", "table_size=2"];
    let kinds: [(&'static FormatDriver, &'static [&'static str]); 4] = [
        (&diskimg_qcow::DRIVER, &[]),
        (&diskimg_qed::DRIVER, QED),
        (&diskimg_qed::DRIVER, &[]),
        (&diskimg_vmdk::DRIVER, &["subformat=monolithicSparse"]),
    ];
    for (driver, options) in kinds {
        let lowest = if driver.name == "vmdk" {
            layer(driver, "base", options, 640 * KIB, None)
        } else {
            raw("base", 500 * KIB)
        };
        let chain = Chain::new(&[
            lowest,
            layer(driver, "mid", options, 640 * KIB, Some("base")),
            layer(driver, "top", options, 640 * KIB, Some("mid")),
        ]);
        for (base, keep) in [("mid", false), ("mid", true), ("base", true)] {
            // An image between the two does not accept the base any more.
            if driver.name != "vmdk" || base == "mid" {
                explore(&chain, "top", &["top"], Operation::Commit { base, keep }, 10);
            }
        }
    }
}

#[test]
fn rebases_of_qed() {
    let qed = |name, backing| layer(&diskimg_qed::DRIVER, name, SMALL, 600 * KIB, backing);
    let chain = Chain::new(&[
        raw("base", 500 * KIB),
        qed("mid", Some("base")),
        qed("top", Some("mid")),
        raw(LONG, 900 * KIB),
    ]);
    for onto in [None, Some("base"), Some(LONG)] {
        explore(&chain, "top", &["top"], Operation::Rebase { onto, compress: false }, 11);
    }
    explore(&chain, "mid", &["mid", "top"], Operation::Rebase { onto: None, compress: false }, 12);
}
