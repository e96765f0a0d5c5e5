//! LUKS volumes beside the installed `qemu-img`: contents both ways, detached headers, key slots, the same refusals.
//! Without it the tests are counted as ignored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use diskimg_core::driver::OpenMode;
use diskimg_core::options::{OptUse, ParsedOptions, RuntimeOptions, RuntimeValue};
use diskimg_core::{AmendInput, BlockDevice, Device, Image, MemDevice, Result, Task, to_usize};
use diskimg_luks::DRIVER;
use diskimg_testkit::{FormatSubject, MemOpener, Op, OpMix, Oracle, Rng, open_image_with, suite};

/// Ciphers as create options. For both sides the secret `s` holds its own name.
const KINDS: &[&[&str]] = &[
    &["key-secret=s", "iter-time=10"],
    &["key-secret=s", "iter-time=10", "cipher-alg=aes-128", "cipher-mode=cbc", "ivgen-alg=essiv"],
    &["key-secret=s", "iter-time=10", "cipher-alg=serpent-192", "hash-alg=sha512", "ivgen-alg=plain"],
    &["key-secret=s", "iter-time=10", "cipher-alg=twofish-256", "cipher-mode=ctr", "hash-alg=ripemd160"],
    &["key-secret=s", "iter-time=10", "cipher-alg=cast5-128", "cipher-mode=cbc", "hash-alg=sha1"],
];
const SECRETS: [&str; 4] = ["--object", "secret,id=s,data=s", "--object", "secret,id=t,data=t"];
const IMAGE: &str = "driver=luks,key-secret=s,file.filename=image";
const SIZES: &[u64] = &[1 << 20, 512, 1000, (300 << 10) + 1];

fn main() -> ExitCode {
    let mut tests = Vec::new();
    for options in KINDS {
        let name = options[1..].join(",");
        tests.push(suite::with_oracle(format!("ours is read: {name}"), move |oracle| {
            SIZES.iter().for_each(|size| ours_is_read(oracle, options, *size));
        }));
        tests.push(suite::with_oracle(format!("theirs is read: {name}"), move |oracle| {
            // Each one takes it seconds: it measures how fast keys are derived.
            SIZES[2..3].iter().for_each(|size| theirs_is_read(oracle, options, *size));
        }));
    }
    tests.push(suite::with_oracle("detached headers", detached));
    tests.push(suite::with_oracle("key slots", key_slots));
    tests.push(suite::with_oracle("damage", |oracle| {
        (0..diskimg_testkit::rounds(120)).for_each(|seed| damage(oracle, seed))
    }));
    suite::run(tests)
}

/// Runs the oracle with the secrets.
fn ask(oracle: &Oracle, folder: &Path, command: &str, args: &[&str]) -> std::process::Output {
    let all: Vec<&str> = [command].iter().chain(&SECRETS).chain(args).copied().collect();
    oracle.run(folder, &all)
}

fn must(oracle: &Oracle, folder: &Path, command: &str, args: &[&str]) {
    let output = ask(oracle, folder, command, args);
    assert!(output.status.success(), "{command} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn with_key(id: &str) -> RuntimeOptions {
    let mut options = RuntimeOptions::new();
    options.set("key-secret", RuntimeValue::Str(id.to_owned()));
    options
}

fn open_as(image: Arc<MemDevice>, id: &str, write: bool) -> Result<Arc<dyn Image>> {
    let mode = OpenMode { write, ..OpenMode::default() };
    open_image_with(&DRIVER, image, mode, &MemOpener::default(), with_key(id))
}

fn contents(device: &dyn BlockDevice) -> Vec<u8> {
    let mut disk = vec![0; to_usize(device.len())];
    device.read_at(0, &mut disk).unwrap();
    disk
}

/// Writes at random places, of random lengths.
fn scribble(device: &Device, seed: u64) {
    let size = device.len();
    for op in OpMix::changes(size).script(seed, 30, size, 512) {
        if let Op::Write(range, fill) = op {
            let bytes = vec![u8::try_from(fill % 251).unwrap(); to_usize(range.len)];
            device.write_at(range.start, &bytes).unwrap();
        }
    }
}

fn ours_is_read(oracle: &Oracle, options: &'static [&'static str], size: u64) {
    let memory = FormatSubject::new(&DRIVER, size, options).fresh().swap_remove(0);
    let device = Device::new(open_as(Arc::clone(&memory), "s", true).unwrap() as Arc<dyn BlockDevice>);
    assert_eq!(device.len(), size.next_multiple_of(512));
    scribble(&device, size);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("image"), memory.to_vec()).unwrap();
    must(oracle, folder.path(), "convert", &["--image-opts", IMAGE, "-O", "raw", "disk"]);
    assert!(contents(&device) == fs::read(folder.path().join("disk")).unwrap(), "{options:?} {size}");
}

fn theirs_is_read(oracle: &Oracle, options: &'static [&'static str], size: u64) {
    let folder = tempfile::tempdir().unwrap();
    let source = Device::new(Arc::new(MemDevice::new(to_usize(size))) as Arc<dyn BlockDevice>);
    scribble(&source, size);
    let mut disk = contents(&source);
    fs::write(folder.path().join("disk"), &disk).unwrap();
    disk.resize(disk.len().next_multiple_of(512), 0);
    must(
        oracle,
        folder.path(),
        "convert",
        &["-f", "raw", "-O", "luks", "-o", &options.join(","), "disk", "image"],
    );
    let bytes = fs::read(folder.path().join("image")).unwrap();
    let image = open_as(Arc::new(MemDevice::read_only(bytes.clone())), "s", false).unwrap();
    assert!(contents(&*image) == disk, "{options:?} {size}");
    let wrong = open_as(Arc::new(MemDevice::read_only(bytes)), "t", false).unwrap_err();
    assert_eq!(wrong.to_string(), "Invalid password, cannot unlock any keyslot");
}

/// A header in a file of its own, which qemu-img 10.0.2 opens but does not make.
fn detached(oracle: &Oracle) {
    let memory = FormatSubject::new(&DRIVER, 64 << 10, KINDS[0]).fresh().swap_remove(0);
    let mut header = memory.to_vec();
    let payload = header.split_off(2_068_480);
    header[104..108].fill(0);
    let files: [Arc<MemDevice>; 2] = [header, payload].map(|bytes| Arc::new(MemDevice::from(bytes)));
    let opener = MemOpener::new([(String::new(), Arc::clone(&files[0]) as Arc<dyn BlockDevice>)]);
    let mut options = with_key("s");
    options.set("header.filename", RuntimeValue::Str("header".into()));
    let mode = OpenMode { write: true, ..OpenMode::default() };
    let image = open_image_with(&DRIVER, Arc::clone(&files[1]) as _, mode, &opener, options).unwrap();
    let rows = image.info().unwrap().specific.unwrap();
    assert!(rows.contains(&("detached-header", true.into())), "{rows:?}");
    let device = Device::new(Arc::clone(&image) as Arc<dyn BlockDevice>);
    scribble(&device, 5);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("header"), files[0].to_vec()).unwrap();
    fs::write(folder.path().join("payload"), files[1].to_vec()).unwrap();
    let spec = "driver=luks,key-secret=s,file.filename=payload,header.driver=file,header.filename=header";
    must(oracle, folder.path(), "convert", &["--image-opts", spec, "-O", "raw", "disk"]);
    assert!(contents(&device) == fs::read(folder.path().join("disk")).unwrap());
    // Without its payload it is none.
    let error = open_as(Arc::clone(&files[0]), "s", false).unwrap_err();
    assert_eq!(error.to_string(), "LUKS payload is overlapping with the header");
}

/// The same changes of key slots on both sides: the same words, and what was changed is opened by the other side.
fn key_slots(oracle: &Oracle) {
    let folder = tempfile::tempdir().unwrap();
    let create = "key-secret=s,iter-time=10";
    must(oracle, folder.path(), "create", &["-q", "-f", "luks", "-o", create, "image", "64k"]);
    let memory = Arc::new(MemDevice::from(fs::read(folder.path().join("image")).unwrap()));
    for (options, force) in [
        ("iter-time=10", false),
        ("state=bad", false),
        ("state=active", false),
        ("state=active,new-secret=t,iter-time=10", false),
        ("state=active,new-secret=t,iter-time=10,keyslot=0", false),
        ("state=active,new-secret=t,iter-time=10,keyslot=8", false),
        ("state=inactive,keyslot=3", false),
        ("state=inactive", false),
        ("state=inactive,old-secret=t,keyslot=0", false),
        ("state=inactive,old-secret=t", false),
        ("state=inactive,keyslot=0", false),
        ("state=active,new-secret=t,iter-time=10,keyslot=5", true),
    ] {
        let mut args = vec!["--image-opts", "-o", options];
        args.extend(force.then_some("--force"));
        args.push(IMAGE);
        let output = ask(oracle, folder.path(), "amend", &args);
        let theirs = String::from_utf8_lossy(&output.stderr).into_owned();
        let ours = match amend(&memory, options, force) {
            Ok(()) => String::new(),
            Err(error) => format!("qemu-img: {}\n", error.joined()),
        };
        assert_eq!(ours, theirs, "{options}");
    }
    fs::write(folder.path().join("image"), memory.to_vec()).unwrap();
    must(oracle, folder.path(), "map", &["--image-opts", "--output=json", &IMAGE.replace("=s,", "=t,")]);
}

fn amend(memory: &Arc<MemDevice>, text: &str, force: bool) -> Result<()> {
    let image = open_as(Arc::clone(memory), "s", true)?;
    let mut options = ParsedOptions::for_usage(&[DRIVER.options], OptUse::AMEND);
    options.parse(text)?;
    let opener = &MemOpener::default();
    image.as_amend().unwrap().amend(&AmendInput { options: &options, force, opener, task: Task::quiet() })
}

/// A header with changed bytes: refused with the same words, or opened by both.
fn damage(oracle: &Oracle, seed: u64) {
    let mut rng = Rng::new(seed);
    let options = ["key-secret=s", "iter-time=0", "cipher-alg=aes-128"];
    let mut subject = FormatSubject::new(&DRIVER, 4096, &options);
    subject.size = rng.below(3) * 1000;
    let mut image = subject.fresh()[0].to_vec();
    for _ in 0..=rng.below(2) {
        let at = match rng.below(6) {
            0 => rng.index(8),
            1 => *rng.pick(&[8, 11, 40, 43, 47, 72, 75, 39, 71, 103]),
            2 => 104 + rng.index(8),
            3 => 164 + rng.index(4),
            4 => 208 + rng.index(8) * 48 + rng.index(8),
            _ => 208 + rng.index(8) * 48 + 40 + rng.index(8),
        };
        image[at] = *rng.pick(&[0, 1, 2, 4, 8, 0x40, 0x7f, 0x80, 0xfe, 0xff, b'x', b'-']);
    }
    if rng.below(8) == 0 {
        image.truncate(rng.index(image.len()));
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("image"), &image).unwrap();
    let output = oracle.run(folder.path(), &["info", "-f", "luks", "image"]);
    let theirs = String::from_utf8_lossy(&output.stderr).into_owned();
    let mode = OpenMode { describe_only: true, ..OpenMode::default() };
    let storage = Arc::new(MemDevice::read_only(image));
    let ours = match open_image_with(&DRIVER, storage, mode, &MemOpener::default(), RuntimeOptions::new()) {
        Ok(image) => image.info().map(|_| String::new()).unwrap(),
        Err(error) => format!("qemu-img: Could not open 'image': {}\n", error.joined()),
    };
    assert!(ours == theirs, "seed {seed}: ours {ours:.500}, theirs {theirs:.500}");
}
