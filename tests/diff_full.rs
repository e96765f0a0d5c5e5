//! Targets that have no room, beside the installed `qemu-img`: `/dev/full`, whose every write fails, one command at a time, as
//! each locks it. Messages and exit codes are equal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

#[path = "support/pair.rs"]
mod pair;

use std::process::ExitCode;

use diskimg_testkit::suite;
use pair::Pair;

const PAIR: Pair = Pair { masked: &[], unheard: &[] };

/// vmdk is missing: there qemu-img ends on an assertion.
const COMMANDS: &[&str] = &[
    "create -f raw /dev/full 1M",
    "create -f raw /dev/full 0",
    "create -f qcow2 /dev/full 1M",
    "create -f qcow2 /dev/full 0",
    "create -f qcow2 -o preallocation=metadata /dev/full 1M",
    "create -f qcow2 -o preallocation=falloc /dev/full 1M",
    "create -f qcow2 -o preallocation=full /dev/full 1M",
    "create -f qcow2 -o cluster_size=512 /dev/full 1G",
    "create -f qcow /dev/full 1M",
    "create -f qed /dev/full 1M",
    "create -f vdi /dev/full 1M",
    "create -f vdi -o static=on /dev/full 1M",
    "create -f vpc /dev/full 1M",
    "create -f vpc -o subformat=fixed /dev/full 1M",
    "create -f vhdx /dev/full 1M",
    "create -f vhdx -o subformat=fixed /dev/full 1M",
    "create -f parallels /dev/full 1M",
    "convert -O raw source.raw /dev/full",
    "convert -n -O raw source.raw /dev/full",
    "convert -O qcow2 source.raw /dev/full",
    "convert -c -O qcow2 source.raw /dev/full",
    "convert -O qed source.raw /dev/full",
    "convert -O vdi source.raw /dev/full",
    "convert -O vpc source.raw /dev/full",
    "convert -O vhdx source.raw /dev/full",
    "convert -O parallels source.raw /dev/full",
    "dd if=source.raw of=/dev/full",
    "dd -O qcow2 if=source.raw of=/dev/full",
    "info /dev/full",
    "map /dev/full",
    "resize -f raw /dev/full 1M",
    "measure -O qcow2 /dev/full",
];

fn main() -> ExitCode {
    suite::run(vec![suite::with_oracle("a device without room", |_| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("source.raw"), vec![3; 1 << 20]).unwrap();
        for line in COMMANDS {
            PAIR.same(folder.path(), &line.split(' ').collect::<Vec<_>>());
        }
    })])
}
