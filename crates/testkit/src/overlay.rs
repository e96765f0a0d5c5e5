//! [`OverlaySubject`]: an image over a backing file, as a chain joins them: writes are copy-on-write.

use std::sync::Arc;

use diskimg_chain::Node;
use diskimg_core::driver::{FormatDriver, OpenMode};
use diskimg_core::opener::NoReferences;
use diskimg_core::{BlockDevice, Result, to_usize};

use crate::ops::{OpMix, pattern};
use crate::session::Session;
use crate::subject::{FormatSubject, MemOpener, Opened, Subject, open_image, open_image_with};

/// An image over a backing file that is full of a pattern. The storages are called `image` and `base`.
#[derive(Clone, Debug)]
pub struct OverlaySubject {
    /// The image on top; without `backing_file` among its options.
    pub top: FormatSubject,
    /// The backing file; its format must be able to create images without options.
    pub base: &'static FormatDriver,
    /// Bytes of the backing file's disk; may be shorter or longer than the image.
    pub base_len: u64,
    /// Its [`pattern`].
    pub seed: u64,
}

impl OverlaySubject {
    /// Random operations that grow and shrink the disk too: each works, and what is read is as a flat disk has it, also
    /// when it was closed and opened again. `most`: bytes of an operation at most.
    ///
    /// # Panics
    /// If not.
    pub fn is_as_flat(&self, seed: u64, most: u64) {
        let mut session = Session::in_memory(self);
        for op in OpMix::changes(self.top.size).script(seed, 120, self.top.size, most) {
            session.must(&op);
        }
        session.verify_reopened();
    }

    fn base(&self) -> FormatSubject {
        FormatSubject { driver: self.base, options: Vec::new(), size: self.base_len }
    }
}

impl Subject for OverlaySubject {
    fn name(&self) -> String {
        format!("{} over {} of {} bytes", self.top.name(), self.base.name, self.base_len)
    }

    fn disks(&self) -> Vec<&'static str> {
        vec!["image", "base"]
    }

    fn create(&self, disks: &[Arc<dyn BlockDevice>]) -> Result<()> {
        let base = self.base();
        base.create(&disks[1..])?;
        let opened = base.open(&disks[1..], true)?;
        opened.device.write_at(0, &pattern(self.seed, 0, self.base_len))?;
        opened.device.flush()?;
        drop(opened);
        let mut options = self.top.parsed()?;
        options.set("backing_file", "base")?;
        options.set("backing_fmt", self.base.name)?;
        let opener = MemOpener::new([("base".to_owned(), Arc::clone(&disks[1]))]);
        self.top.create_in(Arc::clone(&disks[0]), &options, &opener)
    }

    fn open(&self, disks: &[Arc<dyn BlockDevice>], write: bool) -> Result<Opened> {
        let base = open_image(self.base, Arc::clone(&disks[1]), OpenMode::default(), &NoReferences)?;
        let mode = OpenMode { write, ..OpenMode::default() };
        let (storage, options) = (Arc::clone(&disks[0]), self.top.runtime_options());
        let image = open_image_with(self.top.driver, storage, mode, &MemOpener::default(), options)?;
        let below = Opened::chain(base, None, false).node;
        Ok(Opened::chain(image, below.as_ref(), write))
    }

    fn initial(&self) -> Vec<u8> {
        let mut bytes = pattern(self.seed, 0, self.base_len.min(self.top.size));
        bytes.resize(to_usize(self.top.size), 0);
        bytes
    }

    fn format(&self) -> &'static str {
        self.top.driver.name
    }
}

/// The node of a plain image on `storage`.
///
/// # Errors
/// The driver's.
pub fn plain_node(driver: &'static FormatDriver, storage: Arc<dyn BlockDevice>, write: bool) -> Result<Node> {
    let mode = OpenMode { write, ..OpenMode::default() };
    let image = open_image(driver, storage, mode, &NoReferences)?;
    Ok(Opened::chain(image, None, write).node.expect("a node"))
}
