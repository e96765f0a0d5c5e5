//! Images that the oracle makes, and ways to damage them, for the tests of checks and repairs.
#![allow(dead_code)] // each test uses its part

mod cases;

use diskimg_testkit::{Oracle, Rng};

#[allow(unused_imports)] // as above
pub(crate) use cases::{CASES, Case};

pub(crate) const COPIED: u64 = 1 << 63;
pub(crate) const COMPRESSED: u64 = 1 << 62;
/// An offset that no test image reaches.
pub(crate) const FAR: u64 = 0x900_0000;

/// How the oracle makes an image.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) options: &'static str,
    pub(crate) size: &'static str,
    pub(crate) commands: &'static [&'static str],
    pub(crate) snapshots: &'static [&'static str],
    pub(crate) bitmaps: &'static [&'static str],
}

/// Four clusters that differ.
const PATTERNS: &[&str] =
    &["write -P 1 0 64k", "write -P 2 64k 64k", "write -P 3 128k 64k", "write -P 4 192k 64k"];
pub(crate) const PLAIN: Setup =
    Setup { options: "", size: "1M", commands: PATTERNS, snapshots: &[], bitmaps: &[] };
pub(crate) const ONE_BIT: Setup = Setup { options: "refcount_bits=1", ..PLAIN };
pub(crate) const COMPRESSING: Setup =
    Setup { commands: &["write -P 1 -c 0 64k", "write -P 2 -c 64k 64k", "write -P 3 128k 64k"], ..PLAIN };
pub(crate) const EXTENDED: Setup = Setup { options: "extended_l2=on", ..PLAIN };
pub(crate) const EXTENDED_COMPRESSING: Setup = Setup { commands: &["write -c 0 64k"], ..EXTENDED };
pub(crate) const DATA_FILE: Setup = Setup { options: "data_file=data", ..PLAIN };
pub(crate) const OLD: Setup = Setup { options: "compat=0.10", ..PLAIN };
pub(crate) const SNAPSHOTS: Setup = Setup { snapshots: &["one", "two"], ..PLAIN };
pub(crate) const BITMAPS: Setup = Setup { bitmaps: &["one", "two"], ..PLAIN };
pub(crate) const LARGE: Setup = Setup { size: "1G", ..PLAIN };
pub(crate) const SMALL_CLUSTERS: Setup = Setup {
    options: "cluster_size=512",
    size: "3M",
    commands: &[
        "write -P 1 0 70k",
        "write -P 2 70k 130k",
        "write -P 3 -c 256k 16k",
        "write -P 4 1M 100k",
        "write -z -u 4k 8k",
        "discard 64k 3k",
    ],
    snapshots: &["a"],
    bitmaps: &["b"],
};

/// Narrow refcounts hold no snapshots.
pub(crate) const UNSHARED: Setup = Setup { snapshots: &[], ..SMALL_CLUSTERS };

/// What is damaged at random: every refcount width, small and large clusters, both entry kinds.
pub(crate) const SETUPS: &[Setup] = &[
    PLAIN,
    COMPRESSING,
    SNAPSHOTS,
    BITMAPS,
    SMALL_CLUSTERS,
    EXTENDED,
    DATA_FILE,
    OLD,
    Setup { options: "refcount_bits=1,cluster_size=4k", ..LARGE },
    Setup { options: "refcount_bits=2,cluster_size=512", ..UNSHARED },
    Setup { options: "refcount_bits=4,cluster_size=1k", ..UNSHARED },
    Setup { options: "refcount_bits=8,cluster_size=4k", ..SMALL_CLUSTERS },
    Setup { options: "refcount_bits=32,extended_l2=on,cluster_size=16k", ..SMALL_CLUSTERS },
    Setup { options: "refcount_bits=64,cluster_size=2M", ..SNAPSHOTS },
    Setup { options: "preallocation=metadata,cluster_size=4k", size: "8M", ..PLAIN },
    Setup { options: "extended_l2=on,data_file=data", ..PLAIN },
];

impl Setup {
    pub(crate) fn make(&self, oracle: &Oracle) -> Made {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let mut args = vec!["create", "-q", "-f", "qcow2"];
        if !self.options.is_empty() {
            args.extend(["-o", self.options]);
        }
        args.extend(["image", self.size]);
        oracle.must(at, &args);
        oracle.qemu_io(at, "qcow2", "image", self.commands);
        for name in self.snapshots {
            oracle.must(at, &["snapshot", "-c", name, "image"]);
            oracle.qemu_io(at, "qcow2", "image", &["write -P 9 64k 64k"]);
        }
        for name in self.bitmaps {
            oracle.must(at, &["bitmap", "--add", "-g", "64k", "image", name]);
            oracle.qemu_io(at, "qcow2", "image", &["write 0 70k"]);
        }
        let bytes = std::fs::read(at.join("image")).unwrap();
        Made { folder, image: Patch(bytes) }
    }
}

pub(crate) struct Made {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) image: Patch,
}

/// An image in memory that is damaged.
#[derive(Clone)]
pub(crate) struct Patch(pub(crate) Vec<u8>);

impl Patch {
    pub(crate) fn get(&self, at: u64) -> u64 {
        let at = at as usize;
        self.0.get(at..at + 8).map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()))
    }

    pub(crate) fn set(&mut self, at: u64, value: u64) {
        if let Some(place) = self.0.get_mut(at as usize..at as usize + 8) {
            place.copy_from_slice(&value.to_be_bytes());
        }
    }

    pub(crate) fn set_u32(&mut self, at: u64, value: u32) {
        self.0[at as usize..at as usize + 4].copy_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn set_u16(&mut self, at: u64, value: u16) {
        self.0[at as usize..at as usize + 2].copy_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn xor(&mut self, at: u64, bits: u64) {
        self.set(at, self.get(at) ^ bits);
    }

    pub(crate) fn cluster(&self) -> u64 {
        1 << (self.get(16) & 0xffff_ffff)
    }

    pub(crate) fn l1(&self) -> u64 {
        self.get(40)
    }

    pub(crate) fn reftable(&self) -> u64 {
        self.get(48)
    }

    pub(crate) fn offset_at(&self, at: u64) -> u64 {
        self.get(at) & 0x00ff_ffff_ffff_fe00
    }

    /// Entry `index` of the first L2 table, of 8 bytes.
    pub(crate) fn l2(&self, index: u64) -> u64 {
        self.offset_at(self.l1()) + 8 * index
    }

    /// Refcount `cluster` of 16 bits in the first block.
    pub(crate) fn refcount(&self, cluster: u64) -> u64 {
        self.offset_at(self.reftable()) + 2 * cluster
    }

    pub(crate) fn snapshots(&self) -> u64 {
        self.get(64)
    }

    /// The directory of bitmaps.
    pub(crate) fn bitmaps(&self) -> u64 {
        let mut at = 112;
        while self.get(at) >> 32 != 0x2385_2875 {
            at += 8 + (self.get(at) & 0xffff_ffff).next_multiple_of(8);
        }
        self.get(at + 24)
    }

    /// The table of bitmap `index`; names have up to eight letters.
    pub(crate) fn bitmap_table(&self, index: u64) -> u64 {
        self.get(self.bitmaps() + 32 * index)
    }

    /// The first cluster behind the end of the file.
    pub(crate) fn end(&self) -> u64 {
        (self.0.len() as u64).next_multiple_of(self.cluster())
    }
}

pub(crate) fn damage_entry(image: &mut Patch, at: u64, places: &[Vec<u64>], rng: &mut Rng) {
    let (cluster, end) = (image.cluster(), image.0.len() as u64);
    let old = image.get(at);
    let new = match rng.below(9) {
        0 => old ^ (1 << rng.below(64)),
        1 => old ^ COPIED,
        2 => {
            let group = rng.pick(places).clone();
            image.get(*rng.pick(&group))
        }
        3 => (end / cluster * cluster + rng.below(4) * 512) | COPIED,
        4 => 0,
        5 => old | 0x200,
        6 => COMPRESSED | rng.below(end + 3 * cluster),
        7 => (old & !0xffff) | rng.below(65536),
        _ => (rng.below(end) / cluster * cluster) | COPIED,
    };
    image.set(at, new);
}

/// Entries that are worth damaging, by table.
pub(crate) fn places(image: &Patch) -> Vec<Vec<u64>> {
    let entries = |at: u64, count: u64| (0..count).map(|index| at + 8 * index).collect::<Vec<_>>();
    let l1 = entries(image.l1(), 8);
    let mut groups = vec![l1.clone(), entries(image.reftable(), 2)];
    for at in &l1 {
        let table = image.offset_at(*at);
        if table != 0 && (*at - image.l1()) / 8 < image.get(32) & 0xffff_ffff {
            groups.push(entries(table, 24));
        }
    }
    groups.push(entries(image.offset_at(image.reftable()), 12));
    if image.snapshots() != 0 {
        groups.push(vec![image.snapshots()]);
        groups.push(entries(image.get(image.snapshots()), 4));
    }
    if image.get(88) & 1 != 0 {
        groups.push(vec![image.bitmaps()]);
        groups.push(entries(image.bitmap_table(0), 2));
    }
    groups
}
