//! `bench`: times requests to an image.
//!
//! What the library does: [`bench()`] with [`BenchOptions`].

use std::ffi::OsString;

use diskimg::chain::{ImageSpec, Node, OpenOptions};
use diskimg::core::Task;
use diskimg::core::protocol::CacheMode;
use diskimg::core::size::MAX_IMAGE_SIZE;
use diskimg::engine::{BenchKind, BenchOptions, bench};

use crate::command::{Command, Key, Value, flag, value};
use crate::options::{CACHE, FORCE_SHARE, FORMAT, HELP, IMAGE_OPTS, page};
use crate::source::{Source, context};
use crate::ui::{Exit, Ui};
use crate::values;

/// The subcommand.
pub(crate) static COMMAND: Command = Command {
    name: "bench",
    summary: "Run simple image benchmark",
    synopsis: "[-f FMT | --image-opts] [-t CACHE] [-c COUNT] [-d DEPTH]
        [-o OFFSET] [-s BUFFER_SIZE] [-S STEP_SIZE] [-i AIO] [-n]
        [-w [--pattern PATTERN] [--flush-interval INTERVAL [--no-drain]]]",
    options: &[
        HELP,
        FORMAT,
        IMAGE_OPTS,
        CACHE,
        value(Key::Count, "c", &["count"]),
        value(Key::Depth, "d", &["depth"]),
        value(Key::Offset, "o", &["offset"]),
        value(Key::BufferSize, "s", &["buffer-size"]),
        value(Key::StepSize, "S", &["step-size"]),
        value(Key::Aio, "i", &["aio"]),
        flag(Key::Native, "n", &["native"]),
        flag(Key::Write, "w", &["write"]),
        value(Key::Pattern, "", &["pattern"]),
        value(Key::FlushInterval, "", &["flush-interval"]),
        flag(Key::NoDrain, "", &["no-drain"]),
        FORCE_SHARE,
        flag(Key::Quiet, "q", &[]),
    ],
    help: &[
        ("-q, --quiet", "quiet operations"),
        ("-f, --format FMT", "specify FILENAME format explicitly"),
        page::IMAGE_OPTS,
        ("-t, --cache CACHE", "cache mode for FILENAME (writeback)"),
        ("-c, --count COUNT", "number of I/O requests to perform"),
        ("-s, --buffer-size BUFFER_SIZE", "size of each I/O request"),
        ("-d, --depth DEPTH", "number of requests to perform in parallel"),
        ("-o, --offset OFFSET", "start first request at this OFFSET"),
        ("-S, --step-size STEP_SIZE", "each next request offset increment"),
        ("-i, --aio AIO", "async-io backend (threads, native, io_uring)"),
        ("-n, --native", "use native AIO backend if possible"),
        ("-w, --write", "perform write test (default is read)"),
        ("--pattern PATTERN", "write this pattern byte instead of zero"),
        ("--flush-interval FLUSH_INTERVAL", "issue flush after this number of requests"),
        ("--no-drain", "do not wait when flushing pending requests"),
        page::FORCE_SHARE_ALL,
    ],
    run,
};

/// The greatest count, depth, size and interval.
const MAX: u64 = i32::MAX.unsigned_abs() as u64;

#[derive(Debug, Default)]
struct Args {
    source: Source,
    options: BenchOptions,
    /// `native` was asked for.
    native: bool,
    write: bool,
    pattern: u8,
    step: u64,
}

impl Args {
    fn parse(ui: &Ui, args: &[OsString]) -> Result<Self, Exit> {
        let mut parsed = Self::default();
        let operands = COMMAND.parse(ui, args, |key, value| parsed.take(ui, key, value))?;
        parsed.source.filename = values::one_image(ui, operands)?;
        let options = &mut parsed.options;
        if !parsed.write && options.flush_interval > 0 {
            return Err(ui.fail("--flush-interval is only available in write tests"));
        }
        let depth = u64::try_from(options.depth).unwrap_or(u64::MAX);
        if options.flush_interval > 0 && options.flush_interval < depth {
            return Err(ui.fail("Flush interval can't be smaller than depth"));
        }
        if parsed.write {
            options.kind = BenchKind::Write(parsed.pattern);
        }
        let size = u64::try_from(options.size).unwrap_or(u64::MAX);
        options.step = if parsed.step > 0 { parsed.step } else { size };
        Ok(parsed)
    }

    fn take(&mut self, ui: &Ui, key: Key, value: Value) -> Result<(), Exit> {
        let size = |what, range, value: Value| values::size_within(ui, what, range, &value.text(ui)?);
        let number = |what, range, value: Value| values::number(ui, what, range, &value.text(ui)?);
        let to_usize = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let options = &mut self.options;
        match key {
            Key::Count => options.count = number("request count", 1..=MAX, value)?,
            Key::Depth => options.depth = to_usize(number("queue depth", 1..=MAX, value)?),
            Key::Offset => options.offset = size("offset", 0..=MAX_IMAGE_SIZE, value)?,
            Key::BufferSize => options.size = to_usize(size("buffer size", 1..=MAX, value)?),
            Key::StepSize => self.step = size("step size", 0..=MAX, value)?,
            Key::Pattern => {
                let byte = number("pattern byte", 0..=u64::from(u8::MAX), value)?;
                self.pattern = u8::try_from(byte).unwrap_or_default();
            }
            Key::FlushInterval => options.flush_interval = number("flush interval", 0..=MAX, value)?,
            Key::NoDrain => options.no_drain = true,
            Key::Write => self.write = true,
            Key::Native => self.native = true,
            Key::Aio => self.native |= is_native(ui, &value.text(ui)?)?,
            Key::Cache => {
                let mode = CacheMode::from_name(&value.text(ui)?);
                self.source.cache = mode.ok_or_else(|| ui.fail("Invalid cache mode"))?;
            }
            _ => self.source.take(ui, key, value)?,
        }
        Ok(())
    }

    fn open(&self, ui: &Ui) -> Result<Node, Exit> {
        let mode = if self.write { OpenOptions::write() } else { OpenOptions::read() };
        let options = OpenOptions { native_aio: self.native, ..self.source.options(mode) };
        let spec: ImageSpec = self.source.spec(ui)?;
        Node::open(&context(ui), &spec, &options).map_err(|error| ui.library_error(&error))
    }
}

/// How requests reach the kernel makes no difference here, but `native` is not for every image.
fn is_native(ui: &Ui, name: &str) -> Result<bool, Exit> {
    match name {
        "native" => Ok(true),
        "threads" | "io_uring" => Ok(false),
        _ => Err(ui.fail(format!("Invalid aio option: {name}"))),
    }
}

fn run(ui: &Ui, args: &[OsString]) -> Result<(), Exit> {
    let args = Args::parse(ui, args)?;
    let node = args.open(ui)?;
    let BenchOptions { count, depth, size, offset, step, flush_interval, .. } = args.options;
    let kind = if args.write { "write" } else { "read" };
    ui.print(&format!(
        "Sending {count} {kind} requests, {size} bytes each, {depth} in parallel (starting at offset {offset}, step size {step})\n"
    ));
    if flush_interval > 0 {
        ui.print(&format!("Sending flush every {flush_interval} requests\n"));
    }
    let report = bench(&node, &args.options, &Task::quiet()).map_err(|error| ui.library_error(&error))?;
    ui.print(&format!("Run completed in {:3.3} seconds.\n", report.elapsed.as_secs_f64()));
    Ok(())
}
