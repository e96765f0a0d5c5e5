//! Opening: headers, log, regions, metadata, block allocation table.
//!
//! A log that has to be replayed is replayed on the host by who may write. Who may only read is refused, as qemu-img
//! does, or replays it in memory: runtime option `replay-log`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use diskimg_core::driver::OpenContext;
use diskimg_core::mapped::MappedImage;
use diskimg_core::{BlockDevice, ByteRange, Error, ErrorKind, Image, Result, errno};

use crate::bat::{self, Geometry};
use crate::damage::Damage;
use crate::header::{self, Current};
use crate::locator::Parent;
use crate::map::{BlockMap, Parts};
use crate::metadata::Metadata;
use crate::region::{Regions, Taken};
use crate::replay::{self, ReplayedDevice};

/// The runtime option: a log is replayed in memory.
pub(crate) const REPLAY_LOG: &str = "replay-log";

/// What the structures of a file say.
struct Found {
    storage: Arc<dyn BlockDevice>,
    current: Current,
    taken: Taken,
    regions: Regions,
    metadata: Metadata,
    parent: Option<Parent>,
    entries: Vec<bat::Entry>,
    replayed: bool,
}

/// How a file is to be opened.
#[derive(Clone, Copy)]
struct How<'a> {
    filename: &'a str,
    write: bool,
    in_memory: bool,
    /// Bad blocks do not matter.
    lenient: bool,
}

/// Opens an image.
pub(crate) fn open(context: OpenContext<'_>) -> Result<Arc<dyn Image>> {
    let OpenContext { storage, filename, mode, options, notices, .. } = context;
    let in_memory = options.take_bool(REPLAY_LOG)?.unwrap_or(false);
    let how = How { filename, write: mode.write, in_memory, lenient: mode.check };
    let found = read(storage, how).map_err(|damage| damage.told(filename, &notices))?;
    let len = found.metadata.disk_size;
    let map = BlockMap::new(Parts {
        storage: found.storage,
        filename: filename.to_owned(),
        current: found.current,
        taken: found.taken,
        regions: found.regions,
        metadata: found.metadata,
        parent: found.parent,
        entries: found.entries,
        replayed: AtomicBool::new(found.replayed),
    });
    Ok(Arc::new(MappedImage::new(map, len, mode.write)))
}

fn read(storage: Arc<dyn BlockDevice>, how: How<'_>) -> Result<Found, Damage> {
    header::check_signature(&*storage)?;
    let mut current = Current::read(&*storage)?;
    current.header.check_log()?;
    let mut taken = Taken::default();
    taken.take(ByteRange::new(current.header.log_offset, current.header.log_len.into()))?;
    let entries = replay::pending(&*storage, &current)?;
    let replayed = !entries.is_empty();
    let storage = if !replayed {
        storage
    } else if how.write {
        replay::apply(&storage, &mut current, &entries)?;
        storage
    } else if how.in_memory {
        Arc::new(ReplayedDevice::new(storage, &current, &entries)?)
    } else {
        return Err(Damage::Storage(dirty(how.filename)));
    };
    let regions = Regions::read(&*storage, &mut taken)?;
    let metadata = Metadata::read(&*storage, regions.metadata.start)?;
    let parent = metadata.locator.as_deref().map(Parent::parse).transpose()?;
    let geometry = Geometry::from(&metadata);
    let entries = bat::read(&*storage, regions.bat, &geometry)?;
    if !how.lenient {
        bat::check(&entries, &geometry, &taken, bat::file_len(&*storage), Err)?;
    }
    Ok(Found { storage, current, taken, regions, metadata, parent, entries, replayed })
}

/// The error for a log that has to be replayed by who may not write.
fn dirty(filename: &str) -> Error {
    let text = format!(
        "VHDX image file '{filename}' opened read-only, but contains a log that needs to be replayed"
    );
    Error::new(ErrorKind::ReadOnly, text)
        .with_errno(errno::EPERM)
        .with_hint(format!("To replay the log, run:\nqemu-img check -r all '{filename}'"))
}
