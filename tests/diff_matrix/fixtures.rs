//! Set-ups that several tables use.

use crate::support::case::Fixture;

/// Secrets: `s` is the password of the images, `w` is not.
pub const SECRETS: &str = "--object secret,id=s,data=pw --object secret,id=w,data=wrong";

/// Files that overlays can be put on, and targets that exist.
pub const BASES: Fixture = Fixture {
    name: "bases",
    pick: false,
    script: "create -f raw base.raw 4M
             fill base.raw 0 64k 0x11
             create -f qcow2 base.qcow2 8M
             io base.qcow2 'write -P 0x22 1M 256k'
             mkdir sub
             create -f raw sub/inner.raw 2M
             link base.qcow2 to-base
             create -f qcow2 broken.qcow2 1M
             be32 broken.qcow2 20 5",
};

/// Version 3, 64 KiB clusters: L1 at 0x30000, L2 at 0x40000, data at 0x50000 and 0x60000, one zero cluster.
pub const V3: Fixture = Fixture {
    name: "v3",
    pick: false,
    script: "create -f qcow2 a.qcow2 4M
             io a.qcow2 'write -P 1 0 128k' 'write -z 256k 64k'",
};

/// The same as version 2.
pub const V2: Fixture = Fixture {
    name: "v2",
    pick: false,
    script: "create -f qcow2 -o compat=0.10 a.qcow2 4M
             io a.qcow2 'write -P 1 0 128k' 'write -z 256k 64k'",
};

/// An overlay on a raw file called `base`.
pub const BACKED: Fixture = Fixture {
    name: "backed",
    pick: false,
    script: "create -f raw base 4M
             fill base 0 64k 0x11
             fill base 1M 4k 0x12
             create -f qcow2 -b base -F raw a.qcow2
             io a.qcow2 'write -P 1 32k 64k' 'write -z 512k 64k'",
};

/// Two internal snapshots; the table lies at 0xc0000.
pub const SNAPSHOTS: Fixture = Fixture {
    name: "snapshots",
    pick: false,
    script: "create -f qcow2 a.qcow2 4M
             io a.qcow2 'write -P 1 0 64k'
             img snapshot -c first a.qcow2
             io a.qcow2 'write -P 2 0 64k' 'write -P 3 1M 64k'
             img snapshot -c second a.qcow2
             io a.qcow2 'write -P 4 2M 64k'",
};

/// Two bitmaps, one with bits in it; the directory lies at 0xd0000.
pub const BITMAPS: Fixture = Fixture {
    name: "bitmaps",
    pick: false,
    script: "create -f qcow2 a.qcow2 4M
             img bitmap --add a.qcow2 b0
             img bitmap --add -g 4k --disable a.qcow2 b1
             io a.qcow2 'write -P 1 0 64k' 'write -P 3 1M 64k'",
};

/// An external data file called `d.raw`.
pub const DATA_FILE: Fixture = Fixture {
    name: "data file",
    pick: false,
    script: "create -f qcow2 -o data_file=d.raw a.qcow2 4M
             io a.qcow2 'write -P 1 0 128k' 'write -z 256k 64k'",
};

/// One image of each layout, most with data, zero and unallocated parts.
pub const LAYOUTS: Fixture = Fixture {
    name: "layouts",
    pick: true,
    script: "create -f raw data.raw 4M
             fill data.raw 0 64k 0x11
             noise data.raw 1M 200k 7
             fill data.raw 3M 1000 0x33
             truncate odd.raw 1025
             fill odd.raw 100 20 0x41
             truncate empty.raw 0
             truncate hole.raw 4M
             img convert -f raw -O qcow2 data.raw plain.qcow2
             io plain.qcow2 'write -z 2M 64k' 'write -z 2176k 10k'
             img convert -f raw -O qcow2 -o compat=0.10 data.raw v2.qcow2
             img convert -f raw -O qcow2 -o cluster_size=512 data.raw c512.qcow2
             img convert -f raw -O qcow2 -o cluster_size=4k,refcount_bits=1 data.raw c4k.qcow2
             img convert -f raw -O qcow2 -o cluster_size=2M,refcount_bits=64 data.raw c2m.qcow2
             img convert -f raw -O qcow2 -c data.raw zlib.qcow2
             img convert -f raw -O qcow2 -c -o compression_type=zstd,cluster_size=16k data.raw zstd.qcow2
             img convert -f raw -O qcow2 -c -o extended_l2=on data.raw extz.qcow2
             create -f qcow2 -o extended_l2=on ext.qcow2 4M
             io ext.qcow2 'write -P 1 0 4k' 'write -P 2 20k 2k' 'write -z 64k 64k' 'write -z 128k 4k' 'write -P 3 1M 64k' 'write -z 1M 8k'
             create -f qcow2 -o preallocation=metadata meta.qcow2 4M
             io meta.qcow2 'write -P 5 64k 64k'
             create -f qcow2 -o preallocation=full full.qcow2 2M
             create -f qcow2 -o lazy_refcounts=on lazy.qcow2 4M
             io lazy.qcow2 'write -P 1 0 64k'
             create -f qcow2 -o data_file=data.qcow2.d data.qcow2 4M
             io data.qcow2 'write -P 1 0 64k' 'write -z 64k 64k' 'write -P 2 1M 64k'
             create -f qcow2 -o data_file=dataraw.qcow2.d,data_file_raw=on dataraw.qcow2 4M
             io dataraw.qcow2 'write -P 1 0 64k' 'write -z 64k 64k' 'write -P 2 1M 64k'
             create -f qcow2 sparse.qcow2 64G
             io sparse.qcow2 'write -P 1 0 64k' 'write -P 2 32G 64k' 'write -P 3 63G 1k'
             create -f qcow2 zero.qcow2 0
             create -f qcow2 tiny.qcow2 1000",
};

/// Overlays: `top` on `mid` on `base.qcow2` or raw files, shorter and longer, and broken ones.
pub const CHAINS: Fixture = Fixture {
    name: "chains",
    pick: false,
    script: "create -f raw base.raw 2M
             fill base.raw 0 128k 0x11
             create -f qcow2 base.qcow2 4M
             io base.qcow2 'write -P 1 0 256k' 'write -P 2 1M 64k'
             create -f qcow2 -b base.qcow2 -F qcow2 mid.qcow2
             io mid.qcow2 'write -P 3 64k 64k' 'write -z 1M 64k'
             create -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2
             io top.qcow2 'write -P 4 128k 4k' 'write -z 0 64k' 'write -P 5 3M 64k'
             create -f qcow2 -b base.raw -F raw onraw.qcow2 8M
             io onraw.qcow2 'write -P 6 1M 64k' 'write -P 7 5M 64k'
             create -f qcow2 -b base.raw -F raw shorter.qcow2 96k
             create -f qcow2 -o extended_l2=on -b base.raw -F raw extover.qcow2
             io extover.qcow2 'write -P 8 2k 2k' 'write -z 8k 4k' 'write -P 9 1M 2k'
             create -f qcow2 -o cluster_size=2M -b base.qcow2 -F qcow2 bigover.qcow2
             io bigover.qcow2 'write -P 8 2M 2k'
             create -f qcow2 -o compat=0.10 -b base.raw -F raw v2over.qcow2
             io v2over.qcow2 'write -P 8 64k 2k'
             mkdir sub
             mkdir other
             create -f qcow2 -o cluster_size=4k -u -b ../base.qcow2 -F qcow2 sub/up.qcow2 4M
             create -f qcow2 -o cluster_size=4k -u -b sub/up.qcow2 -F qcow2 down.qcow2 4M
             create -f qcow2 -o cluster_size=4k -u -b ./mid.qcow2 -F qcow2 dotted.qcow2 4M
             create -f qcow2 -o cluster_size=4k -u -b file:base.raw -F raw byproto.qcow2 4M
             create -f qcow2 -o cluster_size=4k -u -b base.qcow2 -F qcow2 noformat.qcow2 4M
             hex noformat.qcow2 112 12345678
             create -f qcow2 -o cluster_size=4k -u -b base.raw -F raw noformatraw.qcow2 4M
             hex noformatraw.qcow2 112 12345678
             create -f qcow2 -o cluster_size=4k -u -b gone.qcow2 -F qcow2 missing.qcow2 4M
             create -f qcow2 -o cluster_size=4k -u -b missing.qcow2 -F qcow2 missing2.qcow2 4M
             create -f qcow2 -o cluster_size=4k -u -b base.raw -F qcow2 wrong.qcow2 4M
             create -f qcow2 -o cluster_size=4k -u -b base.qcow2 -F raw asraw.qcow2 4M
             create -f qcow2 -o cluster_size=4k -u -b base.qcow2 -F qcow2 badfmt.qcow2 4M
             text badfmt.qcow2 120 nosuc
             create -f qcow2 -o cluster_size=4k -u -b foo:bar -F raw badproto.qcow2 4M
             create -f qcow2 -o cluster_size=4k -u -b loop.qcow2 -F qcow2 any.qcow2 4M
             move any.qcow2 loop.qcow2
             create -f qcow2 -o cluster_size=4k -u -b loopb.qcow2 -F qcow2 loopa.qcow2 4M
             create -f qcow2 -o cluster_size=4k -u -b loopa.qcow2 -F qcow2 loopb.qcow2 4M
             create -f qcow2 -o cluster_size=4k -u -b 'json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"base.raw\"}}' -F raw viajson.qcow2 4M
             create -f qcow2 -o cluster_size=4k -u -b 'json:{\"driver\":\"raw\",\"offset\":65536,\"file\":{\"driver\":\"file\",\"filename\":\"base.raw\"}}' -F raw viaoffset.qcow2 1M
             link ../top.qcow2 sub/totop
             link top.qcow2 totop
             copy top.qcow2 other/lonely.qcow2",
};

/// A raw disk with data, noise, zeros and holes, the same as qcow2, and targets.
pub const SOURCE: Fixture = Fixture {
    name: "source",
    pick: false,
    script: "truncate s.raw 3M
             fill s.raw 0 100k 0x11
             noise s.raw 512k 200k 9
             fill s.raw 1M 64k 0
             fill s.raw 2M 1 0x22
             fill s.raw 2500k 4k 0x33
             img convert -f raw -O qcow2 s.raw s.qcow2
             truncate odd.raw 70001
             fill odd.raw 0 70001 0x44
             truncate empty.raw 0
             truncate other.raw 1M
             fill other.raw 0 1M 0x55
             create -f qcow2 small.qcow2 1M
             create -f qcow2 big.qcow2 4M
             io big.qcow2 'write -P 0x66 0 4M'",
};
