//! QEMU's image locks: shared "open file description" locks of single bytes, so that a program which uses an image and
//! one which must not see it used meet (as of QEMU 10.0.2).
//!
//! For permission i, byte 100+i is locked by whoever needs it and byte 200+i by whoever does not share it. All locks are
//! read locks, which never exclude each other: a conflict is found by asking whether a write lock *would* be granted.
//! They belong to the open file and end with it at the latest. A child that is being started shares the open file for a
//! moment, so whoever closes an image gives its locks back first ([`Held`]): nobody meets a lock of a closed image.

use std::fs::File;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};

use diskimg_core::protocol::{LockSpec, Permissions};
use diskimg_core::{Error, ErrorKind, Result, errno};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::holder;

/// First lock byte of "I need permission i".
const NEEDED_BASE: u64 = 100;

/// First lock byte of "nobody else may have permission i".
const UNSHARED_BASE: u64 = 200;

/// From the first lock byte to behind the last one.
const ALL_BYTES: i64 = 200;

/// Permissions in the order of their lock bytes, with the names in messages.
const NAMES: [(Permissions, &str); 4] = [
    (Permissions::CONSISTENT_READ, "consistent read"),
    (Permissions::WRITE, "write"),
    (Permissions::WRITE_UNCHANGED, "write unchanged"),
    (Permissions::RESIZE, "resize"),
];

/// The bytes that a lock takes, ascending.
pub(crate) fn bytes_to_lock(lock: LockSpec) -> Vec<u64> {
    let unshared = Permissions::all().difference(lock.share);
    let bytes = |base: u64, of: Permissions| permission_bytes(base, of).map(|(byte, _)| byte);
    bytes(NEEDED_BASE, lock.need).chain(bytes(UNSHARED_BASE, unshared)).collect()
}

/// The bytes of `of` above `base`, with the permissions' names.
fn permission_bytes(base: u64, of: Permissions) -> impl Iterator<Item = (u64, &'static str)> {
    NAMES
        .iter()
        .zip(base..)
        .filter(move |((bit, _), _)| of.contains(*bit))
        .map(|((_, name), byte)| (byte, *name))
}

fn request(kind: i32, byte: u64) -> libc::flock {
    request_run(kind, byte, 1)
}

fn request_run(kind: i32, byte: u64, len: i64) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: i64::try_from(byte).unwrap_or_default(),
        l_len: len,
        l_pid: 0,
    }
}

/// True if the file's system knows these locks.
pub(crate) fn is_supported(file: &File) -> bool {
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut request(libc::F_WRLCK, NEEDED_BASE))).is_ok()
}

/// True if another open file has a lock on `byte`.
fn is_taken(file: &File, byte: u64) -> Result<bool, nix::Error> {
    let mut lock = request(libc::F_WRLCK, byte);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

/// An open file with the locks that were taken on it.
#[derive(Debug)]
pub(crate) struct Held {
    file: File,
    locked: bool,
}

impl Held {
    /// Without a lock.
    pub(crate) const fn free(file: File) -> Self {
        Self { file, locked: false }
    }

    /// Takes `lock`, for as long as the file is open; `filename` is for the hint.
    ///
    /// # Errors
    /// `Locked` if another user's needs exclude ours.
    pub(crate) fn lock(&mut self, lock: LockSpec, filename: &str) -> Result<()> {
        // Some of it may be taken when it fails.
        self.locked = true;
        acquire(&self.file, lock, filename)
    }
}

impl Deref for Held {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.locked {
            let all = request_run(libc::F_UNLCK, NEEDED_BASE, ALL_BYTES);
            // If that fails, closing the file does it.
            let _ = fcntl(&self.file, FcntlArg::F_OFD_SETLK(&all));
        }
    }
}

fn acquire(file: &File, lock: LockSpec, filename: &str) -> Result<()> {
    for byte in bytes_to_lock(lock) {
        if let Err(error) = fcntl(file, FcntlArg::F_OFD_SETLK(&request(libc::F_RDLCK, byte))) {
            return Err(host_error(error).context(format!("Failed to lock byte {byte}")));
        }
    }
    let unshared = Permissions::all().difference(lock.share);
    check_free(file, permission_bytes(UNSHARED_BASE, lock.need), "Failed to get", filename)?;
    check_free(file, permission_bytes(NEEDED_BASE, unshared), "Failed to get shared", filename)
}

fn check_free(
    file: &File,
    bytes: impl Iterator<Item = (u64, &'static str)>,
    words: &str,
    filename: &str,
) -> Result<()> {
    for (byte, name) in bytes {
        match is_taken(file, byte) {
            Ok(false) => {}
            Ok(true) => {
                let hint = format!("Is another process using the image [{filename}]?");
                let error = Error::new(ErrorKind::Locked, format!("{words} \"{name}\" lock"))
                    .with_errno(errno::EAGAIN)
                    .with_hint(hint);
                return Err(match holder::remark(file, byte) {
                    Some(remark) => error.with_remark(remark),
                    None => error,
                });
            }
            Err(error) => return Err(host_error(error).context(format!("Failed to get lock byte {byte}"))),
        }
    }
    Ok(())
}

fn host_error(error: nix::Error) -> Error {
    Error::from(std::io::Error::from(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_use_locks_the_bytes_that_qemu_locks() {
        let cases: [(LockSpec, &[u64]); 5] = [
            (LockSpec::FORMAT_WRITE, &[100, 101, 103, 201, 203]),
            (LockSpec::FORMAT_READ, &[100, 201, 203]),
            (LockSpec::RAW_WRITE, &[100, 101]),
            (LockSpec::SHARED_READ, &[100]),
            (LockSpec::CREATE, &[101, 103, 203]),
        ];
        for (lock, bytes) in cases {
            assert_eq!(bytes_to_lock(lock), bytes, "{lock:?}");
        }
    }

    #[test]
    fn two_users_meet_and_the_second_is_told_which_lock_it_lacks() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().read(true).write(true).open(path.path()).unwrap();
        let first = open();
        assert!(is_supported(&first));
        acquire(&first, LockSpec::FORMAT_WRITE, "F").unwrap();

        let error = acquire(&open(), LockSpec::FORMAT_WRITE, "F").unwrap_err();
        assert_eq!(error.joined(), "Failed to get \"write\" lock");
        assert_eq!(error.hint(), Some("Is another process using the image [F]?"));
        assert_eq!(error.kind(), ErrorKind::Locked);
        assert_eq!(error.remark(), Some("It is in use by this process itself."));

        let error = acquire(&open(), LockSpec::FORMAT_READ, "F").unwrap_err();
        assert_eq!(error.joined(), "Failed to get shared \"write\" lock");
        acquire(&open(), LockSpec::SHARED_READ, "F").unwrap();

        drop(first);
        acquire(&open(), LockSpec::FORMAT_WRITE, "F").unwrap();
    }

    #[test]
    fn the_lock_of_a_closed_image_does_not_last_in_a_child() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let open = || Held::free(File::options().read(true).write(true).open(path.path()).unwrap());
        let mut first = open();
        first.lock(LockSpec::FORMAT_WRITE, "F").unwrap();
        // What a child holds between fork and exec.
        let _inherited = first.try_clone().unwrap();
        assert!(open().lock(LockSpec::FORMAT_WRITE, "F").is_err());
        drop(first);
        open().lock(LockSpec::FORMAT_WRITE, "F").unwrap();
    }

    #[test]
    fn raw_users_share() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().read(true).write(true).open(path.path()).unwrap();
        let (first, second) = (open(), open());
        acquire(&first, LockSpec::RAW_WRITE, "F").unwrap();
        acquire(&second, LockSpec::RAW_WRITE, "F").unwrap();
        acquire(&open(), LockSpec::CREATE, "F").unwrap();
        assert!(acquire(&open(), LockSpec::FORMAT_READ, "F").is_err());
    }
}
