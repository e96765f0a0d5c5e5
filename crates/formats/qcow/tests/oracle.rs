//! qcow images of version 1 beside the installed `qemu-img`: contents both ways, the same refusals. Without it the tests
//! are counted as ignored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::process::ExitCode;
use std::sync::Arc;

use diskimg_core::{BlockDevice, MemDevice, to_usize};
use diskimg_qcow::DRIVER;
use diskimg_testkit::exchange::{changed, folder_of, open_bytes, random_writes};
use diskimg_testkit::{FormatSubject, Oracle, Rng, Subject, suite};

/// Sizes of images.
const SIZES: &[u64] = &[10 << 20, (5 << 20) + 512, 512];
/// Create options of an encrypted image; the secret is its own name.
const ENCRYPTED: &[&str] = &["encrypt.format=aes", "encrypt.key-secret=s"];

fn main() -> ExitCode {
    let mut tests = Vec::new();
    for size in SIZES {
        tests.push(suite::with_oracle(format!("ours is read: {size}"), move |oracle| {
            (0..4).for_each(|seed| ours_is_read(oracle, &[], *size, seed));
        }));
        tests.push(suite::with_oracle(format!("theirs is read: {size}"), move |oracle| {
            (0..4).for_each(|seed| theirs_is_read(oracle, false, *size, seed));
        }));
    }
    tests.push(suite::with_oracle("ours is read: encrypted", |oracle| {
        (0..4).for_each(|seed| ours_is_read(oracle, ENCRYPTED, 3 << 20, seed));
    }));
    tests.push(suite::with_oracle("theirs is read: encrypted", |oracle| {
        (0..4).for_each(|seed| theirs_is_read(oracle, true, 3 << 20, seed));
    }));
    tests.push(suite::with_oracle("theirs is read: compressed", theirs_is_unpacked));
    tests.push(suite::with_oracle("damage", |oracle| {
        // The last: the name of a backing file behind all files.
        (0..diskimg_testkit::rounds(150)).chain([177]).for_each(|seed| damage(oracle, seed));
    }));
    suite::run(tests)
}

/// Secret and specification with which the oracle opens an image.
fn opened(encrypted: bool) -> Vec<&'static str> {
    if encrypted {
        let spec = "driver=qcow,encrypt.format=aes,encrypt.key-secret=s,file.filename=image";
        vec!["--object", "secret,id=s,data=s", "--image-opts", spec]
    } else {
        vec!["-f", "qcow", "image"]
    }
}

fn ours_is_read(oracle: &Oracle, options: &'static [&'static str], size: u64, seed: u64) {
    let subject = FormatSubject::new(&DRIVER, size, options);
    let folder = folder_of(changed(&subject, subject.fresh()[0].to_vec(), seed));
    let mut args = vec!["convert", "-O", "raw"];
    args.extend(opened(!options.is_empty()));
    args.push("out");
    oracle.must(folder.path(), &args);
    let read = |name| std::fs::read(folder.path().join(name)).unwrap();
    assert!(read("out") == read("disk"), "seed {seed}");
}

fn theirs_is_read(oracle: &Oracle, encrypted: bool, size: u64, seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let length = size.to_string();
    let mut args = vec!["create", "-q", "-f", "qcow"];
    if encrypted {
        let options = "encrypt.format=aes,encrypt.key-secret=s";
        args.extend(["--object", "secret,id=s,data=s", "-o", options]);
    }
    args.extend(["image", &length]);
    oracle.must(folder.path(), &args);
    let mut args: Vec<String> = Vec::new();
    let writes = random_writes(seed, size, false);
    for write in &writes {
        args.extend(["-c".to_owned(), write.clone()]);
    }
    args.extend(opened(encrypted).into_iter().map(str::to_owned));
    let output =
        std::process::Command::new("qemu-io").args(&args).current_dir(folder.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut args = vec!["convert", "-O", "raw"];
    args.extend(opened(encrypted));
    args.push("disk");
    oracle.must(folder.path(), &args);
    let image = std::fs::read(folder.path().join("image")).unwrap();
    let memory = MemDevice::new(0);
    memory.write_at(0, &image).unwrap();
    let options: &'static [&'static str] = if encrypted { ENCRYPTED } else { &[] };
    let subject = FormatSubject::new(&DRIVER, size, options);
    let mut disk = vec![0; to_usize(size)];
    subject.open(&[Arc::new(memory)], false).unwrap().device.read_at(0, &mut disk).unwrap();
    assert!(disk == std::fs::read(folder.path().join("disk")).unwrap(), "{writes:?}");
}

/// Compressed clusters of theirs; some are overwritten by ours.
fn theirs_is_unpacked(oracle: &Oracle) {
    let folder = tempfile::tempdir().unwrap();
    let mut rng = Rng::new(3);
    let mut disk: Vec<u8> = (0..300_000).map(|at| u8::try_from(at / 1000 % 251).unwrap()).collect();
    disk[100_000..150_000].iter_mut().for_each(|byte| *byte = rng.next_u64().to_le_bytes()[0]);
    disk.resize(600 * 512, 0);
    std::fs::write(folder.path().join("disk"), &disk).unwrap();
    // The oracle says that it failed, whatever it converts; all is there.
    let _ = oracle.run(folder.path(), &["convert", "-c", "-f", "raw", "-O", "qcow", "disk", "image"]);
    let memory: Arc<dyn BlockDevice> = Arc::new(MemDevice::new(0));
    memory.write_at(0, &std::fs::read(folder.path().join("image")).unwrap()).unwrap();
    let subject = FormatSubject::new(&DRIVER, disk.len() as u64, &[]);
    let opened = subject.open(&[Arc::clone(&memory)], true).unwrap();
    let mut found = vec![0; disk.len()];
    opened.device.read_at(0, &mut found).unwrap();
    assert!(found == disk);
    for (at, len) in [(5000, 3), (8192, 4096), (20_000, 30_000), (disk.len() - 5, 5)] {
        opened.device.write_at(at as u64, &vec![9; len]).unwrap();
        disk[at..at + len].fill(9);
    }
    opened.device.read_at(0, &mut found).unwrap();
    assert!(found == disk);
    drop(opened);
    let mut image = vec![0; to_usize(memory.len())];
    memory.read_at(0, &mut image).unwrap();
    std::fs::write(folder.path().join("image"), image).unwrap();
    std::fs::write(folder.path().join("disk"), &disk).unwrap();
    oracle.compare_raw(folder.path(), "qcow", "image", "disk").unwrap();
}

/// An image with changed bytes in its header or tables: refused with the same words, or read with the same bytes.
fn damage(oracle: &Oracle, seed: u64) {
    let mut rng = Rng::new(seed);
    let subject = FormatSubject::new(&DRIVER, 4 << 20, &[]);
    let memory = subject.fresh();
    let shared = diskimg_testkit::shared(&memory);
    let opened = subject.open(&shared, true).unwrap().device;
    for at in [0, (2 << 20) + 8192] {
        opened.write_at(at, &[7; 12_288]).unwrap();
    }
    drop(opened);
    let mut image = memory[0].to_vec();
    for _ in 0..=rng.below(2) {
        let at = match rng.below(3) {
            0 => rng.index(48),
            1 => 48 + rng.index(16),
            _ => 4096 + rng.index(24),
        };
        image[at] = *rng.pick(&[0, 1, 2, 4, 8, 0x10, 0x40, 0x7f, 0x80, 0xff]);
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("image"), &image).unwrap();
    let said = |args: &[&str]| {
        let output = oracle.run(folder.path(), args);
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let image = match open_bytes(&DRIVER, image) {
        // An image that says that it is encrypted is described without a key.
        Err(error) if error.to_string().contains("key-secret") => return,
        Err(error) => {
            let hint = error.hint().map_or(String::new(), |hint| format!("{hint}\n"));
            let ours = format!("qemu-img: Could not open 'image': {}\n{hint}", error.joined());
            assert_eq!(ours, said(&["info", "-f", "qcow", "image"]), "seed {seed}");
            return;
        }
        Ok(image) => image,
    };
    if image.len() > 64 << 20 || image.backing().is_some() {
        return;
    }
    let mut disk = vec![0; to_usize(image.len())];
    let read = image.read_at(0, &mut disk);
    let theirs = said(&["convert", "-f", "qcow", "-O", "raw", "image", "disk"]);
    match read {
        Ok(()) => {
            assert!(theirs.is_empty(), "seed {seed}: {theirs}");
            assert!(std::fs::read(folder.path().join("disk")).unwrap() == disk, "seed {seed}");
        }
        Err(error) => assert!(theirs.contains(error.strerror().as_str()), "seed {seed}: {error}, {theirs}"),
    }
}
