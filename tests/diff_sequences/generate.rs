//! The next step of a sequence, at random, with names and places that mean something on the image as it is.

use super::layout::{Cipher, LAYOUTS, Layout, TARGETS};
use super::model::Model;
use super::step::{Action, Fill, GuestOp, Request, Step, Who};
use diskimg_testkit::Rng;

const SNAPSHOTS: &[&str] = &["a", "b", "", "2", "with space", "ä"];
const BITMAPS: &[&str] = &["b0", "b1", "other", "b0.x"];
const AMENDS: &[&str] = &[
    "compat=0.10",
    "compat=v2",
    "compat=1.1",
    "compat=v3",
    "refcount_bits=1",
    "refcount_bits=2",
    "refcount_bits=4",
    "refcount_bits=8",
    "refcount_bits=16",
    "refcount_bits=32",
    "refcount_bits=64",
    "lazy_refcounts=on",
    "lazy_refcounts=off",
    "compat=0.10,refcount_bits=16",
    "compat=0.10,refcount_bits=16,lazy_refcounts=off",
    "compat=1.1,refcount_bits=8,lazy_refcounts=on",
    "data_file_raw=off",
];
/// What never takes the first password out of the first slot.
const KEYS: &[&str] = &[
    "encrypt.state=active,encrypt.new-secret=s1,encrypt.iter-time=10",
    "encrypt.state=active,encrypt.new-secret=s0,encrypt.iter-time=10",
    "encrypt.state=active,encrypt.new-secret=s1,encrypt.keyslot=3,encrypt.iter-time=10",
    "encrypt.state=active,encrypt.new-secret=s1,encrypt.keyslot=0,encrypt.iter-time=10",
    "encrypt.state=active,encrypt.new-secret=s1,encrypt.keyslot=8,encrypt.iter-time=10",
    "encrypt.state=inactive,encrypt.old-secret=s1",
    "encrypt.state=inactive,encrypt.keyslot=3",
    "encrypt.state=inactive,encrypt.keyslot=1",
    "encrypt.state=active",
    "encrypt.state=inactive",
];

/// The layout of a seed.
pub fn layout(seed: u64) -> Layout {
    LAYOUTS[(seed % LAYOUTS.len() as u64) as usize]
}

/// The next step.
pub fn step(rng: &mut Rng, model: &Model, number: usize) -> Step {
    let who = if rng.chance(50) { Who::Ours } else { Who::Theirs };
    Step { who, action: action(rng, model), number }
}

fn action(rng: &mut Rng, model: &Model) -> Action {
    let mut what = rng.below(100);
    if model.snapshots.is_empty() && matches!(what, 54..=66) && rng.chance(85) {
        what = 50;
    }
    match what {
        0..=34 => guest(rng, model),
        35..=43 => resize(rng, model),
        44..=53 => Action::Create((*rng.pick(SNAPSHOTS)).to_owned()),
        54..=59 => Action::Apply(snapshot_key(rng, model)),
        60..=66 => Action::Delete(snapshot_name(rng, model)),
        67..=80 => bitmap(rng, model),
        81..=85 if model.cipher == Cipher::Luks => Action::AmendKeys(KEYS[rng.index(KEYS.len())]),
        81..=88 => Action::Amend((*rng.pick(AMENDS)).to_owned()),
        89 => Action::AmendSize(size(rng, model)),
        90..=92 => Action::Repair(if rng.chance(50) { "leaks" } else { "all" }),
        _ => convert(rng, model),
    }
}

fn guest(rng: &mut Rng, model: &Model) -> Action {
    let (size, cluster) = (model.size(), model.cluster);
    let fill = |rng: &mut Rng| match rng.below(6) {
        0 => Fill::File("noise"),
        1 => Fill::File("mixed"),
        _ => Fill::Byte(1 + rng.below(250) as u8),
    };
    if rng.chance(25) && model.cipher == Cipher::Plain {
        // The installed qemu-io mixes up compressed and other clusters that it writes in one go.
        let number = rng.below(size / cluster);
        let len = cluster.min(size - number * cluster);
        let request = Request::Compressed(fill(rng));
        return Action::Guest(vec![GuestOp { request, start: number * cluster, len }]);
    }
    let mut discards = 0;
    let ops = (0..=rng.below(4)).map(|_| {
        let unit = if model.cipher == Cipher::Plain { 1 } else { 512 };
        let granularity = [unit, 512, 4096, cluster][rng.index(4)].min(size / 4).max(unit);
        let longest = [cluster / 2, cluster * 2, cluster * 5][rng.index(3)].clamp(512, 2 << 20);
        let start = rng.below(size / granularity) * granularity;
        let len = (1 + rng.below(longest)).next_multiple_of(granularity).min(size - start).max(1);
        let request = match rng.below(8) {
            0..=4 => Request::Write(fill(rng)),
            5 => Request::Zero(rng.chance(50)),
            _ if discards == 0 => {
                discards = 1;
                Request::Discard
            }
            _ => Request::Zero(true),
        };
        GuestOp { request, start, len }
    });
    Action::Guest(ops.collect())
}

fn size(rng: &mut Rng, model: &Model) -> u64 {
    let step = [512, model.cluster, 65536][rng.index(3)];
    let most = (model.cluster * 4).clamp(100 << 10, 4 << 20);
    let by = (1 + rng.below(most / step)) * step;
    let least = 64 << 10;
    let now = model.size();
    if (rng.chance(40) || now > (12 << 20)) && now > by + least {
        now - by
    } else {
        now.next_multiple_of(512) + by
    }
}

fn resize(rng: &mut Rng, model: &Model) -> Action {
    let size = size(rng, model);
    if size < model.size() || model.cipher != Cipher::Plain {
        let flags = if size < model.size() { "--shrink" } else { "" };
        return Action::Resize(flags, size);
    }
    let modes = ["", "", "", "--preallocation=metadata", "--preallocation=falloc", "--preallocation=full"];
    Action::Resize(modes[rng.index(modes.len())], size)
}

fn snapshot_key(rng: &mut Rng, model: &Model) -> String {
    if model.snapshots.is_empty() || rng.chance(5) {
        return (*rng.pick(SNAPSHOTS)).to_owned();
    }
    let one = rng.pick(&model.snapshots);
    if rng.chance(50) { one.id.clone() } else { one.name.clone() }
}

fn snapshot_name(rng: &mut Rng, model: &Model) -> String {
    if model.snapshots.is_empty() || rng.chance(5) {
        return (*rng.pick(SNAPSHOTS)).to_owned();
    }
    rng.pick(&model.snapshots).name.clone()
}

fn bitmap(rng: &mut Rng, model: &Model) -> Action {
    let known = |rng: &mut Rng| {
        if model.bitmaps.is_empty() || rng.chance(5) {
            return (*rng.pick(BITMAPS)).to_owned();
        }
        rng.pick(&model.bitmaps).name.clone()
    };
    let what = if model.bitmaps.is_empty() && rng.chance(85) { 0 } else { rng.below(12) };
    match what {
        0..=4 => {
            let flags = ["", "-g 512", "-g 4096", "-g 1048576", "--disable", "-g 65536 --disable"];
            let flags = flags[rng.index(flags.len())];
            Action::AddBitmap((*rng.pick(BITMAPS)).to_owned(), flags)
        }
        5 | 6 => Action::ChangeBitmap("--remove", known(rng)),
        7 => Action::ChangeBitmap("--clear", known(rng)),
        8 => Action::ChangeBitmap("--enable", known(rng)),
        9 => Action::ChangeBitmap("--disable", known(rng)),
        _ => Action::MergeBitmap(known(rng), known(rng)),
    }
}

fn convert(rng: &mut Rng, model: &Model) -> Action {
    let plain = model.cipher == Cipher::Plain;
    let to = match rng.below(10) {
        0 => Cipher::Luks,
        1 => Cipher::Aes,
        2..=5 => model.cipher,
        _ => Cipher::Plain,
    };
    // An image that is not encrypted and never was goes on without, so that most sequences do.
    let to = if plain && rng.chance(50) { Cipher::Plain } else { to };
    let bitmaps = !model.bitmaps.is_empty() && rng.chance(70);
    let flags = match (rng.below(5), bitmaps) {
        (0, true) => "-c --bitmaps",
        (0, false) => "-c",
        (1, _) if model.backing == ON_SHORTER => "-B ../short.raw -F raw",
        (1, _) if model.backing == ON_LONGER => "-B ../long.qcow2 -F qcow2",
        (2, false) => "-S 0",
        (3, false) => "-W -m 4",
        (_, true) => "--bitmaps",
        _ => "",
    };
    let target = TARGETS[rng.index(TARGETS.len())];
    // A data file can't hold compressed clusters. The installed one refuses even where there is nothing to compress.
    let flags = if target.contains("DATA") { flags.trim_start_matches("-c").trim() } else { flags };
    Action::Convert(flags, target, to)
}

const ON_SHORTER: &str = "-b ../short.raw -F raw";
const ON_LONGER: &str = "-b ../long.qcow2 -F qcow2";
