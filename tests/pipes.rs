//! Pipes as images of `convert`, in both directions: contents by the oracle, what is promised to need no temporary file
//! (its folder does not exist) and little memory (`ulimit -v`), ends that come too early, readers that go away.
//!
//! `DISKIMG_SLOW=1` takes larger disks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::Duration;

use diskimg_testkit::{CheckVerdict, Oracle, pattern, suite};

const OURS: &str = env!("CARGO_BIN_EXE_qemu-img-rs");

/// Kibibytes of address space that a conversion through pipes does with, on any number of processors.
const ADDRESS_SPACE: u32 = 512 << 10;

/// A target format with its options.
const STREAM: &str = "vmdk -o subformat=streamOptimized";

fn main() -> ExitCode {
    suite::run(vec![
        suite::with_oracle("out of a file, of every length", out_of_files),
        suite::with_oracle("raw into files", raw_into_files),
        suite::with_oracle("images into files", images_into_files),
        suite::with_oracle("through", through),
        suite::with_oracle("what needs a temporary file", spooled),
        suite::with_oracle("a sparse disk in little memory", sparse),
        suite::with_oracle("overlays", overlays),
        suite::with_oracle("options of the layout", layouts),
        suite::plain("named pipes", named_pipes),
        suite::plain("lengths", lengths),
        suite::plain("an end that comes too early", cut_off),
        suite::plain("a reader that goes away", reader_gone),
        suite::plain("an interrupt while nothing comes", interrupted),
        suite::plain("digests and progress", digests),
        suite::plain("a file as standard input", standard_input),
    ])
}

/// Runs `line`, in which `$Q` is our command, in a shell. Temporary files can't be made.
fn shell(folder: &Path, line: &str) -> Output {
    let script = format!("set -o pipefail; ulimit -v {ADDRESS_SPACE}; {line}");
    let mut command = Command::new("bash");
    command.args(["-c", &script]).current_dir(folder).stdin(Stdio::null());
    command.env("Q", OURS).env("TMPDIR", "/nonexistent").output().expect("bash is there")
}

fn must(folder: &Path, line: &str) -> String {
    let output = shell(folder, line);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{line}: {} {said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn fails(folder: &Path, line: &str, words: &str) {
    let output = shell(folder, line);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(words), "{line}: {} {said}", output.status);
}

/// Data, repeated data, zeros inside data, and holes.
fn contents(len: usize) -> Vec<u8> {
    let mut bytes = pattern(7, 0, len as u64);
    for (number, cluster) in bytes.chunks_mut(65_536).enumerate() {
        match number % 5 {
            0 => cluster.fill(0),
            1 => cluster.fill(b'x'),
            2 => {
                let half = cluster.len() / 2;
                cluster[half..].fill(0);
            }
            _ => {}
        }
    }
    bytes
}

/// `name.raw` of `len` bytes, and `name.pad`, the same in whole sectors, as a guest sees it.
fn disk(folder: &Path, name: &str, len: usize) {
    let mut bytes = contents(len);
    fs::write(folder.join(format!("{name}.raw")), &bytes).unwrap();
    bytes.resize(len.next_multiple_of(512), 0);
    fs::write(folder.join(format!("{name}.pad")), &bytes).unwrap();
}

const LENGTHS: [(&str, usize); 5] =
    [("empty", 0), ("byte", 1), ("sector", 512), ("odd", 5_000_001), ("whole", 8 << 20)];

fn disks(folder: &Path) {
    for (name, len) in LENGTHS {
        disk(folder, name, len);
    }
}

fn is_same(oracle: &Oracle, folder: &Path, format: &str, image: &str, raw: &str) {
    if format == "raw" {
        assert!(
            fs::read(folder.join(image)).unwrap() == fs::read(folder.join(raw)).unwrap(),
            "{image} {raw}"
        );
        return;
    }
    oracle.compare_raw(folder, format, image, raw).unwrap_or_else(|error| panic!("{image} {raw}: {error}"));
    if format != "vdi" || fs::metadata(folder.join(raw)).unwrap().len() > 0 {
        assert_eq!(oracle.check(folder, format, image), CheckVerdict::Clean, "{image} {raw}");
    }
}

/// The name of the format in `target`.
fn format_of(target: &str) -> &str {
    target.split(' ').next().unwrap_or(target)
}

fn out_of_files(oracle: &'static Oracle) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    disks(dir);
    for (name, len) in LENGTHS {
        for target in ["raw", "qcow2", STREAM] {
            if len == 0 && target == STREAM {
                // The oracle opens no such image, whoever made it.
                continue;
            }
            must(dir, &format!("$Q convert -f raw -O {target} {name}.raw - | cat > out"));
            is_same(oracle, dir, format_of(target), "out", &format!("{name}.pad"));
        }
    }
    // The same layout as in a file.
    must(dir, "$Q convert -f raw -O qcow2 whole.raw a; $Q convert -f raw -O qcow2 whole.raw - > b");
    let map = |image: &str| oracle.must(dir, &["map", "--output=json", "-f", "qcow2", image]);
    assert_eq!(map("a"), map("b"));
}

fn raw_into_files(oracle: &'static Oracle) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    disks(dir);
    for (name, _) in LENGTHS {
        for target in ["raw", "qcow2", "qcow2 -o compat=0.10,cluster_size=4k", "qcow2 -c"] {
            must(dir, &format!("cat {name}.raw | $Q convert -f raw -O {target} - out"));
            is_same(oracle, dir, format_of(target), "out", &format!("{name}.pad"));
        }
    }
    // With a length that is given, into every format.
    let source = "--image-opts driver=raw,size=8M,file.filename=-";
    for target in ["raw", "vdi", "vpc", "vhdx", "qed", "parallels", "vmdk", STREAM] {
        must(dir, &format!("cat whole.raw | $Q convert {source} -O {target} out"));
        // Some round the length up.
        oracle.must(dir, &["compare", "-f", format_of(target), "-F", "raw", "out", "whole.raw"]);
    }
    // Nothing beyond the length is read.
    must(
        dir,
        "(cat whole.raw whole.raw 2>/dev/null || true) | $Q convert --image-opts driver=raw,size=1M,file.filename=- -O raw out",
    );
    assert!(fs::read(dir.join("out")).unwrap() == contents(8 << 20)[..1 << 20]);
}

fn images_into_files(oracle: &'static Oracle) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    disk(dir, "d", 40 << 20);
    must(dir, "$Q convert -f raw -O qcow2 d.raw ours; $Q convert -f raw -O qcow2 d.raw - > piped");
    oracle.must(dir, &["convert", "-f", "raw", "-O", "qcow2", "d.raw", "theirs"]);
    oracle.must(dir, &["convert", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4k", "d.raw", "small"]);
    oracle.must(dir, &["convert", "-c", "-f", "raw", "-O", "qcow2", "d.raw", "packed"]);
    for image in ["ours", "piped", "theirs", "small", "packed"] {
        must(dir, &format!("cat {image} | $Q convert -f qcow2 -O raw - out; cmp out d.pad"));
        must(dir, &format!("cat {image} | $Q convert -O vdi - out"));
        is_same(oracle, dir, "vdi", "out", "d.pad");
    }
}

fn through(oracle: &'static Oracle) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    disks(dir);
    for (name, _) in LENGTHS {
        must(dir, &format!("cat {name}.raw | $Q convert -f raw -O raw - - | cat > out; cmp out {name}.pad"));
        let line = format!(
            "$Q convert -f raw -O qcow2 {name}.raw - | $Q convert -f qcow2 -O raw - - | $Q convert -f raw -O qcow2 - out"
        );
        must(dir, &line);
        is_same(oracle, dir, "qcow2", "out", &format!("{name}.pad"));
    }
    let line = "$Q convert -f raw -O qcow2 whole.raw - | $Q convert -f qcow2 -O vmdk -o subformat=streamOptimized - - | cat > out";
    must(dir, line);
    is_same(oracle, dir, "vmdk", "out", "whole.raw");
}

/// These say so where there is no folder for temporary files, and work where there is one.
fn spooled(oracle: &'static Oracle) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    disk(dir, "d", 5_000_001);
    let words = "no temporary f";
    let with = |line: &str, target: &str| {
        fails(dir, line, words);
        fs::create_dir(dir.join("tmp")).unwrap();
        must(dir, &format!("export TMPDIR=tmp; {line}"));
        is_same(oracle, dir, target, "out", "d.pad");
        // Nothing is left behind.
        fs::remove_dir(dir.join("tmp")).unwrap();
    };
    with("cat d.raw | $Q convert -f raw -O vdi - out", "vdi");
    with("cat d.raw | $Q convert -f raw -O qcow2 - - > out", "qcow2");
    with(&format!("cat d.raw | $Q convert -f raw -O {STREAM} - - > out"), "vmdk");
    with("$Q convert -f raw -O vdi d.raw - > out", "vdi");
    with("$Q convert -c -f raw -O qcow2 d.raw - > out", "qcow2");
    with("$Q convert -f raw -O qcow2 -o extended_l2=on d.raw - > out", "qcow2");
    with("$Q convert -f raw -O qcow2 -o preallocation=falloc d.raw - > out", "qcow2");
    must(dir, "$Q convert -f raw -O vdi d.raw d.vdi");
    with("cat d.vdi | $Q convert -O raw - out", "raw");
}

fn sparse(oracle: &'static Oracle) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let len: u64 = if std::env::var_os("DISKIMG_SLOW").is_some() { 64 << 30 } else { 1 << 30 };
    let file = fs::File::create(dir.join("d.raw")).unwrap();
    file.set_len(len).unwrap();
    for at in [0, len / 3, len - 70_000] {
        std::os::unix::fs::FileExt::write_all_at(&file, &contents(65_536 * 3)[65_536..][..70_000], at)
            .unwrap();
    }
    must(
        dir,
        "$Q convert -f raw -O qcow2 d.raw - > a; $Q convert -f qcow2 -O raw a - | $Q convert -f raw -O qcow2 - b",
    );
    must(dir, "cat a | $Q convert -f qcow2 -O qcow2 - c");
    for image in ["a", "b", "c"] {
        is_same(oracle, dir, "qcow2", image, "d.raw");
        assert!(fs::metadata(dir.join(image)).unwrap().len() < 3 << 20);
    }
}

fn overlays(oracle: &'static Oracle) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    disk(dir, "base", 3 << 20);
    oracle.must(dir, &["create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "top.qcow2", "4M"]);
    oracle.qemu_io(dir, "qcow2", "top.qcow2", &["write -P 9 100k 300k", "write -z 1M 256k"]);
    must(dir, "$Q convert -f qcow2 -O raw top.qcow2 flat");
    // Only what lies above goes out; read again, it is looked for beside the folder that we are in.
    must(dir, "$Q convert -f qcow2 -O qcow2 -B base.raw -F raw top.qcow2 - > new");
    oracle.compare_raw(dir, "qcow2", "new", "flat").unwrap();
    assert!(fs::metadata(dir.join("new")).unwrap().len() < 1 << 20);
    must(dir, "cat new | $Q convert -f qcow2 -O raw - out; cmp out flat");
}

fn layouts(oracle: &'static Oracle) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    disk(dir, "d", 3_000_000);
    for options in
        ["cluster_size=512", "cluster_size=2M", "compat=0.10", "refcount_bits=1", "lazy_refcounts=on"]
    {
        for more in ["", "-S 0", "-S 64k", "-m 1", "-W", "-C"] {
            must(dir, &format!("$Q convert {more} -f raw -O qcow2 -o {options} d.raw - > out"));
            is_same(oracle, dir, "qcow2", "out", "d.pad");
        }
    }
    must(dir, "$Q convert -S 0 -f raw -O raw d.raw - > out; cmp out d.pad");
    // Two disks, one behind the other.
    must(dir, "$Q convert -f raw -O qcow2 d.raw d.pad - > out; cat d.pad d.pad > two");
    is_same(oracle, dir, "qcow2", "out", "two");
}

fn named_pipes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    disk(dir, "d", 1_000_000);
    must(dir, "mkfifo p; (cat d.raw > p) & $Q convert -f raw -O raw p out; wait; cmp out d.pad");
    must(dir, "cat d.raw | $Q convert -f raw -O raw /dev/stdin out2; cmp out2 d.pad");
    must(dir, "(cat p > got) & $Q convert -f raw -O raw d.raw p; wait; cmp got d.pad");
    must(dir, "$Q convert -f raw -O qcow2 d.raw /dev/stdout | cat > q; $Q compare -f qcow2 -F raw q d.pad");
    // A file that is called so goes before.
    must(dir, "cp d.raw ./-; $Q convert -f raw -O raw - out3; cmp out3 d.pad");
}

fn lengths() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    disk(dir, "d", 5_000_001);
    // A target that is there already has to be long enough.
    must(dir, "truncate -s 5000192 t; cat d.raw | $Q convert -n -f raw -O raw - t; cmp t d.pad");
    must(
        dir,
        "truncate -s 0 t; truncate -s 6M t; cat d.raw | $Q convert -n -f raw -O raw - t; cmp -n 5000192 t d.pad",
    );
    fails(
        dir,
        "truncate -s 4999680 t; cat d.raw | $Q convert -n -f raw -O raw - t",
        "output file is smaller than input file",
    );
}

fn cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    disk(dir, "d", 8 << 20);
    must(dir, "$Q convert -f raw -O qcow2 d.raw q; $Q convert -f raw -O vdi d.raw v");
    let early = "standard input: the input ends at byte";
    let sized = "--image-opts driver=raw,size=8M,file.filename=-";
    for target in ["raw", "qcow2", "vdi", STREAM] {
        fails(dir, &format!("head -c 4000000 d.raw | $Q convert {sized} -O {target} out"), early);
        fails(dir, &format!("head -c 4000000 d.raw | $Q convert --salvage {sized} -O {target} out"), early);
        for bytes in [300_000, 3_000_000, 5_000_000] {
            fails(dir, &format!("head -c {bytes} q | $Q convert -f qcow2 -O {target} - out"), early);
        }
        assert!(!dir.join("out").exists(), "{target}");
    }
    for bytes in [0, 3, 70, 100_000] {
        let short = shell(dir, &format!("head -c {bytes} q | $Q convert -f qcow2 -O raw - out"));
        assert!(!short.status.success() && !short.stderr.is_empty() && !dir.join("out").exists(), "{bytes}");
    }
    fails(dir, &format!("head -c 4000000 d.raw | $Q convert {sized} -O raw - | cat > out"), early);
}

fn reader_gone() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    must(dir, "head -c 8M /dev/urandom > d.raw");
    for target in ["raw", "qcow2", STREAM] {
        fails(dir, &format!("$Q convert -f raw -O {target} d.raw - | head -c 100000 > out"), "Broken pipe");
        assert_eq!(fs::metadata(dir.join("out")).unwrap().len(), 100_000);
    }
    fails(dir, "cat d.raw | $Q convert -f raw -O raw - - | head -c 100000 > out", "Broken pipe");
}

fn interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (nothing, writer) = std::io::pipe().unwrap();
    let mut command = Command::new(OURS);
    command.args(["convert", "-f", "raw", "-O", "qcow2", "-", "out"]).current_dir(dir).stdin(nothing);
    let mut child = command.spawn().unwrap();
    for _ in 0..500 {
        if dir.join("out").exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // The signal is listened to since before that.
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert!(!child.wait().unwrap().success());
    assert!(!dir.join("out").exists());
    drop(writer);
}

fn digests() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    disk(dir, "d", 5_000_001);
    let sum = must(dir, "sha256sum < d.pad");
    let wanted = format!("sha256: {}\n", sum.split(' ').next().unwrap());
    assert_eq!(must(dir, "cat d.raw | $Q convert --digest -f raw -O qcow2 - q"), wanted);
    assert_eq!(must(dir, "cat q | $Q convert --digest -f qcow2 -O raw - out"), wanted);
    for target in ["raw", "qcow2", STREAM] {
        // Beside the image, which has standard output to itself.
        let line = format!("$Q convert --digest -f raw -O {target} d.raw - 2>&1 >/dev/null");
        assert_eq!(must(dir, &line), wanted, "{target}");
        let line = format!("cat q | $Q convert --digest -f qcow2 -O {target} - q.{}", format_of(target));
        assert_eq!(must(dir, &line), wanted, "{target}");
    }
    let line = "cat d.raw | $Q convert --digest -f raw -O raw - - 2>&1 >/dev/null";
    assert_eq!(must(dir, line), wanted);
    let told = must(dir, "$Q convert --progress=json -f raw -O qcow2 d.raw - 2>&1 >/dev/null");
    assert!(told.trim_end().ends_with("{ \"progress\": 100.00 }"), "{told}");
    let told = must(dir, "$Q convert -p -f raw -O raw d.raw - 2>&1 >out; cmp out d.pad");
    assert!(told.trim_end().ends_with("(100.00/100%)"), "{told}");
    let told = must(dir, "cat d.raw | $Q convert -p -f raw -O raw - out");
    assert!(told.trim_end().ends_with("(100.00/100%)"), "{told}");
}

fn standard_input() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    disk(dir, "d", 5_000_192);
    // It can be read anywhere, so that nothing is copied.
    must(dir, "$Q convert -f raw -O qcow2 - - < d.raw > q; $Q compare -f qcow2 -F raw q d.raw");
    must(dir, "$Q convert -O vdi - v < q; $Q compare -f vdi -F raw v d.raw");
}
