//! `--generate`: completions for shells, and man pages, out of the tables that the commands are parsed with.

use std::fmt::Write as _;
use std::path::Path;

use crate::command::{Command, Key, OWN};
use crate::commands::{COMMANDS, MORE_COMMANDS};
use crate::getopt::Opt;

/// What the program is called in completions and pages.
const NAMES: [&str; 2] = ["qemu-img", "qemu-img-rs"];

fn commands() -> impl Iterator<Item = &'static &'static Command> {
    COMMANDS.iter().chain(MORE_COMMANDS)
}

/// All spellings of a subcommand's options.
fn spellings(command: &Command) -> Vec<String> {
    let own = OWN.iter().filter(|opt| command.has_own(opt.key));
    command.options.iter().chain(own).flat_map(spellings_of).collect()
}

fn spellings_of(opt: &Opt<Key>) -> Vec<String> {
    let short = opt.short.map(|letter| format!("-{}", char::from(letter)));
    short.into_iter().chain(opt.long.iter().map(|long| format!("--{long}"))).collect()
}

/// The completion script for a shell; `None` if it is not known.
pub(crate) fn completions(shell: &str) -> Option<String> {
    match shell {
        "bash" => Some(bash()),
        "zsh" => Some(zsh()),
        "fish" => Some(fish()),
        _ => None,
    }
}

fn names() -> String {
    commands().map(|command| command.name).collect::<Vec<_>>().join(" ")
}

fn bash() -> String {
    let mut text = format!(
        "_qemu_img() {{\n    local word=${{COMP_WORDS[COMP_CWORD]}} command= i\n    \
         for ((i = 1; i < COMP_CWORD; i++)); do\n        case ${{COMP_WORDS[i]}} in\n            -*) ;;\n            \
         *) command=${{COMP_WORDS[i]}}; break ;;\n        esac\n    done\n    local options=\n    case $command in\n        \
         '') COMPREPLY=($(compgen -W '{} --help --version --trace --references' -- \"$word\")); return ;;\n",
        names()
    );
    for command in commands() {
        let _ = writeln!(text, "        {}) options='{}' ;;", command.name, spellings(command).join(" "));
    }
    text.push_str(
        "    esac\n    if [[ $word == -* ]]; then\n        COMPREPLY=($(compgen -W \"$options\" -- \"$word\"))\n    \
         else\n        COMPREPLY=($(compgen -f -- \"$word\"))\n    fi\n}\n",
    );
    let _ = writeln!(text, "complete -o filenames -F _qemu_img {}", NAMES.join(" "));
    text
}

fn zsh() -> String {
    let mut text =
        format!("#compdef {}\n_qemu_img() {{\n    local -a names options\n    names=(\n", NAMES.join(" "));
    for command in commands() {
        let _ = writeln!(text, "        '{}:{}'", command.name, command.summary.replace('\'', ""));
    }
    text.push_str("    )\n    if (( CURRENT == 2 )); then\n        _describe command names\n        return\n    fi\n    case $words[2] in\n");
    for command in commands() {
        let _ = writeln!(text, "        {}) options=({}) ;;", command.name, spellings(command).join(" "));
    }
    text.push_str("    esac\n    if [[ $PREFIX == -* ]]; then\n        compadd -- $options\n    else\n        _files\n    fi\n}\n_qemu_img \"$@\"\n");
    text
}

fn fish() -> String {
    let mut text = String::new();
    for name in NAMES {
        for command in commands() {
            let summary = command.summary.replace('\'', "");
            let _ = writeln!(
                text,
                "complete -c {name} -n __fish_use_subcommand -a {} -d '{summary}'",
                command.name
            );
            let own = OWN.iter().filter(|opt| command.has_own(opt.key));
            for opt in command.options.iter().chain(own) {
                let _ = write!(text, "complete -c {name} -n '__fish_seen_subcommand_from {}'", command.name);
                if let Some(letter) = opt.short {
                    let _ = write!(text, " -s {}", char::from(letter));
                }
                for long in opt.long {
                    let _ = write!(text, " -l {long}");
                }
                text.push_str(if opt.value { " -r\n" } else { "\n" });
            }
        }
    }
    text
}

/// Text for a man page: backslashes, hyphens, and dots and quotes at the start of a line.
fn roff(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let line = line.trim().replace('\\', "\\e").replace('-', "\\-");
        if line.starts_with(['.', '\'']) {
            out.push_str("\\&");
        }
        out.push_str(&line);
        out.push('\n');
    }
    out
}

/// The man page of a subcommand.
pub(crate) fn man_page(command: &Command) -> String {
    let name = format!("qemu-img-{}", command.name);
    let mut page = format!(
        ".TH {} 1\n.SH NAME\n{} \\- {}.SH SYNOPSIS\n.B qemu\\-img {}\n{}",
        name.to_uppercase(),
        name.replace('-', "\\-"),
        roff(command.summary),
        command.name,
        roff(command.synopsis)
    );
    page.push_str(".SH OPTIONS\n.TP\n.B \\-h, \\-\\-help\nprint help and exit\n");
    for (shown, text) in command.help {
        let _ = write!(page, ".TP\n.B {}{}", roff(shown), roff(text));
    }
    for opt in OWN.iter().filter(|opt| command.has_own(opt.key)) {
        let _ = write!(
            page,
            ".TP\n.B {}an option of qemu\\-img\\-rs alone\n",
            roff(&spellings_of(opt).join(", "))
        );
    }
    page.push_str(".SH SEE ALSO\n.BR qemu\\-img (1)\n");
    page
}

/// The man page of the program.
pub(crate) fn main_page() -> String {
    let mut page = ".TH QEMU-IMG 1\n.SH NAME\nqemu\\-img \\- disk image utility\n.SH SYNOPSIS\n\
         .B qemu\\-img\n[\\-h] [\\-V] [\\-T TRACE] [\\-\\-references POLICY] COMMAND ...\n.SH COMMANDS\n"
        .to_owned();
    for command in commands() {
        let _ = write!(page, ".TP\n.BR qemu\\-img\\-{} (1)\n{}", command.name, roff(command.summary));
    }
    page
}

/// Writes all man pages into a folder.
pub(crate) fn write_man_pages(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("qemu-img.1"), main_page())?;
    commands().try_for_each(|command| {
        std::fs::write(folder.join(format!("qemu-img-{}.1", command.name)), man_page(command))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_option_of_each_command_can_be_completed() {
        for shell in ["bash", "zsh", "fish"] {
            let text = completions(shell).unwrap();
            for command in commands() {
                assert!(text.contains(command.name), "{shell} {}", command.name);
                for long in command.options.iter().flat_map(|opt| opt.long) {
                    assert!(text.contains(long), "{shell} {} {long}", command.name);
                }
            }
        }
        assert!(completions("tcsh").is_none());
    }

    #[test]
    fn each_option_of_each_help_page_is_in_the_manual() {
        for command in commands() {
            let page = man_page(command);
            for (shown, _) in command.help {
                assert!(page.contains(roff(shown).trim()), "{} {shown}", command.name);
            }
        }
        assert!(commands().all(|command| {
            main_page().contains(command.summary.lines().next().unwrap_or("").split('-').next().unwrap_or(""))
        }));
    }
}
