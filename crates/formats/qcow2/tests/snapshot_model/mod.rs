//! An image with snapshots beside a model that keeps a copy of everything.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]

use std::sync::Arc;

use diskimg_core::driver::OpenMode;
use diskimg_core::opener::NoReferences;
use diskimg_core::{
    BlockDevice, ByteRange, Device, Image, MemDevice, NewSnapshot, Prealloc, Repair, SnapshotKey, Snapshots,
    Task, ZeroMode, to_usize,
};
use diskimg_qcow2::DRIVER;
use diskimg_testkit::{FormatSubject, Rng, open_image, pattern};

/// Bytes of the state area that are compared.
const STATE: usize = 40_000;

/// Create options and the disk's length in bytes.
pub const GEOMETRIES: &[(&[&str], u64)] = &[
    (&[], 2 << 20),
    (&["cluster_size=512"], 150 << 10),
    (&["cluster_size=512", "compat=0.10"], 150 << 10),
    (&["compat=0.10"], 2 << 20),
    (&["cluster_size=512", "refcount_bits=2"], 60 << 10),
    (&["cluster_size=2k", "refcount_bits=4"], 200 << 10),
    (&["cluster_size=4k", "refcount_bits=8"], 500 << 10),
    (&["cluster_size=512", "refcount_bits=32"], 100 << 10),
    (&["cluster_size=512", "refcount_bits=64"], 300 << 10),
    (&["cluster_size=8k", "compression_type=zstd"], 300 << 10),
    (&["cluster_size=16k", "extended_l2=on"], 500 << 10),
    (&["extended_l2=on", "compression_type=zstd"], 2 << 20),
    (&["cluster_size=2M"], 9 << 20),
    (&["cluster_size=4k"], (300 << 10) + 512),
    (&["cluster_size=1k", "preallocation=metadata"], 200 << 10),
    (&["cluster_size=1k", "refcount_bits=1"], 100 << 10),
];

/// A snapshot as the model has it.
#[derive(Clone)]
pub struct Kept {
    pub id: String,
    pub name: String,
    pub disk: Vec<u8>,
    pub state: Vec<u8>,
}

/// The image and its model.
pub struct Modelled {
    pub storage: Arc<MemDevice>,
    pub image: Option<Arc<dyn Image>>,
    pub disk: Vec<u8>,
    pub state: Vec<u8>,
    pub kept: Vec<Kept>,
    cluster: u64,
    can_resize: bool,
    narrow: bool,
    names: u64,
}

pub fn open(storage: &Arc<MemDevice>, write: bool) -> Arc<dyn Image> {
    let mode = OpenMode { write, ..OpenMode::default() };
    open_image(&DRIVER, Arc::<MemDevice>::clone(storage), mode, &NoReferences).expect("opens")
}

fn snapshots(image: &Arc<dyn Image>) -> &dyn Snapshots {
    image.as_snapshots().expect("snapshots")
}

/// Reads a disk through the front end.
pub fn contents(image: &Arc<dyn Image>) -> Vec<u8> {
    let device = Device::new(Arc::<dyn Image>::clone(image));
    let mut all = vec![0x55; to_usize(device.len())];
    device.read_at(0, &mut all).expect("reads");
    all
}

impl Modelled {
    pub fn new(options: &'static [&'static str], size: u64) -> Self {
        let subject = FormatSubject::new(&DRIVER, size, options);
        let storage = subject.fresh().remove(0);
        let image = open(&storage, true);
        let cluster = image.info().unwrap().cluster_size.unwrap();
        Self {
            storage,
            image: Some(image),
            disk: vec![0; to_usize(size)],
            state: vec![0; STATE],
            kept: Vec::new(),
            cluster,
            can_resize: !options.contains(&"compat=0.10"),
            narrow: options.contains(&"refcount_bits=1"),
            names: 0,
        }
    }

    pub fn image(&self) -> &Arc<dyn Image> {
        self.image.as_ref().unwrap()
    }

    pub fn snapshots(&self) -> &dyn Snapshots {
        snapshots(self.image())
    }

    fn device(&self) -> Device {
        Device::new(Arc::<dyn Image>::clone(self.image()))
    }

    pub fn reopen(&mut self) {
        self.image = None;
        self.image = Some(open(&self.storage, true));
    }

    fn range(&self, rng: &mut Rng) -> ByteRange {
        let len = self.disk.len() as u64;
        let start = rng.below(len);
        let most = if rng.chance(20) { len } else { 4 * self.cluster };
        let range = ByteRange::new(start, (1 + rng.below(most)).min(len - start));
        if rng.chance(40) {
            range.align_outwards(self.cluster).intersect(ByteRange::new(0, len))
        } else {
            range
        }
    }

    /// One random operation; its name.
    pub fn step(&mut self, rng: &mut Rng) -> String {
        let dice = rng.below(100);
        match dice {
            0..35 => self.write(rng),
            35..42 => self.zero(rng),
            42..52 => self.compress(rng),
            52..56 => self.resize(rng),
            56..62 => self.write_state(rng),
            62..78 => self.create(rng),
            78..88 => self.apply(rng),
            88..96 => self.delete(rng),
            _ => {
                self.reopen();
                "reopen".to_owned()
            }
        }
    }

    pub fn write(&mut self, rng: &mut Rng) -> String {
        let range = self.range(rng);
        let bytes = pattern(rng.next_u64(), range.start, range.len);
        self.device().write_at(range.start, &bytes).expect("write");
        self.disk[to_usize(range.start)..to_usize(range.end())].copy_from_slice(&bytes);
        format!("write {range:?}")
    }

    fn zero(&mut self, rng: &mut Rng) -> String {
        let range = self.range(rng);
        if rng.chance(50) {
            self.device().write_zeroes(range, ZeroMode::MayUnmap).expect("zero");
            self.disk[to_usize(range.start)..to_usize(range.end())].fill(0);
            return format!("zero {range:?}");
        }
        // What is discarded reads as zeros or as before: only whole clusters are sure.
        let whole = range.align_inwards(self.cluster);
        if !whole.is_empty() {
            self.device().discard(whole).expect("discard");
            self.disk[to_usize(whole.start)..to_usize(whole.end())].fill(0);
        }
        format!("discard {whole:?}")
    }

    fn compress(&mut self, rng: &mut Rng) -> String {
        let cluster = rng.below(self.disk.len() as u64 / self.cluster);
        let at = cluster * self.cluster;
        let fill = u8::try_from(1 + rng.below(250)).unwrap();
        let bytes = vec![fill; to_usize(self.cluster)];
        let image = self.image();
        let clusters = image.as_compressed().expect("compressed clusters");
        let mut payload = Vec::new();
        assert!(clusters.encoder().unwrap().encode(&bytes, &mut payload).unwrap());
        let Ok(place) = clusters.reserve_encoded(at, payload.len() as u64) else {
            return format!("not compressed {at:#x}");
        };
        place.write_at(0, &payload).unwrap();
        place.commit().unwrap();
        self.disk[to_usize(at)..to_usize(at + self.cluster)].copy_from_slice(&bytes);
        format!("compressed {at:#x}")
    }

    fn resize(&mut self, rng: &mut Rng) -> String {
        if !self.can_resize {
            return "no resize".to_owned();
        }
        let len = (512 * (1 + rng.below(2 * self.disk.len() as u64 / 512)))
            .clamp((8 * self.cluster).min(4 << 20), 12 << 20);
        self.image().set_len(len, Prealloc::Off).expect("resize");
        self.disk.resize(to_usize(len), 0);
        self.state.fill(0);
        format!("resize {len:#x}")
    }

    fn write_state(&mut self, rng: &mut Rng) -> String {
        let at = rng.index(STATE - 1);
        let len = 1 + rng.index(STATE - at - 1);
        let bytes = pattern(rng.next_u64(), 0, len as u64);
        self.snapshots().write_vm_state(at as u64, &bytes).expect("write state");
        self.state[at..at + len].copy_from_slice(&bytes);
        format!("state {at:#x}+{len:#x}")
    }

    pub fn create(&mut self, rng: &mut Rng) -> String {
        self.names += 1;
        let name = if rng.chance(10) { "same".to_owned() } else { format!("s{}", self.names) };
        let new = NewSnapshot { name: name.clone(), vm_state_size: STATE as u64, ..NewSnapshot::default() };
        match self.snapshots().create_snapshot(&new) {
            Ok(info) => {
                let state = std::mem::replace(&mut self.state, vec![0; STATE]);
                self.kept.push(Kept { id: info.id.clone(), name, disk: self.disk.clone(), state });
                format!("create {}", info.id)
            }
            Err(error) => {
                assert_eq!(error.joined(), "Invalid argument", "{error:?}");
                "create refused".to_owned()
            }
        }
    }

    fn apply(&mut self, rng: &mut Rng) -> String {
        if self.kept.is_empty() {
            return "nothing to apply".to_owned();
        }
        let kept = rng.pick(&self.kept).clone();
        match self.snapshots().apply_snapshot(&SnapshotKey::id(&kept.id)) {
            Ok(()) => {
                self.disk.clone_from(&kept.disk);
                self.state.clone_from(&kept.state);
                format!("apply {}", kept.id)
            }
            Err(error) => {
                assert_eq!(error.joined(), "Invalid argument", "{error:?}");
                format!("apply {} refused", kept.id)
            }
        }
    }

    fn delete(&mut self, rng: &mut Rng) -> String {
        if self.kept.is_empty() {
            return "nothing to delete".to_owned();
        }
        let index = rng.index(self.kept.len());
        let kept = self.kept.remove(index);
        self.snapshots().delete_snapshot(&SnapshotKey::id(&kept.id)).expect("delete");
        format!("delete {}", kept.id)
    }

    /// The check finds nothing, and everything is as the model has it.
    pub fn verify(&self) {
        let mut said = Vec::new();
        let check = self.image().as_check().expect("a check");
        let mut say = |text: &str| said.push(text.to_owned());
        let report = check.check(Repair::Nothing, &mut say, &Task::quiet()).expect("check");
        assert_eq!((report.corruptions, report.check_errors, report.leaks), (0, 0, 0), "{said:#?}");
        assert!(contents(self.image()) == self.disk, "the disk");
        let mut state = vec![1; STATE];
        self.snapshots().read_vm_state(0, &mut state).expect("state");
        assert!(state == self.state, "the state area");
        let listed: Vec<_> = self.snapshots().snapshots().into_iter().map(|s| (s.id, s.name)).collect();
        let kept: Vec<_> = self.kept.iter().map(|s| (s.id.clone(), s.name.clone())).collect();
        assert_eq!(listed, kept);
    }

    /// Every snapshot holds what it was made of.
    pub fn verify_kept(&self) {
        for kept in &self.kept {
            let image = self.snapshots().open_snapshot(&SnapshotKey::id(&kept.id)).expect("opens");
            assert!(contents(&image) == kept.disk, "snapshot {}", kept.id);
            let mut state = vec![1; STATE];
            snapshots(&image).read_vm_state(0, &mut state).expect("state");
            assert!(state == kept.state, "state of snapshot {}", kept.id);
        }
    }
}
