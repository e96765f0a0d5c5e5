//! [`QcowMap`]: where clusters are, and where the next one goes.
//!
//! # Write order
//!
//! ```text
//! guest data, payloads, new tables (zeros) │ entries of L2 tables │ entries of the L1 table
//! ```
//!
//! with a barrier at each `│`: no table on the host refers to bytes that are not there, and a crash leaves space that
//! nothing refers to at worst. The format has no count of what is in use, so that it stays unused.
//!
//! New space comes from the end of the file; what an overwritten compressed cluster took is lost.

use std::sync::Arc;

use diskimg_core::mapped::{
    AppendSpace, Clearing, ClusterMap, Cut, DataCipher, EntryTree, Packing, Place, Run, Space,
};
use diskimg_core::{
    BackingRef, BlockDevice, ByteRange, ClusterEncoder, Codec, Device, Error, ErrorKind, ImageInfo, Prealloc,
    Result, ZeroMode, errno,
};
use parking_lot::Mutex;

use crate::codec::{Decoders, Encoder};
use crate::crypt::Aes;
use crate::header::{Entry, Header};
use crate::limits::{MAX_HOST_OFFSET, SECTOR};

/// An image's tables.
#[derive(Debug)]
pub(crate) struct QcowMap {
    storage: Arc<dyn BlockDevice>,
    filename: String,
    header: Header,
    backing: Option<BackingRef>,
    crypt: Option<Aes>,
    tree: EntryTree,
    space: AppendSpace,
    /// Held while a table is made.
    growing: Mutex<()>,
    decoders: Decoders,
}

fn bad_entry() -> Error {
    Error::new(ErrorKind::Corrupt, diskimg_core::strerror(errno::EIO)).with_errno(errno::EIO)
}

impl QcowMap {
    pub(crate) fn new(
        storage: Arc<dyn BlockDevice>,
        filename: &str,
        header: Header,
        backing: Option<BackingRef>,
        crypt: Option<Aes>,
    ) -> Self {
        let end = storage.len().max(header.l1_end());
        let space = AppendSpace::new(&*storage, header.cluster_size(), end, MAX_HOST_OFFSET);
        Self {
            tree: EntryTree::new(Arc::clone(&storage), header.tree()),
            storage,
            filename: filename.to_owned(),
            header,
            backing,
            crypt,
            space,
            growing: Mutex::new(()),
            decoders: Decoders::default(),
        }
    }

    /// The L2 table of an entry of the L1 table, to be written to; it is made if it is missing.
    fn ensure_table(&self, index: u64) -> Result<u64> {
        let known = |table: u64| match table {
            0 => Ok(None),
            // A table behind the end of the file reads as zeros; writing to it would make a huge file.
            offset if offset < self.space.end() => Ok(Some(offset)),
            _ => Err(bad_entry()),
        };
        if let Some(table) = known(self.tree.root_entry(index)?)? {
            return Ok(table);
        }
        let _alone = self.growing.lock();
        if let Some(table) = known(self.tree.root_entry(index)?)? {
            return Ok(table);
        }
        let len = self.header.l2_len();
        let place = self.space.take(len, self.header.cluster_size())?;
        self.tree.add_leaf(index, ByteRange::new(place, len), self.space.is_fresh(place))?;
        Ok(place)
    }

    /// Entries of an L2 table.
    const fn table_entries(&self) -> u64 {
        1 << self.header.l2_bits
    }
}

impl ClusterMap for QcowMap {
    diskimg_core::mapped_file!(crate::DRIVER);

    fn cluster_size(&self) -> u64 {
        self.header.cluster_size()
    }

    fn run_at(&self, cluster: u64, most: u64) -> Result<Run> {
        let (index, within) = self.tree.place_of(cluster);
        let table = self.tree.root_entry(index)?;
        if table == 0 {
            return Ok(Run { place: Place::Absent, count: self.tree.without_leaf(cluster, most)? });
        }
        if table > MAX_HOST_OFFSET {
            return Err(bad_entry());
        }
        let (mut first, mut count) = (0, 0);
        self.tree.leaf_entries(table, within, |entry| {
            let follows = match self.header.decode(first) {
                _ if count == 0 => {
                    first = entry;
                    true
                }
                Some(Entry::Absent) => entry == 0,
                Some(Entry::Stored(offset)) => {
                    Some(entry) == offset.checked_add(count << self.header.cluster_bits)
                }
                Some(Entry::Packed { .. }) | None => false,
            };
            count += u64::from(follows);
            follows && count < most
        })?;
        let place = match self.header.decode(first).ok_or_else(bad_entry)? {
            Entry::Absent => Place::Absent,
            Entry::Stored(offset) => Place::Stored(offset),
            Entry::Packed { offset, len } => Place::Packed { offset, len },
        };
        Ok(Run { place, count: count.max(1) })
    }

    fn unpack(&self, payload: &[u8], out: &mut [u8]) -> Result<()> {
        self.decoders.decode(payload, out)
    }

    fn allocate(&self, cluster: u64, most: u64) -> Result<Space> {
        let (index, within) = self.tree.place_of(cluster);
        self.ensure_table(index)?;
        self.space.take_clusters(most.min(self.table_entries() - within))
    }

    fn give_back(&self, space: Space) {
        self.space.give_back(space);
    }

    fn publish(&self, cluster: u64, count: u64, place: Place) -> Result<()> {
        let mut done = 0;
        while done < count {
            let (index, within) = self.tree.place_of(cluster + done);
            let some = (self.table_entries() - within).min(count - done);
            let table = self.ensure_table(index)?;
            self.tree.set_leaves(table, within, some, |step| {
                self.header.encode_entry(match place {
                    Place::Absent | Place::Zero => Entry::Absent,
                    Place::Stored(offset) => {
                        Entry::Stored(offset + ((done + step) << self.header.cluster_bits))
                    }
                    Place::Packed { offset, len } => Entry::Packed { offset, len },
                })
            })?;
            done += some;
        }
        Ok(())
    }

    fn cipher(&self) -> Option<&dyn DataCipher> {
        self.crypt.as_ref().map(|crypt| crypt as &dyn DataCipher)
    }

    fn packing(&self) -> Option<&dyn Packing> {
        Some(self)
    }

    fn wants_write_back(&self) -> bool {
        self.tree.wants_write_back()
    }

    fn take_dirty(&self) -> Cut {
        self.tree.take_dirty()
    }

    fn not_written(&self, _: Cut) {
        self.tree.written(false);
    }

    fn written(&self, _: u64) {
        self.tree.written(true);
    }

    fn close(&self) {
        if let Some(end) = self.space.surplus().filter(|end| *end < self.storage.len()) {
            // Space that was given back: no harm if it stays.
            let _ = self.storage.set_len(end, Prealloc::Off);
        }
    }

    fn info(&self) -> Result<ImageInfo> {
        Ok(ImageInfo {
            cluster_size: Some(self.header.cluster_size()),
            dirty: Some(false),
            encrypted: self.crypt.is_some(),
            ..ImageInfo::default()
        })
    }

    fn as_clearing(&self) -> Option<&dyn Clearing> {
        Some(self)
    }

    fn backing(&self) -> Option<BackingRef> {
        self.backing.clone()
    }
}

impl Clearing for QcowMap {
    fn clear_tables(&self) -> Result<()> {
        let l1 = ByteRange::from_bounds(self.header.l1_offset, self.header.l1_end());
        // Behind the end of the file there is nothing to take out.
        let l1 = l1.intersect(ByteRange::new(0, self.storage.len()));
        Device::new(Arc::clone(&self.storage)).write_zeroes(l1, ZeroMode::KeepAllocated)?;
        self.storage.flush()?;
        self.tree.clear();
        Ok(())
    }

    fn drop_space(&self) -> Result<()> {
        self.space.start_again(self.header.l1_end());
        self.storage.set_len(self.header.l1_end(), Prealloc::Off)
    }
}

impl Packing for QcowMap {
    fn codec(&self) -> Codec {
        Codec::Deflate
    }

    fn encoder(&self) -> Result<Box<dyn ClusterEncoder>> {
        Ok(Box::new(Encoder::new()))
    }

    fn place_payload(&self, cluster: u64, len: u64) -> Result<u64> {
        if self.crypt.is_some() {
            // It would stand there in the clear.
            return Err(Error::unsupported("Compression and encryption not supported at the same time"));
        }
        self.ensure_table(self.tree.place_of(cluster).0)?;
        let place = self.space.take(len, SECTOR)?;
        if place + len > self.header.payload_limit() {
            return Err(Error::limit("the image has no more room").with_errno(errno::EFBIG));
        }
        Ok(place)
    }
}
