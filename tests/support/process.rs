//! Runs a command with a time limit and a limit on what it may print, and keeps exit code, stdout and stderr.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A command that runs longer than this hangs.
const TIME_LIMIT: Duration = Duration::from_secs(120);
/// More output than this is a runaway.
const OUTPUT_LIMIT: u64 = 64 << 20;

/// What a finished command left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Exit code, or the signal that ended it, as text.
    pub exit: String,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Whether the command ended with exit code 0.
    pub fn is_ok(&self) -> bool {
        self.exit == "0"
    }
}

/// Runs `program` in `dir` and waits for it.
pub fn run<S: AsRef<OsStr>>(program: &Path, args: &[S], dir: &Path) -> Result<Finished, String> {
    run_within(program, args, dir, None)
}

/// As [`run`], with a limit on the address space, in bytes.
pub fn run_within<S: AsRef<OsStr>>(
    program: &Path,
    args: &[S],
    dir: &Path,
    memory: Option<u64>,
) -> Result<Finished, String> {
    // The limit is there before the program: it looks at it.
    let mut command = match memory {
        None => Command::new(program),
        Some(bytes) => {
            let mut limited = Command::new("/bin/sh");
            limited.arg("-c").arg(format!("ulimit -v {} && exec \"$0\" \"$@\"", bytes >> 10)).arg(program);
            limited
        }
    };
    let mut child = command
        .args(args)
        .current_dir(dir)
        .env("LC_ALL", "C")
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("can't start {}: {e}", program.display()))?;
    let (sender, ended) = mpsc::channel();
    let stdout = child.stdout.take().map(|stream| collect(stream, sender.clone()));
    let stderr = child.stderr.take().map(|stream| collect(stream, sender.clone()));
    let exit = wait(&mut child, &ended);
    let text = |reader: Option<std::thread::JoinHandle<Vec<u8>>>| {
        let bytes = reader.map(|r| r.join().unwrap_or_default()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Ok(Finished { exit, stdout: text(stdout), stderr: text(stderr) })
}

fn collect<R: Read + Send + 'static>(stream: R, ended: mpsc::Sender<()>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A broken pipe leaves what has been read so far, which is what the comparison should show.
        let _ = stream.take(OUTPUT_LIMIT).read_to_end(&mut bytes);
        let _ = ended.send(());
        bytes
    })
}

/// Waits until both streams have ended, which is when the process ends, and then for its exit code.
fn wait(child: &mut Child, ended: &mpsc::Receiver<()>) -> String {
    let deadline = Instant::now() + TIME_LIMIT;
    for _ in 0..2 {
        if ended.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_err() {
            let _ = child.kill();
            let _ = child.wait();
            return format!("killed after {} s", TIME_LIMIT.as_secs());
        }
    }
    match child.wait() {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => code.to_string(),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "unknown".to_owned(),
        },
        Err(e) => format!("wait: {e}"),
    }
}

/// A process of the oracle that holds an image open until this value is dropped.
#[derive(Debug)]
pub struct Holder(Child);

impl Holder {
    /// Starts `qemu-io` on an image and waits until the image is open (and so locked).
    pub fn start(io: &Path, args: &[String], dir: &Path) -> Result<Self, String> {
        use std::io::{BufRead, BufReader, Write};
        let mut child = Command::new(io)
            .args(args)
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|e| format!("can't start {}: {e}", io.display()))?;
        if let Some(stdin) = child.stdin.as_mut() {
            stdin.write_all(b"length\n").and_then(|()| stdin.flush()).map_err(|e| e.to_string())?;
        }
        let mut line = String::new();
        if let Some(stdout) = child.stdout.as_mut() {
            BufReader::new(stdout).read_line(&mut line).map_err(|e| e.to_string())?;
        }
        if line.is_empty() {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("qemu-io {args:?} could not hold the image"));
        }
        Ok(Self(child))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
