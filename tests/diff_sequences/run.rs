//! Carries out steps: ours and the installed tools each try them on a copy of the same image, must say the same of it,
//! and one of the two results is gone on with. Then everything is verified.

use super::layout::{Cipher, Layout};
use super::model::Model;
use super::step::{self, Action, GuestOp, Request, Step, Who};
use super::support::folder;
use super::support::process::{self, Finished};
use super::support::suite::Env;
use super::verify;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// How a sequence ended, if not well.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// A word for what went wrong: a shortened sequence must go wrong in the same way.
    pub kind: String,
    /// All of it.
    pub text: String,
    /// The installed tools alone did harm: the sequence can't be gone on with, and says nothing of ours.
    pub theirs: bool,
}

impl Trouble {
    /// Something that is wrong with ours (or with the model).
    pub fn new(kind: impl Into<String>, text: impl Into<String>) -> Self {
        Self { kind: kind.into(), text: text.into(), theirs: false }
    }
}

impl From<String> for Trouble {
    fn from(text: String) -> Self {
        Self::new("harness", text)
    }
}

/// Numbers of all sequences together.
#[derive(Debug, Default)]
pub struct Totals {
    /// Sequences that were run to their end.
    pub sequences: usize,
    /// Sequences that were left because the installed tools did harm, and what.
    pub harmed: Vec<String>,
    /// Actions by name: done by ours, done by theirs, and failed on both sides.
    pub actions: BTreeMap<String, [usize; 3]>,
    /// Outputs that were compared.
    pub texts: usize,
    /// Disks and snapshots that were read, by either side.
    pub contents: usize,
    /// Bitmaps whose bits were compared.
    pub bitmaps: usize,
}

/// See [`Totals`].
pub static TOTALS: Mutex<Option<Totals>> = Mutex::new(None);

/// Adds to the totals.
pub fn count(add: impl FnOnce(&mut Totals)) {
    if let Ok(mut totals) = TOTALS.lock() {
        add(totals.get_or_insert_with(Totals::default));
    }
}

/// The folders of one run of a sequence.
pub struct Ground<'a> {
    /// What all tests share.
    pub env: &'a Env,
    root: PathBuf,
    /// Where the image is that the sequence has arrived at: one of two folders.
    current: usize,
    /// What it must hold.
    pub model: Model,
    layout: Layout,
    /// The commands so far, as lines of a shell.
    pub lines: Vec<String>,
    /// Whether the last one failed.
    pub failed: bool,
}

impl<'a> Ground<'a> {
    /// A first image, made by the installed one or, where `ours` is set, by ours.
    pub fn new(env: &'a Env, layout: Layout, ours: bool) -> Result<Self, Trouble> {
        let root = env.fresh_folder();
        let made = env.fixtures.get(super::layout::SHARED, &env.tools())?;
        folder::copy_tree(&made, &root, &|_| true)?;
        fs::create_dir_all(root.join("a")).map_err(|e| e.to_string())?;
        let disk = initial(&root, layout)?;
        let files = ["noise", "mixed"].map(|name| (name, fs::read(root.join(name)).unwrap_or_default()));
        let model = Model {
            cipher: layout.cipher,
            cluster: 0,
            v2: false,
            data_file: false,
            refcount_bits: 16,
            used: false,
            backing: layout.backing,
            disk,
            snapshots: Vec::new(),
            bitmaps: Vec::new(),
            files: files.to_vec(),
        };
        let mut ground = Self { env, root, current: 0, model, layout, lines: Vec::new(), failed: false };
        ground.create(ours)?;
        Ok(ground)
    }

    fn create(&mut self, ours: bool) -> Result<(), Trouble> {
        let layout = self.layout;
        let mut args = vec!["create".to_owned(), "-q".to_owned(), "-f".to_owned(), "qcow2".to_owned()];
        args.extend(step::create_options(layout.options, layout.cipher, 0));
        args.extend(layout.backing.split_whitespace().map(str::to_owned));
        if layout.cipher != Cipher::Plain {
            args.extend(["--object".to_owned(), step::SECRET.to_owned()]);
        }
        args.extend(["img".to_owned(), layout.size.to_string()]);
        let program = if ours { &self.env.our_link } else { &self.env.oracle_link };
        self.lines.push(format!("{} {}", if ours { "qemu-img-rs" } else { "qemu-img" }, args.join(" ")));
        let done = process::run(program, &args, &self.dir())?;
        if !done.is_ok() {
            // The installed one now and then measures key derivation without end.
            let theirs = !ours && done.exit.parse::<u8>().is_err();
            return Err(Trouble { theirs, ..Trouble::new("create", show(&done)) });
        }
        verify::learn(self)
    }

    /// The folder of the current image.
    pub fn dir(&self) -> PathBuf {
        self.root.join(["a", "b"][self.current])
    }

    fn other(&self) -> PathBuf {
        self.root.join(["a", "b"][1 - self.current])
    }

    /// Does a step; gives who made the image that is gone on with, if something was done.
    pub fn step(&mut self, step: &Step) -> Result<Option<Who>, Trouble> {
        if self.model.avoids(&step.action).is_some() {
            return Ok(None);
        }
        let harmful = self.model.only_ours(&step.action).is_some();
        let who = if harmful { Who::Ours } else { step.who };
        let step = Step { who, ..step.clone() };
        self.lines.push(step::shell_line(&step, &self.model));
        let (here, there) = (self.dir(), self.other());
        let done = if harmful {
            self.attempt(&step, Who::Ours, &here)?
        } else {
            let _ = fs::remove_dir_all(&there);
            folder::copy_tree(&here, &there, &|_| true)?;
            let theirs = self.attempt(&step, Who::Theirs, &here)?;
            let ours = self.attempt(&step, Who::Ours, &there)?;
            let only_ours = same_outcome(&step.action, self.model.cipher, &theirs, &ours)?;
            if who == Who::Ours || only_ours {
                self.current = 1 - self.current;
                ours
            } else {
                theirs
            }
        };
        self.account(&step, &done)?;
        Ok(Some(who))
    }

    fn attempt(&self, step: &Step, who: Who, dir: &Path) -> Result<Attempt, Trouble> {
        let args = step.action.command(&self.model, step.number);
        let done = match (&step.action, who) {
            (Action::Guest(ops), _) => {
                let ops = self.within(ops);
                return self.guest(&ops, &args, who, dir).map(|(done, worked)| Attempt { done, ops, worked });
            }
            (_, Who::Ours) => process::run(&self.env.our_link, &args, dir)?,
            (_, Who::Theirs) => process::run(&self.env.oracle_link, &args, dir)?,
        };
        if who == Who::Theirs && done.exit.parse::<u8>().is_err() {
            return Err(Trouble { theirs: true, ..Trouble::new("outcome of theirs", show(&done)) });
        }
        if step.action.replaces() && done.is_ok() {
            fs::rename(dir.join("new"), dir.join("img")).map_err(|e| e.to_string())?;
        }
        Ok(Attempt { done, ops: Vec::new(), worked: Vec::new() })
    }

    /// The requests that lie within the disk.
    fn within(&self, ops: &[GuestOp]) -> Vec<GuestOp> {
        ops.iter().filter(|op| op.start + op.len <= self.model.size()).copied().collect()
    }

    /// Runs a guest; gives which requests worked.
    fn guest(
        &self,
        ops: &[GuestOp],
        image: &[String],
        who: Who,
        dir: &Path,
    ) -> Result<(Finished, Vec<bool>), Trouble> {
        let mut args: Vec<String> = Vec::new();
        for op in ops {
            args.extend(["-c".to_owned(), op.command()]);
        }
        args.extend(image.iter().cloned());
        let mut done = if who == Who::Ours {
            let this = std::env::current_exe().map_err(|e| e.to_string())?;
            args.insert(0, super::GUEST.to_owned());
            process::run(&this, &args, dir)?
        } else {
            process::run(self.env.tools().io, &args, dir)?
        };
        let worked = |line: &str| line == "ok" || line.starts_with("wrote ") || line.starts_with("discard ");
        let failed = |line: &str| line.starts_with("failed") || line.contains(" failed: ");
        let results: Vec<bool> =
            done.stdout.lines().filter(|line| worked(line) || failed(line)).map(worked).collect();
        if results.len() != ops.len() {
            return Err(Trouble::new(format!("guest of {who:?}"), show(&done)));
        }
        if who == Who::Theirs && results.contains(&false) {
            // It ends with an error when one of the requests failed.
            done.exit = "0".to_owned();
        }
        Ok((done, results))
    }

    /// Brings the model up to date and verifies.
    fn account(&mut self, step: &Step, attempt: &Attempt) -> Result<(), Trouble> {
        let name = step.action.name();
        let ok = attempt.done.is_ok();
        self.failed = !ok;
        self.model.used = true;
        count(|totals| {
            let at = if !ok { 2 } else { usize::from(step.who == Who::Theirs) };
            totals.actions.entry(name).or_default()[at] += 1;
        });
        if !ok {
            if let Some(line) = self.lines.last_mut() {
                line.push_str("   # fails");
            }
            return Ok(());
        }
        for (op, worked) in attempt.ops.iter().zip(&attempt.worked) {
            if *worked && step.who == Who::Ours {
                self.model.guest_of_ours(op);
            } else if *worked {
                self.model.guest(op);
            } else {
                self.model.guest_failed(op);
            }
        }
        self.model.done(&step.action).map_err(|text| Trouble::new("model", text))?;
        verify::learn(self)
    }
}

impl Drop for Ground<'_> {
    fn drop(&mut self) {
        if !self.env.keep {
            // What is left goes with the whole run's folder.
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}

/// What came of an action.
struct Attempt {
    done: Finished,
    ops: Vec<GuestOp>,
    worked: Vec<bool>,
}

/// What ours does where the installed one refuses, by a part of what that says. In docs/COMPATIBILITY.md.
const ONLY_OURS: &[&str] = &[
    "Cannot use preallocation for shrinking files",
    "Failed to zero out new clusters: Operation not supported",
];

/// Both must end the same way; true where ours did what the installed one refused, as it is meant to.
fn same_outcome(action: &Action, cipher: Cipher, theirs: &Attempt, ours: &Attempt) -> Result<bool, Trouble> {
    count(|totals| totals.texts += 1);
    let text = || format!("--- qemu-img\n{}--- ours\n{}", show(&theirs.done), show(&ours.done));
    if let Action::Guest(_) = action {
        let discards = |at: usize| theirs.ops.get(at).is_some_and(|op| op.request == Request::Discard);
        let differ = (0..theirs.worked.len()).any(|at| !discards(at) && theirs.worked[at] != ours.worked[at]);
        if differ || !ours.done.is_ok() {
            return Err(Trouble::new("outcome guest", text()));
        }
        return Ok(false);
    }
    if ours.done.is_ok() && ONLY_OURS.iter().any(|says| theirs.done.stderr.contains(says)) {
        return Ok(true);
    }
    if named(&theirs.done, cipher) == ours.done {
        return Ok(false);
    }
    Err(Trouble::new(format!("outcome {}", action.name()), text()))
}

/// With the image's name where the installed one says `#block123`: a name that it gave to the open image itself.
fn named(done: &Finished, cipher: Cipher) -> Finished {
    let name = match cipher {
        Cipher::Plain => "'img",
        _ => OPTIONS_NAME,
    };
    let mut parts = done.stderr.split("'#block");
    let mut stderr = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        stderr.push_str(name);
        stderr.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    Finished { stderr, ..done.clone() }
}

/// What `info` calls an image that is opened with a secret, after a quotation mark.
const OPTIONS_NAME: &str = concat!(
    r#"'json:{"encrypt.key-secret": "s0", "driver": "qcow2", "#,
    r#""file": {"driver": "file", "filename": "img"}}"#
);

/// A finished command for a message.
pub fn show(done: &Finished) -> String {
    format!("exit {}\n{}{}", done.exit, done.stdout, done.stderr)
}

/// The contents of a new image: those of its backing file.
fn initial(root: &Path, layout: Layout) -> Result<super::model::Disk, String> {
    let mut data = Vec::new();
    if let Some(name) = layout.backing.split_whitespace().nth(1) {
        let name = name.trim_start_matches("../");
        data = if name.ends_with(".raw") {
            fs::read(root.join(name)).map_err(|e| e.to_string())?
        } else {
            fs::read(root.join("long.plain")).map_err(|e| e.to_string())?
        };
    }
    data.resize(layout.size as usize, 0);
    Ok(super::model::Disk::new(data))
}
