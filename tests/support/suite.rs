//! Turns cases into tests: listed one by one, run in parallel, ignored (never passed) where the oracle is missing.

use super::case::{Case, Difference, Fixture};
use super::folder::Fixtures;
use super::oracle::{self, Oracle};
use super::script::Tools;
use libtest_mimic::{Arguments, Failed, Trial};
use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What every test of a run shares.
#[derive(Debug)]
pub struct Env {
    root: PathBuf,
    oracle: Option<&'static Oracle>,
    /// The oracle under the name `qemu-img`.
    pub oracle_link: PathBuf,
    /// Our binary under the name `qemu-img`: messages begin with the name that a program was called by.
    pub our_link: PathBuf,
    /// Set-ups made so far.
    pub fixtures: Fixtures,
    /// Whether folders of failed cases are left in place.
    pub keep: bool,
    next: AtomicU64,
    report: Option<Mutex<std::fs::File>>,
}

impl Env {
    fn new(oracle: Option<&'static Oracle>) -> std::io::Result<Self> {
        let base = std::env::var_os("DISKIMG_TEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
        let root = base.join(format!("diff-{}", std::process::id()));
        let link = |dir: &str, target: &Path| -> std::io::Result<PathBuf> {
            let link = root.join(dir).join("qemu-img");
            std::fs::create_dir_all(root.join(dir))?;
            std::os::unix::fs::symlink(target, &link)?;
            Ok(link)
        };
        // A copy: the binary may be built anew while the tests run.
        let copy = root.join("our-binary");
        std::fs::create_dir_all(&root)?;
        std::fs::copy(oracle::our_binary(), &copy)?;
        let our_link = link("our-bin", &copy)?;
        let oracle_link = match oracle {
            Some(oracle) => link("qemu-bin", &oracle.img)?,
            None => PathBuf::from("qemu-img"),
        };
        let report = match std::env::var_os("DISKIMG_DIFF_REPORT") {
            Some(path) => Some(Mutex::new(std::fs::OpenOptions::new().append(true).create(true).open(path)?)),
            None => None,
        };
        Ok(Self {
            fixtures: Fixtures::new(root.join("fixtures")),
            keep: std::env::var_os("DISKIMG_KEEP").is_some(),
            next: AtomicU64::new(0),
            root,
            oracle,
            oracle_link,
            our_link,
            report,
        })
    }

    /// Where the golden files and other data of the tests lie.
    pub fn tests_folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests")
    }

    /// A path for a folder of one case.
    pub fn fresh_folder(&self) -> PathBuf {
        self.root.join(format!("case-{:05}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    /// The oracle's tools.
    pub fn tools(&self) -> Tools<'_> {
        match self.oracle {
            Some(oracle) => Tools { img: &oracle.img, io: &oracle.io },
            None => Tools { img: Path::new("qemu-img"), io: Path::new("qemu-io") },
        }
    }

    fn note(&self, differences: &[Difference]) {
        let Some(Ok(mut file)) = self.report.as_ref().map(Mutex::lock) else { return };
        for d in differences {
            let line = serde_json::json!({
                "case": d.case, "command": d.command, "what": d.what, "qemu": d.qemu, "ours": d.ours,
            });
            // The report is a convenience beside the test result.
            let _ = writeln!(file, "{line}");
        }
    }
}

/// What a test needs of the oracle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// The version whose texts are ours.
    Texts,
    /// Any version.
    Contents,
    /// No oracle at all.
    Nothing,
    /// Time: run only if `DISKIMG_SLOW` is set.
    Time,
}

type Body = Box<dyn FnOnce(&Env) -> Result<(), String> + Send>;

/// One test to be listed.
pub struct Test {
    name: String,
    needs: Needs,
    body: Body,
}

impl Test {
    /// A test with a body of its own.
    pub fn new(
        name: impl Into<String>,
        needs: Needs,
        body: impl FnOnce(&Env) -> Result<(), String> + Send + 'static,
    ) -> Self {
        Self { name: name.into(), needs, body: Box::new(body) }
    }
}

/// A case per command line, all on one fixture, named after group, fixture and command.
pub fn group(name: &str, fixture: Fixture, commands: &[&str]) -> Vec<Case> {
    commands.iter().map(|c| Case::new(case_name(name, fixture.name, c), fixture, c)).collect()
}

/// A case per set-up change, each on one fixture and followed by the same commands: for patched images.
pub fn patched(name: &str, fixture: Fixture, commands: &str, changes: &[(&str, &str)]) -> Vec<Case> {
    changes
        .iter()
        .map(|(what, change)| {
            Case::new(format!("{name}/{}/{what}", fixture.name), fixture, commands).with(change)
        })
        .collect()
}

/// The name of a case.
pub fn case_name(group: &str, fixture: &str, commands: &str) -> String {
    format!("{group}/{fixture}: {}", one_line(commands))
}

fn one_line(commands: &str) -> String {
    commands.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" && ")
}

/// A difference that is meant: where qemu-img loses data, aborts or misreads, ours does what is right.
#[derive(Debug, Clone, Copy)]
pub struct Accepted {
    /// The case's whole name.
    pub case: &'static str,
    /// What differs (see [`Difference::what`]); all of it must, and nothing else may.
    pub what: &'static [&'static str],
    /// Why; `docs/COMPATIBILITY.md` says it to users.
    pub reason: &'static str,
}

/// Runs tests made of cases, and `more`; `least` is the number of command lines that there must be.
pub fn run_cases(cases: Vec<Case>, accepted: Vec<Accepted>, more: Vec<Test>, least: usize) -> ExitCode {
    let accepted: &'static [Accepted] = accepted.leak();
    let commands: usize = cases.iter().map(Case::command_count).sum();
    let mut names = HashSet::new();
    let twice: Vec<String> =
        cases.iter().filter(|c| !names.insert(c.name.clone())).map(|c| c.name.clone()).collect();
    let stale: Vec<&str> = accepted.iter().map(|a| a.case).filter(|case| !names.contains(*case)).collect();
    let table = move |_: &Env| {
        if commands < least {
            return Err(format!("{commands} command lines, at least {least} are wanted"));
        }
        if twice.is_empty() && stale.is_empty() {
            return Ok(());
        }
        Err(format!("twice: {twice:#?}; accepted, but no case: {stale:#?}"))
    };
    let mut tests = vec![
        Test::new("the table is large enough, and names are unique", Needs::Nothing, table),
        Test::new("accepted differences are documented", Needs::Nothing, move |_| documented(accepted)),
    ];
    let texts = Oracle::find().is_none_or(oracle::texts_are_comparable);
    for case in cases {
        let meant = accepted.iter().find(|a| a.case == case.name);
        if !texts && meant.is_none() && case.writes() && !case.slow {
            let contents = case.clone();
            let name = format!("{} (files only)", case.name);
            tests.push(Test::new(name, Needs::Contents, move |env| run_case(&contents, None, env, false)));
        }
        let needs = if case.slow { Needs::Time } else { Needs::Texts };
        tests.push(Test::new(case.name.clone(), needs, move |env| run_case(&case, meant, env, true)));
    }
    tests.extend(more);
    run_tests(tests)
}

fn documented(accepted: &[Accepted]) -> Result<(), String> {
    let text = std::fs::read_to_string(Env::tests_folder().join("../docs/COMPATIBILITY.md"))
        .map_err(|e| format!("docs/COMPATIBILITY.md: {e}"))?;
    let missing: Vec<&str> =
        accepted.iter().map(|a| a.reason).filter(|reason| !text.contains(reason)).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("docs/COMPATIBILITY.md does not say: {missing:#?}")) }
}

fn run_case(case: &Case, meant: Option<&Accepted>, env: &Env, texts: bool) -> Result<(), String> {
    let start = std::time::Instant::now();
    let result = case.run(env, texts);
    if std::env::var_os("DISKIMG_TIMES").is_some() {
        eprintln!("{:8.3} s {}", start.elapsed().as_secs_f64(), case.name);
    }
    let found = match (result, meant) {
        (Ok(()), None) => return Ok(()),
        (Ok(()), Some(meant)) => return Err(format!("no longer differs: {}", meant.reason)),
        (Err(found), None) => found,
        (Err(found), Some(meant)) => {
            let expected = |what: &str| found.iter().any(|d| d.what == what);
            if found.iter().all(|d| meant.what.contains(&d.what))
                && meant.what.iter().all(|what| expected(what))
            {
                return Ok(());
            }
            found
        }
    };
    env.note(&found);
    Err(found.iter().map(Difference::to_string).collect::<Vec<_>>().join("\n"))
}

/// Lists and runs tests, and removes the folders that they used.
pub fn run_tests(mut tests: Vec<Test>) -> ExitCode {
    let arguments = Arguments::from_args();
    let oracle = Oracle::find();
    let (present, texts) = (oracle.is_some(), oracle.is_some_and(oracle::texts_are_comparable));
    match oracle {
        None => eprintln!("no qemu-img and qemu-io in PATH: what needs them is ignored"),
        Some(oracle) if !texts => {
            eprintln!(
                "qemu-img is {}, not {}x: comparisons of texts are ignored",
                oracle.version,
                oracle::TEXT_VERSION
            );
        }
        Some(_) => {}
    }
    if Oracle::is_required() {
        tests.insert(
            0,
            Test::new("the oracle is installed", Needs::Nothing, move |_| {
                if present {
                    Ok(())
                } else {
                    Err("DISKIMG_REQUIRE_ORACLE=1, and qemu-img or qemu-io is missing".to_owned())
                }
            }),
        );
    }
    let env = match Env::new(oracle) {
        Ok(env) => Arc::new(env),
        Err(e) => {
            eprintln!("can't make the folder for tests: {e}");
            return ExitCode::FAILURE;
        }
    };
    let trials = tests.into_iter().map(|test| {
        let ignored = match test.needs {
            Needs::Nothing => false,
            Needs::Contents => !present,
            Needs::Texts => !texts,
            Needs::Time => !texts || std::env::var_os("DISKIMG_SLOW").is_none(),
        };
        let env = Arc::clone(&env);
        Trial::test(test.name, move || (test.body)(&env).map_err(Failed::from)).with_ignored_flag(ignored)
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if !(env.keep && conclusion.has_failed()) {
        // What can't be removed lies in the target folder and goes with it.
        let _ = std::fs::remove_dir_all(&env.root);
    }
    conclusion.exit_code()
}
