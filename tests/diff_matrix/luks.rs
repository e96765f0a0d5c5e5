//! LUKS volumes: every command with the right, a wrong and no secret, detached headers, key slots, damaged headers, and
//! what is refused.

use crate::fixtures::SECRETS;
use crate::support::case::{Case, Files, Fixture};
use crate::support::suite::{group, patched};

/// All tables of this file.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for image in ["l", "x", "e"] {
        for line in EACH {
            all.extend(group("luks", IMAGES, &[&spelt(line, image)]));
        }
    }
    for line in ONCE {
        all.extend(group("luks", IMAGES, &[&spelt(line, "l")]));
    }
    for line in ["info %", "map $S --output=json --image-opts @"] {
        all.extend(patched(&format!("luks/{line}"), IMAGES, &spelt(line, "l"), DAMAGE));
    }
    all.into_iter()
        .map(|case| case.files(Files::Encrypted))
        .map(|case| if makes_keys(&case.name) { case.slow() } else { case })
        .collect()
}

/// The oracle takes seconds for each new key slot: it measures how fast keys are derived.
fn makes_keys(name: &str) -> bool {
    let quick = ["=none", "=foo", "=bad", "keyslot=9", "keyslot=0", "detached-header=on"];
    (name.contains("iter-time=10") || name.contains("measure -O luks"))
        && name.contains("-o ")
        && !quick.iter().any(|text| name.contains(text))
        && !EVERY_TIME.iter().any(|line| name.ends_with(&spelt(line, "l")))
}

/// New key slots that are made nevertheless.
const EVERY_TIME: &[&str] = &[
    "convert $S -O luks -o key-secret=s,iter-time=10 s.raw out.luks && convert $S --image-opts driver=luks,key-secret=s,file.filename=out.luks -O raw out.raw",
    "amend $S -o state=active,new-secret=w,iter-time=10 --image-opts @ && map $S --output=json --image-opts driver=luks,key-secret=w,file.filename=% && amend $S -o state=inactive,old-secret=s --image-opts driver=luks,key-secret=w,file.filename=% && map $S --image-opts @",
];

/// `$S`: secrets; `@`: the image with its secret; `#`: a new one with its secret; `%`: the image's name.
fn spelt(line: &str, image: &str) -> String {
    line.replace("$S", SECRETS)
        .replace('@', &format!("driver=luks,key-secret=s,file.filename={image}.luks"))
        .replace('#', "driver=luks,key-secret=s,file.filename=n.luks")
        .replace('%', &format!("{image}.luks"))
}

/// `l` by default; `x` of an odd length with another cipher; `e` without a payload; `p` is filled later.
const IMAGES: Fixture = Fixture {
    name: "images",
    pick: false,
    script: "create -f raw s.raw 1M
             fill s.raw 0 100k 0x11
             fill s.raw 512k 4k 0x22
             img convert --object secret,id=s,data=pw -O luks -o key-secret=s,iter-time=10 s.raw l.luks
             create --object secret,id=s,data=pw -f luks -o key-secret=s,iter-time=10,cipher-alg=serpent-128,cipher-mode=cbc,ivgen-alg=essiv,hash-alg=sha512 x.luks 300001
             create --object secret,id=s,data=pw -f luks -o key-secret=s,iter-time=10,cipher-alg=aes-128,ivgen-hash-alg=sha1 e.luks 0",
};

/// Changes of the header.
const DAMAGE: &[(&str, &str)] = &[
    ("magic", "hex l.luks 0 00"),
    ("version", "hex l.luks 6 0002"),
    ("cipher", "hex l.luks 8 7878"),
    ("cipher without end", "fill l.luks 8 32 0x61"),
    ("mode", "hex l.luks 40 7878"),
    ("mode without generator", "hex l.luks 43 00"),
    ("hash", "hex l.luks 72 7878"),
    ("payload at 0", "be32 l.luks 104 0"),
    ("payload in the header", "be32 l.luks 104 1"),
    ("payload in the material", "be32 l.luks 104 8"),
    ("payload far away", "be32 l.luks 104 2147483647"),
    ("payload at the end", "be32 l.luks 104 6088"),
    ("payload behind the end", "be32 l.luks 104 6089"),
    ("key length", "be32 l.luks 108 2147483647"),
    ("no iterations", "be32 l.luks 164 0"),
    ("slot state", "be32 l.luks 208 5"),
    ("slot without iterations", "be32 l.luks 212 0"),
    ("slot in the header", "be32 l.luks 248 7"),
    ("slot stripes", "be32 l.luks 252 3000"),
    ("salt", "hex l.luks 216 0000"),
    ("file cut in the material", "truncate l.luks 300000"),
    ("file cut before the payload", "truncate l.luks 2068400"),
    ("file cut far before the payload", "truncate l.luks 2067456"),
    ("file cut in the payload", "truncate l.luks 2100001"),
    ("file cut in the header", "truncate l.luks 300"),
];

/// For each image.
const EACH: &[&str] = &[
    "info %",
    "info --output=json %",
    "info $S --image-opts @",
    "info $S --output=json --image-opts @",
    "info --image-opts driver=luks,file.filename=%",
    "create -f qcow2 -b % -F luks n.qcow2",
    "check %",
    "check $S --image-opts @",
    "check $S --output=json --image-opts @",
    "map %",
    "map $S --image-opts @",
    "map $S --output=json --image-opts @",
    "map $S --image-opts driver=luks,key-secret=w,file.filename=%",
    "map $S --image-opts driver=luks,key-secret=none,file.filename=%",
    "convert % out.raw",
    "convert $S --image-opts @ -O raw out.raw",
    "convert $S --image-opts @ -O qcow2 out.qcow2 && convert out.qcow2 out.raw",
    "convert $S --image-opts @ -O luks -o key-secret=w,iter-time=10 out.luks && convert $S --image-opts driver=luks,key-secret=w,file.filename=out.luks -O raw out.raw",
    "compare % s.raw",
    "compare $S --image-opts @ driver=raw,file.filename=s.raw",
    "compare $S --image-opts @ @",
    "resize % 2M",
    "resize $S --image-opts @ 3000k && map $S --output=json --image-opts @",
    "resize $S --image-opts @ +1000 && map $S --output=json --image-opts @",
    "resize $S --image-opts @ 1000",
    "resize $S --shrink --image-opts @ 1000 && map $S --output=json --image-opts @",
    "resize $S --preallocation=full --image-opts @ 2M",
    "resize $S --preallocation=falloc --image-opts @ 2M",
    "resize $S --preallocation=metadata --image-opts @ 2M",
    "measure -O luks $S -o key-secret=s,iter-time=10 --image-opts @",
    "measure -O raw $S --image-opts @",
    "snapshot -l %",
    "snapshot $S -c one --image-opts @",
    "convert -n $S --target-image-opts s.raw @ && convert $S --image-opts @ -O raw out.raw",
    "convert -n s.raw -O luks %",
    "amend -o state=active %",
    "amend $S -o iter-time=10 --image-opts @",
    "amend $S -o foo=10 --image-opts @",
    "amend $S -o cipher-alg=aes-128 --image-opts @",
    "amend $S -o state=active --image-opts @",
    "amend $S -o state=foo --image-opts @",
    "amend $S -o state=active,new-secret=none --image-opts @",
    "amend $S -o state=active,new-secret=w,keyslot=0 --image-opts @",
    "amend $S -o state=active,new-secret=w,keyslot=9 --image-opts @",
    "amend $S -o state=active,new-secret=w,keyslot=-1 --image-opts @",
    "amend $S -o state=inactive,keyslot=0 --image-opts @",
    "amend $S -o state=inactive,keyslot=4 --image-opts @",
    "amend $S -o state=inactive,old-secret=w --image-opts @",
    "amend $S -o state=active,new-secret=w,iter-time=10 --image-opts @ && map $S --output=json --image-opts driver=luks,key-secret=w,file.filename=% && amend $S -o state=inactive,old-secret=s --image-opts driver=luks,key-secret=w,file.filename=% && map $S --image-opts @",
];

/// Once.
const ONCE: &[&str] = &[
    "create -f luks -o help",
    "create -f luks -o help n.luks",
    "amend -f luks -o help",
    "convert -O luks -o help",
    "create $S -f luks -o key-secret=s,iter-time=10 n.luks 1M && map $S --output=json --image-opts #",
    "create $S -f luks -o key-secret=s,iter-time=10 n.luks 1000 && map $S --output=json --image-opts #",
    "create $S -f luks -o key-secret=s,iter-time=10 n.luks 0 && convert $S --image-opts # -O raw out.raw",
    "create -q $S -f luks -o key-secret=s,iter-time=10,cipher-alg=twofish-256,cipher-mode=ctr,hash-alg=sha1 n.luks 1M && convert -n $S --target-image-opts s.raw # && convert $S --image-opts # -O raw out.raw",
    "create $S -f luks -o key-secret=s,iter-time=10,preallocation=off n.luks 1M",
    "create $S -f luks -o key-secret=s,iter-time=10,preallocation=metadata n.luks 1M",
    "create $S -f luks -o key-secret=s,iter-time=10,preallocation=falloc n.luks 1M",
    "create $S -f luks -o key-secret=s,iter-time=10,preallocation=full n.luks 1M",
    "create $S -f luks -o key-secret=s,iter-time=10,preallocation=bad n.luks 1M",
    "create $S -f luks -o iter-time=10,preallocation=bad n.luks 1M",
    "create $S -f luks -o detached-header=off,ivgen-alg=plain64,ivgen-hash-alg=sha256,hash-alg=sha256,iter-time=10,cipher-mode=xts,cipher-alg=aes-256,key-secret=s n.luks 1M",
    "create -f luks n.luks 1M",
    "create -f luks -o key-secret=none n.luks 1M",
    "create -f luks -o key-secret=none,cipher-alg=foo n.luks 1M",
    "create -f luks -o hash-alg=foo n.luks 1M",
    "create -f luks -o cipher-mode=foo n.luks 1M",
    "create -f luks -o ivgen-alg=foo n.luks 1M",
    "create -f luks -o ivgen-hash-alg=foo n.luks 1M",
    "create -f luks -o foo=foo n.luks 1M",
    "create $S -f luks -o key-secret=s,detached-header=on n.luks 1M",
    "create $S -f luks -o detached-header=off n.luks 1M",
    "create $S -f luks -o detached-header=maybe n.luks 1M",
    "create $S -f luks -o key-secret=s,cipher-alg=des n.luks 1M",
    "create $S -f luks -o key-secret=none,cipher-alg=des n.luks 1M",
    "create $S -f luks -o key-secret=s,cipher-alg=cast5-128 n.luks 1M",
    "create $S -f luks -o key-secret=s,ivgen-alg=essiv,ivgen-hash-alg=sha1 n.luks 1M",
    "create $S -f luks -o key-secret=s,iter-time=10 n.luks 9223372036854775807",
    "create $S -f luks -o key-secret=s,iter-time=10 n.luks 9223372036852700000",
    "create $S -f luks -o key-secret=s,iter-time=10 n.luks 8E",
    "create $S -f luks -o key-secret=s n.luks",
    "create $S -f luks -b s.raw -F raw -o key-secret=s n.luks 1M",
    "create --object secret,id=b,data=/w==,format=base64 -f luks -o key-secret=b n.luks 1M",
    "convert -O luks s.raw out.luks",
    "convert $S -O luks -o key-secret=none s.raw out.luks",
    "convert -c $S -O luks -o key-secret=s,iter-time=10 s.raw out.luks",
    "convert $S -O luks -o key-secret=s,iter-time=10 s.raw out.luks && convert $S --image-opts driver=luks,key-secret=s,file.filename=out.luks -O raw out.raw",
    "convert $S -O luks -o key-secret=s,iter-time=10,preallocation=full s.raw out.luks && convert $S --image-opts driver=luks,key-secret=s,file.filename=out.luks -O raw out.raw",
    "convert $S -S 0 -O luks -o key-secret=s,iter-time=10 s.raw out.luks && convert $S --image-opts driver=luks,key-secret=s,file.filename=out.luks -O raw out.raw",
    "measure -O luks --size 1M",
    "measure -O luks $S -o key-secret=s,iter-time=10 --size 1000",
    "measure -O luks $S -o key-secret=s,iter-time=10,cipher-alg=aes-128 --size 1G",
    "measure -O luks $S -o key-secret=none --size 1G",
    "measure -O luks $S -o key-secret=s,cipher-alg=foo --size 1G",
    "measure -O luks $S -o key-secret=s,detached-header=on --size 1G",
    "measure -O luks $S -o key-secret=s,iter-time=10,preallocation=full --output=json s.raw",
    "info --image-opts driver=luks,file.filename=l.luks,foo=1",
    "info --image-opts driver=luks,file.filename=s.raw",
    "info -f luks s.raw",
    "convert -f luks s.raw out.raw",
    "info --image-opts driver=luks,file.filename=l.luks,header=x",
    "info --image-opts driver=luks,file.filename=l.luks,header.filename=none",
    "map $S --output=json --image-opts driver=luks,key-secret=s,file.filename=l.luks,header.filename=none",
    "map $S --output=json 'json:{\"driver\":\"luks\",\"key-secret\":\"s\",\"file\":{\"driver\":\"file\",\"filename\":\"l.luks\"}}'",
    "map --object secret,id=s,data=cHc=,format=base64 --output=json --image-opts @",
    "convert $S --image-opts driver=luks,key-secret=s,file.filename=s.raw,header.filename=x.luks -O raw out.raw",
    "compare -s $S --image-opts @ driver=luks,key-secret=s,file.filename=x.luks",
];
