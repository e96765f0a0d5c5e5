//! One case: a set-up, command lines that the oracle and ours run in folders of their own, and the comparison.
//!
//! Compared are exit code, stdout and stderr of each command and then the two folders: names, lengths and bytes.
//! What is allowed to differ, and why, is said in [`Files`], [`same_but_disk_size`], [`fold_progress`] and
//! [`fold_failed_requests`], and the time that `bench` tells; nothing else is normalised. Of the target (`out…`) of a `convert` that fails only
//! the name is compared: how far it got is a matter of timing.

use super::drawn;
use super::folder;
use super::process::{self, Finished};
use super::script;
use super::suite::Env;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What the files that a case leaves behind must have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// The same names, lengths and bytes.
    Exact,
    /// As `Exact`, but an image whose bytes differ is accepted when the oracle finds ours clean and not longer, with
    /// the same `info`, and reads the same content from both: a converter may place clusters as it likes, and need
    /// not write what reads as zeros anyhow.
    Images,
    /// As `Images`, with any length: compressed sizes depend on the compressor.
    AnyLength,
    /// As `Exact`, but for what a new image draws by chance (see [`drawn`]).
    Drawn,
    /// As `AnyLength`, and each snapshot reads the same from both.
    Snapshots,
    /// As `Exact`, but the bytes of encrypted images may differ: each has a key and salts of its own, and it may
    /// end with its last cluster. What they hold is for the commands to show.
    Encrypted,
}

/// A named set-up.
#[derive(Debug, Clone, Copy)]
pub struct Fixture {
    /// Part of the case's name.
    pub name: &'static str,
    /// Whether a case gets only the files that its commands name (and those with a further suffix), not all: for
    /// large sets of images that have nothing to do with each other.
    pub pick: bool,
    /// See [`script`].
    pub script: &'static str,
}

/// Nothing is set up.
pub const EMPTY: Fixture = Fixture { name: "empty", pick: false, script: "" };

/// A set-up, command lines, and what to compare.
#[derive(Debug, Clone)]
pub struct Case {
    /// Unique name.
    pub name: String,
    fixture: Fixture,
    changes: String,
    commands: Vec<Vec<String>>,
    files: Files,
    progress: bool,
    allocation: bool,
    /// See [`Case::slow`].
    pub slow: bool,
    leftovers: bool,
}

impl Case {
    /// A case with a name of its own; `commands` are separated by line ends or `&&`.
    pub fn new(name: impl Into<String>, fixture: Fixture, commands: &str) -> Self {
        Self {
            name: name.into(),
            fixture,
            changes: String::new(),
            commands: script::commands(commands),
            files: Files::Exact,
            progress: false,
            allocation: false,
            slow: false,
            leftovers: false,
        }
    }

    /// Set-up steps done in each of the two folders on top of the fixture (cheap ones, and processes).
    pub fn with(mut self, changes: &str) -> Self {
        self.changes.push('\n');
        self.changes.push_str(changes);
        self
    }

    /// How the files left behind are compared.
    pub fn files(mut self, files: Files) -> Self {
        self.files = files;
        self
    }

    /// The command reports progress: how often is left to the command.
    pub fn progress(mut self) -> Self {
        self.progress = true;
        self
    }

    /// The space that the file system allocated must be alike too (preallocation, sparse output).
    pub fn allocation(mut self) -> Self {
        self.allocation = true;
        self
    }

    /// The oracle may leave a new file `n.…` that it could not finish.
    pub fn leftovers(mut self) -> Self {
        self.leftovers = true;
        self
    }

    /// Takes the oracle seconds: run only if `DISKIMG_SLOW` is set.
    pub fn slow(mut self) -> Self {
        self.slow = true;
        self
    }

    /// Number of command lines.
    pub fn command_count(&self) -> usize {
        self.commands.len()
    }

    /// Whether the case says something about files even where messages can't be compared: it changes some.
    pub fn writes(&self) -> bool {
        let writers = ["create", "convert", "dd", "resize", "snapshot", "commit", "rebase"];
        self.commands.iter().any(|c| c.first().is_some_and(|name| writers.contains(&name.as_str())))
    }

    /// Runs the case; the error says all that differed.
    pub fn run(&self, env: &Env, texts: bool) -> Result<(), Vec<Difference>> {
        let fail = |what: String| vec![Difference::new(&self.name, "set-up", "", what)];
        let base = env.fresh_folder();
        let result = self.run_in(&base, env, texts).unwrap_or_else(fail);
        if result.is_empty() || !env.keep {
            // A folder left behind is removed with the whole run's.
            let _ = std::fs::remove_dir_all(&base);
        }
        if result.is_empty() { Ok(()) } else { Err(result) }
    }

    fn run_in(&self, base: &Path, env: &Env, texts: bool) -> Result<Vec<Difference>, String> {
        let tools = env.tools();
        let fixture = env.fixtures.get(self.fixture.script, &tools)?;
        let (theirs, ours) = (base.join("qemu"), base.join("ours"));
        // Both run in a folder of the same name, so that absolute paths are equal too.
        let expected = self.run_side(&fixture, &env.oracle_link, base, env)?;
        std::fs::rename(base.join(WORK), &theirs).map_err(|e| e.to_string())?;
        let got = self.run_side(&fixture, &env.our_link, base, env)?;
        std::fs::rename(base.join(WORK), &ours).map_err(|e| e.to_string())?;
        let mut differences = Vec::new();
        for (command, (expected, got)) in self.commands.iter().zip(expected.iter().zip(&got)) {
            let line = command.join(" ");
            let mut differ = |what: &'static str, qemu: &str, ours: &str| {
                differences.push(Difference::new(&self.name, what, qemu, ours.to_owned()).of(&line));
            };
            if expected.exit != got.exit {
                differ("exit", &expected.exit, &got.exit);
            }
            if texts && !same_but_disk_size(&expected.stdout, &got.stdout) {
                differ("stdout", &expected.stdout, &got.stdout);
            }
            if texts && expected.stderr != got.stderr {
                differ("stderr", &expected.stderr, &got.stderr);
            }
        }
        let converts =
            self.commands.iter().map(|c| c.first().is_some_and(|name| name == "convert" || name == "dd"));
        let unfinished = converts.zip(&expected).any(|(convert, done)| convert && !done.is_ok());
        for (what, qemu, text) in self.compare_folders(&theirs, &ours, env, unfinished)? {
            differences.push(Difference::new(&self.name, what, &qemu, text));
        }
        Ok(differences)
    }

    /// Sets the folder up afresh and runs the commands in it with one of the two programs.
    fn run_side(
        &self,
        fixture: &Path,
        program: &Path,
        base: &Path,
        env: &Env,
    ) -> Result<Vec<Finished>, String> {
        let dir = base.join(WORK);
        folder::copy_tree(fixture, &dir, &|name| !self.fixture.pick || self.names(name))?;
        let holders = script::run(&self.changes, &dir, &env.tools())?;
        let outputs = self.commands.iter().map(|command| self.output(env, program, command, &dir)).collect();
        drop(holders);
        outputs
    }

    /// Whether a command says this name, or the name without its last suffix.
    fn names(&self, name: &str) -> bool {
        let stem = name.strip_suffix(".d").unwrap_or(name);
        self.commands.iter().flatten().any(|word| word.contains(stem))
    }

    fn output(&self, env: &Env, program: &Path, command: &[String], dir: &Path) -> Result<Finished, String> {
        let here = dir.to_string_lossy();
        let args: Vec<String> = command.iter().map(|word| word.replace("$DIR", &here)).collect();
        let memory = if program == env.our_link { Some(OUR_MEMORY) } else { None };
        let mut done = process::run_within(program, &args, dir, memory)?;
        for text in [&mut done.stdout, &mut done.stderr] {
            *text = text
                .replace(here.as_ref(), "$DIR")
                .replace(program.to_string_lossy().as_ref(), "$BIN/qemu-img");
            if self.progress {
                *text = fold_progress(text);
            }
            *text = fold_failed_requests(text);
            if let Some(time) = text.lines().find(|line| line.starts_with("Run completed in ")) {
                *text = text.replace(time, "Run completed in some time.");
            }
        }
        Ok(done)
    }

    fn compare_folders(
        &self,
        theirs: &Path,
        ours: &Path,
        env: &Env,
        unfinished: bool,
    ) -> Result<Vec<(&'static str, String, String)>, String> {
        let (mut expected, got) = (folder::list(theirs)?, folder::list(ours)?);
        if self.leftovers {
            expected.retain(|name, _| !name.starts_with("n.") || got.contains_key(name));
        }
        let names = |list: &std::collections::BTreeMap<String, folder::Entry>| {
            list.iter().map(|(name, e)| format!("{name} {}", e.kind)).collect::<Vec<_>>().join("\n")
        };
        if names(&expected) != names(&got) {
            return Ok(vec![("names", names(&expected), names(&got))]);
        }
        let mut found = Vec::new();
        for (name, entry) in expected.iter().filter(|(_, entry)| entry.kind == "file") {
            if unfinished && name.starts_with("out") {
                continue;
            }
            let other = &got[name];
            let (a, b) = (theirs.join(name), ours.join(name));
            let longest = match self.files {
                Files::Exact | Files::Drawn => None,
                Files::Images | Files::Encrypted => Some(entry.len.next_multiple_of(cluster_size(&a))),
                Files::AnyLength | Files::Snapshots => Some(u64::MAX),
            };
            if entry.len != other.len && longest.is_none_or(|longest| other.len > longest) {
                let line = |len: u64| format!("{name}: length {len}");
                found.push(("length", line(entry.len), line(other.len)));
            }
            if self.allocation && entry.allocated.abs_diff(other.allocated) > ALLOCATION_SLACK {
                let line = |n: u64| format!("{name}: {n} bytes allocated");
                found.push(("allocation", line(entry.allocated), line(other.allocated)));
            }
            let drawn = if self.files == Files::Exact { Vec::new() } else { drawn::ranges(&a)? };
            let Some(at) = folder::first_difference_but(&a, &b, &drawn)? else { continue };
            if self.files == Files::Encrypted && encrypted(&a) && encrypted(&b) {
                continue;
            }
            if name.contains("-s00") && self.files != Files::Exact {
                // A part of a VMDK, which is compared as a whole.
                continue;
            }
            if matches!(self.files, Files::Exact | Files::Encrypted | Files::Drawn) {
                found.push(("bytes", String::new(), format!("{name} differs at {at:#x}")));
            } else {
                found.extend(compare_images(theirs, ours, name, env)?);
                if self.files == Files::Snapshots {
                    found.extend(compare_snapshots(theirs, ours, name, env)?);
                }
            }
        }
        Ok(found)
    }
}

/// Address space that ours may use on any image, however hostile: threads, buffers and the program itself.
const OUR_MEMORY: u64 = 512 << 20;

/// Name of the folder in which commands run.
const WORK: &str = "work";

/// Space that a file system may add by itself: an extent-tree block or two.
const ALLOCATION_SLACK: u64 = 64 << 10;

/// The oracle's view of two images that are not equal byte for byte.
fn compare_images(
    theirs: &Path,
    ours: &Path,
    name: &str,
    env: &Env,
) -> Result<Vec<(&'static str, String, String)>, String> {
    let mut found = Vec::new();
    let ask = |dir: &Path, args: &[&str]| process::run(&env.oracle_link, args, dir);
    // A fixed VHD is not told from a raw image by its start.
    let format: &[&str] = if name.ends_with(".vpc") { &["-f", "vpc"] } else { &[] };
    let info = &[&["info", "-U", "--output=json"], format, &[name]].concat();
    let (a, b) = (ask(theirs, info)?, ask(ours, info)?);
    if drop_sizes(&a.stdout) != drop_sizes(&b.stdout) || a.stderr != b.stderr {
        found.push(("image info", a.stdout + &a.stderr, b.stdout + &b.stderr));
    }
    let check = &[&["check", "-U"], format, &[name]].concat();
    let (a, b) = (ask(theirs, check)?, ask(ours, check)?);
    if a.exit != b.exit {
        found.push(("image check", a.stdout + &a.stderr, b.stdout + &b.stderr));
    }
    let export = &[&["convert", "-U", "-O", "raw"], format, &[name, "../exported"]].concat();
    let (export_a, export_b) = (theirs.join("../exported.qemu"), ours.join("../exported.ours"));
    for (dir, to) in [(theirs, &export_a), (ours, &export_b)] {
        let done = ask(dir, export)?;
        if !done.is_ok() {
            // A disk may be longer than any file here: then the oracle compares the two itself.
            let other = ours.join(name).display().to_string();
            let compared = ask(theirs, &[&["compare", "-U"], format, &[name, &other]].concat())?;
            if !compared.is_ok() {
                found.push((
                    "image content",
                    String::new(),
                    done.stderr + &compared.stdout + &compared.stderr,
                ));
            }
            return Ok(found);
        }
        std::fs::rename(dir.join("../exported"), to).map_err(|e| e.to_string())?;
    }
    if let Some(at) = folder::first_difference(&export_a, &export_b)? {
        found.push(("image content", String::new(), format!("{name}: guest bytes differ at {at:#x}")));
    }
    Ok(found)
}

/// What each snapshot of two images reads as for the oracle.
fn compare_snapshots(
    theirs: &Path,
    ours: &Path,
    name: &str,
    env: &Env,
) -> Result<Vec<(&'static str, String, String)>, String> {
    let info = process::run(&env.oracle_link, &["info", "-U", "--output=json", name], theirs)?;
    let ids = info.stdout.lines().filter_map(|line| line.trim().strip_prefix("\"id\": \""));
    for id in ids.filter_map(|rest| rest.split('"').next()) {
        let compare = |dir: &Path, to: &Path| -> Result<(), String> {
            let choice = format!("snapshot.id={id}");
            let export = ["convert", "-U", "-l", &choice, "-O", "raw", name, "../exported"];
            let done = process::run(&env.oracle_link, &export, dir)?;
            if !done.is_ok() {
                return Err(done.stderr);
            }
            std::fs::rename(dir.join("../exported"), to).map_err(|e| e.to_string())
        };
        let (export_a, export_b) = (theirs.join("../exported.qemu"), ours.join("../exported.ours"));
        for (dir, to) in [(theirs, &export_a), (ours, &export_b)] {
            if let Err(text) = compare(dir, to) {
                return Ok(vec![("snapshot content", String::new(), text)]);
            }
        }
        if let Some(at) = folder::first_difference(&export_a, &export_b)? {
            let text = format!("{name}: bytes of snapshot {id} differ at {at:#x}");
            return Ok(vec![("snapshot content", String::new(), text)]);
        }
    }
    Ok(Vec::new())
}

/// `info` without what the host file system and the clock decide, and without the file's length, which is compared by
/// itself.
fn drop_sizes(json: &str) -> String {
    let mut lines: Vec<&str> = json.lines().collect();
    lines.retain(|line| {
        !["\"actual-size\"", "\"date-sec\"", "\"date-nsec\"", "\"cid\""].iter().any(|key| line.contains(key))
    });
    // The protocol node's virtual size is the length of the file.
    lines.retain(|line| !line.starts_with("                \"virtual-size\""));
    lines.join("\n")
}

/// True for a qcow2 image with an encryption method.
fn encrypted(path: &Path) -> bool {
    let mut header = [0; 36];
    let read = std::fs::File::open(path).and_then(|file| file.read_exact_at(&mut header, 0));
    read.is_ok()
        && (header.starts_with(b"LUKS\xba\xbe") || header.starts_with(b"QFI\xfb") && header[32..] != [0; 4])
}

/// Cluster size of a qcow2 image; 1 for anything else. An image may end within its last cluster or with it.
fn cluster_size(path: &Path) -> u64 {
    let mut header = [0; 24];
    let read = std::fs::File::open(path).and_then(|file| file.read_exact_at(&mut header, 0));
    match (read, header) {
        (Ok(()), [b'Q', b'F', b'I', 0xfb, .., bits]) if bits < 22 => 1 << bits,
        _ => 1,
    }
}

/// Equality up to the allocated size that `info` prints: the file system may add a block for its own tables when it
/// writes the file out, which can happen between the two runs.
pub fn same_but_disk_size(a: &str, b: &str) -> bool {
    const SLACK: f64 = 16.0 * 1024.0;
    if a == b {
        return true;
    }
    let (left, right): (Vec<&str>, Vec<&str>) = (a.split('\n').collect(), b.split('\n').collect());
    left.len() == right.len()
        && left.iter().zip(&right).all(|(x, y)| {
            x == y
                || match (disk_size(x), disk_size(y)) {
                    (Some(p), Some(q)) => (p - q).abs() <= SLACK.max(p / 100.0),
                    _ => false,
                }
        })
}

/// The size in a line `disk size: 196 KiB` or `"actual-size": 200704,`.
fn disk_size(line: &str) -> Option<f64> {
    if let Some(number) = line.trim().strip_prefix("\"actual-size\": ") {
        return number.trim_end_matches(',').parse().ok();
    }
    let (number, unit) = line.trim().strip_prefix("disk size: ")?.split_once(' ')?;
    let power = ["B", "KiB", "MiB", "GiB", "TiB"].iter().position(|u| *u == unit)?;
    Some(number.parse::<f64>().ok()? * 1024_f64.powi(power as i32))
}

/// Keeps the first and last line of each run of progress lines (`    (12.50/100%)\r`): how many there are in
/// between depends on the size of the requests.
pub fn fold_progress(text: &str) -> String {
    let parts: Vec<&str> = text.split_inclusive('\r').collect();
    let is_progress = |part: &str| part.starts_with("    (") && part.ends_with("/100%)\r");
    let mut kept = String::new();
    for (i, part) in parts.iter().enumerate() {
        let inside =
            i > 0 && is_progress(parts[i - 1]) && parts.get(i + 1).is_some_and(|next| is_progress(next));
        if !(is_progress(part) && inside) {
            kept.push_str(part);
        }
    }
    kept
}

/// Keeps the lowest of a run of lines that report failed requests of `convert`: how many more were under way when
/// the first one failed, and in which order they are told, is a matter of timing.
pub fn fold_failed_requests(text: &str) -> String {
    let offset = |line: &str| -> Option<u64> {
        let rest = line.strip_prefix("qemu-img: error while ")?;
        let rest = rest.strip_prefix("reading at byte ").or_else(|| rest.strip_prefix("writing at byte "))?;
        rest.split(':').next()?.parse().ok()
    };
    let mut kept: Vec<&str> = Vec::new();
    for line in text.split_inclusive('\n') {
        match (kept.last().and_then(|last| offset(last)), offset(line)) {
            (Some(before), Some(now)) if now >= before => {}
            (Some(_), Some(_)) => {
                kept.pop();
                kept.push(line);
            }
            _ => kept.push(line),
        }
    }
    kept.concat()
}

/// One thing in which the two programs differed.
#[derive(Debug, Clone)]
pub struct Difference {
    /// The case.
    pub case: String,
    /// The command line.
    pub command: String,
    /// `stdout`, `stderr`, `exit`, `names`, `bytes` …
    pub what: &'static str,
    /// The oracle's side.
    pub qemu: String,
    /// Our side.
    pub ours: String,
}

impl Difference {
    fn new(case: &str, what: &'static str, qemu: &str, ours: String) -> Self {
        Self { case: case.to_owned(), command: String::new(), what, qemu: qemu.to_owned(), ours }
    }

    fn of(mut self, command: &str) -> Self {
        self.command = command.to_owned();
        self
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} differs: qemu-img {}", self.what, self.command)?;
        for (who, text) in [("qemu", &self.qemu), ("ours", &self.ours)] {
            for line in text.split_inclusive('\n').take(60) {
                let end = if line.ends_with('\n') { "" } else { "\\ (no line end)\n" };
                write!(f, "  {who}| {line}{end}")?;
            }
        }
        Ok(())
    }
}
