//! Conversions into what can't be written but from front to end: a pipe.
//!
//! | order of the format | how | memory |
//! |---|---|---|
//! | plain (raw) | the bytes of the guest as they come, zeros as zeros | threads × 256 KiB |
//! | planned (qcow2) | first its tables are made in memory, by the same pipeline and the same driver, which only look where there are zeros; then tables and data go out in the order of their places | the tables: about 1/6500 of the data |
//! | appended (vmdk streams) | its clusters as the driver appends them | threads × 1 MiB |
//!
//! What is in none of these orders ([`Outflow::of`] says so) has to be made in a file first.

use std::io::Write;
use std::sync::Arc;

use diskimg_chain::{Node, NodeParts};
use diskimg_core::driver::{Caps, Notices, OpenContext, OpenMode, WriteOrder};
use diskimg_core::opener::NoReferences;
use diskimg_core::options::RuntimeOptions;
use diskimg_core::{BlockDevice, Result, Task};

use super::append::Appended;
use super::digest::Running;
use super::emit::{Emission, Plain, Planned};
use super::layout::Sparse;
use super::manner::{Manner, Sketch, unplanned};
use super::source::{Sources, is_endless};
use super::{
    ConvertOptions, ConvertReport, Scope, base_depth, copy, new_image_is_zero, pipeline, with_digest, zeros,
};
use crate::create::CreatePlan;

/// How an image goes into a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outflow {
    /// The bytes of the guest.
    Plain,
    /// By a layout that is made first. The source is looked through twice.
    Planned,
    /// Cluster by cluster, behind a front of so many bytes.
    Appended {
        /// Bytes.
        front: u64,
    },
}

impl Outflow {
    /// How the image of `plan` can go into a pipe while `sources` are converted into it; `None` if it has to be made in a file
    /// first: its format writes in any order, its clusters are to be compressed (their places follow from their lengths), or
    /// it has to be known beforehand what comes through a pipe.
    #[must_use]
    pub fn of(plan: &CreatePlan, sources: &[&Node], options: &ConvertOptions) -> Option<Self> {
        let in_order = Sources::new(sources, Scope::All).in_order();
        match plan.write_order() {
            WriteOrder::Plain => Some(Self::Plain),
            WriteOrder::Planned if !options.compress && !in_order => Some(Self::Planned),
            WriteOrder::Appended { front } if !sources.iter().any(|node| is_endless(node)) => {
                Some(Self::Appended { front })
            }
            _ => None,
        }
    }
}

/// The length, in bytes, that a target is made with that follows a source whose end nobody knows.
pub const FIRST_LEN: u64 = 1 << 30;

/// True if an image that is made by `plan` can follow a source whose end nobody knows: it can be made longer and shorter,
/// and nothing of it was made for its length.
#[must_use]
pub fn follows_source(plan: &CreatePlan) -> bool {
    let allocated = plan.options().get_str("preallocation").is_some_and(|mode| mode != "off");
    let order = plan.write_order();
    matches!(order, WriteOrder::Plain | WriteOrder::Planned)
        && plan.maker().format().caps.contains(Caps::RESIZE)
        && !allocated
}

/// Makes the image of `plan`, fills it with the disks `sources`, one behind the other, and writes its file to `out`, from
/// front to end. No file is made.
///
/// # Errors
/// As [`convert`](super::convert), and those of making the image; `error while writing to the output` with the cause;
/// `Limit` if the tables are too large. What went out then is a part of the image.
pub fn convert_to_stream(
    sources: &[&Node],
    plan: &CreatePlan,
    outflow: Outflow,
    options: &ConvertOptions,
    out: Box<dyn Write + Send>,
    task: &Task<'_>,
) -> Result<ConvertReport> {
    match outflow {
        Outflow::Plain => plain(&Sources::new(sources, Scope::All), options, out, task),
        Outflow::Planned => planned(sources, plan, options, out, task),
        Outflow::Appended { front } => appended(sources, plan, front, options, out, task),
    }
}

fn plain(
    sources: &Sources<'_>,
    options: &ConvertOptions,
    out: Box<dyn Write + Send>,
    task: &Task<'_>,
) -> Result<ConvertReport> {
    let running = options.digest.then(Running::default);
    let written = Emission::run(Plain::new(sources), sources, (None, running.as_ref()), out, options, task)?;
    let total = sources.known_len();
    let digest = running.map(|running| running.finish(total));
    Ok(ConvertReport { total, written, unreadable: Vec::new(), digest })
}

fn planned(
    sources: &[&Node],
    plan: &CreatePlan,
    options: &ConvertOptions,
    out: Box<dyn Write + Send>,
    task: &Task<'_>,
) -> Result<ConvertReport> {
    let held = Arc::new(Sparse::default());
    plan.run_in(as_device(&held))?;
    let target = open(plan, as_device(&held))?;
    if target.image().as_compressed().is_some_and(|clusters| clusters.only_encoded()) {
        return Err(unplanned());
    }
    let options = &fresh(&target, options);
    let depth =
        if options.over_backing { sources.first().and_then(|top| base_depth(top, &target)) } else { None };
    let sources = &Sources::new(sources, depth.map_or(Scope::All, Scope::Above));
    let sketch = Sketch::default();
    let quiet = Task { progress: &(), cancel: task.cancel.clone() };
    let manner = Manner { sketch: Some(&sketch), ..Manner::default() };
    let report = pipeline::run(sources, &target, options, zeros(&target, options), manner, &quiet)?;
    target.device().flush()?;
    drop(target);
    let script = Planned::new(Arc::clone(&held), sketch.into_runs());
    let emit = || {
        Emission::run(script, sources, (Some(&held), None), out, options, task)
            .map(|written| ConvertReport { written, ..report })
    };
    if options.digest { with_digest(sources, options.salvage, emit) } else { emit() }
}

fn appended(
    sources: &[&Node],
    plan: &CreatePlan,
    front: u64,
    options: &ConvertOptions,
    out: Box<dyn Write + Send>,
    task: &Task<'_>,
) -> Result<ConvertReport> {
    let made = Arc::new(Sparse::default());
    plan.run_in(as_device(&made))?;
    let file = Arc::new(Appended::new(made, front, out)?);
    let storage: Arc<dyn BlockDevice> = file.clone();
    let target = open(plan, storage)?;
    let manner = Manner { at_once: true, ..Manner::default() };
    let report = copy(sources, &target, &fresh(&target, options), manner, task)?;
    target.device().flush()?;
    drop(target);
    file.finish()?;
    Ok(report)
}

/// The options for a target that was made just now.
fn fresh(target: &Node, options: &ConvertOptions) -> ConvertOptions {
    ConvertOptions {
        target_is_zero: new_image_is_zero(target),
        copy_range: false,
        out_of_order: false,
        fit_target: false,
        ..options.clone()
    }
}

fn as_device(held: &Arc<Sparse>) -> Arc<dyn BlockDevice> {
    Arc::<Sparse>::clone(held)
}

/// Opens the image that was made in `storage`, alone.
fn open(plan: &CreatePlan, storage: Arc<dyn BlockDevice>) -> Result<Node> {
    let image = (plan.maker().format().open)(OpenContext {
        storage,
        filename: "",
        mode: OpenMode { write: true, ..OpenMode::default() },
        options: &mut RuntimeOptions::new(),
        opener: &NoReferences,
        notices: Notices::default(),
    })?;
    Ok(Node::assemble(NodeParts::new(image, ""), None))
}
