//! The threads of a conversion and the order between them.
//!
//! A unit of work passes through: a free buffer → claimed from the plan → read, searched for zeros, compressed →
//! *ready* → placed, when its number is the next → written → its buffer is free again. Any thread does any step; one
//! at a time places. A claim is made with a buffer in hand, so the unit that is next to be placed always has one, and
//! nobody waits forever.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use diskimg_chain::{Asking, Node};
use diskimg_core::driver::Notices;
use diskimg_core::{
    BlockDevice as _, ByteRange, Error, ErrorKind, Prealloc, Result, Task, align_up, errno, strerror,
    to_usize,
};
use parking_lot::{Condvar, Mutex};

use super::encode::Encoder;
use super::failure::CopyError;
use super::manner::{Manner, fit, panicked};
use super::pen::Pen;
use super::place::{LeaveOut, Placer, Places};
use super::plan::{Planner, Rules, SECTOR, Unit, Unknown};
use super::rate::Rate;
use super::source::Sources;
use super::steps::Steps;
use super::zero_detect::{ZeroRules, split};
use super::{COPY_CLUSTERS, COPY_UNIT, ConvertOptions, ConvertReport, UNIT};
use crate::parallel::{Failure, on_threads, workers};

/// Buffers for each thread: one that it works on, and one that waits for its turn.
const BUFFERS_PER_WORKER: usize = 2;

/// Preallocated bytes of which the host is asked in detail whether they are a hole: fewer are read in the time of some
/// questions.
const ASK_FROM: u64 = 1 << 20;

/// What the host's holes are made of, in bytes.
const HOST_BLOCK: u64 = 4096;

/// Units from this size on, in bytes, are written around the zeros within: the file keeps holes there.
const LARGE_UNIT: u64 = 256 << 10;

/// A run of the target, and what comes there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) range: ByteRange,
    pub(super) content: Content,
}

/// What comes into a segment.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content {
    /// Zeros.
    Zeros,
    /// Bytes of the unit's buffer, from `at` on.
    Bytes { at: usize },
    /// A compressed cluster: `len` bytes of the unit's payloads, from `at` on.
    Payload { at: usize, len: usize },
    /// What the source has there, by a copy within the host.
    OnHost,
}

/// A unit on its way, with its buffers.
#[derive(Debug, Default)]
pub(super) struct Work {
    unit: Unit,
    pub(super) buf: Vec<u8>,
    pub(super) payloads: Vec<u8>,
    pub(super) segments: Vec<Segment>,
    /// What `buf` is compared with.
    compared: Vec<u8>,
}

#[derive(Debug, Default)]
struct Queue {
    free: Vec<Work>,
    ready: BTreeMap<u64, Work>,
    /// The number that is placed next.
    next: u64,
    /// A thread is placing.
    placing: bool,
    /// The plan has come to its end.
    exhausted: bool,
}

enum Step {
    Read(Work),
    Place(Work),
    End,
}

struct Pipeline<'a> {
    sources: &'a Sources<'a>,
    placer: Placer<'a>,
    target: &'a Node,
    options: &'a ConvertOptions,
    manner: Manner<'a>,
    task: &'a Task<'a>,
    zeros: Option<ZeroRules>,
    /// Bytes of data in a unit at most.
    max_unit: u64,
    look_from: u64,
    /// Zeros that are found are left out rather than written.
    zero_from: u64,
    /// The target's unit of placing.
    write_unit: u64,
    plan: Mutex<Planner<'a>>,
    queue: Mutex<Queue>,
    changed: Condvar,
    pen: Pen<'a>,
    /// Threads that wait for a buffer are woken when there are so many.
    wake_from: usize,
    failure: Failure<CopyError>,
    rate: Rate,
    done: AtomicU64,
    /// Where progress is wanted to be exact.
    steps: Option<Mutex<Steps<'a>>>,
    written: AtomicU64,
    unreadable: Mutex<Vec<ByteRange>>,
}

/// What becomes of zeros.
#[derive(Clone, Copy, Debug)]
pub(super) struct Zeros {
    /// From this byte on the target reads as zeros where nothing is written.
    pub(super) known_from: u64,
    /// Zeros that are known are written like data.
    pub(super) fill: bool,
    /// They are looked for in data from this byte on.
    pub(super) look_from: u64,
}

/// Copies what is to be copied of `sources`.
pub(super) fn run(
    sources: &Sources<'_>,
    target: &Node,
    options: &ConvertOptions,
    zeros: Zeros,
    manner: Manner<'_>,
    task: &Task<'_>,
) -> Result<ConvertReport, CopyError> {
    let rules = rules(sources, target, options, zeros);
    let total = sources.len();
    let count = workers(options.workers, total.div_ceil(rules.max_unit));
    let ordered = target.image().has_places()?;
    // Compressed clusters are whole or not there: one of zeros counts, however long a run `sparse_size` asks for.
    let (block, least) = if options.compress {
        (rules.write_unit, rules.write_unit)
    } else {
        (rules.write_unit.max(1 << options.sparse_size.max(1).ilog2()), options.sparse_size)
    };
    let rules_of_zeros = (zeros.look_from < u64::MAX).then_some(ZeroRules { block, least });
    // Clusters that exist already, and new ones that are large, take single blocks.
    let single = rules_of_zeros.map(|zeros| ZeroRules { block: 1 << options.sparse_size.ilog2(), ..zeros });
    let leave_out = LeaveOut {
        in_place: single.filter(|_| rules.zero_from == 0),
        in_fresh: single.filter(|_| rules.write_unit >= LARGE_UNIT && !options.compress),
    };
    let steps = if task.progress.wants_exact() && !sources.in_order() {
        Some(Mutex::new(Steps::count(sources, rules, options.compress, task)?))
    } else {
        None
    };
    let mut queue = Queue::default();
    queue.free.resize_with(count * BUFFERS_PER_WORKER, Work::default);
    let pipeline = Pipeline {
        sources,
        placer: Placer::new(target, sources, ordered, leave_out, manner),
        manner,
        max_unit: rules.max_unit,
        target,
        options,
        task,
        zeros: rules_of_zeros,
        look_from: zeros.look_from,
        zero_from: rules.zero_from,
        write_unit: rules.write_unit,
        plan: Mutex::new(Planner::new(sources, rules)),
        queue: Mutex::new(queue),
        changed: Condvar::new(),
        pen: Pen::default(),
        wake_from: count * BUFFERS_PER_WORKER / 2,
        failure: Failure::default(),
        rate: Rate::new(options.rate_limit),
        done: AtomicU64::new(0),
        steps,
        written: AtomicU64::new(0),
        unreadable: Mutex::new(Vec::new()),
    };
    on_threads(count, |_| pipeline.work());
    pipeline.failure.into_result()?;
    fit(sources, target, options)?;
    let total = sources.known_len();
    match pipeline.steps {
        Some(steps) => steps.into_inner().report(total, task),
        None => task.progress.update(total.max(1), total.max(1)),
    }
    let unknown = pipeline.plan.into_inner().into_unknown();
    let unreadable = report_unreadable(pipeline.unreadable.into_inner(), &unknown, &options.notices);
    Ok(ConvertReport { total, written: pipeline.written.into_inner(), unreadable, digest: None })
}

/// Warns of each sector that could not be read, in order; joins neighbours. Of sectors of which nothing could be told
/// it warns twice, as qemu-img does: before all else, since that looks at all of the disk first, and among the others.
fn report_unreadable(mut sectors: Vec<ByteRange>, unknown: &[Unknown], notices: &Notices) -> Vec<ByteRange> {
    let warn_unknown = |at: u64, errno: i32| {
        notices.warn(&format!("error while reading block status at offset {at}: {}", strerror(errno)));
    };
    let each_unknown = || unknown.iter().flat_map(|run| run.sectors().map(|at| (at, run.errno)));
    each_unknown().for_each(|(at, errno)| warn_unknown(at, errno));
    let mut again = each_unknown().peekable();
    sectors.sort_by_key(|range| range.start);
    let mut joined: Vec<ByteRange> = Vec::new();
    for sector in sectors {
        while let Some((at, errno)) = again.next_if(|(at, _)| *at <= sector.start) {
            warn_unknown(at, errno);
        }
        notices.warn(&format!("error while reading offset {}: {}", sector.start, strerror(errno::EIO)));
        match joined.last_mut() {
            Some(last) if last.end() == sector.start => last.len += sector.len,
            _ => joined.push(sector),
        }
    }
    again.for_each(|(at, errno)| warn_unknown(at, errno));
    joined
}

fn rules(sources: &Sources<'_>, target: &Node, options: &ConvertOptions, zeros: Zeros) -> Rules {
    let mut write_unit = target.limits().write_unit.max(1);
    if options.compress
        && let Some(clusters) = target.image().as_compressed()
    {
        write_unit = write_unit.max(clusters.cluster_len());
    }
    // Nothing is held of what the host copies but the clusters that it gets.
    let usual = if options.copy_range && options.rate_limit.is_none() {
        let places = if write_unit > 1 { write_unit.saturating_mul(COPY_CLUSTERS) } else { u64::MAX };
        COPY_UNIT.min(places).max(UNIT)
    } else {
        UNIT
    };
    let max_unit = align_up(usual.max(options.sparse_size), write_unit).unwrap_or(write_unit);
    let zero_from = align_up(zeros.known_from, write_unit).unwrap_or(u64::MAX);
    let finds = sources.leaves_zeros_out() || (zeros.look_from == 0 && options.sparse_size <= HOST_BLOCK);
    let asking = if finds {
        Asking::LongRuns(ASK_FROM)
    } else if options.copy_range {
        Asking::Exactly
    } else {
        Asking::Roughly(ASK_FROM)
    };
    Rules { write_unit, max_unit, zero_from, fill: zeros.fill, asking, salvage: options.salvage }
}

/// Lets nobody wait for a thread that panics.
struct Alarm<'p, 'a>(&'p Pipeline<'a>);

impl Drop for Alarm<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failure.record(0, panicked().into());
            let _queue = self.0.queue.lock();
            self.0.changed.notify_all();
        }
    }
}

impl<'a> Pipeline<'a> {
    /// What each thread does.
    fn work(&self) {
        let mut encoder = None;
        let _alarm = Alarm(self);
        loop {
            let (order, result) = match self.step() {
                Step::End => break,
                Step::Read(work) => self.read(work, &mut encoder),
                Step::Place(work) => (work.unit.number, self.place(work)),
            };
            if let Err(error) = result {
                self.failure.record(order, error);
                self.changed.notify_all();
            }
        }
        self.changed.notify_all();
    }

    /// The next thing to do: placing comes first, since others wait for it.
    fn step(&self) -> Step {
        let mut queue = self.queue.lock();
        loop {
            if self.failure.happened() {
                return Step::End;
            }
            let next = queue.next;
            if !queue.placing
                && let Some(work) = queue.ready.remove(&next)
            {
                queue.placing = true;
                return Step::Place(work);
            }
            if queue.exhausted {
                // Whoever brings a unit that is still missing places it.
                return Step::End;
            }
            if let Some(work) = queue.free.pop() {
                return Step::Read(work);
            }
            self.changed.wait(&mut queue);
        }
    }

    /// Claims the next unit and makes it ready; its number and how that went.
    fn read(&self, mut work: Work, encoder: &mut Option<Encoder<'a>>) -> (u64, Result<(), CopyError>) {
        let claimed = self.claim(&mut work);
        if let Err(error) = claimed {
            return (u64::MAX, Err(error));
        }
        if work.unit.pieces.is_empty() {
            self.advance(work.unit.span);
            self.queue.lock().exhausted = true;
            self.changed.notify_all();
            return (u64::MAX, Ok(()));
        }
        let number = work.unit.number;
        if let Err(error) = self.prepare(&mut work, encoder) {
            return (number, Err(error));
        }
        if self.placer.ordered && !self.options.out_of_order {
            self.queue.lock().ready.insert(number, work);
            return (number, Ok(()));
        }
        (number, self.placer.place(&work).map(|places| self.fill(work, places)))
    }

    /// Claims the next unit, and reads what has to be read in order.
    fn claim(&self, work: &mut Work) -> Result<(), CopyError> {
        let mut plan = self.plan.lock();
        if self.sources.is_endless() {
            self.make_room(&mut plan)?;
        }
        plan.next(&mut work.unit, self.task)?;
        if !self.sources.in_order() || work.unit.pieces.is_empty() {
            return Ok(());
        }
        self.fetch(work)?;
        work.unit.end_at(self.sources.known_len());
        if let Some(digest) = self.manner.digest {
            let mut rest = work.buf.as_slice();
            for piece in work.unit.pieces.iter().filter(|piece| !piece.zero) {
                let (bytes, behind) = rest.split_at_checked(to_usize(piece.range.len)).unwrap_or_default();
                digest.feed(piece.range.start, bytes);
                rest = behind;
            }
        }
        Ok(())
    }

    /// Makes the target longer before it is too short for a source whose end nobody knows.
    fn make_room(&self, plan: &mut Planner<'_>) -> Result<(), CopyError> {
        let len = self.target.device().len();
        let needed = plan.at().saturating_add(self.max_unit);
        if len >= needed {
            return Ok(());
        }
        if !self.options.fit_target {
            plan.end_at(len);
            return Ok(());
        }
        let more = align_up(needed.max(len.saturating_mul(2)), SECTOR).unwrap_or(needed);
        Ok(self.target.device().set_len(more, Prealloc::Off)?)
    }

    /// Places a unit whose turn it is, and writes it when the next one's turn has come.
    fn place(&self, work: Work) -> Result<(), CopyError> {
        let places = self.placer.place(&work);
        let another = {
            let mut queue = self.queue.lock();
            queue.placing = false;
            queue.next += 1;
            queue.ready.contains_key(&queue.next)
        };
        if another {
            self.changed.notify_all();
        }
        self.fill(work, places?);
        Ok(())
    }

    /// Writes a unit to its places; or leaves that to the thread that writes already, if there can be but one.
    fn fill(&self, work: Work, places: Places<'a>) {
        if self.options.copy_range || !self.placer.takes_turns(&places) {
            self.write(work, places);
            self.changed.notify_all();
        } else if self.pen.join(work, places) {
            while let Some((work, places)) = self.pen.next() {
                // Whoever waits for a buffer can wait for some of them.
                if self.write(work, places) >= self.wake_from {
                    self.changed.notify_all();
                }
            }
            self.changed.notify_all();
        }
    }

    /// Writes a unit; how many buffers are free then.
    fn write(&self, work: Work, places: Places<'a>) -> usize {
        match self.placer.fill(&work, places) {
            Ok(()) => self.finish(work),
            Err(error) => {
                self.failure.record(work.unit.number, error);
                usize::MAX
            }
        }
    }

    fn finish(&self, work: Work) -> usize {
        let is_data = |segment: &&Segment| !matches!(segment.content, Content::Zeros);
        let written: u64 = work.segments.iter().filter(is_data).map(|segment| segment.range.len).sum();
        self.written.fetch_add(written, Ordering::Relaxed);
        self.advance(work.unit.span);
        let mut queue = self.queue.lock();
        queue.free.push(work);
        queue.free.len()
    }

    fn advance(&self, span: u64) {
        let done = self.done.fetch_add(span, Ordering::Relaxed) + span;
        match &self.steps {
            Some(steps) => steps.lock().report(done, self.task),
            None => self.task.progress.update(done, self.sources.len()),
        }
    }

    /// Reads a unit, finds zeros, compresses.
    fn prepare(&self, work: &mut Work, encoder: &mut Option<Encoder<'a>>) -> Result<(), CopyError> {
        if !self.sources.in_order() {
            self.fetch(work)?;
        }
        let Work { unit, buf, payloads, segments, compared } = work;
        segments.clear();
        payloads.clear();
        let mut at = 0;
        for piece in &unit.pieces {
            let range = piece.range;
            if piece.zero {
                segments.push(Segment { range, content: Content::Zeros });
            } else if self.options.copy_range {
                segments.push(Segment { range, content: Content::OnHost });
            } else {
                let bytes = buf.get(at..at + to_usize(range.len)).unwrap_or_default();
                let unit = to_usize(self.write_unit);
                self.sources.differing(range, bytes, unit, compared, &mut |run, from| {
                    let part = bytes.get(from..from + to_usize(run.len)).unwrap_or_default();
                    self.cut(run, part, at + from, payloads, segments, encoder).map_err(CopyError::from)
                })?;
                at += to_usize(range.len);
            }
        }
        Ok(())
    }

    /// Reads the data of a unit: its pieces, one behind the other.
    fn fetch(&self, work: &mut Work) -> Result<(), CopyError> {
        let Work { unit, buf, .. } = work;
        self.rate.take(unit.data_len, self.task)?;
        if self.options.copy_range {
            return Ok(());
        }
        let needed = to_usize(unit.data_len);
        if buf.len() < needed {
            buf.resize(needed, 0);
        }
        let mut at = 0;
        for piece in unit.pieces.iter().filter(|piece| !piece.zero) {
            let len = to_usize(piece.range.len);
            self.read_bytes(piece.range, buf.get_mut(at..at + len).unwrap_or_default())?;
            at += len;
        }
        Ok(())
    }

    fn read_bytes(&self, range: ByteRange, bytes: &mut [u8]) -> Result<(), CopyError> {
        match self.sources.read_at(range.start, bytes) {
            Err(error) if error.kind() == ErrorKind::Cancelled => Err(error.into()),
            // It can't be tried once more.
            Err(error) if self.sources.in_order() => Err(CopyError::reading_pipe(range, error)),
            Err(_) if self.options.salvage => {
                self.read_in_parts(range, bytes, &mut |part, _| {
                    self.unreadable.lock().push(part);
                    true
                });
                Ok(())
            }
            Err(error) => {
                let mut first = CopyError::reading(range, error);
                self.read_in_parts(range, bytes, &mut |part, error| {
                    first = CopyError::reading(part, error);
                    false
                });
                Err(first)
            }
            Ok(()) => Ok(()),
        }
    }

    /// Reads what can be read of `range`, in ever smaller parts; what can't be becomes zeros. `bad` is told of each
    /// such sector, in order, and says whether to go on.
    fn read_in_parts(
        &self,
        range: ByteRange,
        bytes: &mut [u8],
        bad: &mut dyn FnMut(ByteRange, Error) -> bool,
    ) {
        let mut todo = vec![range];
        while let Some(part) = todo.pop() {
            let from = to_usize(part.start - range.start);
            let target = bytes.get_mut(from..from + to_usize(part.len)).unwrap_or_default();
            let Err(error) = self.sources.read_at(part.start, target) else { continue };
            if part.len > SECTOR {
                let half = align_up(part.len / 2, SECTOR).unwrap_or(part.len).min(part.len - 1);
                todo.push(ByteRange::from_bounds(part.start + half, part.end()));
                todo.push(ByteRange::new(part.start, half));
                continue;
            }
            target.fill(0);
            if !bad(part, error) {
                return;
            }
        }
    }

    /// Turns the bytes of a piece into segments.
    fn cut(
        &self,
        range: ByteRange,
        bytes: &[u8],
        at: usize,
        payloads: &mut Vec<u8>,
        segments: &mut Vec<Segment>,
        encoder: &mut Option<Encoder<'a>>,
    ) -> Result<()> {
        let mut result = Ok(());
        let mut emit = |run: ByteRange, zero: bool| {
            let from = to_usize(run.start - range.start);
            let content = if zero { Content::Zeros } else { Content::Bytes { at: at + from } };
            let segment = Segment { range: run, content };
            if zero {
                let needed = ByteRange::from_bounds(run.start, run.end().min(self.zero_from));
                if !needed.is_empty() {
                    segments.push(Segment { range: needed, content });
                }
            } else if self.options.compress && result.is_ok() {
                let plain = bytes.get(from..from + to_usize(run.len)).unwrap_or_default();
                result = self.encode(run, plain, at + from, payloads, segments, encoder);
            } else {
                segments.push(segment);
            }
        };
        match self.zeros.filter(|_| range.start >= self.look_from) {
            Some(rules) => split(bytes, range, rules, emit),
            None => emit(range, false),
        }
        result
    }

    fn encode(
        &self,
        range: ByteRange,
        plain: &[u8],
        at: usize,
        payloads: &mut Vec<u8>,
        segments: &mut Vec<Segment>,
        encoder: &mut Option<Encoder<'a>>,
    ) -> Result<()> {
        if encoder.is_none() {
            let clusters = self.target.image().as_compressed();
            // A payload that is taken over brings up to a sector of what follows it: too much for single clusters
            // that are added to an image.
            let pass_on = !self.options.salvage && self.sources.is_whole() && !self.sources.in_order();
            *encoder = clusters.map(|clusters| Encoder::new(clusters, pass_on)).transpose()?;
        }
        let Some(encoder) = encoder else { return Ok(()) };
        encoder.encode(self.sources, range, plain, at, payloads, &mut |segment| segments.push(segment))
    }
}
