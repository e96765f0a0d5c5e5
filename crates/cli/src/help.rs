//! The program's own help page and version.

use crate::commands::COMMANDS;

/// The version of qemu-img whose behaviour this program has; the second line tells whose work it is.
pub(crate) const VERSION: &str = concat!(
    "qemu-img version 10.0.2 (qemu-img-rs ",
    env!("CARGO_PKG_VERSION"),
    ")\nCopyright (c) 2025-2026 the diskimg developers\n"
);

const HEAD: &str = "\
QEMU disk image utility.  Usage:

  qemu-img [standard options] COMMAND [--help | command options]

Standard options:
  -h, --help
     display this help and exit
  -V, --version
     display version info and exit
  -T,--trace TRACE
     specify tracing options:
        [[enable=]<pattern>][,events=<file>][,file=<file>]

Recognized commands (run qemu-img COMMAND --help for command-specific help):

";

/// Columns that a line of format names may fill.
const WIDTH: usize = 79;

/// The help page of the program; `formats` are the names of all formats and protocols.
pub(crate) fn page(formats: &[&str]) -> String {
    let mut page = format!("{VERSION}{HEAD}");
    let mut commands: Vec<_> = COMMANDS.iter().collect();
    commands.sort_by_key(|command| command.name);
    for command in commands {
        page.push_str(&format!("  {} - {}\n", command.name, command.summary));
    }
    page.push_str("\nSupported image formats:\n\n");
    page.push_str(&wrapped(formats));
    page
}

/// The names in alphabetical order, in lines of at most [`WIDTH`] columns.
fn wrapped(formats: &[&str]) -> String {
    let mut names = formats.to_vec();
    names.sort_unstable();
    names.dedup();
    let mut text = String::new();
    let mut column = 0;
    for name in names {
        if column > 0 && column + 1 + name.len() > WIDTH {
            text.push('\n');
            column = 0;
        }
        let gap = if column == 0 { "  " } else { " " };
        text.push_str(gap);
        text.push_str(name);
        column += gap.len() + name.len();
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_wrap_where_qemu_img_wraps_them() {
        let expected = "  blkdebug blklogwrites blkverify bochs cloop compress copy-before-write
  copy-on-read dmg file ftp ftps gluster host_cdrom host_device http https
  iscsi iser luks nbd nfs null-aio null-co nvme parallels preallocate qcow
  qcow2 qed quorum raw rbd replication snapshot-access ssh throttle vdi vhdx
  vmdk vpc vvfat
";
        let names: Vec<&str> = expected.split_whitespace().collect();
        assert_eq!(wrapped(&names), expected);
    }
}
