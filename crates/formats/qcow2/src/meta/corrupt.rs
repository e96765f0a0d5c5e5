//! What happens when an image turns out to contradict itself while it is in use.

use std::sync::atomic::Ordering;

use diskimg_core::driver::NoticeLevel;
use diskimg_core::{ByteRange, Error, ErrorKind, Result, errno};

use super::overlap::overlap_text;
use super::{Meta, State};
use crate::features::CORRUPT;
use crate::settings::Overlap;

/// Header offset of `incompatible_features` (8 bytes).
pub(super) const INCOMPATIBLE_FIELD: u64 = 72;

impl Meta {
    /// Reports a contradiction once; an image open for writing is marked, so that nobody writes to it any more.
    pub(super) fn corruption(&self, text: &str) -> Error {
        self.corruption_held(&mut self.state.write(), text)
    }

    /// The same for who holds the state.
    pub(super) fn corruption_held(&self, state: &mut State, text: &str) -> Error {
        let error = Error::corrupt(format!("qcow2: {text}")).with_errno(errno::EIO);
        if self.reported.swap(true, Ordering::AcqRel) {
            return error;
        }
        let message = if self.writable {
            format!("qcow2: Marking image as corrupt: {text}; further corruption events will be suppressed")
        } else {
            format!("qcow2: Image is corrupt: {text}; further non-fatal corruption events will be suppressed")
        };
        self.notices.say(NoticeLevel::Plain, &message);
        if self.writable {
            self.mark_corrupt(state);
        }
        error
    }

    /// Best effort: the image refuses to work from now on in any case.
    fn mark_corrupt(&self, state: &mut State) {
        if !state.header.is_v3() {
            return;
        }
        state.header.incompatible |= CORRUPT;
        let field = state.header.incompatible.to_be_bytes();
        if self.storage.write_at(INCOMPATIBLE_FIELD, &field).is_ok() {
            let _ = self.storage.flush();
        }
    }

    /// Nobody knows what the header on the host is: nothing is written any more.
    pub(crate) fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
    }

    /// Refuses to go on with an image that was found corrupt while open for writing, or whose header is unknown.
    pub(crate) fn check_usable(&self) -> Result<()> {
        if self.given_up.load(Ordering::Acquire) {
            return Err(Self::broken());
        }
        if self.writable && self.reported.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Poisoned, "the image is corrupt").with_errno(errno::EIO));
        }
        Ok(())
    }

    /// Refuses a write of guest data that would hit metadata.
    pub(crate) fn check_overlap(&self, range: ByteRange) -> Result<()> {
        self.check_metadata_write(range, Overlap::empty())
    }

    /// Refuses a write of metadata that would hit metadata of a kind other than `own`.
    pub(crate) fn check_metadata_write(&self, range: ByteRange, own: Overlap) -> Result<()> {
        self.look(|state| state.refuse_overlap(range, own))
    }

    /// The same for who holds the state.
    pub(super) fn check_held(&self, state: &mut State, range: ByteRange, own: Overlap) -> Result<()> {
        match state.overlapped(range, own) {
            None => Ok(()),
            Some(name) => Err(self.corruption_held(state, &overlap_text(name))),
        }
    }
}
