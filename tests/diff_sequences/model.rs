//! What an image must hold after each step: plain bytes for the disk and for each snapshot, and a list of dirty
//! granules for each bitmap. Nothing in it comes from a program, but for what is left open (see [`Disk::loose`]).

use super::layout::Cipher;
use super::step::{Action, Fill, GuestOp, Request};

/// The bytes of a disk.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// What a guest reads.
    pub data: Vec<u8>,
    /// What a shrinking left behind the end in the last cluster: a growing disk shows it, or zeros.
    tail: Vec<u8>,
    /// Places that may hold something else as well: discarded ones, and those of a tail.
    loose: Vec<(usize, Vec<u8>)>,
}

impl Disk {
    /// A disk that holds `data`.
    pub fn new(data: Vec<u8>) -> Self {
        Self { data, ..Self::default() }
    }

    fn put(&mut self, start: usize, bytes: &[u8]) {
        self.data[start..start + bytes.len()].copy_from_slice(bytes);
        for (at, other) in &mut self.loose {
            let (from, to) = (start.max(*at), (start + bytes.len()).min(*at + other.len()));
            if from < to {
                other[from - *at..to - *at].copy_from_slice(&bytes[from - start..to - start]);
            }
        }
    }

    fn resize(&mut self, size: usize, cluster: usize) {
        let old = self.data.len();
        if size < old {
            let end = size.next_multiple_of(cluster);
            let mut tail = self.data[size..old.min(end)].to_vec();
            if end > old {
                tail.extend(self.tail.iter().take(end - old));
            }
            self.data.truncate(size);
            self.tail = tail;
        } else {
            self.data.resize(size, 0);
            let shown = self.tail.len().min(size - old);
            let rest = self.tail.split_off(shown);
            if shown > 0 {
                self.loose.push((old, std::mem::replace(&mut self.tail, rest)));
            }
        }
    }

    /// The same for a snapshot, which the installed one reads with the length that the disk has now.
    pub fn settle_common(&mut self, mut read: Vec<u8>) -> Result<(), String> {
        let common = read.len().min(self.data.len());
        read.truncate(common);
        read.extend_from_slice(&self.data[common..]);
        self.settle(read)
    }

    /// Takes what was read, if it is what it has to be.
    pub fn settle(&mut self, read: Vec<u8>) -> Result<(), String> {
        if read.len() != self.data.len() {
            return Err(format!("{} bytes instead of {}", read.len(), self.data.len()));
        }
        if read != self.data {
            let allowed = |at: usize| {
                self.loose.iter().any(|(start, other)| {
                    at.checked_sub(*start).and_then(|i| other.get(i)).is_some_and(|byte| *byte == read[at])
                })
            };
            let wrong = (0..read.len()).find(|at| read[*at] != self.data[*at] && !allowed(*at));
            if let Some(at) = wrong {
                return Err(format!("byte {at:#x} is {:#x} instead of {:#x}", read[at], self.data[at]));
            }
            self.data = read;
        }
        self.loose.clear();
        Ok(())
    }
}

/// A snapshot.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its identifier, as listed.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The disk when it was made.
    pub disk: Disk,
}

/// A bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    /// Its name.
    pub name: String,
    /// Bytes that a bit stands for.
    pub granularity: u64,
    /// Whether it records.
    pub enabled: bool,
    /// The granules.
    pub bits: Vec<bool>,
    /// Granules that a request which failed may have marked.
    pub open: Vec<bool>,
}

impl Bitmap {
    /// A bitmap with nothing marked yet but `bits`.
    pub fn new(name: String, granularity: u64, enabled: bool, bits: Vec<bool>) -> Self {
        let open = vec![false; bits.len()];
        Self { name, granularity, enabled, bits, open }
    }

    fn granules(&self, start: u64, len: u64) -> std::ops::Range<usize> {
        let end = if len == 0 { start / self.granularity } else { (start + len).div_ceil(self.granularity) };
        (start / self.granularity) as usize..end as usize
    }

    fn mark(&mut self, start: u64, len: u64) {
        let granules = self.granules(start, len);
        self.bits[granules].fill(true);
    }

    /// Takes what was stored for what was open.
    pub fn settle(&mut self, stored: &[bool]) {
        for (at, open) in self.open.iter_mut().enumerate().filter(|(_, open)| **open) {
            self.bits[at] |= stored.get(at).copied().unwrap_or(false);
            *open = false;
        }
    }
}

/// More counts than this in one cluster of the refcount table are not rewritten: see [`Model::avoids`].
const MOST_COUNTS: u64 = 300 << 20;

/// All that is known of the image.
#[derive(Debug, Clone)]
pub struct Model {
    /// How it is encrypted.
    pub cipher: Cipher,
    /// Bytes of a cluster.
    pub cluster: u64,
    /// `compat` is 0.10.
    pub v2: bool,
    /// It has a data file.
    pub data_file: bool,
    /// Bits of a reference count.
    pub refcount_bits: u64,
    /// How its backing file was named when it was made.
    pub backing: &'static str,
    /// Something was done since the image was made: its file may hold old bytes that belong to nothing.
    pub used: bool,
    /// The disk.
    pub disk: Disk,
    /// The snapshots, in the order of their table.
    pub snapshots: Vec<Snapshot>,
    /// The bitmaps.
    pub bitmaps: Vec<Bitmap>,
    /// Bytes of the patterns, by name.
    pub files: Vec<(&'static str, Vec<u8>)>,
}

impl Model {
    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.disk.data.len() as u64
    }

    /// Why a step is not taken on this image.
    pub fn avoids(&self, action: &Action) -> Option<&'static str> {
        match action {
            // The older version has no place for them: qemu-img leaves their clusters behind as leaks.
            Action::Amend(options)
                if !self.bitmaps.is_empty() && (options.contains("0.10") || options.contains("v2")) =>
            {
                Some("bitmaps would be lost")
            }
            // Tables that tell of clusters whose bytes were never encrypted: both read noise there.
            Action::Resize(flags, _) if flags.contains("prealloc") && self.cipher != Cipher::Plain => {
                Some("preallocated clusters of an encrypted image")
            }
            // They would be stored as they are, not encrypted.
            Action::Guest(ops)
                if self.cipher != Cipher::Plain
                    && ops.iter().any(|op| matches!(op.request, Request::Compressed(_))) =>
            {
                Some("compressed clusters of an encrypted image")
            }
            // What does not become smaller is written as it is by ours, and refused by the installed one.
            Action::Guest(ops)
                if self.data_file
                    && ops.iter().any(|op| op.request == Request::Compressed(Fill::File("noise"))) =>
            {
                Some("incompressible clusters of a data file")
            }
            // The installed one looks at every count that such large tables could hold, for minutes.
            Action::Amend(options)
                if options.contains("refcount_bits")
                    && self.cluster * self.cluster / self.refcount_bits.max(1) > MOST_COUNTS =>
            {
                Some("takes minutes")
            }
            Action::Guest(ops) if ops.iter().all(|op| op.start + op.len > self.size()) => {
                Some("behind the end")
            }
            _ => None,
        }
    }

    /// Why the installed one does harm with a step on this image, so that ours alone does it.
    pub fn only_ours(&self, action: &Action) -> Option<&'static str> {
        match action {
            Action::Repair(_) if !self.bitmaps.is_empty() && !self.snapshots.is_empty() => {
                Some("qemu-img check -r forgets the snapshots of an image with bitmaps")
            }
            Action::Resize(flags, _) if flags.contains("prealloc") && self.used => {
                Some("qemu-img shows old bytes of the host file")
            }
            _ => None,
        }
    }

    /// The bytes that a guest writes.
    fn pattern(&self, fill: Fill, len: usize) -> Vec<u8> {
        match fill {
            Fill::Byte(byte) => vec![byte; len],
            Fill::File(name) => {
                let file = self.files.iter().find(|(known, _)| *known == name);
                file.map(|(_, bytes)| bytes.iter().copied().cycle().take(len).collect()).unwrap_or_default()
            }
        }
    }

    /// A request of a guest that was carried out.
    pub fn guest(&mut self, op: &GuestOp) {
        let (start, len) = (op.start as usize, op.len as usize);
        match op.request {
            Request::Write(fill) | Request::Compressed(fill) => {
                let bytes = self.pattern(fill, len);
                self.disk.put(start, &bytes);
            }
            Request::Zero(_) => self.disk.put(start, &vec![0; len]),
            Request::Discard => self.disk.loose.push((start, vec![0; len])),
        }
        if op.request == Request::Discard {
            // Nothing need be marked where nothing changes; what does is seen when the disk is read.
            self.guest_failed(op);
            return;
        }
        for bitmap in self.bitmaps.iter_mut().filter(|bitmap| bitmap.enabled) {
            bitmap.mark(op.start, op.len);
        }
    }

    /// Takes what was read of the disk, if it is what it has to be. What a discard changed has to be marked.
    pub fn settle(&mut self, read: Vec<u8>) -> Result<(), String> {
        let before = self.disk.data.clone();
        self.disk.settle(read)?;
        for bitmap in self.bitmaps.iter_mut().filter(|bitmap| bitmap.enabled) {
            for granule in 0..bitmap.bits.len() {
                let start = granule * bitmap.granularity as usize;
                let end = before.len().min(start + bitmap.granularity as usize);
                if bitmap.open[granule] && before[start..end] != self.disk.data[start..end] {
                    bitmap.bits[granule] = true;
                }
            }
        }
        Ok(())
    }

    /// A request that ours carried out: it records whole clusters, where it writes whole clusters.
    pub fn guest_of_ours(&mut self, op: &GuestOp) {
        self.guest(op);
        let start = op.start / self.cluster * self.cluster;
        let end = (op.start + op.len).next_multiple_of(self.cluster).min(self.size());
        self.guest_failed(&GuestOp { start, len: end - start, ..*op });
    }

    /// A request of a guest that failed.
    pub fn guest_failed(&mut self, op: &GuestOp) {
        for bitmap in self.bitmaps.iter_mut().filter(|bitmap| bitmap.enabled) {
            let granules = bitmap.granules(op.start, op.len);
            bitmap.open[granules].fill(true);
        }
    }

    fn resize(&mut self, size: u64) {
        self.disk.resize(size as usize, self.cluster as usize);
        for bitmap in &mut self.bitmaps {
            let granules = size.div_ceil(bitmap.granularity) as usize;
            bitmap.bits.resize(granules, false);
            bitmap.open.resize(granules, false);
        }
    }

    fn snapshot(&self, key: &str) -> Option<usize> {
        let by_id = self.snapshots.iter().position(|snapshot| snapshot.id == key);
        by_id.or_else(|| self.snapshots.iter().position(|snapshot| snapshot.name == key))
    }

    fn bitmap(&mut self, name: &str) -> Result<&mut Bitmap, String> {
        let found = self.bitmaps.iter_mut().find(|bitmap| bitmap.name == name);
        found.ok_or_else(|| format!("bitmap {name:?} should not be there"))
    }

    /// An action other than a guest's that succeeded.
    ///
    /// # Errors
    /// It should not have.
    pub fn done(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::Guest(_) | Action::Amend(_) | Action::AmendKeys(_) | Action::Repair(_) => {}
            Action::Resize(_, size) | Action::AmendSize(size) => self.resize(*size),
            Action::Create(name) => {
                let (id, name) = (String::new(), name.clone());
                self.snapshots.push(Snapshot { id, name, disk: self.disk.clone() });
            }
            Action::Apply(key) => {
                let at = self.snapshot(key).ok_or("applied a snapshot that is not there")?;
                self.disk = self.snapshots[at].disk.clone();
            }
            Action::Delete(name) => {
                let at = self.snapshots.iter().position(|snapshot| snapshot.name == *name);
                self.snapshots.remove(at.ok_or("deleted a snapshot that is not there")?);
            }
            Action::AddBitmap(name, flags) => self.add_bitmap(name, flags),
            Action::ChangeBitmap(how, name) => self.change_bitmap(how, name)?,
            Action::MergeBitmap(source, target) => self.merge(source, target)?,
            Action::Convert(flags, _, cipher) => {
                self.used = false;
                self.cipher = *cipher;
                self.snapshots.clear();
                self.disk.tail.clear();
                if !flags.contains("-B") {
                    self.backing = "";
                }
                if !flags.contains("--bitmaps") {
                    self.bitmaps.clear();
                }
            }
        }
        Ok(())
    }

    fn add_bitmap(&mut self, name: &str, flags: &str) {
        let mut words = flags.split_whitespace();
        let mut granularity = self.cluster.clamp(4096, 65536);
        let mut enabled = true;
        while let Some(word) = words.next() {
            match word {
                "-g" => granularity = words.next().and_then(|n| n.parse().ok()).unwrap_or(granularity),
                _ => enabled = false,
            }
        }
        let bits = vec![false; self.size().div_ceil(granularity) as usize];
        self.bitmaps.push(Bitmap::new(name.to_owned(), granularity, enabled, bits));
    }

    fn change_bitmap(&mut self, how: &str, name: &str) -> Result<(), String> {
        let bitmap = self.bitmap(name)?;
        match how {
            "--clear" => bitmap.bits.fill(false),
            "--enable" => bitmap.enabled = true,
            "--disable" => bitmap.enabled = false,
            _ => self.bitmaps.retain(|bitmap| bitmap.name != name),
        }
        Ok(())
    }

    fn merge(&mut self, source: &str, target: &str) -> Result<(), String> {
        let size = self.size();
        let from = self.bitmap(source)?.clone();
        let to = self.bitmap(target)?;
        for (at, _) in from.bits.iter().enumerate().filter(|(_, dirty)| **dirty) {
            let start = at as u64 * from.granularity;
            to.mark(start, from.granularity.min(size - start));
        }
        Ok(())
    }
}
