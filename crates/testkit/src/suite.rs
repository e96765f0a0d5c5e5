//! Tests that may need the oracle, as a program of their own (`harness = false`): without it they are counted as
//! *ignored*, never as *ok*; `DISKIMG_REQUIRE_ORACLE=1` makes its absence a failure.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use crate::oracle::Oracle;

/// A test to be listed.
pub struct Test(Trial);

/// A test that needs nothing; it fails by panicking.
pub fn plain(name: impl Into<String>, body: impl FnOnce() + Send + 'static) -> Test {
    Test(Trial::test(name, move || guarded(body)))
}

/// A test that needs another tool: ignored where that is missing.
pub fn with_tool(name: impl Into<String>, tool: &str, body: impl FnOnce() + Send + 'static) -> Test {
    let missing = !std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(tool).is_file()));
    Test(Trial::test(name, move || guarded(body)).with_ignored_flag(missing))
}

/// A test that needs what was looked for already: ignored, with the reason in front of its name, where that is missing.
pub fn with_place<T: Send + 'static>(
    name: impl Into<String>,
    place: Result<T, String>,
    body: impl FnOnce(T) + Send + 'static,
) -> Test {
    Test(match place {
        Ok(place) => Trial::test(name, move || guarded(|| body(place))),
        Err(why) => Trial::test(name, || Ok(())).with_kind(why).with_ignored_flag(true),
    })
}

/// A test that needs the installed `qemu-img`.
pub fn with_oracle(name: impl Into<String>, body: impl FnOnce(&'static Oracle) + Send + 'static) -> Test {
    let found = Oracle::find();
    let trial = Trial::test(name, move || match found {
        Some(oracle) => guarded(|| body(oracle)),
        None => Err(Failed::from("qemu-img or qemu-io is missing")),
    });
    Test(trial.with_ignored_flag(found.is_none() && !Oracle::is_required()))
}

/// Lists and runs the tests.
#[must_use]
pub fn run(tests: Vec<Test>) -> ExitCode {
    match Oracle::find() {
        Some(oracle) => eprintln!("oracle: qemu-img {}", oracle.version),
        None => eprintln!("no qemu-img and qemu-io in PATH: what needs them is ignored"),
    }
    let trials = tests.into_iter().map(|test| test.0).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A panic is the test's failure; its text has been printed where it happened.
fn guarded(body: impl FnOnce()) -> Result<(), Failed> {
    caught(body).map_err(Failed::from)
}

/// What `run` gives.
///
/// # Errors
/// The text of its panic.
pub fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "panic".into())
    })
}

/// What `run` gives; a panic is an error too.
///
/// # Errors
/// Its error, or the text of its panic.
pub fn judged<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    caught(run).unwrap_or_else(|text| Err(format!("panic: {text}")))
}
