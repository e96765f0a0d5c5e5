//! [`FilterDriver`]: what stands between an image and what holds it, or in front of an image: a device over devices.

use std::any::Any;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::device::BlockDevice;
use crate::driver::FormatDriver;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::options::RuntimeOptions;

/// Objects that options name, by identifier: throttle groups. What kind an object has is for its users to see.
#[derive(Clone, Debug, Default)]
pub struct Objects(BTreeMap<String, Arc<dyn SharedObject>>);

/// An object of some kind.
pub trait SharedObject: fmt::Debug + Send + Sync {
    /// It as the type that it is.
    fn as_any(&self) -> &dyn Any;
}

impl Objects {
    /// Adds an object; false (and nothing changed) if the identifier is taken.
    pub fn add(&mut self, id: &str, object: Arc<dyn SharedObject>) -> bool {
        if self.0.contains_key(id) {
            return false;
        }
        self.0.insert(id.to_owned(), object);
        true
    }

    /// The object called `id`.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Arc<dyn SharedObject>> {
        self.0.get(id)
    }
}

/// Whether an image has been opened, and which of its user's requests is under way. Shared by all nodes of one opening.
#[derive(Clone, Debug, Default)]
pub struct Opened(Arc<AtomicBool>);

/// A request that a layer has from its user, rather than what a format reads and writes for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Bytes are read.
    Read,
    /// Bytes or zeros are written, or discarded.
    Write,
    /// What was written becomes durable.
    Flush,
}

thread_local! {
    /// A request and all that it leads to run on one thread.
    static ASKED: Cell<Option<Asked>> = const { Cell::new(None) };
}

/// A request of the user, until it is dropped.
#[derive(Debug)]
pub struct Serving {
    outer: Option<Asked>,
    here: PhantomData<*const ()>,
}

impl Opened {
    /// All is open now.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// A request of the user reaches a layer.
    #[must_use]
    pub fn serve(&self, asked: Asked) -> Serving {
        Serving { outer: ASKED.replace(Some(asked)), here: PhantomData }
    }

    /// The user's request that is under way on this thread.
    #[must_use]
    pub fn serving(&self) -> Option<Asked> {
        ASKED.get().filter(|_| self.0.load(Ordering::Acquire))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        ASKED.set(self.outer);
    }
}

/// A node below a filter.
#[derive(Clone, Debug)]
pub struct FilterChild {
    /// Its role; those of a numbered role are counted from 0 on.
    pub role: String,
    /// The disk, with what is below it.
    pub device: Arc<dyn BlockDevice>,
    /// The layer itself.
    pub image: Arc<dyn Image>,
    /// The name of its format or protocol.
    pub format: &'static str,
}

/// How a filter is opened.
#[derive(Debug)]
pub struct FilterOpen<'a> {
    /// The open nodes below it, in the order of [`FilterDriver::roles`].
    pub children: Vec<FilterChild>,
    /// For writing too.
    pub write: bool,
    /// Options given to this node; the filter takes out what it knows.
    pub options: &'a mut RuntimeOptions,
    /// What options name.
    pub objects: &'a Objects,
    /// Whether all of it is open.
    pub opened: Opened,
}

impl FilterOpen<'_> {
    /// The child of a filter with a single one.
    ///
    /// # Errors
    /// `InvalidArg` if there is none.
    pub fn only_child(&self) -> Result<FilterChild> {
        self.children.first().cloned().ok_or_else(|| Error::invalid("the filter has nothing below it"))
    }
}

/// Below a child's prefix: a name that is opened as any name, with its protocol and a probed format. Names of filters
/// are turned into it; it is nothing that users say.
pub const PROBED_NAME: &str = "x-probed-name";

/// A role of children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChildRole {
    /// Its name, the prefix of its options.
    pub name: &'static str,
    /// It is an image in a format; otherwise a file unless options say another driver.
    pub is_image: bool,
    /// There are several, numbered from 0 on.
    pub many: bool,
}

/// A filter. One `pub static` each.
pub struct FilterDriver {
    /// What it is as a node: name and abilities. It makes and probes nothing.
    pub node: &'static FormatDriver,
    /// The prefix of names that choose it, such as `blkdebug:`.
    pub prefix: Option<&'static str>,
    /// Messages speak of a protocol rather than of a format.
    pub is_protocol: bool,
    /// The children it needs.
    pub roles: &'static [ChildRole],
    /// Reads do not change what a child's extents tell: `map` sees through it.
    pub is_transparent: bool,
    /// Relative names in an image over it start from the folder of its first child.
    pub has_folder: bool,
    /// Turns the rest of a name behind the prefix into options.
    pub parse_name: fn(&str, &mut RuntimeOptions) -> Result<()>,
    /// Options that name files of its own on the host.
    pub files: &'static [&'static str],
    /// True for options that belong to the displayed name.
    pub is_strong: fn(&str) -> bool,
    /// The displayed name, where that of its children (in their order) and its options can be said in one.
    pub plain_name: fn(&[&str], &RuntimeOptions) -> Option<String>,
    /// Opens it over its children.
    pub open: fn(FilterOpen<'_>) -> Result<Arc<dyn Image>>,
}

impl fmt::Debug for FilterDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilterDriver").field("name", &self.node.name).finish_non_exhaustive()
    }
}
