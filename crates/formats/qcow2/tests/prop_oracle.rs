//! Random operations on images of many sorts; afterwards the installed `qemu-img` finds neither damage nor leaks, and the
//! same contents. And the other way round: images that `qemu-img` and `qemu-io` wrote hold for us what they hold for
//! them. Without the oracle these tests are counted as ignored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use diskimg_core::{BlockDevice, MemDevice, to_usize};
use diskimg_qcow2::DRIVER;
use diskimg_testkit::{
    CheckVerdict, FormatSubject, OpMix, Oracle, Rng, Session, Subject, crash, run_shrinking, suite,
};

/// Create options and the disk's length in bytes.
const GEOMETRIES: &[(&[&str], u64)] = &[
    (&[], 3 << 20),
    (&["cluster_size=512"], 200 << 10),
    (&["cluster_size=512", "compat=0.10"], 200 << 10),
    (&["compat=0.10"], 2 << 20),
    (&["cluster_size=1k", "refcount_bits=1"], 200 << 10),
    (&["cluster_size=512", "refcount_bits=2"], 100 << 10),
    (&["cluster_size=2k", "refcount_bits=4"], 300 << 10),
    (&["cluster_size=4k", "refcount_bits=8"], 1 << 20),
    (&["cluster_size=512", "refcount_bits=32"], 150 << 10),
    (&["cluster_size=512", "refcount_bits=64"], 1 << 20),
    (&["cluster_size=8k", "compression_type=zstd"], 500 << 10),
    (&["compression_type=zstd"], 2 << 20),
    (&["cluster_size=16k", "extended_l2=on"], 500 << 10),
    (&["extended_l2=on", "compression_type=zstd"], 2 << 20),
    (&["cluster_size=2M"], 13 << 20),
    (&["cluster_size=2M", "extended_l2=on"], 9 << 20),
    (&["cluster_size=256k", "refcount_bits=64"], 4 << 20),
    (&["cluster_size=4k"], (1 << 20) + 512),
    (&["cluster_size=1k", "preallocation=metadata"], 300 << 10),
    (&["cluster_size=4k", "preallocation=falloc"], 1 << 20),
    (&["cluster_size=512", "preallocation=full"], 150 << 10),
    (&["cluster_size=512", "lazy_refcounts=on"], 100 << 10),
    (&["cluster_size=4k", "data_file=data"], 1 << 20),
    (&["cluster_size=16k", "extended_l2=on", "data_file=data"], 500 << 10),
    (&["cluster_size=4k", "data_file=data", "data_file_raw=on"], 1 << 20),
    (&["encryption=on", KEY], 2 << 20),
    (&["cluster_size=512", "compat=0.10", "encrypt.format=aes", KEY], 200 << 10),
    (&["cluster_size=16k", "extended_l2=on", "encrypt.format=aes", KEY], 500 << 10),
    (&["cluster_size=4k", "data_file=data", "encrypt.format=aes", KEY], 1 << 20),
    (&["encrypt.format=luks", KEY, FAST], 2 << 20),
    (&["cluster_size=512", "encrypt.format=luks", KEY, FAST, "encrypt.cipher-alg=aes-128"], 200 << 10),
    (&["compat=0.10", "encrypt.format=luks", KEY, FAST, "encrypt.cipher-mode=cbc"], 1 << 20),
    (&["cluster_size=16k", "extended_l2=on", "encrypt.format=luks", KEY, FAST], 500 << 10),
    (&["cluster_size=4k", "data_file=data", "encrypt.format=luks", KEY, FAST], 1 << 20),
    (
        &[
            "cluster_size=4k",
            "encrypt.format=luks",
            KEY,
            FAST,
            "encrypt.cipher-alg=serpent-256",
            "encrypt.cipher-mode=cbc",
            "encrypt.ivgen-alg=essiv",
        ],
        1 << 20,
    ),
    (
        &[
            "cluster_size=2M",
            "encrypt.format=luks",
            KEY,
            FAST,
            "encrypt.cipher-alg=aes-128",
            "encrypt.hash-alg=sha512",
            "encrypt.ivgen-alg=plain",
        ],
        7 << 20,
    ),
    // About 1 MB/s: small clusters and a small disk.
    (&["cluster_size=512", "encrypt.format=luks", KEY, FAST, "encrypt.cipher-alg=twofish-128"], 100 << 10),
    (&["encrypt.format=luks", KEY, FAST, "encrypt.cipher-alg=cast5-128", "encrypt.cipher-mode=cbc"], 1 << 20),
];

/// A secret is its own name.
const KEY: &str = "encrypt.key-secret=s";
/// Keys are derived in no time.
const FAST: &str = "encrypt.iter-time=0";
/// How the oracle is told that secret.
const SECRET: [&str; 2] = ["--object", "secret,id=s,data=s"];
/// How it opens an encrypted image.
const ENCRYPTED: &str = "driver=qcow2,encrypt.key-secret=s,file.filename=image";

fn main() -> ExitCode {
    let mut tests = Vec::new();
    for (number, (options, size)) in GEOMETRIES.iter().enumerate() {
        let title = format!("{} {size}", options.join(","));
        tests.push(suite::with_oracle(format!("ours, judged by qemu-img: {title}"), move |oracle| {
            for round in 0..diskimg_testkit::rounds(3) {
                ours_judged_by_theirs(oracle, options, *size, round + 1000 * number as u64);
            }
        }));
        tests.push(suite::with_oracle(format!("theirs, read and continued by us: {title}"), move |oracle| {
            theirs_continued_by_us(oracle, options, *size, 7 + number as u64);
        }));
    }
    suite::run(tests)
}

fn subject(options: &'static [&'static str], size: u64) -> FormatSubject {
    FormatSubject::new(&DRIVER, size, options)
}

fn bytes_of(disks: &[Arc<MemDevice>]) -> Vec<Vec<u8>> {
    disks.iter().map(|disk| disk.to_vec()).collect()
}

fn ours_judged_by_theirs(oracle: &Oracle, options: &'static [&'static str], size: u64, seed: u64) {
    let subject = subject(options, size);
    let unit = Session::in_memory(&subject).opened().device.limits().write_unit.max(512);
    let ops = OpMix::all(size * 2).script(seed, 200, size, unit);
    run_shrinking(&ops, |ops| {
        let disks = subject.fresh();
        let mut session =
            Session::open(&subject, diskimg_testkit::shared(&disks), subject.initial(), || 0).unwrap();
        for op in ops {
            session.must(op);
        }
        session.verify_reopened();
        let contents = session.close().latest().to_vec();
        judge(oracle, &subject, &bytes_of(&disks), &contents);
    });
}

/// The oracle finds nothing wrong, and these contents.
fn judge(oracle: &Oracle, subject: &FormatSubject, disks: &[Vec<u8>], contents: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    crash::put_files(subject, folder.path(), disks);
    std::fs::write(folder.path().join("raw"), contents).unwrap();
    if subject.runtime_options().is_empty() {
        let verdict = oracle.check(folder.path(), "qcow2", "image");
        assert_eq!(verdict, CheckVerdict::Clean, "{}", subject.name());
        let compared = oracle.compare_raw(folder.path(), "qcow2", "image", "raw");
        assert_eq!(compared, Ok(()), "{}", subject.name());
        return;
    }
    oracle.must(folder.path(), &[&["check"], &SECRET[..], &["--image-opts", ENCRYPTED]].concat());
    let raw = "driver=raw,file.filename=raw";
    let compare = ["compare", "--image-opts", ENCRYPTED, raw];
    oracle.must(folder.path(), &[&compare[..1], &SECRET, &compare[1..]].concat());
}

/// Runs `qemu-io` commands on the image.
fn run_theirs(oracle: &Oracle, subject: &FormatSubject, folder: &Path, commands: &[&str]) {
    if subject.runtime_options().is_empty() {
        return oracle.qemu_io(folder, "qcow2", "image", commands);
    }
    let mut command = std::process::Command::new(&oracle.io);
    command.current_dir(folder).args(SECRET).args(["--image-opts", ENCRYPTED]);
    for one in commands {
        command.args(["-c", one]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{commands:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// `qemu-io` commands within a disk of `size` bytes.
fn their_commands(rng: &mut Rng, size: u64, unit: u64) -> Vec<String> {
    let mut commands = Vec::new();
    for _ in 0..25 {
        let grain = *rng.pick(&[512, 4096, unit]);
        let at = rng.below(size) / grain * grain;
        let len = ((1 + rng.below(5)) * grain).min(size - at);
        let value = 1 + rng.below(255);
        commands.push(match rng.below(7) {
            0 => format!("write -z {at} {len}"),
            1 => format!("write -z -u {at} {len}"),
            2 => format!("discard {at} {len}"),
            _ => format!("write -P {value} {at} {len}"),
        });
    }
    commands
}

fn theirs_continued_by_us(oracle: &Oracle, options: &'static [&'static str], size: u64, seed: u64) {
    let subject = subject(options, size);
    let folder = tempfile::tempdir().unwrap();
    let list = options.join(",");
    let length = size.to_string();
    let encrypted = !subject.runtime_options().is_empty();
    let mut args = vec!["create", "-q", "-f", "qcow2"];
    if encrypted {
        args.extend(SECRET);
    }
    if !list.is_empty() {
        args.extend(["-o", &list]);
    }
    args.extend(["image", &length]);
    oracle.must(folder.path(), &args);
    let mut rng = Rng::new(seed);
    if encrypted && size >= 1 << 20 && !list.contains("data_file") && !list.contains("cluster_size") {
        // Compressed clusters stand in the clear, also where the rest is encrypted.
        run_theirs(oracle, &subject, folder.path(), &["write -c -P 9 128k 64k", "write -c -P 8 512k 64k"]);
    } else if !encrypted && subject.disks().len() == 1 && !list.contains("preallocation") {
        compress_some(oracle, folder.path(), &mut rng, size, &list);
    }
    let commands = their_commands(&mut rng, size, 65536.min(size));
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    run_theirs(oracle, &subject, folder.path(), &commands);
    if encrypted {
        let convert = ["convert", "--image-opts", "-O", "raw", ENCRYPTED, "raw"];
        oracle.must(folder.path(), &[&convert[..1], &SECRET, &convert[1..]].concat());
    } else {
        oracle.must(folder.path(), &["convert", "-f", "qcow2", "-O", "raw", "image", "raw"]);
    }
    let contents = std::fs::read(folder.path().join("raw")).unwrap();
    assert_eq!(contents.len(), to_usize(size));
    let read = |name: &&str| Arc::new(MemDevice::from(std::fs::read(folder.path().join(name)).unwrap()));
    let disks: Vec<Arc<MemDevice>> = subject.disks().iter().map(read).collect();

    let mut session = Session::open(&subject, diskimg_testkit::shared(&disks), contents, || 0).unwrap();
    session.verify_all();
    session.check_clean(0).unwrap();
    let unit = session.opened().device.limits().write_unit.max(512);
    for op in OpMix::all(size * 2).script(seed, 120, size, unit) {
        session.must(&op);
    }
    session.verify_reopened();
    let contents = session.close().latest().to_vec();
    judge(oracle, &subject, &bytes_of(&disks), &contents);
}

/// Replaces the new image by one that holds some clusters compressed.
fn compress_some(oracle: &Oracle, folder: &Path, rng: &mut Rng, size: u64, list: &str) {
    let mut contents = vec![0; to_usize(size)];
    for _ in 0..6 {
        let at = to_usize(rng.below(size));
        let end = contents.len().min(at + to_usize(1 + rng.below(size / 8)));
        contents[at..end].fill(rng.next_u64().to_le_bytes()[0]);
    }
    std::fs::write(folder.join("source"), &contents).unwrap();
    let mut args = vec!["convert", "-c", "-f", "raw", "-O", "qcow2"];
    if !list.is_empty() {
        args.extend(["-o", list]);
    }
    args.extend(["source", "image"]);
    oracle.must(folder, &args);
}
