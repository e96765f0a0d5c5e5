//! What a sequence is made of: steps, each done by ours or by the installed tools, as data that can be printed and
//! repeated.

use super::layout::Cipher;
use super::model::Model;

/// Who does a step (or both try, and the image of this one is gone on with).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Our command and library.
    Ours,
    /// `qemu-img` and `qemu-io`.
    Theirs,
}

/// What a guest writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// One byte again and again.
    Byte(u8),
    /// A file beside the images, again and again.
    File(&'static str),
}

/// What a guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Writes data.
    Write(Fill),
    /// Writes a compressed cluster.
    Compressed(Fill),
    /// Writes zeros; with true they may be holes.
    Zero(bool),
    /// Needs something no longer.
    Discard,
}

/// A request and its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestOp {
    /// What.
    pub request: Request,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

impl GuestOp {
    /// It as a command of `qemu-io`, which our helper understands too.
    pub fn command(&self) -> String {
        let fill = |fill: Fill| match fill {
            Fill::Byte(byte) => format!("-P {byte}"),
            Fill::File(name) => format!("-s ../{name}"),
        };
        let range = format!("{} {}", self.start, self.len);
        match self.request {
            Request::Write(data) => format!("write {} {range}", fill(data)),
            Request::Compressed(data) => format!("write -c {} {range}", fill(data)),
            Request::Zero(true) => format!("write -z -u {range}"),
            Request::Zero(false) => format!("write -z {range}"),
            Request::Discard => format!("discard {range}"),
        }
    }
}

/// What is done in a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A guest runs.
    Guest(Vec<GuestOp>),
    /// `resize FLAGS img SIZE`.
    Resize(&'static str, u64),
    /// `snapshot -c`.
    Create(String),
    /// `snapshot -a`.
    Apply(String),
    /// `snapshot -d`.
    Delete(String),
    /// `bitmap --add FLAGS`.
    AddBitmap(String, &'static str),
    /// `bitmap --remove`, `--clear`, `--enable`, `--disable`.
    ChangeBitmap(&'static str, String),
    /// `bitmap --merge SOURCE img TARGET`.
    MergeBitmap(String, String),
    /// `amend -o`.
    Amend(String),
    /// `amend -o size=`.
    AmendSize(u64),
    /// `amend -o encrypt.…` of an image with LUKS.
    AmendKeys(&'static str),
    /// `check -r`.
    Repair(&'static str),
    /// `convert FLAGS -O qcow2 -o OPTIONS`, and the new image takes the place of the old one.
    Convert(&'static str, &'static str, Cipher),
}

/// An action and who does it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Who.
    pub who: Who,
    /// What.
    pub action: Action,
    /// A number of its own, for the names of its files.
    pub number: usize,
}

/// The secret that all encrypted images have.
pub const SECRET: &str = "secret,id=s0,data=the first password";

/// The secret that key slots are filled with beside it.
const OTHER_SECRET: &str = "secret,id=s1,data=another";

/// How the image `name` is named on a command line.
pub fn image_args(cipher: Cipher, name: &str) -> Vec<String> {
    match cipher {
        Cipher::Plain => vec!["-f".to_owned(), "qcow2".to_owned(), name.to_owned()],
        _ => vec![
            "--object".to_owned(),
            SECRET.to_owned(),
            "--image-opts".to_owned(),
            format!("driver=qcow2,file.filename={name},encrypt.key-secret=s0"),
        ],
    }
}

/// `command -flags… IMAGE rest…`.
pub fn on_image(command: &[&str], cipher: Cipher, rest: &[&str]) -> Vec<String> {
    let mut args: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
    args.extend(image_args(cipher, "img"));
    args.extend(rest.iter().map(|word| (*word).to_owned()));
    args
}

impl Action {
    /// The name under which it is counted.
    pub fn name(&self) -> String {
        match self {
            Self::Guest(_) => "guest".to_owned(),
            Self::Resize("--shrink", _) => "resize --shrink".to_owned(),
            Self::Resize("", _) => "resize".to_owned(),
            Self::Resize(..) => "resize --preallocation".to_owned(),
            Self::Create(_) => "snapshot -c".to_owned(),
            Self::Apply(_) => "snapshot -a".to_owned(),
            Self::Delete(_) => "snapshot -d".to_owned(),
            Self::AddBitmap(..) => "bitmap --add".to_owned(),
            Self::ChangeBitmap(how, _) => format!("bitmap {how}"),
            Self::MergeBitmap(..) => "bitmap --merge".to_owned(),
            Self::Amend(options) => format!("amend {}", options.split('=').next().unwrap_or_default()),
            Self::AmendSize(_) => "amend size".to_owned(),
            Self::AmendKeys(_) => "amend encrypt".to_owned(),
            Self::Repair(what) => format!("check -r {what}"),
            Self::Convert(..) => "convert".to_owned(),
        }
    }

    /// The command line, but for a guest's.
    pub fn command(&self, model: &Model, number: usize) -> Vec<String> {
        let cipher = model.cipher;
        match self {
            Self::Guest(_) => image_args(cipher, "img"),
            Self::Resize(flags, size) => {
                let mut words = vec!["resize"];
                words.extend(flags.split_whitespace());
                on_image(&words, cipher, &[&size.to_string()])
            }
            Self::Create(name) => on_image(&["snapshot", "-c", name], cipher, &[]),
            Self::Apply(name) => on_image(&["snapshot", "-a", name], cipher, &[]),
            Self::Delete(name) => on_image(&["snapshot", "-d", name], cipher, &[]),
            Self::AddBitmap(name, flags) => {
                let mut words = vec!["bitmap", "--add"];
                words.extend(flags.split_whitespace());
                on_image(&words, cipher, &[name])
            }
            Self::ChangeBitmap(how, name) => on_image(&["bitmap", how], cipher, &[name]),
            Self::MergeBitmap(source, target) => on_image(&["bitmap", "--merge", source], cipher, &[target]),
            Self::Amend(options) => on_image(&["amend", "-o", options], cipher, &[]),
            Self::AmendSize(size) => on_image(&["amend", "-o", &format!("size={size}")], cipher, &[]),
            Self::AmendKeys(options) => {
                on_image(&["amend", "--object", OTHER_SECRET, "-o", options], cipher, &[])
            }
            Self::Repair(what) => on_image(&["check", "-r", what], cipher, &[]),
            Self::Convert(flags, options, to) => convert(model, flags, options, *to, number),
        }
    }

    /// What makes the new image the current one, after a conversion.
    pub const fn replaces(&self) -> bool {
        matches!(self, Self::Convert(..))
    }
}

/// Create options, of a layout and of a cipher.
pub fn create_options(options: &str, cipher: Cipher, number: usize) -> Vec<String> {
    let all: Vec<String> = [options.replace("DATA", &format!("data{number}")), cipher.options().to_owned()]
        .into_iter()
        .filter(|text| !text.is_empty())
        .collect();
    if all.is_empty() { Vec::new() } else { vec!["-o".to_owned(), all.join(",")] }
}

fn convert(model: &Model, flags: &str, options: &str, to: Cipher, number: usize) -> Vec<String> {
    let mut args = vec!["convert".to_owned()];
    args.extend(flags.split_whitespace().map(str::to_owned));
    args.extend(["-O".to_owned(), "qcow2".to_owned()]);
    args.extend(create_options(options, to, number));
    if to != Cipher::Plain && model.cipher == Cipher::Plain {
        args.extend(["--object".to_owned(), SECRET.to_owned()]);
    }
    args.extend(image_args(model.cipher, "img"));
    args.push("new".to_owned());
    args
}

/// A step as a line of a shell.
pub fn shell_line(step: &Step, model: &Model) -> String {
    let quoted = |words: &[String]| -> String {
        let plain = |word: &String| {
            !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_=.,/".contains(c))
        };
        words
            .iter()
            .map(|word| if plain(word) { word.clone() } else { format!("'{word}'") })
            .collect::<Vec<_>>()
            .join(" ")
    };
    let args = quoted(&step.action.command(model, step.number));
    match (&step.action, step.who) {
        (Action::Guest(ops), who) => {
            let program = if who == Who::Ours { "our-io" } else { "qemu-io" };
            let commands: Vec<String> = ops.iter().map(|op| format!("-c '{}'", op.command())).collect();
            format!("{program} {} {args}", commands.join(" "))
        }
        (action, who) => {
            let program = if who == Who::Ours { "qemu-img-rs" } else { "qemu-img" };
            let after = if action.replaces() { " && mv new img" } else { "" };
            format!("{program} {args}{after}")
        }
    }
}
