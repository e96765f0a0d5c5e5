//! [`Pipe`]: what can be read only once, from front to end, as a device: standard input, a named pipe.
//!
//! Invariants: a read at the front takes the bytes as they come; what is passed over is kept (see
//! [`crate::pipe_store`]), so that any order of reads works, and an order from front to end takes no space. A read behind
//! the end is an error, never zeros: what was cut off is not taken for whole. One thread at a time reads, since the bytes
//! have one order. Opened by programs, which put it into the chain's context by its name.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind as IoKind, Read as _};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::OnceLock;

use diskimg_core::{
    BlockDevice, ByteRange, CancelToken, Description, ENDLESS, Error, ErrorKind, Extent, Forward, HostRef,
    Limits, Prealloc, Result, ZeroMode, errno, len_u64, read_only_error,
};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::device::FileDevice;
use crate::errors::{cannot_open, from_os};
use crate::open::FileOptions;
use crate::pipe_store::Store;

/// The name that stands for standard input and output.
const STANDARD: &str = "-";

/// How long is waited for bytes before it is looked whether the task was cancelled.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// The size that is asked for the kernel's buffer of a pipe, in bytes: what everybody may have.
const KERNEL_BUFFER: usize = 1 << 20;

/// The greatest request.
const MAX_TRANSFER: u64 = 1 << 30;

/// True if the file `name` is a pipe, or `-`, which stands for standard input and output where no file is called so.
#[must_use]
pub fn is_pipe(name: &str) -> bool {
    match std::fs::metadata(name) {
        Ok(found) => found.file_type().is_fifo(),
        Err(_) => name == STANDARD,
    }
}

/// Opens a pipe, or standard output (`-`), to write to. Waits until somebody reads it.
///
/// # Errors
/// The host's, below `Could not open 'NAME'`.
pub fn pipe_output(name: &str) -> Result<File> {
    let standard = std::io::stdout();
    let opened = match name == STANDARD || is_same(Path::new(name), standard.as_fd()) {
        true => standard.as_fd().try_clone_to_owned().map(File::from),
        false => OpenOptions::new().write(true).open(name),
    };
    let file = opened.map_err(|error| cannot_open(name, error.into()))?;
    widen(&file);
    Ok(file)
}

/// A larger buffer in the kernel saves switches between the two ends; it is of no matter if there is none.
fn widen(file: &File) {
    if file.metadata().is_ok_and(|found| found.file_type().is_fifo()) {
        let _ = rustix::pipe::fcntl_setpipe_size(file, KERNEL_BUFFER);
    }
}

/// True if `path` leads to the file that is open as `file`, such as `/dev/stdin`.
fn is_same(path: &Path, file: impl AsFd) -> bool {
    let open = file.as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).metadata());
    let named = std::fs::metadata(path);
    matches!((open, named), (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()))
}

/// Something that is read from front to end.
#[derive(Debug)]
pub struct Pipe {
    name: String,
    front: Mutex<Front>,
    /// All of it, once it was copied to a temporary file.
    whole: OnceLock<FileDevice>,
}

/// Where reading has come to.
#[derive(Debug)]
struct Front {
    source: Source,
    store: Store,
    /// Where the bytes ended, once that was seen.
    end: Option<u64>,
}

/// What the bytes come from.
#[derive(Debug)]
struct Source {
    file: File,
    cancel: CancelToken,
}

impl Pipe {
    /// Opens the pipe `name` (`-`: standard input), and waits until somebody writes to it. Waiting for bytes ends with
    /// an error of kind `Cancelled` when `cancel` asks for it.
    ///
    /// # Errors
    /// The host's, below `Could not open 'NAME'`.
    pub fn open(name: &str, cancel: CancelToken) -> Result<Self> {
        let standard = std::io::stdin();
        // Opened anew, a pipe whose writer has ended already would wait for another one.
        let opened = match name == STANDARD || is_same(Path::new(name), standard.as_fd()) {
            true => standard.as_fd().try_clone_to_owned().map(File::from),
            false => File::open(name),
        };
        let file = opened.map_err(|error| cannot_open(name, error.into()))?;
        widen(&file);
        let label = if name == STANDARD { "standard input" } else { name };
        let front = Front { source: Source { file, cancel }, store: Store::default(), end: None };
        Ok(Self { name: label.to_owned(), front: Mutex::new(front), whole: OnceLock::new() })
    }

    /// The first `len` bytes, less if there are not as many. They can be read again.
    ///
    /// # Errors
    /// The host's; `Cancelled`.
    pub fn head(&self, len: usize) -> Result<Vec<u8>> {
        let mut head = vec![0; len];
        let there = self.read_some(0, &mut head)?;
        head.truncate(there);
        Ok(head)
    }

    /// Copies all of it to a file without a name in the folder for temporary files (`$TMPDIR`), which takes as many bytes
    /// as the input has, less the zeros. From then on it is a file. False if it was one already.
    ///
    /// # Errors
    /// The host's; `Unsupported` if a part of it is gone already; `Cancelled`.
    pub fn spool(&self) -> Result<bool> {
        let mut front = self.front.lock();
        if self.whole.get().is_some() {
            return Ok(false);
        }
        let Front { source, store, end } = &mut *front;
        let (file, len) = store.copy_all(|buf| source.fill(buf))?;
        *end = Some(len);
        let device = FileOptions::new().finish(&self.name, file)?;
        let _ = self.whole.set(device);
        Ok(true)
    }

    fn ended(&self, end: u64) -> Error {
        let text = format!("{}: the input ends at byte {end}, earlier than it should", self.name);
        Error::new(ErrorKind::OutOfRange, text).with_errno(errno::EIO)
    }
}

impl Source {
    /// Reads until `buf` is full or the input ends; the number of bytes.
    fn fill(&mut self, buf: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            self.wait()?;
            match self.file.read(rest) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if matches!(error.kind(), IoKind::Interrupted | IoKind::WouldBlock) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }

    /// Waits for bytes or the end.
    fn wait(&self) -> Result<()> {
        loop {
            if self.cancel.is_cancelled() {
                return Err(Error::new(ErrorKind::Cancelled, "Operation canceled"));
            }
            let mut files = [PollFd::new(&self.file, PollFlags::IN)];
            match poll(&mut files, Some(&PATIENCE)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(from_os(error)),
            }
        }
    }
}

impl Forward for Pipe {
    fn read_some(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        if let Some(whole) = self.whole.get() {
            let there = ByteRange::new(offset, len_u64(buf)).intersect(ByteRange::new(0, whole.len()));
            let len = usize::try_from(there.len).unwrap_or(usize::MAX);
            whole.read_at(offset, buf.get_mut(..len).unwrap_or_default())?;
            return Ok(len);
        }
        let mut front = self.front.lock();
        let Front { source, store, end } = &mut *front;
        store.read(offset, buf, end, &mut |part| source.fill(part))
    }

    fn seen_end(&self) -> Option<u64> {
        self.front.lock().end
    }
}

impl BlockDevice for Pipe {
    fn len(&self) -> u64 {
        self.whole.get().map_or(ENDLESS, BlockDevice::len)
    }

    fn limits(&self) -> Limits {
        Limits { max_transfer: MAX_TRANSFER, ..Limits::default() }
    }

    fn is_read_only(&self) -> bool {
        true
    }

    fn describe(&self) -> Description<'_> {
        Description { driver: "file", filename: &self.name }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if let Some(whole) = self.whole.get() {
            return whole.read_at(offset, buf);
        }
        let there = self.read_some(offset, buf)?;
        if there == buf.len() { Ok(()) } else { Err(self.ended(self.seen_end().unwrap_or(offset))) }
    }

    fn write_at(&self, _offset: u64, _buf: &[u8]) -> Result<()> {
        Err(read_only_error())
    }

    fn write_zeroes(&self, _range: ByteRange, _how: ZeroMode) -> Result<()> {
        Err(read_only_error())
    }

    fn discard(&self, _range: ByteRange) -> Result<()> {
        Err(read_only_error())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn set_len(&self, _len: u64, _prealloc: Prealloc) -> Result<()> {
        Err(read_only_error())
    }

    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        match self.whole.get() {
            Some(whole) => whole.extent_at(range),
            None => Ok(Extent::data(range.len, Some(HostRef { device: self, offset: range.start }))),
        }
    }

    fn as_forward(&self) -> Option<&dyn Forward> {
        if self.whole.get().is_some() { None } else { Some(self) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_read_once_and_its_end_is_no_zeros() {
        let (from, to) = std::io::pipe().unwrap();
        let writer = std::thread::spawn(move || {
            use std::io::Write as _;
            let mut to = to;
            let bytes: Vec<u8> = (0..1_000_001u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
            to.write_all(&bytes).unwrap();
            bytes
        });
        let file = File::from(std::os::fd::OwnedFd::from(from));
        let source = Source { file, cancel: CancelToken::default() };
        let front = Mutex::new(Front { source, store: Store::default(), end: None });
        let pipe = Pipe { name: "it".to_owned(), front, whole: OnceLock::new() };
        assert_eq!(pipe.head(4).unwrap(), [0, 1, 2, 3]);
        let mut all = vec![0; 1_000_001];
        for (number, part) in all.chunks_mut(300_000).enumerate() {
            pipe.read_at(number as u64 * 300_000, part).unwrap();
        }
        assert!(writer.join().unwrap() == all);
        let error = pipe.read_at(1_000_000, &mut [0; 2]).unwrap_err().joined();
        assert_eq!(error, "it: the input ends at byte 1000001, earlier than it should");
        assert_eq!(pipe.seen_end(), Some(1_000_001));
    }
}
