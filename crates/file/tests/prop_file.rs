//! Random operations on a host file, through the page cache and past it, against a flat `Vec<u8>`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::cast_possible_truncation)]

use diskimg_core::protocol::CacheMode;
use diskimg_core::{BlockDevice, ByteRange, ErrorKind, ExtentFlags, HostRef, Prealloc, ZeroMode};
use diskimg_file::{FileDevice, FileOptions};
use proptest::prelude::*;

/// Offsets and lengths stay below it: some blocks and their neighbours.
const SPAN: u64 = 40_000;

#[derive(Clone, Debug)]
enum Op {
    Write { at: u64, len: u64, byte: u8 },
    Zero { at: u64, len: u64, how: ZeroMode },
    Discard { at: u64, len: u64 },
    Resize { len: u64, prealloc: Prealloc },
    Copy { from: u64, to: u64, len: u64 },
    Flush,
    Reopen,
}

fn place() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..SPAN,
        (0..SPAN / 512).prop_map(|sector| sector * 512),
        (0..10u64).prop_map(|page| page * 4096)
    ]
}

fn zero_mode() -> impl Strategy<Value = ZeroMode> {
    prop_oneof![Just(ZeroMode::MayUnmap), Just(ZeroMode::KeepAllocated), Just(ZeroMode::FastOnly)]
}

fn operation() -> impl Strategy<Value = Op> {
    let prealloc = prop_oneof![Just(Prealloc::Off), Just(Prealloc::Falloc), Just(Prealloc::Full)];
    prop_oneof![
        6 => (place(), place(), 1..=255u8).prop_map(|(at, len, byte)| Op::Write { at, len, byte }),
        2 => (place(), place(), zero_mode()).prop_map(|(at, len, how)| Op::Zero { at, len, how }),
        2 => (place(), place()).prop_map(|(at, len)| Op::Discard { at, len }),
        1 => (place(), prealloc).prop_map(|(len, prealloc)| Op::Resize { len, prealloc }),
        1 => (place(), place(), place()).prop_map(|(from, to, len)| Op::Copy { from, to, len }),
        1 => Just(Op::Flush),
        1 => Just(Op::Reopen),
    ]
}

fn range_of(model: &mut Vec<u8>, at: u64, len: u64) -> &mut [u8] {
    let (start, end) = (at as usize, (at + len) as usize);
    if model.len() < end {
        model.resize(end, 0);
    }
    &mut model[start..end]
}

struct Subject {
    path: String,
    cache: CacheMode,
    device: FileDevice,
    model: Vec<u8>,
}

impl Subject {
    fn open(path: &str, cache: CacheMode) -> FileDevice {
        FileOptions::new().write(true).cache(cache).open(path).unwrap()
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Write { at, len, byte } => {
                let bytes = vec![byte; len as usize];
                self.device.write_at(at, &bytes).unwrap();
                if len > 0 {
                    range_of(&mut self.model, at, len).copy_from_slice(&bytes);
                }
            }
            Op::Zero { at, len, how } => match self.device.write_zeroes(ByteRange::new(at, len), how) {
                Ok(()) if len > 0 => range_of(&mut self.model, at, len).fill(0),
                Ok(()) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}"),
            },
            Op::Discard { at, len } => match self.device.discard(ByteRange::new(at, len)) {
                Ok(()) => {
                    let end = (at + len).min(self.model.len() as u64);
                    range_of(&mut self.model, at.min(end), end.saturating_sub(at)).fill(0);
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}"),
            },
            Op::Resize { len, prealloc } => match self.device.set_len(len, prealloc) {
                Ok(()) => self.model.resize(len as usize, 0),
                Err(error) => {
                    assert!(prealloc != Prealloc::Off && len < self.model.len() as u64, "{error:?}");
                }
            },
            Op::Copy { from, to, len } => self.copy(from, to, len),
            Op::Flush => self.device.flush().unwrap(),
            Op::Reopen => self.device = Self::open(&self.path, self.cache),
        }
    }

    fn copy(&mut self, from: u64, to: u64, len: u64) {
        let other = Self::open(&self.path, CacheMode::WriteBack);
        let source = HostRef { device: &other, offset: from };
        let copied = self.device.copy_from(to, source, len).unwrap();
        assert!(copied <= len);
        if copied > 0 {
            let bytes = range_of(&mut self.model, from, copied).to_vec();
            range_of(&mut self.model, to, copied).copy_from_slice(&bytes);
        }
    }

    fn check(&self) {
        assert_eq!(self.device.len(), self.model.len() as u64);
        let mut bytes = vec![0xaa; self.model.len()];
        self.device.read_at(0, &mut bytes).unwrap();
        assert!(bytes == self.model, "contents differ");
        let (mut at, end) = (0, self.device.len());
        while at < end {
            let extent = self.device.extent_at(ByteRange::from_bounds(at, end)).unwrap();
            assert!(extent.len > 0 && extent.len <= end - at);
            if extent.flags.contains(ExtentFlags::ZERO) {
                let part = &self.model[at as usize..(at + extent.len) as usize];
                assert!(part.iter().all(|byte| *byte == 0), "data called zero at {at}");
            }
            at += extent.len;
        }
        assert_eq!(at, end);
    }

    fn check_reads(&self, reads: &[(u64, u64)]) {
        for &(at, len) in reads {
            let mut bytes = vec![0xaa; len as usize];
            let end = at + len;
            match self.device.read_at(at, &mut bytes) {
                Ok(()) => assert_eq!(bytes, self.model[at as usize..end as usize]),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::OutOfRange);
                    assert!(end > self.model.len() as u64);
                }
            }
        }
    }
}

fn run(cache: CacheMode, ops: &[Op], reads: &[(u64, u64)]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk").to_str().unwrap().to_owned();
    std::fs::write(&path, []).unwrap();
    let device = match FileOptions::new().write(true).cache(cache).open(&path) {
        Ok(device) => device,
        // The file system of the temporary folder may lack O_DIRECT.
        Err(error) if cache.is_direct() && error.kind() == ErrorKind::Unsupported => return,
        Err(error) => panic!("{error:?}"),
    };
    let mut subject = Subject { path: path.clone(), cache, device, model: Vec::new() };
    for op in ops {
        subject.apply(op);
        subject.check();
    }
    subject.check_reads(reads);
    drop(subject.device);
    assert!(std::fs::read(&path).unwrap() == subject.model, "the file differs");
}

/// A third of the usual number (or of `PROPTEST_CASES`): flushes are slow.
fn config() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: usual.cases.div_ceil(3), ..usual }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_file_behaves_like_a_vector(
        ops in proptest::collection::vec(operation(), 1..25),
        reads in proptest::collection::vec((place(), place()), 0..8),
    ) {
        run(CacheMode::WriteBack, &ops, &reads);
    }

    #[test]
    fn so_it_does_past_the_page_cache(
        ops in proptest::collection::vec(operation(), 1..25),
        reads in proptest::collection::vec((place(), place()), 0..8),
    ) {
        run(CacheMode::None, &ops, &reads);
    }
}
