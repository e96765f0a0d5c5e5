//! Golden texts: help pages, option lists and usage errors, kept in `tests/golden/` so that ours can be compared with
//! them where no `qemu-img` is installed. `DISKIMG_REFRESH_GOLDEN=1 cargo test --test diff_golden` writes them anew
//! from the installed one; where it is there, the files are also compared with what it says.

mod support;

use std::path::PathBuf;
use support::process;
use support::script;
use support::suite::{Env, Needs, Test, run_tests};

/// File name and command line.
const PAGES: &[(&str, &str)] = &[
    ("help", "--help"),
    ("help-short", "-h"),
    ("version", "--version"),
    ("version-short", "-V"),
    ("no-command", ""),
    ("unknown-command", "nosuch"),
    ("unknown-option", "--nosuch"),
    ("create-help", "create --help"),
    ("create-help-short", "create -h"),
    ("info-help", "info --help"),
    ("convert-help", "convert --help"),
    ("compare-help", "compare --help"),
    ("check-help", "check --help"),
    ("map-help", "map --help"),
    ("measure-help", "measure --help"),
    ("resize-help", "resize --help"),
    ("amend-help", "amend --help"),
    ("bitmap-help", "bitmap --help"),
    ("snapshot-help", "snapshot --help"),
    ("commit-help", "commit --help"),
    ("rebase-help", "rebase --help"),
    ("dd-help", "dd --help"),
    ("bench-help", "bench --help"),
    ("create-no-name", "create"),
    ("info-no-name", "info"),
    ("convert-no-name", "convert"),
    ("compare-no-name", "compare"),
    ("check-no-name", "check"),
    ("map-no-name", "map"),
    ("measure-no-name", "measure"),
    ("resize-no-name", "resize"),
    ("commit-no-name", "commit"),
    ("commit-two-names", "commit a b"),
    ("commit-unknown-option", "commit -U a"),
    ("commit-rate", "commit -r 1x a"),
    ("rebase-no-name", "rebase -u"),
    ("rebase-no-backing", "rebase a"),
    ("rebase-unknown-option", "rebase -r 1 a"),
    ("dd-no-name", "dd"),
    ("dd-ambiguous", "dd --= if=a of=b"),
    ("dd-unknown-operand", "dd if=a of=b foo=1"),
    ("bench-no-name", "bench"),
    ("bench-ambiguous", "bench --= a"),
    ("amend-no-options", "amend"),
    ("amend-no-name", "amend -o compat=v3"),
    ("amend-unknown-option", "amend --nosuch"),
    ("amend-options-qcow2", "amend -f qcow2 -o help"),
    ("amend-options-and-more", "amend -f qcow2 -o size=1M,help a b"),
    ("amend-options-raw", "amend -f raw -o help"),
    ("amend-options-unknown-format", "amend -f nosuch -o help"),
    ("bitmap-no-action", "bitmap"),
    ("bitmap-no-name", "bitmap --add a.qcow2"),
    ("bitmap-unknown-option", "bitmap --add -q a.qcow2 b"),
    ("bitmap-no-merge-source", "bitmap --merge"),
    ("snapshot-no-name", "snapshot"),
    ("snapshot-mixed", "snapshot -c a -d b c"),
    ("snapshot-ambiguous", "snapshot --= c"),
    ("create-unknown-option", "create --nosuch"),
    ("create-missing-value", "create -f"),
    ("options-raw", "create -f raw -o help"),
    ("options-raw-file", "create -f raw -o help a.raw"),
    ("options-raw-file-size", "create -f raw -o help a.raw 1M"),
    ("options-default", "create -o help"),
    ("options-qcow2", "create -f qcow2 -o help"),
    ("options-qcow2-file", "create -f qcow2 -o help a.qcow2"),
    ("options-qcow2-file-size", "create -f qcow2 -o help a.qcow2 1M"),
    ("options-qcow2-and-more", "create -f qcow2 -o cluster_size=4k,help a.qcow2"),
    ("options-question-mark", "create -f qcow2 -o ?"),
    ("options-unknown-format", "create -f foo -o help"),
    ("convert-options-qcow2", "convert -O qcow2 -o help"),
    ("convert-options-raw", "convert -O raw -o help"),
    ("convert-options-file", "convert -O qcow2 -o help a.raw b.qcow2"),
    ("measure-options", "measure -O qcow2 -o help --size 1M"),
];

fn main() -> std::process::ExitCode {
    let refresh = std::env::var_os("DISKIMG_REFRESH_GOLDEN").is_some();
    let mut tests = Vec::new();
    for &(name, command) in PAGES {
        if refresh {
            tests.push(Test::new(format!("refresh/{name}"), Needs::Texts, move |env| {
                let text = page(env, &env.oracle_link, command)?;
                std::fs::write(file(name), text).map_err(|e| e.to_string())
            }));
            continue;
        }
        tests.push(Test::new(format!("ours/{name}"), Needs::Nothing, move |env| {
            equal(&golden(name)?, &page(env, &env.our_link, command)?)
        }));
        tests.push(Test::new(format!("installed/{name}"), Needs::Texts, move |env| {
            equal(&golden(name)?, &page(env, &env.oracle_link, command)?)
        }));
    }
    if !refresh {
        tests.push(Test::new("each file is in the table", Needs::Nothing, |_| no_orphans()));
    }
    run_tests(tests)
}

/// What a command line prints: the command, stdout, stderr, exit code.
fn page(env: &Env, program: &std::path::Path, command: &str) -> Result<String, String> {
    let dir = env.fresh_folder();
    std::fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
    let args = script::commands(command).into_iter().next().unwrap_or_default();
    let done = process::run(program, &args, &dir)?;
    let left = std::fs::read_dir(&dir).map_err(|e| e.to_string())?.count();
    let plain = |text: &str| text.replace(program.to_string_lossy().as_ref(), "qemu-img");
    Ok(format!(
        "$ qemu-img {command}\n{}--- stderr\n{}--- exit {}, {left} files\n",
        plain(&done.stdout),
        plain(&done.stderr),
        done.exit
    ))
}

fn file(name: &str) -> PathBuf {
    Env::tests_folder().join("golden").join(format!("{name}.txt"))
}

fn golden(name: &str) -> Result<String, String> {
    std::fs::read_to_string(file(name)).map_err(|e| format!("golden/{name}.txt: {e}"))
}

/// Without whose build it is (what follows the version in brackets, and the line with the copyright), and without the
/// list of formats and what follows it: they say what a build has
/// and where to report its bugs.
fn comparable(page: &str) -> String {
    let mut in_formats = false;
    let mut kept = String::new();
    for line in page.lines() {
        in_formats = line == "Supported image formats:" || in_formats && !line.starts_with("--- ");
        if line.starts_with("Copyright (c) ") || in_formats {
            continue;
        }
        let build = line.starts_with("qemu-img version ");
        kept.push_str(if build { line.split(" (").next().unwrap_or(line) } else { line });
        kept.push('\n');
    }
    kept
}

fn equal(golden: &str, got: &str) -> Result<(), String> {
    let (golden, got) = (&comparable(golden), &comparable(got));
    if golden == got {
        return Ok(());
    }
    let (a, b): (Vec<&str>, Vec<&str>) = (golden.lines().collect(), got.lines().collect());
    let first = a.iter().zip(&b).position(|(x, y)| x != y).unwrap_or(a.len().min(b.len()));
    let from =
        |lines: &[&str]| lines.iter().skip(first).take(8).map(|l| format!("  {l}\n")).collect::<String>();
    Err(format!("line {}:\ngolden:\n{}got:\n{}", first + 1, from(&a), from(&b)))
}

fn no_orphans() -> Result<(), String> {
    let mut orphans = Vec::new();
    for entry in std::fs::read_dir(Env::tests_folder().join("golden")).map_err(|e| e.to_string())? {
        let name = entry.map_err(|e| e.to_string())?.file_name().to_string_lossy().into_owned();
        let known = name.strip_suffix(".txt").is_some_and(|stem| PAGES.iter().any(|(page, _)| *page == stem));
        if !known {
            orphans.push(name);
        }
    }
    if orphans.is_empty() { Ok(()) } else { Err(format!("no command makes {orphans:?}")) }
}
