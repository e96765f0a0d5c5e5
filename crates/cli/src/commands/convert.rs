//! `convert`: copies one or more images into a new or existing one.

use std::ffi::OsString;
use std::num::NonZero;

use diskimg::chain::{Context, Node, OpenOptions};
use diskimg::core::driver::{Caps, Notices, WriteOrder};
use diskimg::core::protocol::CacheMode;
use diskimg::core::{BlockDevice as _, Task};
use diskimg::engine::bitmap::{can_hold_bitmaps, check_bitmaps_consistent, copy_bitmaps};
use diskimg::engine::convert::{
    FIRST_LEN, Outflow, convert_to_stream, follows_source, is_endless, new_image_is_zero,
};
use diskimg::engine::{ConvertOptions, ConvertReport, CreatePlan, CreateRequest, SnapshotName, convert};
use diskimg::file::is_pipe;

use crate::command::{Command, Key, Value, flag, value};
use crate::operation::Operation;
use crate::options::{FORCE_SHARE, HELP, OBJECT, OPTIONS, QUIET, RATE, page};
use crate::snapshot;
use crate::source::{Source, context};
use crate::streams::{Spool, open_output, open_pipes, spool_pipes};
use crate::ui::{Exit, Ui};
use crate::values;
use crate::{objects, option_help};

/// The subcommand.
pub(crate) static COMMAND: Command = Command {
    name: "convert",
    summary: "Copy one image to another with optional format conversion",
    synopsis: "[-f SRC_FMT|--image-opts] [-T SRC_CACHE] [--bitmaps [--skip-broken-bitmaps]]
        [-o TGT_OPTS|--target-image-opts] [-t TGT_CACHE] [-n]
        [-B BACKING_FILENAME [-F BACKING_FMT]]
        SRC_FILENAME [SRC_FILENAME2 [...]] TGT_FILENAME",
    options: &[
        HELP,
        QUIET,
        OBJECT,
        flag(Key::ImageOpts, "", &["source-image-opts", "image-opts"]),
        value(Key::Format, "f", &["source-format"]),
        value(Key::Cache, "T", &["source-cache"]),
        value(Key::Snapshot, "l", &["snapshot"]),
        value(Key::SparseSize, "S", &["sparse-size"]),
        value(Key::TargetFormat, "O", &["output-format"]),
        flag(Key::TargetImageOpts, "", &["target-image-opts"]),
        flag(Key::TargetIsZero, "", &["target-is-zero"]),
        OPTIONS,
        value(Key::TargetCache, "t", &["output-cache"]),
        value(Key::Backing, "B", &["backing"]),
        value(Key::BackingFormat, "F", &["backing-format"]),
        value(Key::Parallel, "m", &["parallel"]),
        flag(Key::CopyRange, "C", &["copy-range-offloading"]),
        flag(Key::Bitmaps, "", &["bitmaps"]),
        flag(Key::Salvage, "", &["salvage"]),
        flag(Key::SkipBrokenBitmaps, "", &["skip-broken-bitmaps"]),
        flag(Key::OutOfOrder, "W", &["oob-writes"]),
        RATE,
        FORCE_SHARE,
        flag(Key::Progress, "p", &[]),
        flag(Key::Compress, "c", &[]),
        flag(Key::NoCreate, "n", &[]),
    ],
    help: &[
        ("-q, --quiet", "quiet operations"),
        ("-p, --progress", "show operation progress"),
        ("-f, --source-format SRC_FMT", "specify SRC_FILENAME source image format explicitly"),
        (
            "--source-image-opts",
            "indicates that SRC_FILENAME is a complete image specification
     instead of a file name (incompatible with --source-format)",
        ),
        ("-l, --source-snapshot SNAPSHOT_PARAMS", "specify source snapshot parameters"),
        ("-T, --source-cache SRC_CACHE", "source image(s) cache mode (writeback)"),
        ("-O, --target-format TGT_FMT", "specify TGT_FILENAME image format (default is raw)"),
        (
            "--target-image-opts",
            "indicates that TGT_FILENAME is a complete image specification
     instead of a file name (incompatible with --output-format)",
        ),
        ("-o, --target-options TGT_OPTS", "TARGET_FMT-specific options"),
        ("-c, --compress", "create compressed output image (qcow and qcow2 format only)"),
        ("-t, --target-cache TGT_CACHE", "cache mode when opening output image (unsafe)"),
        ("-B, --backing BACKING_FILENAME", "create output to be a CoW on top of BACKING_FILENAME"),
        ("-F, --backing-format BACKING_FMT", "specify BACKING_FILENAME image format explicitly"),
        ("-n, --no-create", "omit target volume creation (eg on rbd)"),
        ("--target-is-zero", ""),
        ("-S, --sparse-size SPARSE_SIZE", "XXX todo"),
        ("--bitmaps", "also copy any persistent bitmaps present in source"),
        ("--skip-broken-bitmaps", "skip (do not error out) any broken bitmaps"),
        page::FORCE_SHARE_ALL,
        ("-r, --rate RATE", "I/O rate limit"),
        ("-m, --parallel NUM_COROUTINES", "specify parallelism (default 8)"),
        ("-C, --copy-range-offloading", "use copy_range offloading"),
        ("--salvage", "XXX todo"),
        ("-W, --oob-writes", "enable out-of-order writes to improve performance"),
        page::OBJECT,
        ("SRC_FILENAME", "source image file name (or specification with --image-opts)"),
        ("TGT_FILENAME", "target (output) image file name"),
    ],
    run,
};

#[derive(Debug, Default)]
struct Args {
    quiet: bool,
    progress: bool,
    sources: Vec<Source>,
    snapshot: Option<SnapshotName>,
    target: Target,
    /// Runs of zeros of at least so many bytes become holes; 0: none do.
    sparse_size: Option<u64>,
    rate: Option<u64>,
    parallel: Option<u64>,
    compress: bool,
    copy_range: bool,
    salvage: bool,
    out_of_order: bool,
    bitmaps: bool,
    skip_broken_bitmaps: bool,
    digest: bool,
    /// Where warnings of the conversion go.
    notices: Notices,
}

/// What is written.
#[derive(Debug, Default)]
struct Target {
    filename: String,
    format: Option<String>,
    image_opts: bool,
    options: Option<String>,
    /// Name of the cache mode; looked up only when the target is opened.
    cache: Option<String>,
    backing: Option<String>,
    backing_format: Option<String>,
    exists: bool,
    is_zero: bool,
}

const MAX_PARALLEL: u64 = 16;
const MAX_SPARSE_SIZE: u64 = 16 << 20;
const SECTOR: u64 = 512;

impl Args {
    fn parse(ui: &Ui, args: &[OsString]) -> Result<Self, Exit> {
        let mut parsed = Self::default();
        let mut source = Source::default();
        let mut cache = None;
        let operands = COMMAND.parse(ui, args, |key, value| {
            match key {
                Key::Cache => cache = Some(value.text(ui)?),
                Key::Format | Key::ImageOpts | Key::ForceShare => source.take(ui, key, value)?,
                Key::Object => objects::add(ui, value)?,
                Key::Digest => parsed.digest = true,
                Key::Snapshot => parsed.snapshot = Some(snapshot::parse(ui, value)?),
                Key::SparseSize => parsed.sparse_size = Some(parse_sparse_size(ui, value)?),
                Key::Parallel => parsed.parallel = Some(parse_parallel(ui, value)?),
                Key::Rate => parsed.rate = Some(values::size(ui, "rate limit", &value.text(ui)?)?),
                _ => parsed.take(ui, key, value)?,
            }
            Ok(())
        })?;
        if !parsed.target.image_opts {
            parsed.target.format.get_or_insert_with(|| "raw".to_owned());
        }
        parsed.refuse_contradictions(ui)?;
        parsed.name_images(ui, operands, source, cache.as_deref())?;
        Ok(parsed)
    }

    /// Options of the target, and those without a value.
    fn take(&mut self, ui: &Ui, key: Key, value: Value) -> Result<(), Exit> {
        let target = &mut self.target;
        match key {
            Key::TargetFormat => target.format = Some(value.text(ui)?),
            Key::TargetCache => target.cache = Some(value.text(ui)?),
            Key::Options => values::add_options(ui, &mut target.options, value)?,
            Key::Backing => target.backing = Some(value.text(ui)?),
            Key::BackingFormat => target.backing_format = Some(value.text(ui)?),
            Key::TargetImageOpts => target.image_opts = true,
            Key::TargetIsZero => target.is_zero = true,
            Key::NoCreate => target.exists = true,
            Key::Quiet => self.quiet = true,
            Key::Progress => self.progress = true,
            Key::Compress => self.compress = true,
            Key::CopyRange => self.copy_range = true,
            Key::Salvage => self.salvage = true,
            Key::OutOfOrder => self.out_of_order = true,
            Key::Bitmaps => self.bitmaps = true,
            Key::SkipBrokenBitmaps => self.skip_broken_bitmaps = true,
            _ => {}
        }
        Ok(())
    }

    fn refuse_contradictions(&self, ui: &Ui) -> Result<(), Exit> {
        let target = &self.target;
        let contradictions = [
            (self.skip_broken_bitmaps && !self.bitmaps, "Use of --skip-broken-bitmaps requires --bitmaps"),
            (self.copy_range && self.compress, "Cannot enable copy offloading when -c is used"),
            (self.copy_range && self.sparse_size.is_some(), "Cannot enable copy offloading when -S is used"),
            (self.copy_range && self.salvage, "Cannot use copy offloading in salvaging mode"),
            (target.image_opts && !target.exists, "--target-image-opts requires use of -n flag"),
            (target.exists && target.options.is_some(), "-o has no effect when skipping image creation"),
            (target.is_zero && !target.exists, "--target-is-zero requires use of -n flag"),
        ];
        match contradictions.iter().find(|(wrong, _)| *wrong) {
            Some((_, text)) => Err(ui.fail(text)),
            None => Ok(()),
        }
    }

    /// The last operand is the target. Without any, a request for help is still answered.
    fn name_images(
        &mut self,
        ui: &Ui,
        mut operands: Vec<OsString>,
        source: Source,
        cache: Option<&str>,
    ) -> Result<(), Exit> {
        let target = if operands.len() > 1 { operands.pop() } else { None };
        if self.wants_help() {
            self.target.filename = target.map(|name| ui.text(name)).transpose()?.unwrap_or_default();
            return Ok(());
        }
        let Some(target) = target else { return Err(ui.fail("Must specify image file name")) };
        self.target.filename = ui.text(target)?;
        let source = Source { cache: values::source_cache(ui, cache)?, ..source };
        for name in operands {
            self.sources.push(Source { filename: ui.text(name)?, ..source.clone() });
        }
        Ok(())
    }

    fn wants_help(&self) -> bool {
        values::asks_for_help(self.target.options.as_deref())
    }
}

fn parse_sparse_size(ui: &Ui, value: Value) -> Result<u64, Exit> {
    let what = "buffer size for sparse output";
    let size = values::size(ui, what, &value.text(ui)?)?;
    if size > MAX_SPARSE_SIZE || size % SECTOR != 0 {
        return Err(ui.fail(format!(
            "Invalid {what} specified. Valid sizes are multiples of {SECTOR} up to {MAX_SPARSE_SIZE}. Select 0 to disable sparse detection (fully allocates output)."
        )));
    }
    Ok(size)
}

fn parse_parallel(ui: &Ui, value: Value) -> Result<u64, Exit> {
    let what = "number of coroutines";
    values::number(ui, what, 1..=MAX_PARALLEL, &value.text(ui)?)
}

/// Where the image goes.
enum Way {
    /// Into its file, made by this plan if it does not exist.
    File(Option<CreatePlan>),
    /// Into a pipe, as it comes.
    Pipe(CreatePlan, Outflow),
    /// Into a pipe, once it is whole.
    Spooled(CreatePlan, Spool),
}

impl Args {
    /// The name of the pipe that the image goes to, if it does.
    fn pipe(&self) -> Option<String> {
        let target = &self.target;
        (!target.exists && !target.image_opts && is_pipe(&target.filename)).then(|| target.filename.clone())
    }

    /// Opens the sources and checks the target. Pipes that can't be read as they come, now that it is known what for, are
    /// copied to files first.
    fn choose_way(&mut self, ui: &Ui, context: &Context) -> Result<(Vec<Node>, Way), Exit> {
        let mut sources = self.open_sources(ui)?;
        if self.target.exists {
            if self.target.backing.is_some() && sources.len() > 1 {
                return Err(ui.fail(BACKING_OF_MANY));
            }
            return Ok((sources, Way::File(None)));
        }
        let to_pipe = self.pipe().is_some();
        let mut plan = self.plan(ui, context, &sources)?;
        if self.wants_copies(&plan, &sources) && spool_pipes(ui)? {
            sources = self.open_sources(ui)?;
            plan = self.plan(ui, context, &sources)?;
        }
        if !to_pipe {
            return Ok((sources, Way::File(Some(plan))));
        }
        if let Some(outflow) = self.outflow(&plan, &sources) {
            self.check_bitmaps(ui, &sources)?;
            return Ok((sources, Way::Pipe(plan, outflow)));
        }
        let spool = Spool::for_output(ui, self.target.format.as_deref().unwrap_or_default())?;
        self.target.filename = spool.name();
        let plan = self.plan(ui, context, &sources)?;
        Ok((sources, Way::Spooled(plan, spool)))
    }

    fn outflow(&self, plan: &CreatePlan, sources: &[Node]) -> Option<Outflow> {
        let sources: Vec<&Node> = sources.iter().collect();
        // Bitmaps are added in the end.
        Outflow::of(plan, &sources, &self.options(None)).filter(|_| !self.bitmaps)
    }

    /// True if the sources have to be files.
    fn wants_copies(&self, plan: &CreatePlan, sources: &[Node]) -> bool {
        let ordered = plan.write_order() != WriteOrder::Any && !self.compress && !self.bitmaps;
        if self.pipe().is_some() && ordered {
            return self.outflow(plan, sources).is_none();
        }
        sources.iter().any(is_endless) && !follows_source(plan)
    }
}

fn run(ui: &Ui, args: &[OsString]) -> Result<(), Exit> {
    let mut args = Args::parse(ui, args)?;
    if args.wants_help() {
        let format = args.target.format.as_deref().unwrap_or_default();
        let filename = Some(args.target.filename.as_str()).filter(|name| !name.is_empty());
        let page = option_help::page(&context(ui), format, filename);
        ui.print(&page.map_err(|error| ui.library_error(&error))?);
        return Ok(());
    }
    let pipe = args.pipe();
    if pipe.as_deref() == Some("-") {
        ui.take_output();
    }
    let operation = Operation::new(ui, args.progress && !args.quiet, PROGRESS_STEP);
    open_pipes(ui, &context(ui), &mut args.sources, &operation.token())?;
    let context = context(ui).with_cancel(operation.token());
    args.notices = if args.quiet { Notices::default() } else { context.notices.clone() };
    let (sources, way) = args.choose_way(ui, &context)?;
    let report = match way {
        Way::Pipe(plan, outflow) => {
            let nodes: Vec<&Node> = sources.iter().collect();
            let out = open_output(ui, &args.target.filename)?;
            let over_backing = plan.options().get_str("backing_file").is_some();
            let options = ConvertOptions { over_backing, ..args.options(None) };
            let convert = |task: &Task<'_>| convert_to_stream(&nodes, &plan, outflow, &options, out, task);
            let report = operation.run(convert, || {})?;
            operation.finish();
            report
        }
        Way::File(plan) => args.convert_to_file(ui, &context, &sources, plan, &operation)?,
        Way::Spooled(plan, spool) => {
            let report = args.convert_to_file(ui, &context, &sources, Some(plan), &operation)?;
            spool.send(ui, open_output(ui, pipe.as_deref().unwrap_or("-"))?)?;
            report
        }
    };
    drop(operation);
    tell_digest(ui, &report);
    Ok(())
}

impl Args {
    fn convert_to_file(
        &self,
        ui: &Ui,
        context: &Context,
        sources: &[Node],
        plan: Option<CreatePlan>,
        operation: &Operation<'_>,
    ) -> Result<ConvertReport, Exit> {
        let target = self.open_target(ui, plan, sources, operation)?;
        let options = self.options(Some(&target));
        let nodes: Vec<&Node> = sources.iter().collect();
        let undo = || target.made.as_ref().map_or((), CreatePlan::remove);
        let work = |task: &Task<'_>| {
            // What came through a pipe can't be converted once more.
            convert(&nodes, &target.node, &options, task).inspect_err(|_| {
                if ui.with_pipes(|pipes| !pipes.is_empty()) {
                    undo();
                }
            })
        };
        let report = operation.run(work, undo)?;
        operation.finish();
        if let ([source], true) = (nodes.as_slice(), self.bitmaps) {
            copy_bitmaps(source, &target.node, &context.notices).map_err(|error| ui.library_error(&error))?;
        }
        Ok(report)
    }
}

/// Tells the digest, on standard error where standard output is taken.
fn tell_digest(ui: &Ui, report: &ConvertReport) {
    let Some(digest) = report.digest else { return };
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let line = format!("sha256: {hex}\n");
    if ui.is_output_taken() { ui.complain(line.as_bytes()) } else { ui.print(&line) }
}

const BACKING_OF_MANY: &str =
    "Having a backing file for the target makes no sense when concatenating multiple input images";

/// Percent between two prints of progress.
const PROGRESS_STEP: u8 = 1;

/// The open target.
struct OpenTarget {
    node: Node,
    has_backing: bool,
    /// How it was made, if it was.
    made: Option<CreatePlan>,
}

impl Args {
    fn open_sources(&self, ui: &Ui) -> Result<Vec<Node>, Exit> {
        let mut nodes = Vec::new();
        for source in &self.sources {
            let options = OpenOptions { convert_source: true, ..OpenOptions::read() };
            nodes.push(source.open(ui, options)?);
        }
        if let Some(snapshot) = &self.snapshot {
            let by_options = matches!(snapshot, SnapshotName::Exact { .. });
            match nodes.as_mut_slice() {
                // Spelled out, it is that of the first image.
                [node, others @ ..] if others.is_empty() || by_options => {
                    *node = snapshot::load(ui, node, snapshot)?;
                }
                _ => return Err(ui.fail("No support for concatenating multiple snapshot")),
            }
        }
        Ok(nodes)
    }

    fn open_target(
        &self,
        ui: &Ui,
        plan: Option<CreatePlan>,
        sources: &[Node],
        operation: &Operation<'_>,
    ) -> Result<OpenTarget, Exit> {
        let has_backing = match &plan {
            Some(plan) => plan.options().get_str("backing_file").is_some(),
            None => self.target.backing.is_some(),
        };
        self.check_bitmaps(ui, sources)?;
        let cache = values::target_cache(ui, self.target.cache.as_deref())?;
        let mut secrets = Vec::new();
        if let Some(plan) = &plan {
            // What the new image was encrypted with opens it.
            secrets.extend(plan.options().shown());
            secrets.retain(|(name, _)| name.ends_with("key-secret"));
            let text = format!("error while converting {}", plan.maker().name());
            let make =
                || plan.run().map_err(|error| error.context(text).context(self.target.filename.clone()));
            operation.prepare(make, || plan.remove())?;
        } else if self.target.is_zero && has_backing {
            return Err(ui.fail("Cannot use --target-is-zero when the destination image has a backing file"));
        }
        let node = Source { secrets, ..self.target.source(cache) }.open(ui, OpenOptions::write())?;
        self.check_target(ui, &node)?;
        Ok(OpenTarget { node, has_backing, made: plan })
    }

    /// Checks everything that the new image is to be.
    fn plan(&self, ui: &Ui, context: &Context, sources: &[Node]) -> Result<CreatePlan, Exit> {
        let request = CreateRequest {
            filename: &self.target.filename,
            format: self.target.format.as_deref().unwrap_or_default(),
            size: Some(sources.iter().map(planned_len).fold(0, u64::saturating_add)),
            options: self.target.options.as_deref().unwrap_or_default(),
            backing: self.target.backing.as_deref(),
            backing_format: self.target.backing_format.as_deref(),
            unchecked: false,
            for_convert: true,
        };
        let plan = CreatePlan::new(context, &request).map_err(|error| ui.library_error(&error))?;
        let given = |name: &str| plan.options().get_str(name);
        let contradictions = [
            (given("backing_file").is_some() && sources.len() > 1, BACKING_OF_MANY),
            (
                given("backing_file").is_some() && given("backing_fmt").is_none(),
                "Use of backing file requires explicit backing format",
            ),
            (self.compress && !plan.maker().format().caps.contains(Caps::COMPRESS), COMPRESSION_REFUSED),
            (
                self.compress && (given("encrypt.format").is_some() || plan.options().get_bool("encryption")),
                ENCRYPTED_AND_COMPRESSED,
            ),
            (
                self.compress && given("preallocation").is_some_and(|mode| mode != "off"),
                "Compression and preallocation not supported at the same time",
            ),
        ];
        match contradictions.iter().find(|(wrong, _)| *wrong) {
            Some((_, text)) => Err(ui.fail(text)),
            None => Ok(plan),
        }
    }

    fn check_bitmaps(&self, ui: &Ui, sources: &[Node]) -> Result<(), Exit> {
        if !self.bitmaps {
            return Ok(());
        }
        let [source] = sources else {
            return Err(ui.fail("Copying bitmaps only possible with single source"));
        };
        if !can_hold_bitmaps(source) {
            return Err(ui.fail("Source lacks bitmap support"));
        }
        if self.skip_broken_bitmaps {
            return Ok(());
        }
        check_bitmaps_consistent(source).map_err(|error| ui.library_error(&error))
    }

    fn check_target(&self, ui: &Ui, target: &Node) -> Result<(), Exit> {
        if self.bitmaps && !can_hold_bitmaps(target) {
            let format = target.format();
            return Err(ui.fail(format!("Format driver '{format}' does not support bitmaps")));
        }
        if self.compress && !target.image().driver().caps.contains(Caps::COMPRESS) {
            return Err(ui.fail(COMPRESSION_REFUSED));
        }
        // Compressed clusters would stand in the clear.
        if self.compress && target.image().info().is_ok_and(|info| info.encrypted) {
            return Err(ui.fail(ENCRYPTED_AND_COMPRESSED));
        }
        Ok(())
    }

    /// `target`: the image in its file, if it goes there.
    fn options(&self, target: Option<&OpenTarget>) -> ConvertOptions {
        let defaults = ConvertOptions::default();
        let is_new = !self.target.exists;
        // A coroutine waits where a thread would hold a processor: more of these bring nothing.
        let most = std::thread::available_parallelism().map_or(1, NonZero::get).saturating_mul(2);
        let workers =
            self.parallel.and_then(|count| usize::try_from(count).ok()).map(|count| count.min(most));
        ConvertOptions {
            compress: self.compress,
            sparse_size: self.sparse_size.unwrap_or(defaults.sparse_size),
            target_is_zero: self.target.is_zero
                || target.is_some_and(|target| is_new && new_image_is_zero(&target.node)),
            over_backing: target.is_some_and(|target| target.has_backing),
            out_of_order: self.out_of_order,
            workers: workers.and_then(NonZero::new),
            copy_range: self.copy_range,
            salvage: self.salvage,
            rate_limit: self.rate.and_then(NonZero::new),
            digest: self.digest,
            fit_target: is_new,
            notices: self.notices.clone(),
        }
    }
}

/// The length of the disk that `source` needs, as far as that is known.
fn planned_len(source: &Node) -> u64 {
    if is_endless(source) { FIRST_LEN } else { source.device().len() }
}

const ENCRYPTED_AND_COMPRESSED: &str = "Compression and encryption not supported at the same time";

const COMPRESSION_REFUSED: &str = "Compression not supported for this file format";

impl Target {
    /// The target as an image to open.
    fn source(&self, cache: CacheMode) -> Source {
        Source {
            filename: self.filename.clone(),
            format: self.format.clone(),
            image_opts: self.image_opts,
            cache,
            ..Source::default()
        }
    }
}
