//! Differences that are meant. Each has its paragraph in `docs/COMPATIBILITY.md`.

use crate::support::suite::Accepted;

/// By case. An entry whose case no longer differs is a failure, as is one that differs in anything else.
pub const ACCEPTED: &[Accepted] = &[
    Accepted { case: "rebase/places: rebase -u -f raw new.raw", what: &["stderr"], reason: NO_NAME },
    Accepted { case: "snapshot/refcount_bits=1", what: &["image check"], reason: NO_LEAK },
    Accepted { case: "snapshot/refcount_bits=2", what: &["image check"], reason: NO_LEAK },
    Accepted { case: SNAPSHOT_C4K, what: &["exit", "stderr", "image check"], reason: NO_LEAK },
    Accepted {
        case: "snapshot -d/snapshots/l1 beyond all files",
        what: &["image info", "image check"],
        reason: SNAPSHOT_STAYS,
    },
    Accepted { case: "snapshot -d/snapshots/l2 unaligned", what: &["image info"], reason: SNAPSHOT_DIRTY },
    Accepted {
        case: "snapshot/resized: convert -O qcow2 -l small a.qcow2 out.qcow2 && measure -O raw -l small a.qcow2",
        what: &["stdout", "image info"],
        reason: SNAPSHOT_SIZE,
    },
    Accepted {
        case: "create over/bases: create -f qcow2 -o cluster_size=100 base.qcow2 1M",
        what: &["names"],
        reason: KEPT,
    },
    Accepted { case: "create over/bases: create -f qcow2 base.qcow2 3P", what: &["names"], reason: KEPT },
    Accepted { case: "locks/hold -f raw a.raw: create -f qcow2 a.raw 1M", what: &["names"], reason: KEPT },
    Accepted {
        case: "convert/source: convert -t bogus s.raw out.raw",
        what: &["names"],
        reason: CHECKED_FIRST,
    },
    Accepted { case: "convert/source: convert -t '' s.raw out.raw", what: &["names"], reason: CHECKED_FIRST },
    Accepted {
        case: "create data file/bases: create -f qcow2 -o data_file=a.qcow2 a.qcow2 1M",
        what: &["stderr"],
        reason: SAME_FILE,
    },
    Accepted {
        case: "convert/source: convert -O qcow2 -o cluster_size=3 s.raw big.qcow2",
        what: &["names"],
        reason: KEPT,
    },
    Accepted {
        case: "convert/chains: convert -O qcow2 -B base.qcow2 -F qcow2 top.qcow2 out.qcow2 && map --output=json out.qcow2",
        what: &["stdout", "length", "image content"],
        reason: OTHER_BASE,
    },
    Accepted {
        case: "convert/chains: convert -O qcow2 -B ../base.qcow2 -F qcow2 top.qcow2 sub/out.qcow2 && info --backing-chain sub/out.qcow2",
        what: &["stdout", "length", "image content"],
        reason: OTHER_BASE,
    },
    Accepted {
        case: "convert/chains: convert -O qcow2 -o backing_file=base.qcow2,backing_fmt=qcow2 top.qcow2 out.qcow2",
        what: &["length", "image content"],
        reason: OTHER_BASE,
    },
    Accepted {
        case: "convert/chains: convert -O qcow2 -o backing_file=base.qcow2 -F qcow2 top.qcow2 out.qcow2",
        what: &["length", "image content"],
        reason: OTHER_BASE,
    },
    Accepted {
        case: "convert/chains: convert -O qcow2 -B base.qcow2 -F qcow2 -o backing_file=mid.qcow2 top.qcow2 out.qcow2",
        what: &["length", "image content"],
        reason: OTHER_BASE,
    },
    Accepted {
        case: "convert/chains: convert -O qcow2 -B base.qcow2 -F qcow2 -S 0 top.qcow2 out.qcow2",
        what: &["length", "image content"],
        reason: OTHER_BASE,
    },
    Accepted {
        case: "convert/chains: convert -O qcow2 -B base.qcow2 -F raw top.qcow2 out.qcow2",
        what: &["length", "image content"],
        reason: OTHER_BASE,
    },
    Accepted {
        case: "convert/source: convert -B '' -F raw -O qcow2 s.raw out.qcow2",
        what: &["exit", "stderr", "names"],
        reason: CRASH,
    },
    Accepted {
        case: "filters/disks: convert -n --target-image-opts r.raw driver=compress,file.driver=qcow2,file.file.filename=empty.qcow2 && check empty.qcow2",
        what: &["exit", "stderr", "image content"],
        reason: COMPRESS_FILTER,
    },
    Accepted { case: "names/small: info http://localhost:1/a", what: &["stderr"], reason: MODULE },
    Accepted {
        case: "names/map/json:{\"driver\":\"raw\",\"offset\":1,\"file.filename\":\"r.raw\"}",
        what: &["exit", "stdout", "stderr"],
        reason: ABORT,
    },
    Accepted {
        case: "names/map/driver=raw,offset=1000,file.filename=r.raw",
        what: &["exit", "stdout", "stderr"],
        reason: ABORT,
    },
    Accepted {
        case: "map/layouts: map --output=json --start-offset 1 --max-length 9223372036854775807 plain.qcow2",
        what: &["stdout"],
        reason: OVERFLOW,
    },
    Accepted {
        case: "formats/vmdk/images: convert -f raw -O vmdk empty.raw out.vmdk && convert -f vmdk -O raw out.vmdk out.raw",
        what: &["exit", "stderr", "names"],
        reason: EMPTY_VMDK,
    },
    Accepted {
        case: "formats/qcow/images: convert -f raw -O qcow -c s.raw out.qcow",
        what: &["exit"],
        reason: QCOW_SILENT,
    },
    Accepted {
        case: "formats/qcow/images: convert -f raw -O qcow empty.raw out.qcow && convert -f qcow -O raw out.qcow out.raw",
        what: &["stderr", "names"],
        reason: QCOW_EMPTY,
    },
    Accepted {
        case: "formats/qcow/images: create -f qcow -o backing_fmt=foo n.qcow 5M",
        what: &["stderr"],
        reason: QCOW_WORDS,
    },
];

const QCOW_SILENT: &str = "qemu-img writes everything and then ends with code 1, without a word";

const QCOW_EMPTY: &str = "a disk of no length, which the format can't have, leaves an empty file in qemu-img";

const QCOW_WORDS: &str = "a backing format that does not exist is refused in the words of the other formats";

const EMPTY_VMDK: &str = "vmdk of size 0 | qemu-img makes it, and can't open it";

const COMPRESS_FILTER: &str = "the filter compresses whole clusters, however the source's zeros are cut";

const KEPT: &str =
    "qemu-img deletes an image that was there before when it refuses to create another in its place";

const OTHER_BASE: &str = "what only a middle layer of the source holds is lost by qemu-img when the target is put on a deeper layer";

const CHECKED_FIRST: &str =
    "qemu-img makes the target, and empties one that was there, before it looks at the cache mode";

const SAME_FILE: &str = "an image that shall be its own data file is refused for another of its locks";

const CRASH: &str = "qemu-img ends with a segmentation fault";

const ABORT: &str = "qemu-img aborts on an assertion: it can't map a raw window that begins within a sector";

const OVERFLOW: &str =
    "qemu-img adds start and length of a map without looking for an overflow, and lists nothing";

const MODULE: &str = "the installed one speaks of its own packages";

const NO_NAME: &str = "where there is no backing file qemu-img calls it '(null)'";

const NO_LEAK: &str = "a snapshot that is refused or deleted leaks nothing";

const SNAPSHOT_STAYS: &str = "a snapshot that can't be deleted stays in the table";

const SNAPSHOT_SIZE: &str = "a snapshot is read with its own size, not with that of the disk as it is now";

const SNAPSHOT_C4K: &str = "snapshot/layouts: snapshot -c one c4k.qcow2 && check -q c4k.qcow2 && snapshot -c two c4k.qcow2 && snapshot -a one c4k.qcow2 && snapshot -d one c4k.qcow2 && check -q c4k.qcow2 && convert -O raw -l two c4k.qcow2 out.raw && snapshot -d two c4k.qcow2 && snapshot -l c4k.qcow2 && check -q c4k.qcow2";

const SNAPSHOT_DIRTY: &str = "a deletion that breaks off leaves the image marked as not closed cleanly";
