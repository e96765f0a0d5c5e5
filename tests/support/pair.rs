//! [`Pair`]: the installed `qemu-img` and our command run one after the other in one folder, and what they say compared.
#![allow(dead_code, unreachable_pub)]

use std::path::Path;
use std::process::Command;

use diskimg_testkit::pattern;

/// Our command.
pub const OURS: &str = env!("CARGO_BIN_EXE_qemu-img-rs");

/// What may differ in what both say.
#[derive(Debug)]
pub struct Pair {
    /// What follows these on a line is chance or the host's matter, unless it is "unavailable".
    pub masked: &'static [&'static str],
    /// Lines with these are left out.
    pub unheard: &'static [&'static str],
}

impl Pair {
    /// Output and exit code of a command, with what may differ masked.
    pub fn told(&self, program: &str, folder: &Path, args: &[&str]) -> String {
        let output = Command::new(program).args(args).current_dir(folder).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let lines = String::from_utf8_lossy(&text).replace("qemu-img-rs", "qemu-img");
        let mask = |line: &str| {
            let at = self.masked.iter().find_map(|key| line.find(key).map(|at| at + key.len()));
            let at = at.filter(|_| !line.ends_with("unavailable"));
            format!("{}\n", at.map_or(line, |at| &line[..at]))
        };
        let heard = lines.lines().filter(|line| !self.unheard.iter().any(|part| line.contains(part)));
        format!("{}exit {:?}", heard.map(mask).collect::<String>(), output.status.code())
    }

    /// Both say the same to `args`.
    pub fn same(&self, folder: &Path, args: &[&str]) {
        self.same_in(folder, args, "");
    }

    /// The same with a word for the message of a failure.
    pub fn same_in(&self, folder: &Path, args: &[&str], story: &str) {
        let (theirs, ours) = (self.told("qemu-img", folder, args), self.told(OURS, folder, args));
        assert_eq!(ours, theirs, "{args:?} {story}");
    }

    /// Both say the same of the image `name` of this format, whatever it is asked that leaves it as it is.
    pub fn same_of(&self, folder: &Path, format: &str, name: &str, story: &str) {
        for args in [
            &["info", name][..],
            &["info", "--output=json", name],
            &["map", name],
            &["map", "--output=json", name],
            &["check", name],
            &["check", "--output=json", name],
            &["check", "-r", "all", name],
            &["measure", "-O", format, name],
            &["measure", "-O", "qcow2", name],
            &["snapshot", "-l", name],
        ] {
            self.same_in(folder, args, story);
        }
    }

    /// What a command says, which must succeed.
    pub fn must(&self, program: &str, folder: &Path, args: &[&str]) -> String {
        let told = self.told(program, folder, args);
        assert!(told.ends_with("exit Some(0)"), "{program} {args:?}: {told}");
        told
    }
}

/// A disk of `len` bytes: every `step` bytes data, by turns short and up to `longest` bytes, and zeros between.
pub fn patches(len: usize, step: usize, longest: u64) -> Vec<u8> {
    let lengths = [512, 4096, 65_536, longest];
    let mut bytes = vec![0; len];
    for (number, at) in (0..len).step_by(step).enumerate() {
        let part = pattern(number as u64 + 1, 0, lengths[number % 4].min((len - at) as u64));
        bytes[at..at + part.len()].copy_from_slice(&part);
    }
    bytes
}
