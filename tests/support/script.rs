//! The small language in which the images of a case are set up, one command a line (or between `&&`).
//!
//! | line | does |
//! |---|---|
//! | `create ARGS…` | the oracle's `qemu-img create -q ARGS…` |
//! | `img ARGS…` | the oracle's `qemu-img ARGS…` |
//! | `io [-f FMT] [-r] FILE CMD…` | the oracle's `qemu-io`, one `-c` for each quoted CMD |
//! | `try-io …` | the same, whatever becomes of it |
//! | `hold [-f FMT] [-r] FILE` | a `qemu-io` that keeps FILE open while the case runs |
//! | `truncate FILE SIZE` | sets the length; makes the file if needed |
//! | `fill FILE OFFSET LEN BYTE` | writes LEN bytes of one value |
//! | `noise FILE OFFSET LEN SEED` | writes LEN bytes that do not compress |
//! | `text FILE OFFSET STRING` | writes a string; `\n` is a line feed, `\0` a zero byte |
//! | `hex FILE OFFSET DIGITS` | writes bytes |
//! | `be16` `be32` `be64` `FILE OFFSET VALUE` | writes a big-endian number |
//! | `or64` `FILE OFFSET VALUE` | sets bits of a big-endian 64-bit number |
//! | `sample FILE KIND` | writes one of the small images of [`samples`](super::samples) |
//! | `grow FILE DELTA` | adds to the length (negative: cuts) |
//! | `mkdir DIR`, `copy A B`, `link TARGET NAME`, `hardlink A B`, `remove F`, `move A B` | as they say |
//!
//! Numbers are decimal or `0x…`, with an optional `k`, `M`, `G` or `T`.

use super::process::{self, Holder};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where a script finds the oracle's tools.
pub struct Tools<'a> {
    /// `qemu-img`.
    pub img: &'a Path,
    /// `qemu-io`.
    pub io: &'a Path,
}

/// Runs a script in a folder; gives back the processes it left running.
pub fn run(script: &str, dir: &Path, tools: &Tools<'_>) -> Result<Vec<Holder>, String> {
    let mut holders = Vec::new();
    for words in commands(script) {
        step(&words, dir, tools, &mut holders).map_err(|e| format!("set-up `{}`: {e}", words.join(" ")))?;
    }
    Ok(holders)
}

/// Splits a text into commands of words: lines or `&&` separate commands, quotes keep words together.
pub fn commands(text: &str) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for line in text.lines() {
        let mut words = Vec::new();
        for (word, quoted) in split_words(line) {
            if word == "&&" && !quoted {
                all.push(std::mem::take(&mut words));
            } else {
                words.push(word);
            }
        }
        all.push(words);
    }
    all.retain(|words| !words.is_empty());
    all
}

/// Words of one line; single and double quotes group, nothing escapes.
fn split_words(line: &str) -> Vec<(String, bool)> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut quote, mut started, mut quoted) = (None, false, false);
    for c in line.chars() {
        match quote {
            Some(q) if c == q => quote = None,
            Some(_) => word.push(c),
            None if c == '\'' || c == '"' => (quote, started, quoted) = (Some(c), true, true),
            None if c.is_whitespace() => {
                if started {
                    words.push((std::mem::take(&mut word), quoted));
                }
                (started, quoted) = (false, false);
            }
            None => {
                word.push(c);
                started = true;
            }
        }
    }
    if started {
        words.push((word, quoted));
    }
    words
}

fn step(words: &[String], dir: &Path, tools: &Tools<'_>, holders: &mut Vec<Holder>) -> Result<(), String> {
    let (name, args) = words.split_first().ok_or("empty")?;
    let arg = |i: usize| args.get(i).map(String::as_str).ok_or_else(|| format!("argument {i} is missing"));
    let file = |i: usize| arg(i).map(|a| dir.join(a));
    let put = |bytes: &[u8]| write(&file(0)?, number(arg(1)?)?.cast_unsigned(), bytes);
    let io = |r: std::io::Result<()>| r.map_err(|e| e.to_string());
    match name.as_str() {
        "create" => {
            let mut all = vec!["create".to_owned(), "-q".to_owned()];
            all.extend_from_slice(args);
            tool(tools.img, &all, dir)
        }
        "img" => tool(tools.img, args, dir),
        "io" => tool(tools.io, &io_args(args), dir),
        "try-io" => process::run(tools.io, &io_args(args), dir).map(drop),
        "hold" => {
            holders.push(Holder::start(tools.io, args, dir)?);
            Ok(())
        }
        "truncate" => io(open(&file(0)?)?.set_len(number(arg(1)?)?.cast_unsigned())),
        "grow" => {
            let f = open(&file(0)?)?;
            let len = f.metadata().map_err(|e| e.to_string())?.len();
            io(f.set_len(len.checked_add_signed(number(arg(1)?)?).ok_or("bad length")?))
        }
        "fill" => put(&vec![number(arg(3)?)? as u8; number(arg(2)?)? as usize]),
        "noise" => put(&noise(number(arg(2)?)? as usize, number(arg(3)?)?.cast_unsigned())),
        "sample" => io(std::fs::write(file(0)?, super::samples::image(arg(1)?)?)),
        "text" => put(arg(2)?.replace("\\n", "\n").replace("\\r", "\r").replace("\\0", "\0").as_bytes()),
        "hex" => put(&hex(arg(2)?)?),
        "be16" => put(&(number(arg(2)?)? as u16).to_be_bytes()),
        "be32" => put(&(number(arg(2)?)? as u32).to_be_bytes()),
        "be64" => put(&number(arg(2)?)?.to_be_bytes()),
        "or64" => {
            let mut old = [0; 8];
            io(open(&file(0)?)?.read_exact_at(&mut old, number(arg(1)?)?.cast_unsigned()))?;
            put(&(u64::from_be_bytes(old) | number(arg(2)?)?.cast_unsigned()).to_be_bytes())
        }
        "mkdir" => io(std::fs::create_dir_all(file(0)?)),
        "copy" => super::folder::copy_file(&file(0)?, &file(1)?),
        "link" => io(std::os::unix::fs::symlink(arg(0)?, file(1)?)),
        "hardlink" => io(std::fs::hard_link(file(0)?, file(1)?)),
        "move" => io(std::fs::rename(file(0)?, file(1)?)),
        "remove" => io(std::fs::remove_file(file(0)?)),
        other => Err(format!("no such set-up command: {other}")),
    }
}

/// `qemu-io` arguments: options and the file as they are, each further word after a `-c`.
fn io_args(args: &[String]) -> Vec<String> {
    let (mut all, mut file_seen, mut takes_value) = (Vec::new(), false, false);
    for arg in args {
        if file_seen {
            all.push("-c".to_owned());
        } else if takes_value {
            takes_value = false;
        } else if arg.starts_with('-') {
            takes_value = matches!(arg.as_str(), "-f" | "-d" | "-t" | "-o");
        } else {
            file_seen = true;
        }
        all.push(arg.clone());
    }
    all
}

fn tool(program: &Path, args: &[String], dir: &Path) -> Result<(), String> {
    let done = process::run(program, args, dir)?;
    // Warnings are part of some set-ups (a guessed raw image), so only the exit code counts.
    if done.is_ok() { Ok(()) } else { Err(format!("exit {}: {}{}", done.exit, done.stderr, done.stdout)) }
}

fn open(path: &Path) -> Result<File, String> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|e| format!("{}: {e}", path.display()))
}

fn write(path: &Path, offset: u64, bytes: &[u8]) -> Result<(), String> {
    open(path)?.write_all_at(bytes, offset).map_err(|e| e.to_string())
}

/// A number with an optional sign, `0x` prefix and binary suffix; 64-bit patterns come out as they are.
pub fn number(text: &str) -> Result<i64, String> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (digits, shift) = match digits.chars().last() {
        Some('k') => (digits.trim_end_matches('k'), 10),
        Some('M') => (digits.trim_end_matches('M'), 20),
        Some('G') => (digits.trim_end_matches('G'), 30),
        Some('T') => (digits.trim_end_matches('T'), 40),
        _ => (digits, 0),
    };
    let value = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    let value = value.map_err(|e| format!("bad number `{text}`: {e}"))?.cast_signed() << shift;
    Ok(if negative { -value } else { value })
}

fn hex(digits: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u32> = digits.chars().filter_map(|c| c.to_digit(16)).collect();
    if !digits.len().is_multiple_of(2) {
        return Err("odd number of hex digits".to_owned());
    }
    Ok(digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect())
}

/// Bytes from a xorshift generator: the same for the same seed, and not compressible.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
