//! One command line, run by both programs.

use std::path::Path;

use crate::accepted;
use crate::generate::{FILES, FORMATS};
use crate::support::case::{fold_failed_requests, fold_progress, same_but_disk_size};
use crate::support::process::{self, Finished};
use crate::support::suite::Env;
use crate::support::{folder, script};

/// The set-up: an image of each format with the same contents, and a few odd ones.
fn fixture() -> String {
    let mut text = "create -f raw r.raw 1M
        fill r.raw 64k 64k 3
        fill r.raw 640k 1000 4
        truncate odd.raw 100001
        fill odd.raw 100 5000 5
        truncate empty.raw 0
        img convert -f raw -O qcow2 -o compat=0.10 r.raw q2.qcow2
        create -f qcow2 -b r.raw -F raw ov.qcow2
        io ov.qcow2 'write -P 7 0 64k'
        img convert -c -f raw -O qcow2 r.raw c.qcow2
        img convert -f raw -O qcow2 r.raw bm.qcow2
        img bitmap --add bm.qcow2 b0
        img bitmap --add --disable bm.qcow2 b1
        img convert -f raw -O qcow2 r.raw snap.qcow2
        img snapshot -c one snap.qcow2
        io snap.qcow2 'write -P 9 0 128k'
        img snapshot -c two snap.qcow2
        text bad.qcow2 0 'QFI garbage'\n"
        .to_owned();
    for format in FORMATS {
        let name = if format == "qcow2" { "q.qcow2".to_owned() } else { format!("t.{format}") };
        match format {
            "raw" => {}
            "luks" => text.push_str(
                "img convert --object secret,id=s,data=secret -f raw -O luks -o key-secret=s,iter-time=10 r.raw t.luks\n",
            ),
            _ => text.push_str(&format!("img convert -f raw -O {format} r.raw {name}\n")),
        }
    }
    text.push_str("create -f qcow2 -b q.qcow2 -F qcow2 ov2.qcow2 2M\nio ov2.qcow2 'write -P 8 1M 4k'\n");
    text
}

/// Files that images need beside themselves.
const NEEDED: [(&str, &str); 2] = [("ov.qcow2", "r.raw"), ("ov2.qcow2", "q.qcow2")];

/// What differs in ways that are not accepted.
pub fn run(env: &Env, line: &[String]) -> Result<Vec<String>, String> {
    let tools = env.tools();
    let fixture = env.fixtures.get(&fixture(), &tools)?;
    let base = env.fresh_folder();
    let named = |name: &str| line.iter().any(|word| word.contains(name));
    let wanted = |name: &str| named(name) || NEEDED.iter().any(|(top, below)| *below == name && named(top));
    let side = |program: &Path, to: &str| -> Result<Finished, String> {
        let work = base.join("work");
        folder::copy_tree(&fixture, &work, &wanted)?;
        let memory = if program == env.our_link { Some(1 << 30) } else { None };
        let done = process::run_within(program, line, &work, memory)?;
        std::fs::rename(&work, base.join(to)).map_err(|e| e.to_string())?;
        Ok(plain(done, program))
    };
    let qemu = side(&env.oracle_link, "qemu")?;
    let ours = side(&env.our_link, "ours")?;
    let mut found = Vec::new();
    let mut differ = |what: &str, a: &str, b: &str| {
        if accepted::reason(line, what, a, b).is_none() {
            found.push(format!("$ qemu-img {}\n{what} differs\n  qemu| {a}\n  ours| {b}", shown(line)));
        }
    };
    if qemu.exit != ours.exit {
        differ("exit", &format!("{} {}", qemu.exit, qemu.stderr), &format!("{} {}", ours.exit, ours.stderr));
    }
    if !same_but_disk_size(&qemu.stdout, &ours.stdout) {
        differ("stdout", &qemu.stdout, &ours.stdout);
    }
    if qemu.stderr != ours.stderr && qemu.exit == ours.exit {
        differ("stderr", &qemu.stderr, &ours.stderr);
    }
    // How far a copy got that failed is a matter of timing.
    let copies = matches!(line.first().map(String::as_str), Some("convert" | "dd"));
    for (what, a, b) in compare_folders(env, &base, copies && !qemu.is_ok())? {
        differ(&what, &a, &b);
    }
    let _ = std::fs::remove_dir_all(&base);
    Ok(found)
}

fn shown(line: &[String]) -> String {
    line.iter()
        .map(
            |word| {
                if word.is_empty() || word.contains([' ', '"']) { format!("'{word}'") } else { word.clone() }
            },
        )
        .collect::<Vec<_>>()
        .join(" ")
}

fn plain(mut done: Finished, program: &Path) -> Finished {
    for text in [&mut done.stdout, &mut done.stderr] {
        *text = fold_failed_requests(&fold_progress(text))
            .replace(program.to_string_lossy().as_ref(), "qemu-img");
        if let Some(time) = text.lines().find(|line| line.starts_with("Run completed in ")) {
            *text = text.replace(time, "Run completed in some time.");
        }
    }
    done
}

type Found = (String, String, String);

fn compare_folders(env: &Env, base: &Path, unfinished: bool) -> Result<Vec<Found>, String> {
    let (theirs, ours) = (base.join("qemu"), base.join("ours"));
    let (expected, got) = (folder::list(&theirs)?, folder::list(&ours)?);
    let names = |list: &std::collections::BTreeMap<String, folder::Entry>| {
        list.keys().cloned().collect::<Vec<_>>().join(" ")
    };
    if names(&expected) != names(&got) {
        return Ok(vec![("names".to_owned(), names(&expected), names(&got))]);
    }
    let mut found = Vec::new();
    for (name, entry) in expected.iter().filter(|(_, entry)| entry.kind == "file") {
        if unfinished && name.starts_with("out") {
            continue;
        }
        let (a, b) = (theirs.join(name), ours.join(name));
        if entry.len == got[name].len && folder::first_difference(&a, &b)?.is_none() {
            continue;
        }
        let (a, b) = (content(env, &theirs, name, base, "a")?, content(env, &ours, name, base, "b")?);
        if a.said != b.said {
            found.push((format!("image {name}"), a.said, b.said));
        } else if let Some(at) = folder::first_difference(&base.join("a"), &base.join("b"))? {
            found.push((format!("content of {name}"), String::new(), format!("differs at {at:#x}")));
        }
    }
    Ok(found)
}

struct Content {
    said: String,
}

/// What the oracle reads from an image, and what it says of its format, size and state.
fn content(env: &Env, dir: &Path, name: &str, base: &Path, to: &str) -> Result<Content, String> {
    let secret = ["--object", "secret,id=s,data=secret"];
    let ask = |args: &[&str]| process::run(&env.oracle_link, args, dir);
    let info = ask(&["info", "--output=json", name])?;
    let pick = |key: &str| {
        info.stdout.lines().rfind(|line| line.starts_with(&format!("    \"{key}\""))).unwrap_or("").to_owned()
    };
    let format = pick("format").split('"').nth(3).unwrap_or("raw").to_owned();
    let target = base.join(to);
    let target = target.to_string_lossy();
    let spec = format!("driver={format},file.filename={name},key-secret=s");
    let convert = match format.as_str() {
        "luks" => ask(&["convert", secret[0], secret[1], "--image-opts", "-O", "raw", &spec, &target])?,
        _ => ask(&["convert", "-f", &format, "-O", "raw", name, &target])?,
    };
    if !convert.is_ok() {
        // Nothing to be read (an encrypted image, for one).
        std::fs::write(base.join(to), "").map_err(|e| e.to_string())?;
    }
    let check = ask(&["check", "-f", &format, name])?;
    let said = ["format", "virtual-size", "backing-filename", "cluster-size"].map(pick).join(" ");
    Ok(Content { said: format!("{said} check: {} read: {}", check.exit, convert.exit) })
}

/// Parses a line for the table of accepted differences.
#[allow(dead_code)]
pub fn words(text: &str) -> Vec<String> {
    script::commands(text).into_iter().next().unwrap_or_default()
}

const _: () = assert!(FILES.len() > 10);
