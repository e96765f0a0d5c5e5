//! Targets that take one write at a time, as files behind the page cache do: one thread writes, the others read.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{contents, fresh, node_on, raw, speckled};
use diskimg_chain::Node;
use diskimg_core::{BlockDevice, FormatDriver, Limits, MemDevice, Result, Task};
use diskimg_engine::{ConvertOptions, convert};
use diskimg_testkit::{FaultDevice, FaultKinds, FaultPlan, FaultSpec, Rng};

const LEN: usize = 12 << 20;

/// Writes from here on are such of guest data: tables are written in smaller ones, by any thread.
const LARGE: usize = 100_000;

#[derive(Debug)]
struct OneWriter {
    below: Arc<dyn BlockDevice>,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl OneWriter {
    fn new(below: Arc<dyn BlockDevice>) -> Arc<Self> {
        Arc::new(Self { below, now: AtomicUsize::new(0), most: AtomicUsize::new(0) })
    }
}

impl BlockDevice for OneWriter {
    diskimg_core::pass_on!(below: len is_read_only describe read_at write_zeroes discard flush set_len extent_at);

    fn limits(&self) -> Limits {
        Limits { one_writer: true, ..self.below.limits() }
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        if buf.len() < LARGE {
            return self.below.write_at(offset, buf);
        }
        self.most.fetch_max(self.now.fetch_add(1, Ordering::AcqRel) + 1, Ordering::AcqRel);
        std::thread::yield_now();
        let done = self.below.write_at(offset, buf);
        self.now.fetch_sub(1, Ordering::AcqRel);
        done
    }
}

fn how(workers: usize, out_of_order: bool) -> ConvertOptions {
    let workers = NonZero::new(workers);
    ConvertOptions { target_is_zero: true, workers, out_of_order, ..ConvertOptions::default() }
}

fn target(driver: &'static FormatDriver, device: Arc<dyn BlockDevice>) -> Node {
    node_on(driver, device, true, None)
}

#[test]
fn data_is_written_by_one_thread_at_a_time() {
    let bytes = speckled(&mut Rng::new(5), LEN);
    let source = raw(bytes.clone());
    for workers in [1, 2, 8] {
        for out_of_order in [false, true] {
            let how = how(workers, out_of_order);
            let file = OneWriter::new(Arc::new(MemDevice::from(vec![0; LEN])));
            let plain = target(&diskimg_raw::DRIVER, Arc::<OneWriter>::clone(&file));
            convert(&[&source], &plain, &how, &Task::quiet()).unwrap();
            assert!(contents(&plain) == bytes);
            assert_eq!(file.most.load(Ordering::Acquire), 1);
            let file = OneWriter::new(fresh(&diskimg_qcow2::DRIVER, LEN as u64, &[]).0);
            let image = target(&diskimg_qcow2::DRIVER, Arc::<OneWriter>::clone(&file));
            convert(&[&source], &image, &how, &Task::quiet()).unwrap();
            assert!(contents(&image) == bytes);
            assert_eq!(file.most.load(Ordering::Acquire), 1);
        }
    }
}

#[test]
fn a_failing_request_is_an_error_and_never_a_hang() {
    let bytes = speckled(&mut Rng::new(6), LEN);
    let source = raw(bytes);
    let run = |spec| {
        let storage = fresh(&diskimg_qcow2::DRIVER, LEN as u64, &[]).0;
        let plan = FaultPlan::new(spec);
        let faulty = FaultDevice::new(storage, Arc::clone(&plan));
        let image = target(&diskimg_qcow2::DRIVER, OneWriter::new(Arc::new(faulty)));
        (convert(&[&source], &image, &how(4, false), &Task::quiet()), plan)
    };
    let (done, plan) = run(FaultSpec::count_only(FaultKinds::CHANGES));
    done.unwrap();
    for nth in 0..plan.seen() {
        let (result, plan) = run(FaultSpec::once(FaultKinds::CHANGES, nth));
        if plan.injected() > 0 {
            assert_eq!(result.unwrap_err().errno(), diskimg_core::errno::EIO, "request {nth}");
        }
    }
}
