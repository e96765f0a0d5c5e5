//! Who holds a lock: the open file of another process that has the byte locked, as `/proc` tells it. For messages only:
//! what can't be found out is left out. Called by [`crate::lock`].

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What a user is told of those who hold a lock on `byte` of `file`; `None`: nothing is known.
pub(crate) fn remark(file: &File, byte: u64) -> Option<String> {
    let image = file.metadata().ok()?;
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let path = process.path();
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if holds(&path, (image.dev(), image.ino()), byte) {
            found.push(shown(&path, pid));
        }
    }
    (!found.is_empty()).then(|| format!("It is in use by {}.", found.join(" and ")))
}

fn shown(process: &Path, pid: u32) -> String {
    if pid == std::process::id() {
        return "this process itself".to_owned();
    }
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    match name.trim_end() {
        "" => format!("process {pid}"),
        name => format!("process {pid} ({name})"),
    }
}

/// True if an open file of the process in `/proc` is that one, and has a lock on `byte`.
fn holds(process: &Path, (dev, ino): (u64, u64), byte: u64) -> bool {
    let Ok(open) = fs::read_dir(process.join("fd")) else { return false };
    open.flatten().any(|entry| {
        let same = fs::metadata(entry.path()).is_ok_and(|found| found.dev() == dev && found.ino() == ino);
        let info = || fs::read_to_string(process.join("fdinfo").join(entry.file_name()));
        same && info().is_ok_and(|info| info.lines().any(|line| locks(line, byte)))
    })
}

/// True for a line such as `lock: 1: OFDLCK ADVISORY READ -1 08:01:131 100 101` whose last two numbers go round `byte`.
fn locks(line: &str, byte: u64) -> bool {
    let Some(lock) = line.strip_prefix("lock:") else { return false };
    let mut words = lock.split_whitespace();
    let is_ours = words.nth(1) == Some("OFDLCK");
    let mut last = words.rev();
    let end = last.next().map_or(0, |end| if end == "EOF" { u64::MAX } else { end.parse().unwrap_or(0) });
    let start = last.next().and_then(|start| start.parse().ok()).unwrap_or(u64::MAX);
    is_ours && (start..=end).contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_locks_are_understood() {
        let line = "lock:\t1: OFDLCK ADVISORY  READ -1 08:01:131 100 101";
        assert!(locks(line, 100) && locks(line, 101) && !locks(line, 102) && !locks(line, 99));
        assert!(locks("lock:\t2: OFDLCK ADVISORY  WRITE -1 00:2b:5 200 EOF", 203));
        assert!(!locks("lock:\t1: POSIX  ADVISORY  READ 77 08:01:131 100 101", 100));
        assert!(!locks("pos:\t0", 0) && !locks("lock:", 0));
    }
}
