//! [`DescriptorFile`]: the descriptor of an open image, whose content identifier changes with the first write.
//!
//! The identifier is durable before the first byte of data changes, so that an overlay never takes changed contents for its
//! parent's. A new one has as many digits as the old one where that has at least six: it takes its place, within a sector.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use diskimg_core::{BlockDevice, ByteRange, Error, Result, len_u64, read_table, to_usize};
use parking_lot::{Mutex, RwLock};

use crate::descriptor::{self, Identity};
use crate::descriptor_write::new_cid;
use crate::error::VmdkError;
use crate::limits::{EMBEDDED_DESCRIPTOR, MAX_REWRITTEN_DESCRIPTOR};

/// Fewest digits of an identifier that is replaced where it stands.
const MIN_DIGITS: usize = 6;

/// Where the descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A file of its own.
    File,
    /// In these bytes of a sparse extent.
    Embedded(ByteRange),
}

/// The descriptor of an open image.
#[derive(Debug)]
pub(crate) struct DescriptorFile {
    io: Arc<dyn BlockDevice>,
    place: Place,
    identity: RwLock<Identity>,
    touched: AtomicBool,
    touching: Mutex<()>,
}

impl DescriptorFile {
    pub(crate) fn new(io: Arc<dyn BlockDevice>, place: Place, identity: Identity) -> Self {
        let identity = RwLock::new(identity);
        Self { io, place, identity, touched: AtomicBool::new(false), touching: Mutex::new(()) }
    }

    /// What it says now.
    pub(crate) fn identity(&self) -> Identity {
        self.identity.read().clone()
    }

    /// Called before every change: the first one gives the contents another identifier.
    pub(crate) fn touch(&self) -> Result<()> {
        if self.touched.load(Ordering::Acquire) {
            return Ok(());
        }
        let _alone = self.touching.lock();
        if self.touched.load(Ordering::Acquire) {
            return Ok(());
        }
        let cid = self.renew()?;
        self.io.flush()?;
        self.identity.write().cid = cid;
        self.touched.store(true, Ordering::Release);
        Ok(())
    }

    fn range(&self) -> ByteRange {
        match self.place {
            Place::File => ByteRange::new(0, self.io.len()),
            Place::Embedded(range) => range.intersect(ByteRange::new(range.start, EMBEDDED_DESCRIPTOR)),
        }
    }

    /// Takes note of the parent's identifier, durably.
    pub(crate) fn set_parent(&self, cid: u32) -> Result<()> {
        let _alone = self.touching.lock();
        if self.identity.read().parent_cid == cid {
            return Ok(());
        }
        let needed = format!("{cid:x}").len();
        self.rewrite(descriptor::parent_cid_value, |digits| (digits >= needed).then_some(cid), cid)?;
        self.io.flush()?;
        self.identity.write().parent_cid = cid;
        Ok(())
    }

    fn renew(&self) -> Result<u32> {
        let old = self.identity.read().cid;
        let same_len = |digits: usize| (MIN_DIGITS..=8).contains(&digits).then(|| new_cid(digits, old));
        self.rewrite(descriptor::cid_value, same_len, new_cid(8, old))
    }

    /// Replaces the number that `find` finds: by what `in_place` says for one with so many digits, or by `otherwise`,
    /// which moves what follows it.
    fn rewrite(
        &self,
        find: fn(&str) -> Option<usize>,
        in_place: impl FnOnce(usize) -> Option<u32>,
        otherwise: u32,
    ) -> Result<u32> {
        let range = self.range();
        let bytes = read_table(&*self.io, range.start, range.len, MAX_REWRITTEN_DESCRIPTOR, "descriptor")?;
        // Places in the text are places in the file, also where that is no UTF-8.
        let text = descriptor::text_of(&bytes);
        let at = find(&text).ok_or(VmdkError::Invalid)?;
        let rest = text.get(at..).unwrap_or_default();
        let old_len = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let digits = descriptor::hex_len(rest);
        let start = range.start + len_u64(text.get(..at).unwrap_or_default().as_bytes());
        let behind = bytes.get(at.saturating_add(old_len)..text.len()).unwrap_or_default();
        if let Some(cid) = in_place(digits).filter(|_| digits == old_len && digits <= 8) {
            self.io.write_at(start, format!("{cid:0digits$x}").as_bytes())?;
            return Ok(cid);
        }
        let mut tail = [format!("{otherwise:x}").as_bytes(), behind].concat();
        match self.place {
            Place::File => {}
            Place::Embedded(_) => {
                let room = to_usize(range.end().saturating_sub(start));
                if tail.len() > room {
                    return Err(Error::from(VmdkError::Invalid));
                }
                tail.resize(room, 0);
            }
        }
        self.io.write_at(start, &tail)?;
        Ok(otherwise)
    }
}
