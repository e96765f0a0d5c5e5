//! Contents both ways: images that the installed tools wrote at random are read by ours, and images that ours wrote
//! are read, checked and written on by the installed tools. For every layout of qcow2; seeds make each run the same.
//!
//! `DISKIMG_SEEDS=N` tries more seeds than the usual [`SEEDS`] for each layout.
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod support;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use support::folder;
use support::process;
use support::suite::{Env, Needs, Test, run_tests};

/// Seeds for each layout.
const SEEDS: u64 = 2;
/// Operations on each image.
const OPERATIONS: usize = 24;

/// One way to make an image.
#[derive(Debug, Clone, Copy)]
struct Layout {
    name: &'static str,
    /// Options of `create` and `convert`.
    options: &'static str,
    cluster: u64,
    size: u64,
    /// `-b … -F …`, if it is an overlay on one of the files of [`BASES`].
    backing: &'static str,
    /// Whether clusters can be compressed.
    compresses: bool,
}

const SIMPLE: Layout = Layout {
    name: "",
    options: "cluster_size=64k",
    cluster: 64 << 10,
    size: (3 << 20) + 512,
    backing: "",
    compresses: true,
};

const LAYOUTS: &[Layout] = &[
    Layout { name: "plain", ..SIMPLE },
    Layout { name: "large", size: 80 << 20, ..SIMPLE },
    Layout { name: "large-512", options: "cluster_size=512", cluster: 512, size: 24 << 20, ..SIMPLE },
    Layout { name: "512", options: "cluster_size=512", cluster: 512, size: 700 << 10, ..SIMPLE },
    Layout { name: "4k", options: "cluster_size=4k", cluster: 4096, ..SIMPLE },
    Layout { name: "2M", options: "cluster_size=2M", cluster: 2 << 20, size: (9 << 20) + 1024, ..SIMPLE },
    Layout { name: "extended", options: "extended_l2=on", ..SIMPLE },
    Layout { name: "extended-16k", options: "extended_l2=on,cluster_size=16k", cluster: 16 << 10, ..SIMPLE },
    Layout {
        name: "extended-2M",
        options: "extended_l2=on,cluster_size=2M",
        cluster: 2 << 20,
        size: 9 << 20,
        ..SIMPLE
    },
    Layout { name: "v2", options: "compat=0.10", ..SIMPLE },
    Layout { name: "v2-4k", options: "compat=0.10,cluster_size=4k", cluster: 4096, ..SIMPLE },
    Layout { name: "refcount-1", options: "refcount_bits=1", ..SIMPLE },
    Layout { name: "refcount-2", options: "refcount_bits=2,cluster_size=4k", cluster: 4096, ..SIMPLE },
    Layout { name: "refcount-4", options: "refcount_bits=4", ..SIMPLE },
    Layout {
        name: "refcount-8",
        options: "refcount_bits=8,cluster_size=512",
        cluster: 512,
        size: 700 << 10,
        ..SIMPLE
    },
    Layout { name: "refcount-32", options: "refcount_bits=32", ..SIMPLE },
    Layout {
        name: "refcount-64",
        options: "refcount_bits=64,cluster_size=512",
        cluster: 512,
        size: 700 << 10,
        ..SIMPLE
    },
    Layout { name: "lazy", options: "lazy_refcounts=on", ..SIMPLE },
    Layout { name: "zstd", options: "compression_type=zstd", ..SIMPLE },
    Layout { name: "zstd-4k", options: "compression_type=zstd,cluster_size=4k", cluster: 4096, ..SIMPLE },
    Layout { name: "zstd-extended", options: "compression_type=zstd,extended_l2=on", ..SIMPLE },
    Layout { name: "preallocated", options: "preallocation=metadata", ..SIMPLE },
    Layout { name: "preallocated-full", options: "preallocation=full", ..SIMPLE },
    Layout { name: "data-file", options: "data_file=NAME.d", compresses: false, ..SIMPLE },
    Layout {
        name: "data-file-raw",
        options: "data_file=NAME.d,data_file_raw=on",
        compresses: false,
        ..SIMPLE
    },
    Layout {
        name: "data-file-extended",
        options: "data_file=NAME.d,extended_l2=on",
        compresses: false,
        ..SIMPLE
    },
    Layout { name: "on-shorter", backing: "-b short.raw -F raw", ..SIMPLE },
    Layout { name: "on-longer", backing: "-b long.qcow2 -F qcow2", ..SIMPLE },
    Layout {
        name: "on-shorter-extended",
        options: "extended_l2=on",
        backing: "-b short.raw -F raw",
        ..SIMPLE
    },
    Layout {
        name: "on-longer-extended",
        options: "extended_l2=on",
        backing: "-b long.qcow2 -F qcow2",
        ..SIMPLE
    },
    Layout { name: "on-shorter-v2", options: "compat=0.10", backing: "-b short.raw -F raw", ..SIMPLE },
    Layout {
        name: "on-longer-512",
        options: "cluster_size=512",
        cluster: 512,
        size: 700 << 10,
        backing: "-b long.qcow2 -F qcow2",
        ..SIMPLE
    },
    Layout {
        name: "on-shorter-2M",
        options: "cluster_size=2M",
        cluster: 2 << 20,
        size: 5 << 20,
        backing: "-b short.raw -F raw",
        ..SIMPLE
    },
    Layout {
        name: "data-file-on-longer",
        options: "data_file=NAME.d",
        backing: "-b long.qcow2 -F qcow2",
        compresses: false,
        ..SIMPLE
    },
];

/// Backing files: a raw one of odd length, shorter than any overlay, and a qcow2 image longer than most.
const BASES: &str = "noise short.raw 0 300k 77
                     truncate short.raw 450001
                     fill short.raw 440000 10001 0x77
                     create -f qcow2 -o cluster_size=4k long.qcow2 6M
                     io long.qcow2 'write -P 0x71 0 900k' 'write -z 100k 100k' 'write -P 0x72 2M 1M' 'write -P 0x73 5M 512k'";

fn main() -> std::process::ExitCode {
    let seeds = std::env::var("DISKIMG_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(SEEDS);
    let mut tests = Vec::new();
    for &layout in LAYOUTS {
        for seed in 0..seeds {
            let mut add = |what: &str, needs: Needs, body: fn(&Ground<'_>) -> Result<(), String>| {
                let name = format!("{what}/{}/{seed}", layout.name);
                tests.push(Test::new(name, needs, move |env| {
                    Ground::new(env, layout, seed).and_then(|g| body(&g))
                }));
            };
            add("ours reads theirs", Needs::Contents, ours_reads);
            add("listings of theirs", Needs::Texts, listings);
            add("ours converts", Needs::Contents, ours_converts);
            add("theirs writes on ours", Needs::Contents, theirs_writes_on_ours);
        }
    }
    run_tests(tests)
}

/// A folder with an image `img` of one layout, written at random by the installed tools, and its content `truth`.
struct Ground<'a> {
    env: &'a Env,
    dir: PathBuf,
    layout: Layout,
    seed: u64,
}

impl<'a> Ground<'a> {
    fn new(env: &'a Env, layout: Layout, seed: u64) -> Result<Self, String> {
        let script = |layout: Layout| {
            format!(
                "{BASES}
                 create -f qcow2 {} {} img {}
                 try-io -f qcow2 img {}
                 img check img
                 io -f qcow2 img length
                 img convert -f qcow2 -O raw img truth",
                options(layout, "img"),
                layout.backing,
                layout.size,
                operations(layout, seed),
            )
        };
        // qemu-io, writing compressed clusters between others, now and then packs one into a cluster that it has
        // just filled with plain data and leaves that one marked as unshared, or finds the image corrupt (so that
        // it can't be opened for writing again). Such a seed does without them.
        let made = env.fixtures.get(&script(layout), &env.tools());
        let plain = Layout { compresses: false, ..layout };
        let (layout, made) = match made {
            Err(_) => (plain, env.fixtures.get(&script(plain), &env.tools())?),
            Ok(made) => (layout, made),
        };
        let dir = env.fresh_folder();
        folder::copy_tree(&made, &dir, &|_| true)?;
        Ok(Self { env, dir, layout, seed })
    }

    fn run(&self, program: &Path, line: &str) -> Result<process::Finished, String> {
        let args: Vec<&str> = line.split_whitespace().collect();
        process::run(program, &args, &self.dir)
    }

    /// Runs ours; it must succeed.
    fn ours(&self, line: &str) -> Result<String, String> {
        let done = self.run(&self.env.our_link, line)?;
        if done.is_ok() {
            Ok(done.stdout)
        } else {
            Err(format!("ours {line}: exit {}\n{}{}", done.exit, done.stdout, done.stderr))
        }
    }

    /// Runs the installed one; it must succeed.
    fn theirs(&self, line: &str) -> Result<String, String> {
        let done = self.run(&self.env.oracle_link, line)?;
        if done.is_ok() {
            Ok(done.stdout)
        } else {
            Err(format!("qemu-img {line}: exit {}\n{}{}", done.exit, done.stdout, done.stderr))
        }
    }

    /// Both must say the same.
    fn same(&self, line: &str) -> Result<(), String> {
        let (a, b) = (self.run(&self.env.oracle_link, line)?, self.run(&self.env.our_link, line)?);
        if a.exit == b.exit && a.stderr == b.stderr && support::case::same_but_disk_size(&a.stdout, &b.stdout)
        {
            return Ok(());
        }
        let show = |f: &process::Finished| format!("exit {}\n{}{}", f.exit, f.stdout, f.stderr);
        Err(format!("{line}\n--- qemu-img\n{}\n--- ours\n{}", show(&a), show(&b)))
    }

    fn equal(&self, a: &str, b: &str) -> Result<(), String> {
        let len = |name: &str| {
            std::fs::metadata(self.dir.join(name)).map(|m| m.len()).map_err(|e| format!("{name}: {e}"))
        };
        if len(a)? != len(b)? {
            return Err(format!("{a} has {} bytes, {b} has {}", len(a)?, len(b)?));
        }
        match folder::first_difference(&self.dir.join(a), &self.dir.join(b))? {
            Some(at) => Err(format!("{a} and {b} differ at {at:#x}")),
            None => Ok(()),
        }
    }
}

impl Drop for Ground<'_> {
    fn drop(&mut self) {
        if !self.env.keep {
            // What is left goes with the whole run's folder.
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

fn options(layout: Layout, name: &str) -> String {
    if layout.options.is_empty() {
        String::new()
    } else {
        format!("-o {}", layout.options.replace("NAME", name))
    }
}

/// Random `qemu-io` commands; some fail (a compressed write over an allocated cluster), which is part of it.
fn operations(layout: Layout, seed: u64) -> String {
    let mut bytes =
        support::script::noise(OPERATIONS * 40, seed * 1000 + layout.name.len() as u64 + 1).into_iter();
    let mut random = |below: u64| -> u64 {
        let n = bytes.by_ref().take(8).fold(0_u64, |n, b| n << 8 | u64::from(b));
        n % below.max(1)
    };
    let mut all = String::new();
    for i in 0..OPERATIONS {
        let pattern = 1 + (i as u64 * 7) % 250;
        let longest = [layout.cluster / 2, layout.cluster * 2, layout.cluster * 5][random(3) as usize]
            .clamp(512, 1 << 20);
        let granularity = [1, 512, 4096, layout.cluster][random(4) as usize].min(layout.size / 4);
        let start = random(layout.size / granularity) * granularity;
        let len = (1 + random(longest)).next_multiple_of(granularity).min(layout.size - start).max(1);
        let range = format!("{start} {len}");
        let cluster = random(layout.size / layout.cluster) * layout.cluster;
        let _ = match random(8) {
            0..=3 => write!(all, " 'write -P {pattern} {range}'"),
            4 => write!(all, " 'write -z {range}'"),
            5 => write!(all, " 'write -z -u {range}'"),
            6 => write!(all, " 'discard {range}'"),
            _ if layout.compresses => write!(all, " 'write -c -P {pattern} {cluster} {}'", layout.cluster),
            _ => write!(all, " 'write -P {pattern} {cluster} {}'", layout.cluster),
        };
    }
    all
}

/// An image that the installed tools wrote, read by ours in every way.
fn ours_reads(g: &Ground<'_>) -> Result<(), String> {
    g.ours("convert -f qcow2 -O raw img got")?;
    g.equal("truth", "got")?;
    g.ours("convert -f qcow2 -O raw -S 0 -m 1 img got1")?;
    g.equal("truth", "got1")?;
    g.ours("compare -f qcow2 -F raw img truth")?;
    g.ours("compare -f raw -F qcow2 truth img")?;
    g.ours("check -f qcow2 img")?;
    g.ours("convert -f qcow2 -O qcow2 img again")?;
    g.theirs("check -f qcow2 again")?;
    g.theirs("compare -f raw -F qcow2 truth again").map(drop)
}

/// What both say of it.
fn listings(g: &Ground<'_>) -> Result<(), String> {
    g.same("map -f qcow2 img")?;
    g.same("map -f qcow2 --output=json img")?;
    g.same("info -f qcow2 img")?;
    g.same("check -f qcow2 img")?;
    g.same("check -f qcow2 --output=json img")?;
    g.same("measure -f qcow2 -O raw img")?;
    g.same("measure -f qcow2 -O qcow2 img")
}

/// Images that ours makes of the content, read by the installed tools.
fn ours_converts(g: &Ground<'_>) -> Result<(), String> {
    let to =
        |name: &str| format!("-O qcow2 {} {}", options(g.layout, name), g.layout.backing.replace("-b", "-B"));
    let mut variants =
        vec![("plain", String::new()), ("dense", "-S 0".to_owned()), ("loose", "-W -m 4".to_owned())];
    if g.layout.compresses && !g.layout.options.contains("preallocation") {
        variants.push(("packed", "-c".to_owned()));
    }
    for (name, flags) in variants {
        // Only an image that really continues its base can be converted onto it.
        let source = if g.layout.backing.is_empty() { "-f raw truth" } else { "-f qcow2 img" };
        if name == "packed" && !g.layout.backing.is_empty() {
            continue;
        }
        g.ours(&format!("convert {flags} {} {source} {name}", to(name)))?;
        g.theirs(&format!("check -f qcow2 {name}"))?;
        g.theirs(&format!("info -f qcow2 {name}"))?;
        g.theirs(&format!("compare -f raw -F qcow2 truth {name}")).map_err(|e| format!("{name}: {e}"))?;
        g.ours(&format!("convert -f qcow2 -O raw {name} {name}.raw"))?;
        g.equal("truth", &format!("{name}.raw"))?;
    }
    Ok(())
}

/// An image that ours creates, written on by the installed tools, resized by ours, and read by both.
fn theirs_writes_on_ours(g: &Ground<'_>) -> Result<(), String> {
    let (options, backing, size) = (options(g.layout, "new"), g.layout.backing, g.layout.size);
    g.ours(&format!("create -q -f qcow2 {options} {backing} new {size}"))?;
    g.theirs("check -f qcow2 new")?;
    support::script::run(
        &format!("try-io -f qcow2 new {}", operations(g.layout, g.seed)),
        &g.dir,
        &g.env.tools(),
    )?;
    g.theirs("check -f qcow2 new")?;
    g.theirs("compare -f raw -F qcow2 truth new")?;
    g.ours("convert -f qcow2 -O raw new new.raw")?;
    g.equal("truth", "new.raw")?;
    g.ours("resize -q -f qcow2 new +3M")?;
    g.theirs("check -f qcow2 new")?;
    g.theirs("convert -f qcow2 -O raw new grown.theirs")?;
    g.ours("convert -f qcow2 -O raw new grown.ours")?;
    g.equal("grown.theirs", "grown.ours")?;
    g.ours(&format!("resize -q -f qcow2 --shrink new {}", size / 1024 * 512))?;
    g.theirs("check -f qcow2 new")?;
    g.theirs("convert -f qcow2 -O raw new shrunk.theirs")?;
    g.ours("convert -f qcow2 -O raw new shrunk.ours")?;
    g.equal("shrunk.theirs", "shrunk.ours")
}
