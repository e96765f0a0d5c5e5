//! Differences that are meant: told by the command line and what differs, each with a reason that
//! `docs/COMPATIBILITY.md` has too.

use crate::support::suite::Env;

/// A kind of difference.
pub struct Accepted {
    /// Why.
    pub reason: &'static str,
    /// Whether a difference is of this kind: the command line, what differs, the oracle's text, ours.
    pub fits: fn(&[String], &str, &str, &str) -> bool,
}

/// All kinds.
pub const ACCEPTED: &[Accepted] = &[
    Accepted {
        reason: "qemu-img writes everything and then ends with code 1, without a word",
        fits: |line, what, qemu, ours| {
            is(line, &["convert"])
                && what == "exit"
                && (qemu.trim(), ours.trim()) == ("1", "0")
                && line.iter().any(|word| word.ends_with("qcow"))
        },
    },
    Accepted {
        reason: "Ours looks at all options before it touches a file",
        fits: |line, what, qemu, _| {
            let of_the_file =
                ["Could not create '", "Unsupported preallocation mode", "invalid parameter value"];
            is(line, &["create", "convert", "dd"])
                && what == "stderr"
                && of_the_file.iter().any(|text| qemu.contains(text))
        },
    },
    Accepted {
        reason: "what qemu-img refuses for being one, ours refuses for what is wrong with it",
        fits: |line, what, qemu, _| {
            is(line, &["create"]) && what == "stderr" && qemu.contains("Invalid parameter 'backing_fmt'")
        },
    },
    Accepted {
        reason: "qemu-img shows that data: zeros are lost",
        fits: |line, what, _, _| is(line, &["rebase"]) && what == "content of q2.qcow2",
    },
    Accepted {
        reason: "that it is in use is told before that its key is missing",
        fits: |line, what, qemu, ours| {
            is(line, &["rebase"])
                && what == "stderr"
                && qemu.contains("'key-secret' is required")
                && ours.contains("Failed to get shared")
        },
    },
    Accepted {
        reason: "qemu-img deletes an image that was there before",
        fits: |line, what, _, _| is(line, &["create", "convert", "dd"]) && what == "names",
    },
    Accepted {
        reason: "messages name the image where qemu-img names a node that it numbers anew each time",
        fits: |line, what, qemu, _| is(line, &["bitmap"]) && what == "stderr" && qemu.contains("#block"),
    },
    Accepted {
        reason: "nothing is allocated in advance",
        fits: |_, what, qemu, ours| {
            what == "image t.parallels" && qemu.replace("check: 2", "check: 0") == ours
        },
    },
    Accepted {
        reason: "before it looks at the cache mode",
        fits: |line, what, _, ours| {
            is(line, &["convert"]) && what == "stderr" && ours.contains("Invalid cache option")
        },
    },
    Accepted {
        reason: "qemu-img does not tell where a vhdx's bytes stand on the host",
        fits: |line, what, qemu, _| {
            let meant = line.iter().any(|word| word.contains("vhdx") || word.contains("vdi"));
            let strict = qemu.contains("block status mismatch");
            meant && (strict || is(line, &["map"]) && matches!(what, "exit" | "stdout"))
        },
    },
    Accepted {
        reason: "Ours refuses in the words that it has for other formats without backing files",
        fits: |line, _, qemu, _| is(line, &["rebase"]) && qemu.contains("could not get block driver info"),
    },
    Accepted {
        reason: "Ours says that the source lacks bitmap support",
        fits: |line, what, _, ours| {
            is(line, &["convert"]) && what == "stderr" && ours.contains("Source lacks bitmap")
        },
    },
    Accepted {
        reason: "that more than one image is given is told before the snapshot is looked for",
        fits: |line, what, _, ours| {
            is(line, &["convert"]) && what == "stderr" && ours.contains("concatenating multiple snapshot")
        },
    },
    Accepted {
        reason: "the new backing file is looked at before it is found that the image's own name has no folder",
        fits: |line, what, qemu, _| {
            is(line, &["rebase"])
                && what == "stderr"
                && qemu.contains("Cannot use relative backing file names for 'json:")
        },
    },
    Accepted {
        reason: "where there is no backing file qemu-img calls it '(null)'",
        fits: |line, what, qemu, _| is(line, &["rebase"]) && what == "stderr" && qemu.contains("'(null)'"),
    },
    Accepted {
        reason: "Ours is an empty disk",
        fits: |line, what, qemu, _| {
            qemu.contains("Unsupported image type 'monolithicSparse'")
                || what == "content of out.img" && is_vmdk(line)
        },
    },
    Accepted {
        reason: "a disk of length 0",
        fits: |_, what, qemu, _| {
            what == "image out.img" && qemu.contains("vhdx") && qemu.contains("\"virtual-size\": 0")
        },
    },
    Accepted {
        reason: "differencing images are an addition",
        fits: |line, _, qemu, ours| {
            let named = |text: &str| {
                let refused = text.contains("ile not supported for file format")
                    || text.contains("ile format not supported for file format");
                refused && (text.contains("'vhdx'") || text.contains("'vpc'"))
            };
            is(line, &["create", "convert"])
                && (named(qemu) || (ours.contains("fmt=vhdx") || ours.contains("fmt=vpc")) && qemu.is_empty())
        },
    },
    Accepted {
        reason: "qemu-img opens it twice and so warns twice",
        fits: |line, what, qemu, _| {
            is(line, &["snapshot"])
                && what == "stderr"
                && qemu.matches("WARNING: Image format was not specified").count() == 2
        },
    },
    Accepted {
        reason: "that a name is that of a folder is told first",
        fits: |_, what, _, ours| what == "stderr" && ours.contains("to be a regular file"),
    },
    Accepted {
        reason: "a size within a sector of 2^63",
        fits: |line, _, _, ours| is(line, &["create"]) && ours.contains("Image size cannot be negative"),
    },
    Accepted {
        reason: "strict comparisons look at data in other pieces",
        fits: |line, _, qemu, ours| {
            is(line, &["compare"])
                && (qemu.contains("block status mismatch")
                    || ours.contains("block status mismatch")
                    || (qemu, ours) == ("1 ", "0 "))
                && line.iter().any(|word| ["-s"].contains(&word.as_str()))
        },
    },
    Accepted {
        reason: "qemu-img takes longer than the tests wait",
        fits: |_, _, qemu, _| qemu.starts_with("killed after"),
    },
];

fn is_vmdk(line: &[String]) -> bool {
    line.iter().any(|word| word.contains("vmdk"))
}

fn is(line: &[String], commands: &[&str]) -> bool {
    line.first().is_some_and(|name| commands.contains(&name.as_str()))
}

/// The reason for a difference, if there is one.
pub fn reason(line: &[String], what: &str, qemu: &str, ours: &str) -> Option<&'static str> {
    ACCEPTED.iter().find(|kind| (kind.fits)(line, what, qemu, ours)).map(|kind| kind.reason)
}

/// Each reason is said to users.
pub fn documented() -> Result<(), String> {
    let text = std::fs::read_to_string(Env::tests_folder().join("../docs/COMPATIBILITY.md"))
        .map_err(|e| e.to_string())?;
    let missing: Vec<&str> =
        ACCEPTED.iter().map(|kind| kind.reason).filter(|reason| !text.contains(reason)).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("docs/COMPATIBILITY.md does not say: {missing:#?}")) }
}
