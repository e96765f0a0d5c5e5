//! Snapshots by ours and by the installed `qemu-img` in turn on one image: after each step its check finds nothing, the
//! disk and every snapshot read the same for it, and both list the same. Without the oracle these tests are ignored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod snapshot_model;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use diskimg_core::MemDevice;
use diskimg_testkit::{CheckVerdict, Oracle, Rng, suite};
use snapshot_model::{GEOMETRIES, Kept, Modelled};

/// Name of the file that holds the image for the oracle.
const FILE: &str = "image";
/// Steps of a sequence.
const STEPS: usize = 20;

fn main() -> ExitCode {
    let mut tests = Vec::new();
    for (number, (options, size)) in GEOMETRIES.iter().enumerate() {
        tests.push(suite::with_oracle(format!("in turn: {} {size}", options.join(",")), move |oracle| {
            for round in 0..diskimg_testkit::rounds(1) {
                in_turn(oracle, options, *size, round + 1000 * number as u64);
            }
        }));
    }
    suite::run(tests)
}

/// A folder with the image in it while the oracle works on it.
fn lend(model: &mut Modelled, folder: &Path) {
    model.image = None;
    std::fs::write(folder.join(FILE), model.storage.to_vec()).unwrap();
}

fn take_back(model: &mut Modelled, folder: &Path) {
    model.storage = Arc::new(MemDevice::from(std::fs::read(folder.join(FILE)).unwrap()));
    model.image = Some(snapshot_model::open(&model.storage, true));
}

fn in_turn(oracle: &Oracle, options: &'static [&'static str], size: u64, seed: u64) {
    let mut rng = Rng::new(seed ^ 0x5eed);
    let mut model = Modelled::new(options, size);
    let folder = tempfile::tempdir().unwrap();
    let mut story = Vec::new();
    for _ in 0..STEPS {
        for _ in 0..=rng.below(3) {
            story.push(model.step(&mut rng));
        }
        lend(&mut model, folder.path());
        let run = std::panic::AssertUnwindSafe(|| {
            if rng.chance(60) {
                story.push(theirs(oracle, &mut model, folder.path(), &mut rng));
            }
            judge(oracle, &model, folder.path(), rng.chance(30));
        });
        if let Err(panic) = std::panic::catch_unwind(run) {
            println!("{options:?}, seed {seed}: {story:#?}");
            std::panic::resume_unwind(panic);
        }
        take_back(&mut model, folder.path());
        model.verify();
    }
    model.verify_kept();
}

/// One operation of the oracle.
fn theirs(oracle: &Oracle, model: &mut Modelled, folder: &Path, rng: &mut Rng) -> String {
    let run = |args: &[&str]| oracle.run(folder, args).status.success();
    match rng.below(4) {
        0 => {
            let name = format!("q{}", rng.below(1000));
            if !run(&["snapshot", "-c", &name, FILE]) {
                // A count is at its maximum; qemu-img leaks then.
                oracle.must(folder, &["check", "-q", "-r", "leaks", FILE]);
                return "qemu-img could not create".to_owned();
            }
            let id = model.kept.iter().map(|kept| kept.id.parse::<u64>().unwrap()).max().unwrap_or(0) + 1;
            // It keeps what is in the state area, and leaves it there.
            let (disk, state) = (model.disk.clone(), model.state.clone());
            model.kept.push(Kept { id: id.to_string(), name, disk, state });
            format!("qemu-img creates {id}")
        }
        1 if !model.kept.is_empty() => {
            let kept = rng.pick(&model.kept).clone();
            let before = std::fs::read(folder.join(FILE)).unwrap();
            if !run(&["snapshot", "-a", &kept.id, FILE]) {
                // A count is at its maximum; it has resized the disk already.
                std::fs::write(folder.join(FILE), before).unwrap();
                return format!("qemu-img could not apply {}", kept.id);
            }
            (model.disk, model.state) = (kept.disk, kept.state);
            format!("qemu-img applies {}", kept.id)
        }
        2 if !model.kept.is_empty() => {
            let name = rng.pick(&model.kept).name.clone();
            let at = model.kept.iter().position(|kept| kept.name == name).unwrap();
            let kept = model.kept.remove(at);
            oracle.must(folder, &["snapshot", "-d", &name, FILE]);
            format!("qemu-img deletes {}", kept.id)
        }
        _ => {
            let len = model.disk.len() as u64;
            let at = rng.below(len / 512) * 512;
            let count = (512 * (1 + rng.below(64))).min(len - at);
            let fill = 1 + rng.below(250);
            oracle.qemu_io(folder, "qcow2", FILE, &[&format!("write -P {fill} {at} {count}")]);
            let (at, count) = (usize::try_from(at).unwrap(), usize::try_from(count).unwrap());
            model.disk[at..at + count].fill(u8::try_from(fill).unwrap());
            format!("qemu-io writes {at:#x}+{count:#x}")
        }
    }
}

fn judge(oracle: &Oracle, model: &Modelled, folder: &Path, all: bool) {
    match oracle.check(folder, "qcow2", FILE) {
        CheckVerdict::Clean => {}
        verdict => {
            let said = oracle.run(folder, &["check", FILE]);
            panic!("qemu-img check: {verdict:?}\n{}", String::from_utf8_lossy(&said.stderr));
        }
    }
    let read = |extra: &[&str]| {
        oracle.must(folder, &[&["convert", "-f", "qcow2", "-O", "raw"], extra, &[FILE, "raw"]].concat());
        std::fs::read(folder.join("raw")).unwrap()
    };
    assert!(read(&[]) == model.disk, "the disk, for qemu-img");
    let listed = oracle.must(folder, &["snapshot", "-l", FILE]);
    let ids: Vec<&str> = listed.lines().skip(2).filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(ids, model.kept.iter().map(|kept| kept.id.as_str()).collect::<Vec<_>>());
    for kept in model.kept.iter().filter(|_| all) {
        let found = read(&["-l", &format!("snapshot.id={}", kept.id)]);
        // It reads a snapshot with the size of the disk.
        let len = kept.disk.len().min(found.len());
        assert!(found[..len] == kept.disk[..len], "snapshot {}, for qemu-img", kept.id);
    }
}
