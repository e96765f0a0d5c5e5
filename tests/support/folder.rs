//! Folders of a case: set-ups that are made once and copied hole by hole, and the comparison of two folders.

use super::script::{self, Tools};
use rustix::fs::{SeekFrom, seek};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

type Built = Arc<OnceLock<Result<PathBuf, String>>>;

/// Set-ups by their script: each is run once in a test process, every case gets a copy.
#[derive(Debug, Default)]
pub struct Fixtures {
    root: PathBuf,
    built: Mutex<HashMap<String, Built>>,
}

impl Fixtures {
    /// Keeps set-ups below `root`.
    pub fn new(root: PathBuf) -> Self {
        Self { root, built: Mutex::default() }
    }

    /// The folder in which `script` has been run.
    pub fn get(&self, script: &str, tools: &Tools<'_>) -> Result<PathBuf, String> {
        let (slot, number) = {
            let mut built = self.built.lock().map_err(|e| e.to_string())?;
            let number = built.len();
            (Arc::clone(built.entry(script.to_owned()).or_default()), number)
        };
        slot.get_or_init(|| {
            let (made, dir) =
                (self.root.join(format!("made-{number}")), self.root.join(format!("set-{number}")));
            fs::create_dir_all(&made).map_err(|e| e.to_string())?;
            let holders = script::run(script, &made, tools)?;
            // Space that was reserved but never written looks like a hole or like data, depending on the moment;
            // a copy has plain data and plain holes only.
            copy_tree(&made, &dir, &|_| true)?;
            fs::remove_dir_all(&made).map_err(|e| e.to_string())?;
            if holders.is_empty() { Ok(dir) } else { Err("a shared set-up can't hold images".to_owned()) }
        })
        .clone()
    }
}

/// Copies a folder with everything in it whose name at the top level is `wanted`. Holes stay holes.
pub fn copy_tree(from: &Path, to: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<(), String> {
    fs::create_dir_all(to).map_err(|e| e.to_string())?;
    for entry in fs::read_dir(from).map_err(|e| e.to_string())? {
        let entry = entry.map_err(|e| e.to_string())?;
        if !wanted(&entry.file_name().to_string_lossy()) {
            continue;
        }
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(|e| e.to_string())?;
        if kind.is_dir() {
            copy_tree(&source, &target, &|_| true)?;
        } else if kind.is_symlink() {
            let points_to = fs::read_link(&source).map_err(|e| e.to_string())?;
            std::os::unix::fs::symlink(points_to, &target).map_err(|e| e.to_string())?;
        } else {
            copy_file(&source, &target)?;
        }
    }
    Ok(())
}

/// Copies one file with its holes.
pub fn copy_file(from: &Path, to: &Path) -> Result<(), String> {
    let show = |e: std::io::Error| format!("copy {}: {e}", from.display());
    let source = File::open(from).map_err(show)?;
    let target = File::create(to).map_err(show)?;
    target.set_len(source.metadata().map_err(show)?.len()).map_err(show)?;
    let mut buffer = vec![0; 1 << 20];
    for (start, end) in data_ranges(&source).map_err(show)? {
        let mut at = start;
        while at < end {
            let n = buffer.len().min((end - at) as usize);
            source.read_exact_at(&mut buffer[..n], at).map_err(show)?;
            target.write_all_at(&buffer[..n], at).map_err(show)?;
            at += n as u64;
        }
    }
    Ok(())
}

/// Start and end of each run of data in a file, as the file system tells them.
pub fn data_ranges(file: &File) -> std::io::Result<Vec<(u64, u64)>> {
    let len = file.metadata()?.len();
    let (mut ranges, mut at) = (Vec::new(), 0);
    while at < len {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        at = seek(file, SeekFrom::Hole(start))?;
        ranges.push((start, at.min(len)));
    }
    Ok(ranges)
}

/// First offset at which two files differ, whatever their holes; the shorter one reads as zeros at its end.
pub fn first_difference(a: &Path, b: &Path) -> Result<Option<u64>, String> {
    first_difference_but(a, b, &[])
}

/// The same without some ranges of bytes.
pub fn first_difference_but(a: &Path, b: &Path, but: &[Range<u64>]) -> Result<Option<u64>, String> {
    let show = |e: std::io::Error| e.to_string();
    let (a, b) = (File::open(a).map_err(show)?, File::open(b).map_err(show)?);
    let mut ranges = data_ranges(&a).map_err(show)?;
    ranges.extend(data_ranges(&b).map_err(show)?);
    ranges.sort_unstable();
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut done = 0;
    for (start, end) in ranges {
        let mut at = start.max(done);
        while at < end {
            let n = left.len().min((end - at) as usize);
            read_or_zero(&a, at, &mut left[..n]).map_err(show)?;
            read_or_zero(&b, at, &mut right[..n]).map_err(show)?;
            for range in but.iter().filter(|range| range.start < at + n as u64 && range.end > at) {
                let part = range.start.saturating_sub(at) as usize..((range.end - at) as usize).min(n);
                left[part.clone()].fill(0);
                right[part].fill(0);
            }
            if left[..n] != right[..n] {
                let first = left.iter().zip(&right).position(|(x, y)| x != y).unwrap_or(0);
                return Ok(Some(at + first as u64));
            }
            at += n as u64;
        }
        done = done.max(end);
    }
    Ok(None)
}

fn read_or_zero(file: &File, mut at: u64, mut buffer: &mut [u8]) -> std::io::Result<()> {
    while !buffer.is_empty() {
        let n = file.read_at(buffer, at)?;
        if n == 0 {
            buffer.fill(0);
            break;
        }
        at += n as u64;
        buffer = &mut buffer[n..];
    }
    Ok(())
}

/// What a folder holds: relative name, and what can be said of it in a line.
pub fn list(dir: &Path) -> Result<BTreeMap<String, Entry>, String> {
    let mut all = BTreeMap::new();
    walk(dir, "", &mut all)?;
    Ok(all)
}

/// One name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `dir`, `file`, `-> target` or `other`.
    pub kind: String,
    /// Length of a file in bytes.
    pub len: u64,
    /// Bytes that the file system has allocated for it.
    pub allocated: u64,
}

fn walk(dir: &Path, prefix: &str, all: &mut BTreeMap<String, Entry>) -> Result<(), String> {
    for entry in fs::read_dir(dir).map_err(|e| e.to_string())? {
        let path = entry.map_err(|e| e.to_string())?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let meta = fs::symlink_metadata(&path).map_err(|e| e.to_string())?;
        let (kind, len) = if meta.is_dir() {
            walk(&path, &name, all)?;
            ("dir".to_owned(), 0)
        } else if meta.is_symlink() {
            (format!("-> {}", fs::read_link(&path).map_err(|e| e.to_string())?.display()), 0)
        } else if meta.is_file() {
            ("file".to_owned(), meta.len())
        } else {
            ("other".to_owned(), 0)
        };
        all.insert(name, Entry { kind, len, allocated: meta.blocks() * 512 });
    }
    Ok(())
}
