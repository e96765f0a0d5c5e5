//! Damage of which the oracle and ours must say the same.

use super::*;

/// One sort of damage.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) setup: Setup,
    pub(crate) damage: fn(&mut Patch),
    /// It is repaired alike too.
    pub(crate) repaired: bool,
}

const fn case(name: &'static str, setup: Setup, damage: fn(&mut Patch)) -> Case {
    Case { name, setup, damage, repaired: true }
}

/// Damage that is found alike; what becomes of it is another matter.
const fn found(name: &'static str, setup: Setup, damage: fn(&mut Patch)) -> Case {
    Case { repaired: false, ..case(name, setup, damage) }
}

const ONE_SNAPSHOT: Setup = Setup { snapshots: &["one"], ..PLAIN };

/// Bytes of an entry of a directory: all names have up to eight letters.
const BITMAP_ENTRY: u64 = 32;

pub(crate) const CASES: &[Case] = &[
    case("nothing", PLAIN, |_| {}),
    case("dirty", PLAIN, |i| i.set(72, 1)),
    case("corrupt", PLAIN, |i| i.set(72, 2)),
    case("dirty and leaking", PLAIN, |i| {
        i.set(72, 1);
        i.set_u16(i.refcount(5), 9);
    }),
    case("refcount too high", PLAIN, |i| i.set_u16(i.refcount(5), 9)),
    case("refcount too low", SNAPSHOTS, |i| i.set_u16(i.refcount(5), 1)),
    case("refcount 0", PLAIN, |i| i.set_u16(i.refcount(0), 0)),
    case("flags and a leak", PLAIN, |i| {
        i.xor(i.l1(), COPIED);
        i.xor(i.l2(1), COPIED);
        i.set_u16(i.refcount(5), 9);
    }),
    case("L1 reserved bits", PLAIN, |i| i.xor(i.l1(), 1 << 60 | 1)),
    case("L1 unaligned", PLAIN, |i| i.xor(i.l1(), 0x200)),
    case("L2 table behind the end", PLAIN, |i| i.set(i.l1(), COPIED | FAR)),
    case("L2 table used twice", LARGE, |i| i.set(i.l1() + 8, i.get(i.l1()))),
    case("L1 table behind the end", PLAIN, |i| i.set(40, FAR)),
    case("data reserved bits", PLAIN, |i| i.xor(i.l2(1), 1 << 60 | 4)),
    case("data unaligned", PLAIN, |i| i.xor(i.l2(1), 0x200)),
    case("preallocated unaligned", PLAIN, |i| i.xor(i.l2(1), 0x201)),
    case("preallocated unaligned in a snapshot", SNAPSHOTS, |i| {
        let l2 = i.offset_at(i.get(i.snapshots()));
        i.xor(l2 + 24, 0x201);
    }),
    case("data used twice", PLAIN, |i| i.set(i.l2(1), i.get(i.l2(2)))),
    case("data used twice with one bit", ONE_BIT, |i| i.set(i.l2(1), i.get(i.l2(2)))),
    case("data over metadata", PLAIN, |i| i.set(i.l2(1), COPIED | 0x10000)),
    case("data at the end", PLAIN, |i| i.set(i.l2(1), COPIED | 0x90000)),
    case("data half behind the end", PLAIN, |i| i.set(i.l2(1), COPIED | 0x8fe00)),
    case("file cut", PLAIN, |i| i.0.truncate(0x60200)),
    case("compressed COPIED", COMPRESSING, |i| i.xor(i.l2(0), COPIED)),
    case("compressed behind the end", COMPRESSING, |i| i.set(i.l2(0), COMPRESSED | FAR | 3 << 54)),
    case("compressed over the header", COMPRESSING, |i| i.set(i.l2(0), COMPRESSED)),
    case("subclusters both", EXTENDED, |i| i.set(i.l2(3), 1 << 32 | 1)),
    case("subclusters nowhere", EXTENDED, |i| i.set(i.l2(2), 0)),
    case("subclusters unaligned", EXTENDED, |i| i.xor(i.l2(2), 0x200)),
    case("preallocated subclusters unaligned", EXTENDED, |i| {
        i.xor(i.l2(2), 0x200);
        i.set(i.l2(3), 7 << 32);
    }),
    case("compressed with subclusters", EXTENDED_COMPRESSING, |i| i.set(i.l2(1), 1)),
    case("data file, not COPIED", DATA_FILE, |i| i.xor(i.l2(1), COPIED)),
    case("data file, unaligned", DATA_FILE, |i| i.xor(i.l2(1), 0x200)),
    case("data file, preallocated unaligned", DATA_FILE, |i| i.xor(i.l2(1), 0x201)),
    case("data file, compressed", DATA_FILE, |i| i.set(i.l2(1), COPIED | COMPRESSED | 0x50000)),
    case("refcount block behind the end", PLAIN, |i| i.set(i.reftable() + 8, FAR)),
    case("L2 table is its own data", PLAIN, |i| i.set(i.l2(1), COPIED | i.offset_at(i.l1()))),
    case("refcount block used twice", PLAIN, |i| i.set(i.reftable() + 8, i.get(i.reftable()))),
    case("refcount block over data", PLAIN, |i| i.set(i.reftable() + 8, 0x50000)),
    case("no refcount block", PLAIN, |i| i.set(i.reftable(), 0)),
    case("no refcount table", PLAIN, |i| i.set_u32(56, 0)),
    case("snapshot L1 unaligned", SNAPSHOTS, |i| i.xor(i.snapshots(), 0x200)),
    case("snapshot L1 behind the end", SNAPSHOTS, |i| i.set(i.snapshots(), FAR)),
    case("snapshot L1 unreachable", SNAPSHOTS, |i| i.xor(i.snapshots(), 1 << 63)),
    case("snapshot L1 too large", SNAPSHOTS, |i| i.set_u32(i.snapshots() + 8, 0x50_0000)),
    case("snapshot L1 is the header", SNAPSHOTS, |i| i.set(i.snapshots(), 0)),
    case("snapshot data", SNAPSHOTS, |i| {
        let l2 = i.offset_at(i.get(i.snapshots()));
        i.xor(l2 + 24, 1 << 60 | 0x200);
    }),
    case("snapshot with too much extra data", SNAPSHOTS, |i| i.set_u32(i.snapshots() + 36, 1025)),
    case("one snapshot more", SNAPSHOTS, |i| i.set_u32(60, 3)),
    case("snapshot without extra data", ONE_SNAPSHOT, |i| i.set_u32(i.snapshots() + 36, 8)),
    case("snapshot table at no cluster", SNAPSHOTS, |i| i.set(64, i.snapshots() + 0x200)),
    case("bitmap of ones", BITMAPS, |i| i.set(i.get(i.bitmaps()), 1)),
    case("bitmap data behind the end", BITMAPS, |i| i.set(i.bitmap_table(0), FAR)),
    case("bitmap data at the end", BITMAPS, |i| i.set(i.bitmap_table(0), i.end())),
    case("bitmap table behind the end", BITMAPS, |i| i.set(i.bitmaps(), FAR)),
    case("bitmap table at the end", BITMAPS, |i| i.set(i.bitmaps(), i.end())),
    case("bitmaps share data", BITMAPS, |i| i.set(i.bitmap_table(0), i.get(i.bitmap_table(1)))),
    case("bitmaps share a table", BITMAPS, |i| i.set(i.bitmaps(), i.bitmap_table(1))),
    case("bitmap data is the guest's", BITMAPS, |i| i.set(i.bitmap_table(0), i.offset_at(i.l2(0)))),
    case("bitmap data is the refcount table", BITMAPS, |i| i.set(i.bitmap_table(0), i.reftable())),
    case("bitmap data is a refcount block", BITMAPS, |i| i.set(i.bitmap_table(0), i.get(i.reftable()))),
    case("bitmap data is the directory", BITMAPS, |i| i.set(i.bitmap_table(0), i.bitmaps())),
    case("bitmap table is the refcount table", BITMAPS, |i| i.set(i.bitmaps(), i.reftable())),
    case("bitmap in use behind the end", BITMAPS, |i| {
        i.set(i.bitmap_table(0), FAR);
        i.set_u32(i.bitmaps() + 12, 3);
    }),
    case("both bitmaps behind the end, and a leak", BITMAPS, |i| {
        i.set(i.bitmap_table(0), FAR);
        i.set(i.bitmaps() + BITMAP_ENTRY, FAR);
        i.set_u16(i.refcount(5), 9);
    }),
    found("sound, with snapshots", SNAPSHOTS, |_| {}),
    found("sound, with bitmaps", BITMAPS, |_| {}),
    found("sound, small clusters", SMALL_CLUSTERS, |_| {}),
    found("refcount behind the end", PLAIN, |i| i.set_u16(i.refcount(40), 2)),
    found("L1 not COPIED", PLAIN, |i| i.xor(i.l1(), COPIED)),
    found("L1 entry without an offset", PLAIN, |i| i.set(i.l1(), COPIED)),
    found("data not COPIED", PLAIN, |i| i.xor(i.l2(1), COPIED)),
    found("data COPIED but shared", SNAPSHOTS, |i| i.xor(i.l2(0), COPIED)),
    found("data used thrice with one bit", ONE_BIT, |i| {
        i.set(i.l2(1), i.get(i.l2(2)));
        i.set(i.l2(3), i.get(i.l2(2)));
    }),
    found("preallocated subclusters unaligned", EXTENDED, |i| {
        i.xor(i.l2(2), 0x200);
        i.set(i.l2(3), 0);
    }),
    found("data file, zeros at offset 0", DATA_FILE, |i| i.set(i.l2(0), COPIED | 1)),
    found("old, zero flag", OLD, |i| i.xor(i.l2(1), 1)),
    found("refcount table reserved bits", PLAIN, |i| i.xor(i.reftable(), 4)),
    found("refcount block unaligned", PLAIN, |i| i.xor(i.reftable(), 0x200)),
    found("refcount block unreachable", PLAIN, |i| i.xor(i.reftable(), 1 << 63)),
    found("refcount table too long", PLAIN, |i| i.set_u32(56, 3)),
    found("snapshot table elsewhere", SNAPSHOTS, |i| i.set(64, FAR)),
    found("bitmap data elsewhere", BITMAPS, |i| i.set(i.get(i.bitmaps()), FAR)),
    found("bitmap in use with a bad entry", BITMAPS, |i| {
        i.set_u32(i.bitmaps() + 12, 1);
        i.set(i.get(i.bitmaps()), 0x50200);
    }),
];
