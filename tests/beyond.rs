//! What the command does beyond qemu-img: who holds a locked image, `--references`, `stream`, and interrupts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::fs;
use std::io::Read as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const OURS: &str = env!("CARGO_BIN_EXE_qemu-img-rs");

/// Our command, called `name`.
fn command(folder: &Path, name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(OURS);
    command.arg0(name).args(args).current_dir(folder).stdin(Stdio::null());
    command
}

fn run(folder: &Path, args: &[&str]) -> Output {
    command(folder, "qemu-img-rs", args).output().unwrap()
}

fn must(folder: &Path, args: &[&str]) -> String {
    let output = run(folder, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Bytes that do not compress.
fn noise(len: usize, mut seed: u64) -> Vec<u8> {
    let next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// A slow operation: `convert` at a few bytes a second.
fn slow(folder: &Path, args: &[&str]) -> Child {
    let child = command(folder, "qemu-img-rs", args).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn();
    child.unwrap()
}

/// The number of SIGINT.
const INT: u32 = 2;

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Waits until the operation of `child` has begun: it listens to the signal of that number.
fn until_it_listens(child: &Child, signal: u32) {
    let path = format!("/proc/{}/status", child.id());
    eventually("it listens to signals", || {
        let status = fs::read_to_string(&path).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0");
        u64::from_str_radix(caught.trim(), 16).unwrap() >> (signal - 1) & 1 == 1
    });
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_refused_lock_names_its_holder() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    must(folder, &["create", "-q", "-f", "qcow2", "a.qcow2", "1M"]);
    fs::write(folder.join("s.raw"), noise(1 << 20, 1)).unwrap();
    let mut holder =
        slow(folder, &["convert", "-n", "-r", "1k", "-f", "raw", "-O", "qcow2", "s.raw", "a.qcow2"]);
    // Not asking before it has the image: the question would lock it out.
    until_it_listens(&holder, INT);
    let expected = format!(
        "qemu-img-rs: Could not open 'a.qcow2': Failed to get shared \"write\" lock\n\
         Is another process using the image [a.qcow2]?\nIt is in use by process {} (qemu-img-rs).\n",
        holder.id()
    );
    assert_eq!(told(&run(folder, &["info", "a.qcow2"])), expected);
    // Programs that parse what qemu-img says see what they know.
    let called = command(folder, "qemu-img", &["info", "a.qcow2"]).output().unwrap();
    assert!(told(&called).ends_with("Is another process using the image [a.qcow2]?\n"), "{}", told(&called));
    signal(&holder, "KILL");
    holder.wait().unwrap();
}

#[test]
fn references_are_gated() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::create_dir(folder.join("sub")).unwrap();
    fs::write(folder.join("sub/base.raw"), [7; 4096]).unwrap();
    fs::write(folder.join("base.raw"), [8; 4096]).unwrap();
    must(folder, &["create", "-q", "-f", "qcow2", "-b", "sub/base.raw", "-F", "raw", "far.qcow2"]);
    must(folder, &["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "near.qcow2"]);
    let is_let = |gate: &str, image: &str| run(folder, &[gate, "map", image]).status.success();
    for (gate, near, far) in [
        ("--references=permissive", true, true),
        ("--references=deny", false, false),
        ("--references=same-dir", true, false),
        ("--references=sub/base.raw", false, true),
        ("--references=sub/base.raw,base.raw", true, true),
    ] {
        assert_eq!((is_let(gate, "near.qcow2"), is_let(gate, "far.qcow2")), (near, far), "{gate}");
        let chain = |image: &str| run(folder, &[gate, "info", "--backing-chain", image]).status.success();
        assert_eq!((chain("near.qcow2"), chain("far.qcow2")), (near, far), "{gate}");
    }
    assert!(told(&run(folder, &["--references=", "map", "near.qcow2"])).contains("--references expects"));
}

#[test]
fn stream_cuts_off_what_lies_between() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::create_dir(folder.join("low")).unwrap();
    fs::write(folder.join("low/base.raw"), noise(300_032, 2)).unwrap();
    fs::write(folder.join("s.raw"), noise(70_144, 3)).unwrap();
    must(folder, &["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "low/mid.qcow2", "1M"]);
    must(folder, &["convert", "-n", "-f", "raw", "-O", "qcow2", "s.raw", "low/mid.qcow2"]);
    must(folder, &["create", "-q", "-f", "qcow2", "-b", "low/mid.qcow2", "-F", "qcow2", "top.qcow2"]);
    must(folder, &["create", "-q", "-f", "qcow2", "-b", "top.qcow2", "-F", "qcow2", "over.qcow2"]);
    for image in ["top.qcow2", "over.qcow2"] {
        must(folder, &["convert", "-O", "raw", image, &format!("{image}.raw")]);
    }
    let same = |image: &str| {
        let raw = format!("{image}.raw");
        must(folder, &["compare", "-F", "raw", image, &raw]) == "Images are identical.\n"
    };
    // A name that was relative to another folder.
    assert_eq!(must(folder, &["stream", "-b", "base.raw", "top.qcow2"]), "Image streamed.\n");
    let info = must(folder, &["info", "top.qcow2"]);
    assert!(info.contains("backing file: low/base.raw\n") && info.contains("format: raw\n"), "{info}");
    assert!(same("top.qcow2") && same("over.qcow2"));
    // Again, and further.
    must(folder, &["stream", "-q", "-b", "low/base.raw", "top.qcow2"]);
    assert_eq!(must(folder, &["stream", "-q", "top.qcow2"]), "");
    fs::remove_dir_all(folder.join("low")).unwrap();
    assert!(same("top.qcow2") && same("over.qcow2"));
    assert!(!must(folder, &["info", "top.qcow2"]).contains("backing"));
    must(folder, &["check", "top.qcow2"]);
    let wrong = run(folder, &["stream", "-b", "nosuch", "over.qcow2"]);
    assert_eq!(told(&wrong), "qemu-img-rs: Did not find 'nosuch' in the backing chain of 'over.qcow2'\n");
    assert!(must(folder, &["stream", "--help"]).starts_with("Usage:\nPull data"));
}

#[test]
fn an_interrupted_conversion_leaves_no_target_that_looks_whole() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("s.raw"), noise(4 << 20, 4)).unwrap();
    for name in ["INT", "TERM"] {
        let mut child =
            slow(folder, &["convert", "-r", "1M", "-f", "raw", "-O", "qcow2", "s.raw", "out.qcow2"]);
        eventually("the target is there", || folder.join("out.qcow2").exists());
        signal(&child, name);
        let status = child.wait().unwrap();
        assert!(status.signal().is_some(), "{name}: {status}");
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, "");
        assert!(!folder.join("out.qcow2").exists(), "{name}");
    }
    // Nor while it is still being given its space.
    fs::File::create(folder.join("large.raw")).unwrap().set_len(8 << 30).unwrap();
    let full = ["convert", "-f", "raw", "-O", "raw", "-o", "preallocation=full", "large.raw", "full.raw"];
    let mut child = slow(folder, &full);
    eventually("the target is there", || folder.join("full.raw").exists());
    signal(&child, "INT");
    assert_eq!(child.wait().unwrap().signal(), Some(2));
    assert!(!folder.join("full.raw").exists());
    // An existing target is the user's.
    must(folder, &["create", "-q", "-f", "qcow2", "out.qcow2", "4M"]);
    let mut child =
        slow(folder, &["convert", "-n", "-r", "1M", "-f", "raw", "-O", "qcow2", "s.raw", "out.qcow2"]);
    until_it_listens(&child, INT);
    signal(&child, "INT");
    assert_eq!(child.wait().unwrap().signal(), Some(2));
    must(folder, &["check", "out.qcow2"]);
}

/// qemu-img leaves a file of the full length that holds a part of the blocks.
#[test]
fn an_interrupted_dd_leaves_no_target_that_looks_whole() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("s.raw"), noise(4 << 20, 4)).unwrap();
    let source =
        r#"if=json:{"driver":"throttle","throttle-group":"t","file":{"driver":"file","filename":"s.raw"}}"#;
    for format in ["raw", "qcow2"] {
        let object = "throttle-group,id=t,x-bps-total=524288";
        let mut child = slow(folder, &["dd", "--object", object, "-O", format, source, "of=out"]);
        eventually("the target is there", || folder.join("out").exists());
        signal(&child, "INT");
        assert_eq!(child.wait().unwrap().signal(), Some(2), "{format}");
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!((said.as_str(), folder.join("out").exists()), ("", false), "{format}");
    }
}

#[test]
fn interrupted_chain_operations_are_run_again() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("base.raw"), noise(2 << 20, 5)).unwrap();
    fs::write(folder.join("s.raw"), noise(2 << 20, 6)).unwrap();
    must(folder, &["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "top.qcow2"]);
    must(folder, &["convert", "-n", "-f", "raw", "-O", "qcow2", "s.raw", "top.qcow2"]);
    let mut child = slow(folder, &["commit", "-r", "512k", "top.qcow2"]);
    until_it_listens(&child, INT);
    signal(&child, "INT");
    assert_eq!(child.wait().unwrap().signal(), Some(2));
    assert_eq!(must(folder, &["compare", "-F", "raw", "top.qcow2", "s.raw"]), "Images are identical.\n");
    assert_eq!(must(folder, &["commit", "top.qcow2"]), "Image committed.\n");
    assert_eq!(
        must(folder, &["compare", "-f", "raw", "-F", "raw", "base.raw", "s.raw"]),
        "Images are identical.\n"
    );
}

#[test]
fn sigusr1_asks_for_progress() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("base.raw"), vec![0; 4 << 20]).unwrap();
    fs::write(folder.join("s.raw"), noise(4 << 20, 7)).unwrap();
    must(folder, &["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "top.qcow2"]);
    must(folder, &["convert", "-n", "-f", "raw", "-O", "qcow2", "s.raw", "top.qcow2"]);
    let mut child = slow(folder, &["commit", "-r", "2M", "top.qcow2"]);
    until_it_listens(&child, INT);
    signal(&child, "USR1");
    let status = child.wait().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let percent = said.strip_prefix("    (").and_then(|rest| rest.strip_suffix("/100%)\n"));
    assert!(status.success() && percent.is_some_and(|text| text.parse::<f32>().is_ok()), "{said:?}");
}
