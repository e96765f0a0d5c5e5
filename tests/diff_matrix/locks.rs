//! Images that another process holds open: every command with and without `-U`, for each kind of holder.

use crate::support::case::{Case, Files, Fixture};

/// An image of each format, an overlay, and something to convert.
const HELD: Fixture = Fixture {
    name: "held",
    pick: false,
    script: "create -f qcow2 -o cluster_size=4k a.qcow2 1M
             io a.qcow2 'write -P 1 0 64k'
             create -f raw a.raw 1M
             fill a.raw 0 64k 7
             create -f qcow2 -o cluster_size=4k -b a.qcow2 -F qcow2 top.qcow2
             create -f qcow2 -o cluster_size=4k,data_file=d.raw data.qcow2 1M
             create -f raw s.raw 1M
             fill s.raw 100k 10k 9",
};

/// All tables of this file.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (holder, image, commands) in [
        ("hold -f qcow2 a.qcow2", "a.qcow2", COMMANDS),
        ("hold -r -f qcow2 a.qcow2", "a.qcow2", COMMANDS),
        ("hold -f raw a.raw", "a.raw", COMMANDS),
        ("hold -r -f raw a.raw", "a.raw", COMMANDS),
        ("hold -f qcow2 top.qcow2", "top.qcow2", COMMANDS),
        ("hold -f qcow2 top.qcow2", "a.qcow2", COMMANDS),
        ("hold -f qcow2 a.qcow2", "top.qcow2", COMMANDS),
        ("hold -f qcow2 data.qcow2", "data.qcow2", COMMANDS),
        ("hold -f raw d.raw", "data.qcow2", FEW),
        ("hold -f raw a.qcow2", "a.qcow2", FEW),
    ] {
        for command in commands {
            let command = command.replace("IMAGE", image);
            let case = Case::new(format!("locks/{holder}: {command}"), HELD, &command).with(holder);
            all.push(case.files(Files::Images));
        }
    }
    all
}

const COMMANDS: &[&str] = &[
    "info IMAGE",
    "info -U IMAGE",
    "info --backing-chain IMAGE",
    "check IMAGE",
    "check -U IMAGE",
    "map IMAGE",
    "map -U IMAGE",
    "measure -O qcow2 IMAGE",
    "measure -U -O qcow2 IMAGE",
    "compare IMAGE s.raw",
    "compare s.raw IMAGE",
    "compare -U IMAGE s.raw",
    "convert -O raw IMAGE out.raw",
    "convert -U -O raw IMAGE out.raw",
    "convert -O raw s.raw IMAGE",
    "convert -n -O qcow2 s.raw IMAGE",
    "convert -U -n -O qcow2 s.raw IMAGE",
    "convert -O qcow2 -B IMAGE -F qcow2 s.raw out.qcow2",
    "resize IMAGE 2M",
    "resize -f raw IMAGE +1M",
    "create -f qcow2 IMAGE 1M",
    "create -f raw IMAGE 1M",
    "create -f qcow2 -b IMAGE -F qcow2 o.qcow2",
    "create -f qcow2 -b IMAGE -F qcow2 o.qcow2 1M",
    "info --image-opts driver=qcow2,file.filename=IMAGE,file.locking=off",
    "map --image-opts driver=qcow2,file.filename=IMAGE,file.locking=off",
    "map --image-opts driver=qcow2,file.filename=IMAGE,force-share=on",
];

const FEW: &[&str] = &[
    "info IMAGE",
    "map IMAGE",
    "check IMAGE",
    "compare IMAGE IMAGE",
    "convert -O raw IMAGE out.raw",
    "resize IMAGE 2M",
    "create -f qcow2 -o data_file=d.raw x.qcow2 1M",
];
