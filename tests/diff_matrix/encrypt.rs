//! Encrypted qcow2 images: every command with the right, a wrong and no secret, conversion in all directions, and what
//! is refused.

use crate::fixtures::SECRETS;
use crate::support::case::{Case, Files, Fixture};
use crate::support::suite::{group, patched};

/// All tables of this file.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for image in ["l", "a", "e", "x"] {
        for line in EACH {
            // Written out, so that each case says what it runs.
            all.extend(group("encrypt", IMAGES, &[&spelt(line, image)]));
        }
    }
    for line in ONCE {
        all.extend(group("encrypt", IMAGES, &[&spelt(line, "l")]));
    }
    for line in ["info %", "map $S --output=json --image-opts @", "check $S --image-opts @"] {
        all.extend(patched(&format!("encrypt/{line}"), IMAGES, &spelt(line, "l"), DAMAGE));
    }
    all.into_iter().map(|case| case.files(Files::Encrypted)).collect()
}

/// `$S`: secrets; `@`: the image with its secret; `%`: its name.
fn spelt(line: &str, image: &str) -> String {
    line.replace("$S", SECRETS)
        .replace('@', &format!("driver=qcow2,encrypt.key-secret=s,file.filename={image}.qcow2"))
        .replace('%', &format!("{image}.qcow2"))
}

/// `l` and `x` (subclusters) with LUKS, `a` and `e` (version 2, small clusters) with AES; `o` is an overlay on `l`.
const IMAGES: Fixture = Fixture {
    name: "images",
    pick: false,
    script: "create -f raw s.raw 1M
             fill s.raw 0 100k 0x11
             fill s.raw 512k 4k 0x22
             create --object secret,id=s,data=pw -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 l.qcow2 1M
             create --object secret,id=s,data=pw -f qcow2 -o extended_l2=on,encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,encrypt.cipher-alg=serpent-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv x.qcow2 1M
             create --object secret,id=s,data=pw -f qcow2 -o encrypt.format=aes,encrypt.key-secret=s a.qcow2 1M
             create --object secret,id=s,data=pw -f qcow2 -o encryption=on,encrypt.key-secret=s,compat=0.10,cluster_size=4k e.qcow2 1M
             img convert -n --object secret,id=s,data=pw --target-image-opts s.raw driver=qcow2,encrypt.key-secret=s,file.filename=l.qcow2
             img convert -n --object secret,id=s,data=pw --target-image-opts s.raw driver=qcow2,encrypt.key-secret=s,file.filename=x.qcow2
             img convert -n --object secret,id=s,data=pw --target-image-opts s.raw driver=qcow2,encrypt.key-secret=s,file.filename=a.qcow2
             img convert -n --object secret,id=s,data=pw --target-image-opts s.raw driver=qcow2,encrypt.key-secret=s,file.filename=e.qcow2
             create -u --object secret,id=s,data=pw -f qcow2 -b l.qcow2 -F qcow2 o.qcow2 2M
             create -f qcow2 p.qcow2 1M",
};

/// Changes of the pointer to the LUKS header (offset at 120, length at 128) and of the header (at 0x40000).
const DAMAGE: &[(&str, &str)] = &[
    ("no length", "be64 l.qcow2 128 0"),
    ("length of half a header", "be64 l.qcow2 128 500"),
    ("length of a header", "be64 l.qcow2 128 592"),
    ("length up to the material", "be64 l.qcow2 128 4096"),
    ("length within the material", "be64 l.qcow2 128 200000"),
    ("length up to the payload, less one", "be64 l.qcow2 128 2068479"),
    ("length beyond the file", "be64 l.qcow2 128 536870911"),
    ("at the start", "be64 l.qcow2 120 0"),
    ("at the L1 table", "be64 l.qcow2 120 196608"),
    ("unaligned", "be64 l.qcow2 120 262656"),
    ("behind the file", "be64 l.qcow2 120 1099511627776"),
    ("behind all offsets", "hex l.qcow2 120 7fffffffffff0000"),
    ("below all offsets", "hex l.qcow2 120 ffffffffffff0000"),
    ("magic", "hex l.qcow2 0x40000 00"),
    ("version", "hex l.qcow2 0x40006 0002"),
    ("payload in the header", "be32 l.qcow2 262248 1"),
    ("payload in the material", "be32 l.qcow2 262248 8"),
    ("payload far away", "be32 l.qcow2 262248 2147483647"),
    ("key length", "be32 l.qcow2 262252 2147483647"),
    ("no iterations", "be32 l.qcow2 262308 0"),
    ("slot state", "be32 l.qcow2 262352 5"),
    ("slot without iterations", "be32 l.qcow2 262356 0"),
    ("slot far away", "be32 l.qcow2 262392 8388607 && be32 l.qcow2 262248 2147483647"),
    ("slot stripes", "be32 l.qcow2 262396 3000"),
    ("salt", "hex l.qcow2 262360 0000"),
    ("method", "be32 l.qcow2 32 1"),
    ("file cut", "truncate l.qcow2 300000"),
];

/// For each image.
const EACH: &[&str] = &[
    "info %",
    "info --output=json %",
    "info -U %",
    "info $S --image-opts @",
    "check %",
    "check $S --image-opts @",
    "check $S --output=json --image-opts @",
    "map %",
    "map $S --image-opts @",
    "map $S --output=json --image-opts @",
    "map $S --image-opts driver=qcow2,encrypt.key-secret=w,file.filename=% -s 2M",
    "map $S --image-opts driver=qcow2,encrypt.key-secret=none,file.filename=%",
    "map $S --image-opts driver=qcow2,encrypt.format=luks,encrypt.key-secret=s,file.filename=% --output=json",
    "map $S --image-opts driver=qcow2,encrypt.format=aes,encrypt.key-secret=s,file.filename=% --output=json",
    "map $S --image-opts driver=qcow2,encrypt.iter-time=5,encrypt.key-secret=s,file.filename=%",
    "info $S --image-opts driver=qcow2,encrypt.foo=5,file.filename=%",
    "convert % out.raw",
    "convert $S --image-opts @ -O raw out.raw",
    "convert $S --image-opts @ -O qcow2 out.qcow2 && map --output=json out.qcow2",
    "convert $S --image-opts @ -O qcow2 -o encrypt.format=luks,encrypt.key-secret=w,encrypt.iter-time=10 out.qcow2 && convert $S --image-opts driver=qcow2,encrypt.key-secret=w,file.filename=out.qcow2 -O raw out.raw",
    "convert $S --image-opts @ -O qcow2 -o encrypt.format=aes,encrypt.key-secret=w out.qcow2 && convert $S --image-opts driver=qcow2,encrypt.key-secret=w,file.filename=out.qcow2 -O raw out.raw",
    "compare % s.raw",
    "compare $S --image-opts @ driver=raw,file.filename=s.raw",
    "resize % 2M",
    "resize $S --image-opts @ 3000k && check $S --image-opts @ && convert $S --image-opts @ -O raw out.raw",
    "resize $S --shrink --image-opts @ 64k && resize $S --image-opts @ 200k && check $S --image-opts @ && convert $S --image-opts @ -O raw out.raw",
    "measure -O qcow2 $S --image-opts @",
    "measure -O qcow2 %",
    "snapshot -l %",
    "create -f qcow2 -b % -F qcow2 n.qcow2",
    "create -f qcow2 -b % -F qcow2 n.qcow2 2M && info --backing-chain n.qcow2",
    "create -f qed -b % n.qed",
    "snapshot $S -c one --image-opts @ && check $S --image-opts @ && convert $S --image-opts @ -l one -O raw out.raw",
    "convert -n $S --target-image-opts p.qcow2 @ && convert $S --image-opts @ -O raw out.raw",
    "convert -n s.raw -O qcow2 %",
    "amend -o size=2M %",
    "amend $S -o lazy_refcounts=off --image-opts @ && check $S --image-opts @",
    "amend $S -o encrypt.keyslot=1 --image-opts @",
    "amend $S -o encrypt.state=active --image-opts @",
    "amend $S -o encrypt.state=foo --image-opts @",
    "amend $S -o encrypt.state=active,encrypt.new-secret=none --image-opts @",
    "amend $S -o encrypt.state=active,encrypt.new-secret=w,encrypt.keyslot=0 --image-opts @",
    "amend $S -o encrypt.state=active,encrypt.new-secret=w,encrypt.keyslot=9 --image-opts @",
    "amend $S -o encrypt.state=inactive,encrypt.keyslot=0 --image-opts @",
    "amend $S -o encrypt.state=inactive,encrypt.keyslot=4 --image-opts @",
    "amend $S -o encrypt.state=inactive,encrypt.old-secret=w --image-opts @",
    "amend $S -o encrypt.state=inactive,encrypt.old-secret=s --image-opts @",
    "amend $S -o encrypt.state=active,encrypt.new-secret=w,encrypt.iter-time=10 --image-opts @ && convert $S --image-opts driver=qcow2,encrypt.key-secret=w,file.filename=% -O raw out.raw && amend $S -o encrypt.state=inactive,encrypt.old-secret=s --image-opts driver=qcow2,encrypt.key-secret=w,file.filename=% && map $S --image-opts @ && check $S --image-opts driver=qcow2,encrypt.key-secret=w,file.filename=%",
];

/// Once.
const ONCE: &[&str] = &[
    "create -f qcow2 -b o.qcow2 -F qcow2 n.qcow2",
    "create $S -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 n.qcow2 1M && check $S --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=n.qcow2",
    "create $S -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,cluster_size=512 n.qcow2 1M && check $S --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=n.qcow2",
    "create $S -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,preallocation=metadata n.qcow2 1M && map $S --output=json --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=n.qcow2",
    "create $S -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,preallocation=full n.qcow2 1M && map $S --output=json --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=n.qcow2",
    "create $S -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,data_file=d.raw n.qcow2 1M",
    "create $S -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,compat=0.10 n.qcow2 1M",
    "create $S -f qcow2 -b s.raw -F raw -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 n.qcow2 && convert $S --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=n.qcow2 -O raw out.raw",
    "create $S -f qcow2 -o encrypt.format=luks n.qcow2 1M",
    "create $S -f qcow2 -o encrypt.format=luks,encrypt.key-secret=none n.qcow2 1M",
    "create $S -f qcow2 -o encrypt.format=aes,encrypt.key-secret=none n.qcow2 1M",
    "create $S -f qcow2 -o encrypt.key-secret=s n.qcow2 1M",
    "create $S -f qcow2 -o encryption=on n.qcow2 1M",
    "create $S -f qcow2 -o encryption=off,encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 n.qcow2 1M",
    "create $S -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=des n.qcow2 1M",
    "create --object secret,id=b,data=/w== -f qcow2 -o encrypt.format=aes,encrypt.key-secret=b n.qcow2 1M",
    "create --object secret,id=b,data=/w==,format=base64 -f qcow2 -o encrypt.format=aes,encrypt.key-secret=b n.qcow2 1M",
    "convert -c $S -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s s.raw out.qcow2",
    "convert $S -O qcow2 -o encrypt.format=luks s.raw out.qcow2",
    "convert $S -O qcow2 -o encrypt.format=luks,encrypt.key-secret=none s.raw out.qcow2",
    "convert $S -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,preallocation=metadata s.raw out.qcow2 && convert $S --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=out.qcow2 -O raw out.raw",
    "convert $S -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,preallocation=full s.raw out.qcow2 && convert $S --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=out.qcow2 -O raw out.raw",
    "convert $S -O qcow2 -S 0 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 s.raw out.qcow2 && map $S --output=json --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=out.qcow2",
    "convert $S -O qcow2 -C -o encrypt.format=aes,encrypt.key-secret=s s.raw out.qcow2 && convert $S --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=out.qcow2 -O raw out.raw",
    "convert $S -C --image-opts @ -O raw out.raw",
    "convert -c $S --image-opts @ -O qcow2 out.qcow2",
    "compare $S --image-opts @ driver=qcow2,encrypt.key-secret=s,file.filename=a.qcow2",
    "compare -s $S --image-opts @ driver=qcow2,encrypt.key-secret=s,file.filename=x.qcow2",
    "compare $S --image-opts @ driver=qcow2,encrypt.key-secret=w,file.filename=a.qcow2",
    "amend -o encrypt.state=active p.qcow2",
    "amend -o encrypt.keyslot=1 p.qcow2",
    "info --backing-chain o.qcow2",
    "info --output=json --backing-chain o.qcow2",
    "map o.qcow2",
    "map $S --output=json --image-opts driver=qcow2,file.filename=o.qcow2,backing.encrypt.key-secret=s",
    "map $S --output=json --image-opts driver=qcow2,file.filename=o.qcow2,backing.encrypt.key-secret=w",
    "convert $S --image-opts driver=qcow2,file.filename=o.qcow2,backing.encrypt.key-secret=s -O raw out.raw",
    "map $S --output=json 'json:{\"driver\":\"qcow2\",\"encrypt\":{\"key-secret\":\"s\"},\"file.filename\":\"l.qcow2\"}'",
    "map --object secret,id=s,data=cHc=,format=base64 --output=json --image-opts @",
    "map --object secret,id=s,file=s.raw --output=json --image-opts @",
    "measure -O qcow2 $S -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 --size 1G",
    "measure -O qcow2 $S -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,cluster_size=4k --image-opts @",
    "measure -O qcow2 -o encrypt.format=luks --size 1G",
    "measure -O qcow2 -o encrypt.format=luks,encrypt.key-secret=none --size 1G",
    "measure -O qcow2 -o encrypt.format=aes --size 1G",
];
