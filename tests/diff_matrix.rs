//! Differential matrix: command lines run by the installed `qemu-img` and by ours in equal folders; exit code,
//! stdout, stderr and the files left behind must be equal. See `support/mod.rs` for what is needed to run it, and
//! `diff_matrix/` for the tables, one file or more for each command.
#![allow(unreachable_pub)]

#[path = "diff_matrix/accepted.rs"]
mod accepted;
#[path = "diff_matrix/alone.rs"]
mod alone;
#[path = "diff_matrix/amend.rs"]
mod amend;
#[path = "diff_matrix/bench.rs"]
mod bench;
#[path = "diff_matrix/bitmap.rs"]
mod bitmap;
#[path = "diff_matrix/check.rs"]
mod check;
#[path = "diff_matrix/commit.rs"]
mod commit;
#[path = "diff_matrix/compare.rs"]
mod compare;
#[path = "diff_matrix/convert.rs"]
mod convert;
#[path = "diff_matrix/convert_more.rs"]
mod convert_more;
#[path = "diff_matrix/create.rs"]
mod create;
#[path = "diff_matrix/dd.rs"]
mod dd;
#[path = "diff_matrix/encrypt.rs"]
mod encrypt;
#[path = "diff_matrix/filters.rs"]
mod filters;
#[path = "diff_matrix/fixtures.rs"]
mod fixtures;
#[path = "diff_matrix/formats.rs"]
mod formats;
#[path = "diff_matrix/holes.rs"]
mod holes;
#[path = "diff_matrix/info.rs"]
mod info;
#[path = "diff_matrix/layout.rs"]
mod layout;
#[path = "diff_matrix/locks.rs"]
mod locks;
#[path = "diff_matrix/luks.rs"]
mod luks;
#[path = "diff_matrix/map.rs"]
mod map;
#[path = "diff_matrix/measure.rs"]
mod measure;
#[path = "diff_matrix/names.rs"]
mod names;
#[path = "diff_matrix/odd.rs"]
mod odd;
#[path = "diff_matrix/one_pipe.rs"]
mod one_pipe;
#[path = "diff_matrix/open.rs"]
mod open;
#[path = "diff_matrix/overlap.rs"]
mod overlap;
#[path = "diff_matrix/read_only.rs"]
mod read_only;
#[path = "diff_matrix/rebase.rs"]
mod rebase;
#[path = "diff_matrix/resize.rs"]
mod resize;
#[path = "diff_matrix/snapshot.rs"]
mod snapshot;
mod support;

/// The tables must not shrink below this.
const LEAST: usize = 2000;

fn main() -> std::process::ExitCode {
    let tables = [
        amend::cases(),
        bench::cases(),
        check::cases(),
        commit::cases(),
        compare::cases(),
        convert::cases(),
        convert_more::cases(),
        create::cases(),
        dd::cases(),
        encrypt::cases(),
        formats::cases(),
        holes::cases(),
        filters::cases(),
        info::cases(),
        locks::cases(),
        luks::cases(),
        map::cases(),
        measure::cases(),
        names::cases(),
        odd::cases(),
        overlap::cases(),
        open::cases(),
        bitmap::cases(),
        read_only::cases(),
        rebase::cases(),
        resize::cases(),
        snapshot::cases(),
    ];
    support::suite::run_cases(
        tables.into_iter().flatten().collect(),
        [accepted::ACCEPTED, layout::LAYOUT, read_only::ACCEPTED].concat(),
        alone::tests().into_iter().chain(one_pipe::tests()).collect(),
        LEAST,
    )
}
