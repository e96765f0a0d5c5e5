//! `convert -C` where the file system can share blocks: it does, whatever the formats, lengths and offsets, so that a
//! conversion takes the space and the time of the metadata; and without `-C` the copy has blocks of its own.
//!
//! Needs root, `mkfs.xfs` and `mkfs.btrfs` for loop mounts of 600 MiB, or a folder on such a file system in
//! `DISKIMG_REFLINK_DIR`; otherwise ignored, with the reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use diskimg_testkit::{Rng, suite};

const PROGRAM: &str = env!("CARGO_BIN_EXE_qemu-img-rs");

/// Bytes that a file system may need for itself while a copy shares all of its blocks.
const METADATA: u64 = 12 << 20;

fn main() -> ExitCode {
    let mut tests = Vec::new();
    for (name, make) in [("xfs", "mkfs.xfs -q -m reflink=1"), ("btrfs", "mkfs.btrfs -q")] {
        tests.push(suite::with_place(
            format!("copies share blocks on {name}"),
            mounted(name, make),
            |place| {
                shares(place.folder());
            },
        ));
    }
    let given = std::env::var_os("DISKIMG_REFLINK_DIR").map(PathBuf::from);
    let given = given.ok_or_else(|| "DISKIMG_REFLINK_DIR is not set".to_owned());
    tests.push(suite::with_place("copies share blocks in the folder that was given", given, |folder| {
        shares(tempfile::tempdir_in(folder).unwrap().path());
    }));
    suite::run(tests)
}

/// A file system in a file. It goes when it is dropped.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn point(&self) -> PathBuf {
        self.0.path().join("mounted")
    }

    fn folder(&self) -> &'static Path {
        Box::leak(self.point().into_boxed_path())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.point()).output();
    }
}

fn mounted(name: &str, make: &str) -> Result<Mounted, String> {
    if !rustix::process::geteuid().is_root() {
        return Err(format!("mounting {name} needs root"));
    }
    let show = |error: std::io::Error| error.to_string();
    let place = Mounted(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(show)?);
    let image = place.0.path().join("image");
    File::create(&image).and_then(|file| file.set_len(600 << 20)).map_err(show)?;
    fs::create_dir(place.point()).map_err(show)?;
    let make = format!("PATH=$PATH:/usr/sbin:/sbin {make} \"$0\" && mount -o loop \"$0\" \"$1\"");
    let done =
        Command::new("sh").arg("-c").arg(make).arg(&image).arg(place.point()).output().map_err(show)?;
    if done.status.success() {
        Ok(place)
    } else {
        Err(format!("no loop mount of {name}: {}", String::from_utf8_lossy(&done.stderr).trim()))
    }
}

fn run(folder: &Path, line: &str) {
    let done = Command::new(PROGRAM).args(line.split_whitespace()).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Bytes that the file system's files take.
fn used(folder: &Path) -> u64 {
    rustix::fs::syncfs(File::open(folder).unwrap()).unwrap();
    let found = rustix::fs::statvfs(folder).unwrap();
    (found.f_blocks - found.f_bfree) * found.f_frsize
}

/// Bytes that are taken more after this command line.
fn grown(folder: &Path, line: &str) -> u64 {
    let before = used(folder);
    run(folder, line);
    used(folder).saturating_sub(before)
}

/// Noise with a hole, and `tail` bytes more.
fn disk(path: &Path, len: u64, tail: u64) {
    let mut rng = Rng::new(tail + 1);
    let file = File::create(path).unwrap();
    for at in (0..len + tail).step_by(1 << 20) {
        let bytes: Vec<u8> =
            std::iter::repeat_with(|| rng.next_u64().to_le_bytes()).take(1 << 17).flatten().collect();
        if at >> 20 != 5 {
            let count = usize::try_from((len + tail - at).min(1 << 20)).unwrap();
            file.write_all_at(&bytes[..count], at).unwrap();
        }
    }
}

fn shares(folder: &Path) {
    disk(&folder.join("even.raw"), 48 << 20, 0);
    // The end is within a cluster, a block and a sector of 4 KiB.
    disk(&folder.join("odd.raw"), 48 << 20, 66_048);
    for source in ["even", "odd"] {
        let steps = [
            format!("-f raw -O raw {source}.raw {source}.copy"),
            format!("-f raw -O qcow2 {source}.raw {source}.qcow2"),
            format!("-f raw -O qcow2 -o cluster_size=4k {source}.raw {source}.small"),
            format!("-f qcow2 -O raw {source}.qcow2 {source}.back"),
            format!("-f qcow2 -O raw {source}.small {source}.again"),
            format!("-f qcow2 -O qcow2 -o cluster_size=2M {source}.qcow2 {source}.large"),
            format!("-f qcow2 -O vhdx {source}.small {source}.vhdx"),
        ];
        for step in steps {
            let more = grown(folder, &format!("convert -C {step}"));
            assert!(more < METADATA, "{step} took {more} bytes");
        }
        for copy in ["copy", "back", "again"] {
            let same = fs::read(folder.join(format!("{source}.{copy}"))).unwrap()
                == fs::read(folder.join(format!("{source}.raw"))).unwrap();
            assert!(same, "{source}.{copy}");
        }
        for format in ["small", "large"] {
            run(folder, &format!("compare -f raw -F qcow2 {source}.raw {source}.{format}"));
            run(folder, &format!("check -f qcow2 {source}.{format}"));
        }
    }
    // What is written to a copy is not in what it was made of.
    let old = fs::read(folder.join("even.raw")).unwrap();
    File::options()
        .write(true)
        .open(folder.join("even.copy"))
        .unwrap()
        .write_all_at(&[0; 65536], 4096)
        .unwrap();
    assert!(fs::read(folder.join("even.raw")).unwrap() == old);
    // Offsets of more than 31 bits lie on the borders of blocks as well.
    let many = "even.raw ".repeat(56);
    assert!(grown(folder, &format!("convert -C -f raw -O raw {many} big.raw")) < METADATA);
    assert!(grown(folder, "convert -C -f raw -O qcow2 big.raw big.qcow2") < METADATA);
    assert!(grown(folder, "convert -C -f qcow2 -O raw big.qcow2 again.raw") < METADATA);
    for (name, at) in [("big.raw", 2 << 30), ("again.raw", (2 << 30) - 4096), ("again.raw", 55 * (48 << 20))]
    {
        let mut found = vec![0; 1 << 20];
        File::open(folder.join(name)).unwrap().read_exact_at(&mut found, at).unwrap();
        let within = usize::try_from(at % (48 << 20)).unwrap();
        assert!(found == old[within..][..1 << 20], "{name} at {at}");
    }
    // Who wants space of its own for the copy gets it.
    assert!(grown(folder, "convert -f raw -O raw even.raw own.raw") > 40 << 20);
}
