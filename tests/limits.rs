//! How cloud services run the command: in 1 GiB of address space, with two seconds of processor time for `info`, and
//! taking any word on standard error of a successful run for a failure.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Output};

use diskimg::core::BlockDevice as _;

const PROGRAM: &str = env!("CARGO_BIN_EXE_qemu-img-rs");

/// `ulimit -v`, in KiB.
const ADDRESS_SPACE: u32 = 1 << 20;

fn limited(dir: &Path, seconds: u32, args: &[&str]) -> Output {
    let script = format!("ulimit -v {ADDRESS_SPACE}; ulimit -t {seconds}; exec \"$@\"");
    Command::new("sh")
        .args(["-c", &script, "sh", PROGRAM])
        .args(args)
        .current_dir(dir)
        .output()
        .expect("sh is there")
}

fn quiet(dir: &Path, seconds: u32, line: &str) -> String {
    let args: Vec<&str> = line.split_whitespace().collect();
    let done = limited(dir, seconds, &args);
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{line}: {} {stderr}", done.status);
    assert_eq!(stderr, "", "{line}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

fn contents() -> Vec<u8> {
    let mut bytes = vec![0; 4 << 20];
    for (at, byte) in bytes.iter_mut().enumerate().skip(1 << 20).take(1 << 20) {
        *byte = u8::try_from(at * 7 % 251).expect("small");
    }
    bytes
}

#[test]
fn every_subcommand_works_within_a_gibibyte_and_says_nothing_on_standard_error() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    fs::write(dir.join("r.raw"), contents()).expect("written");
    let lines = [
        "create -f qcow2 a.qcow2 1G",
        "create -f qcow2 -b r.raw -F raw o.qcow2",
        "create -f qcow2 -b r.raw -F raw p.qcow2",
        "convert -f raw -O qcow2 r.raw q.qcow2",
        "convert -c -f raw -O qcow2 r.raw c.qcow2",
        "convert -f qcow2 -O raw c.qcow2 back.raw",
        "convert -f raw -O vmdk -o subformat=streamOptimized r.raw s.vmdk",
        "convert -f raw -O vdi r.raw v.vdi",
        "compare -f qcow2 -F raw c.qcow2 r.raw",
        "check -f qcow2 q.qcow2",
        "map -f qcow2 --output=json q.qcow2",
        "measure -f qcow2 -O qcow2 q.qcow2",
        "resize -f qcow2 q.qcow2 +1M",
        "amend -f qcow2 -o lazy_refcounts=on q.qcow2",
        "bitmap -f qcow2 --add q.qcow2 b0",
        "snapshot -c one q.qcow2",
        "snapshot -l q.qcow2",
        "bench -f raw -c 100 r.raw",
        "bench -f qcow2 -w -c 100 -d 64 -t none a.qcow2",
        "bench -f qcow2 -w -c 20000 -d 64 -t directsync a.qcow2",
        "dd -f raw -O qcow2 if=r.raw of=d.qcow2 bs=64k",
        "rebase -f qcow2 -u -b r.raw -F raw p.qcow2",
        "commit -f qcow2 o.qcow2",
    ];
    for line in lines {
        quiet(dir, 20, line);
    }
}

/// What a process may write to at most, in KiB (`ulimit -d`): heap, stacks and buffers, whether in memory or not.
const WRITABLE: u32 = 24 << 10;

/// Runs with two threads within [`ADDRESS_SPACE`] and [`WRITABLE`].
fn bounded(dir: &Path, line: &str) {
    let script = format!(
        "ulimit -v {ADDRESS_SPACE}; ulimit -d {WRITABLE}; ulimit -t 60; exec {PROGRAM} convert -m 2 {line}"
    );
    let done = Command::new("sh").args(["-c", &script]).current_dir(dir).output().expect("sh is there");
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && stderr.is_empty(), "{line}: {} {stderr}", done.status);
}

/// Terabytes with next to nothing in them, one image allocated in advance, and one with more tables than may be held.
#[test]
fn the_memory_of_a_conversion_does_not_grow_with_the_image() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    quiet(dir, 20, "create -f qcow2 sparse.qcow2 16T");
    quiet(dir, 20, "create -f qcow2 -o preallocation=metadata full.qcow2 64G");
    let name = dir.join("sparse.qcow2");
    let disk = diskimg::open_writable(name.to_str().expect("UTF-8")).expect("opened");
    for at in [0, 7 << 40, (16 << 40) - 65536] {
        disk.write_at(at, &[1; 65536]).expect("written");
    }
    disk.flush().expect("flushed");
    drop(disk);
    // A cluster for each of its tables.
    let spread = fs::File::create(dir.join("spread.raw")).expect("made");
    spread.set_len(512 << 30).expect("set");
    for at in (0..512u64 << 30).step_by(512 << 20) {
        spread.write_all_at(&[2; 4096], at).expect("written");
    }
    for line in [
        "-f qcow2 -O qcow2 sparse.qcow2 x",
        "-f qcow2 -O qcow2 -c sparse.qcow2 x",
        "-f qcow2 -O vhdx sparse.qcow2 x",
        "-f qcow2 -O raw full.qcow2 x",
        "-f qcow2 -O qcow2 full.qcow2 x",
        "-f qcow2 -O vmdk full.qcow2 x",
        "-f raw -O qcow2 -C spread.raw x",
        "-f raw -O qcow2 -c spread.raw x",
        "-f raw -O vmdk -o subformat=streamOptimized spread.raw x",
        "-f raw -O qed spread.raw x",
        "-f raw -O qcow2 spread.raw spread.qcow2",
        "-f qcow2 -O raw spread.qcow2 x",
    ] {
        bounded(dir, line);
    }
}

#[test]
fn info_takes_less_than_two_seconds() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    quiet(dir, 20, "create -f qcow2 -o cluster_size=4k big.qcow2 512G");
    quiet(dir, 20, "create -f qcow2 huge.qcow2 60T");
    for line in ["info --output=json big.qcow2", "info huge.qcow2", "info -U --output=json huge.qcow2"] {
        quiet(dir, 2, line);
    }
}

#[test]
fn the_digest_is_that_of_the_guest_content() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    fs::write(dir.join("r.raw"), contents()).expect("written");
    let first = quiet(dir, 20, "convert --digest -f raw -O qcow2 r.raw a.qcow2");
    let sum = Command::new("sha256sum").arg("r.raw").current_dir(dir).output().expect("sha256sum");
    let sum = String::from_utf8_lossy(&sum.stdout).into_owned();
    assert_eq!(first.trim(), format!("sha256: {}", sum.split(' ').next().unwrap_or_default()));
    assert_eq!(quiet(dir, 20, "convert --digest -f qcow2 -O vdi a.qcow2 b.vdi"), first);
}

#[test]
fn progress_is_told_in_json() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    fs::write(dir.join("r.raw"), contents()).expect("written");
    let told = quiet(dir, 20, "convert --progress=json -f raw -O qcow2 r.raw a.qcow2");
    let last: serde_json::Value =
        serde_json::from_str(told.lines().last().unwrap_or_default()).expect("JSON");
    assert_eq!(last["progress"], 100.0);
}

#[test]
fn completions_and_pages_are_made() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    quiet(dir, 20, "--generate=man pages");
    assert!(fs::read_dir(dir.join("pages")).expect("read").count() > 15);
    fs::write(dir.join("c"), quiet(dir, 20, "--generate=completions bash")).expect("written");
    let checked = Command::new("bash").args(["-n", "c"]).current_dir(dir).status();
    assert!(checked.is_err() || checked.is_ok_and(|status| status.success()));
}

/// Bitmaps are stored when the image is closed: a failure of that is one of the command.
#[test]
fn bitmaps_that_can_not_be_stored_fail_the_command() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    quiet(dir, 20, "create -f qcow2 a.qcow2 64M");
    let before = fs::read(dir.join("a.qcow2")).expect("an image");
    // Without the signal, a write behind the limit of the file's size is an error like others.
    let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", before.len().div_ceil(512));
    for line in ["bitmap --add a.qcow2 b", "bitmap --add --disable -g 64k a.qcow2 b"] {
        let done = Command::new("sh")
            .args(["-c", &script, "sh", PROGRAM])
            .args(line.split(' '))
            .current_dir(dir)
            .output()
            .expect("sh is there");
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{line}: {stderr}");
        assert!(stderr.contains("File too large"), "{line}: {stderr}");
        quiet(dir, 20, "check a.qcow2");
        assert!(!quiet(dir, 20, "info a.qcow2").contains("bitmaps:"), "{line}");
    }
    quiet(dir, 20, "bitmap --add a.qcow2 b");
}
