//! [`Image`]: one layer in a format, and the traits of what some formats can do.

use std::sync::Arc;

use crate::amend::Amend;
use crate::backing::{BackingChange, Emptying};
use crate::bitmap::Bitmaps;
use crate::device::BlockDevice;
use crate::driver::FormatDriver;
use crate::error::Result;
use crate::info::ImageInfo;
use crate::progress::Task;
use crate::reserve::Reservation;
use crate::snapshot::Snapshots;

/// The backing file as an image names it: a name and a format, not an open file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackingRef {
    /// The name exactly as stored.
    pub name: String,
    /// The format as stored, if any.
    pub format: Option<String>,
}

/// A device that belongs to an image, by its role: `file`, `data-file`, …
#[derive(Clone, Debug)]
pub struct Child {
    /// The role. One that ends in a dot is that of several children, which are numbered from 0 on: `extents.0`, …
    pub role: &'static str,
    /// The open device.
    pub device: Arc<dyn BlockDevice>,
}

/// One image layer. It never reads its backing file: what it does not hold itself reads as zeros from it,
/// and `extent_at` says that it is not present.
pub trait Image: BlockDevice {
    /// The format's description.
    fn driver(&self) -> &'static FormatDriver;

    /// What `info` tells of it.
    ///
    /// # Errors
    /// The host's.
    fn info(&self) -> Result<ImageInfo>;

    /// True if what is written gets places in the file by and by, so that the order of the first writes is the layout.
    ///
    /// # Errors
    /// As [`info`](Self::info).
    fn has_places(&self) -> Result<bool> {
        Ok(self.info()?.cluster_size.is_some())
    }

    /// Its backing file, if it has one.
    fn backing(&self) -> Option<BackingRef> {
        None
    }

    /// Looks at the image that comes below it. A format that records its parent's identity refuses another one: the
    /// image still opens, but what this layer does not hold can't be read.
    ///
    /// # Errors
    /// What a reader of such bytes is told.
    fn accepts_backing(&self, backing: &dyn Image) -> Result<()> {
        let _ = backing;
        Ok(())
    }

    /// The image below is about to be changed on purpose, with what this one holds, or was changed so: a format that
    /// records its parent's identity records what it is then, durably.
    ///
    /// # Errors
    /// The host's; `Unsupported` if the record can't be changed.
    fn adopt_backing(&self, backing: &dyn Image) -> Result<()> {
        let _ = backing;
        Ok(())
    }

    /// The devices that hold it; the first is the primary one, `file`.
    fn children(&self) -> Vec<Child>;

    /// The consistency check, if the format has one.
    fn as_check(&self) -> Option<&dyn Check> {
        None
    }

    /// Snapshots inside the image, if the format has them.
    fn as_snapshots(&self) -> Option<&dyn Snapshots> {
        None
    }

    /// Persistent dirty bitmaps, if the format has them.
    fn as_bitmaps(&self) -> Option<&dyn Bitmaps> {
        None
    }

    /// Amending, if the format can do it.
    fn as_amend(&self) -> Option<&dyn Amend> {
        None
    }

    /// Another backing file, if the format can do it.
    fn as_backing_change(&self) -> Option<&dyn BackingChange> {
        None
    }

    /// Emptying, if the format can do it.
    fn as_emptying(&self) -> Option<&dyn Emptying> {
        None
    }

    /// Compressed clusters, if the format has them.
    fn as_compressed(&self) -> Option<&dyn CompressedClusters> {
        None
    }
}

/// What a check may repair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Repair {
    /// Nothing: report only.
    #[default]
    Nothing,
    /// Leaked space only.
    Leaks,
    /// Everything that can be.
    All,
}

/// What a check found. Clusters are counted in the format's own clusters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// The check itself failed in places.
    pub check_errors: u64,
    /// Contradictions that can harm data.
    pub corruptions: u64,
    /// Space that nothing refers to.
    pub leaks: u64,
    /// Corruptions repaired.
    pub corruptions_fixed: u64,
    /// Leaks repaired.
    pub leaks_fixed: u64,
    /// First byte behind everything in use on the host; 0 if unknown.
    pub image_end_offset: u64,
    /// Clusters of the disk.
    pub total_clusters: u64,
    /// Clusters with data.
    pub allocated_clusters: u64,
    /// Clusters that do not follow their predecessor on the host.
    pub fragmented_clusters: u64,
    /// Compressed clusters.
    pub compressed_clusters: u64,
}

/// The consistency check of a format.
pub trait Check {
    /// Walks all metadata. `say` gets each finding, one or more lines without a final newline, in the format's
    /// traditional wording.
    ///
    /// # Errors
    /// Only what keeps it from going on at all; damage is counted in the report.
    fn check(&self, repair: Repair, say: &mut dyn FnMut(&str), task: &Task<'_>) -> Result<CheckReport>;
}

/// The method of a compressed cluster's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// Raw deflate, 4 KiB window.
    Deflate,
    /// Zstandard frames.
    Zstd,
    /// Deflate in a zlib stream (RFC 1950), 32 KiB window.
    Zlib,
}

/// Formats that store clusters compressed.
pub trait CompressedClusters: Send + Sync {
    /// The method new clusters are written with.
    fn codec(&self) -> Codec;

    /// Bytes of guest data in a compressed unit.
    fn cluster_len(&self) -> u64;

    /// A worker's own encoder; encoding takes no lock and does no I/O.
    fn encoder(&self) -> Result<Box<dyn ClusterEncoder>>;

    /// True if nothing else can be written: a conversion then encodes all that it writes, in guest order, and a
    /// payload may be longer than its cluster.
    fn only_encoded(&self) -> bool {
        false
    }

    /// A place for the payload (`payload_len` bytes, less than a cluster) of the cluster at guest byte `offset`.
    /// The reservation has pieces that are relative to the payload.
    ///
    /// # Errors
    /// As `write_at`; `Io` if the cluster has been written before (it can't be replaced by a compressed one).
    fn reserve_encoded(&self, offset: u64, payload_len: u64) -> Result<Reservation<'_>>;

    /// The payload of the compressed cluster at guest byte `offset`, if that cluster is compressed. It may be
    /// followed by a few bytes of padding.
    ///
    /// # Errors
    /// The host's.
    fn read_encoded(&self, offset: u64, payload: &mut Vec<u8>) -> Result<bool>;
}

/// Encodes one cluster after the other; each worker has its own.
pub trait ClusterEncoder: Send {
    /// Compresses a whole cluster into `payload` (cleared first). False: it would not become smaller.
    ///
    /// # Errors
    /// Those of the codec.
    fn encode(&mut self, cluster: &[u8], payload: &mut Vec<u8>) -> Result<bool>;
}
