//! Our side's guest: the test binary itself, started with `our-io` as its first argument, opens an image through the
//! library and carries out the commands that `qemu-io` would. Each prints `ok`, or `failed` and why.

use diskimg::prelude::*;
use diskimg::{CompressedClusters, Secret, Secrets};
use std::process::ExitCode;
use std::sync::Arc;

/// `our-io -c COMMAND… IMAGE-ARGUMENTS`.
pub fn main(args: &[String]) -> ExitCode {
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("our-io: {text}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> std::result::Result<(), String> {
    let (mut commands, mut words) = (Vec::new(), args.iter());
    let (mut secrets, mut spec, mut format) = (Secrets::default(), None, None);
    while let Some(word) = words.next() {
        match word.as_str() {
            "-c" => commands.extend(words.next()),
            "-f" => format = words.next().map(String::as_str),
            "--object" => {
                let data = words.next().and_then(|text| text.split_once("data=")).ok_or("no data")?.1;
                secrets.add("s0", Secret::new(data.as_bytes().to_vec()));
            }
            "--image-opts" => {
                let text = words.next().ok_or("no options")?;
                spec = Some(ImageSpec::image_opts(text).map_err(|e| e.joined())?);
            }
            name => spec = Some(ImageSpec::name(name)),
        }
    }
    let context = diskimg::context().with_secrets(secrets);
    let options = OpenOptions::write().with_format(format);
    let node = Node::open(&context, &spec.ok_or("no image")?, &options)
        .map_err(|error| error.joined().to_string())?;
    for command in commands {
        match one(&node, command) {
            Ok(()) => println!("ok"),
            Err(error) => println!("failed: {}", error.joined()),
        }
    }
    node.flush().map_err(|error| error.joined().to_string())
}

fn one(node: &Node, command: &str) -> Result<()> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let number = |word: &str| word.parse::<u64>().unwrap_or(u64::MAX);
    let range = ByteRange::new(number(words[words.len() - 2]), number(words[words.len() - 1]));
    let filled = || -> Result<Vec<u8>> {
        let len = usize::try_from(range.len).unwrap_or(0);
        if let Some(at) = words.iter().position(|word| *word == "-s") {
            let file = std::fs::read(words[at + 1])?;
            return Ok(file.into_iter().cycle().take(len).collect());
        }
        let at = words.iter().position(|word| *word == "-P").unwrap_or(0);
        Ok(vec![number(words[at + 1]) as u8; len])
    };
    let has = |flag: &str| words.contains(&flag);
    match words[0] {
        "discard" => node.discard(range),
        _ if has("-z") && has("-u") => node.write_zeroes(range, ZeroMode::MayUnmap),
        _ if has("-z") => node.write_zeroes(range, ZeroMode::KeepAllocated),
        _ if has("-c") => compressed(node, range, &filled()?),
        _ => node.write_at(range.start, &filled()?),
    }
}

/// As `convert -c` does it: what does not become smaller is written as it is.
fn compressed(node: &Node, range: ByteRange, bytes: &[u8]) -> Result<()> {
    let image = Arc::clone(node.image());
    let Some(clusters) = image.as_compressed() else {
        return Err(Error::invalid("no compressed clusters"));
    };
    let mut whole = bytes.to_vec();
    whole.resize(usize::try_from(clusters.cluster_len()).unwrap_or(0), 0);
    let mut payload = Vec::new();
    if !clusters.encoder()?.encode(&whole, &mut payload)? {
        return node.write_at(range.start, bytes);
    }
    place(clusters, range.start, &payload)
}

fn place(clusters: &dyn CompressedClusters, start: u64, payload: &[u8]) -> Result<()> {
    let reservation = clusters.reserve_encoded(start, payload.len() as u64)?;
    reservation.write_at(0, payload)?;
    reservation.commit()
}
