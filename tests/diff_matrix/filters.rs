//! Filters that `--image-opts`, `json:` and names put over images and files.

use crate::support::case::{Case, EMPTY, Files, Fixture};
use crate::support::suite::group;

/// All tables of this file.
pub fn cases() -> Vec<Case> {
    let mut all: Vec<Case> = SPECS.iter().flat_map(|spec| spec_cases(spec)).collect();
    all.extend(group("filters", DISKS, NAMES));
    all.extend(group("filters", DISKS, THROTTLE));
    all.extend(group("filters", DISKS, REFUSED));
    all.extend(group("filters", CHAIN, FAILING));
    all.extend(group("filters", CHAIN, BEGUN).into_iter().map(|case| case.files(Files::AnyLength)));
    all.extend(group("filters", DESCRIPTORS, PLACES).into_iter().map(|case| case.files(Files::Drawn)));
    all.extend(unreadable_headers());
    all.extend(group("filters", DISKS, DATA).into_iter().map(|case| case.files(Files::AnyLength)));
    all
}

fn spec_cases(spec: &str) -> Vec<Case> {
    let commands = [
        format!("info --image-opts '{spec}'"),
        format!("info --output=json --image-opts '{spec}'"),
        format!("compare --image-opts '{spec}' driver=raw,file.filename=r.raw"),
    ];
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    group("filters", DISKS, &commands)
}

const DISKS: Fixture = Fixture {
    name: "disks",
    pick: false,
    script: "create -f raw r.raw 1M
             fill r.raw 64k 64k 3
             create -f raw copy.raw 1M
             fill copy.raw 64k 64k 3
             create -f raw other.raw 1M
             fill other.raw 64k 64k 4
             create -f raw long.raw 2M
             create -f qcow2 q.qcow2 1M
             io q.qcow2 'write -P 3 64k 64k'
             create -f qcow2 empty.qcow2 1M
             text read.conf 0 '[inject-error]\\nevent = \"read_aio\"\\nerrno = \"28\"\\n'
             text none.conf 0 '[inject-error]\\nevent = \"none\"\\n'
             text foo.conf 0 '[foo]\\nevent = \"none\"\\n'
             text key.conf 0 '[inject-error]\\nfoo = \"none\"\\n'
             text garbage.conf 0 'garbage\\n'
             text empty.conf 0 '# nothing\\n'",
};

/// A chain of three, and what a request to read or write the guest's bytes fails with.
const CHAIN: Fixture = Fixture {
    name: "chain",
    pick: false,
    script: "create -f qcow2 base.q 2M
             io base.q 'write -P 1 0 1M'
             create -f qcow2 -b base.q -F qcow2 mid.q 2M
             io mid.q 'write -P 2 512k 1M'
             create -f qcow2 new.q 2M
             io new.q 'write -P 7 256k 1M'
             create -f raw r.raw 2M
             fill r.raw 0 2M 9
             create -f qcow2 small.q 1M
             text read.conf 0 '[inject-error]\\nevent = \"read_aio\"\\nerrno = \"5\"\\n'
             text once.conf 0 '[inject-error]\\nevent = \"read_aio\"\\nerrno = \"28\"\\nonce = \"on\"\\n'
             text write.conf 0 '[inject-error]\\nevent = \"write_aio\"\\nerrno = \"28\"\\nonce = \"on\"\\n'",
};

const FAILING: &[&str] = &[
    "rebase -u -b blkdebug:read.conf:base.q -F qcow2 mid.q && rebase -b new.q -F qcow2 mid.q",
    "rebase -u -b blkdebug:once.conf:base.q -F qcow2 mid.q && rebase -b '' mid.q",
    "rebase -b blkdebug:once.conf:r.raw -F raw mid.q",
    "rebase -b '' blkdebug:read.conf:mid.q",
    "rebase -u -b blkdebug:read.conf:base.q -F qcow2 mid.q && commit mid.q",
    "rebase -u -b blkdebug:read.conf:base.q -F qcow2 mid.q && convert -O raw mid.q out.raw",
    "rebase -u -b blkdebug:read.conf:base.q -F qcow2 mid.q && dd -O raw bs=64k if=mid.q of=out.raw",
    "rebase -u -b blkdebug:read.conf:base.q -F qcow2 mid.q && compare mid.q new.q",
    "rebase -u -b blkdebug:read.conf:base.q -F qcow2 mid.q && bench -c 1 -o 1M mid.q",
    "bench -c 1 blkdebug:read.conf:new.q",
    "bench -c 1 -o 256k blkdebug:read.conf:new.q",
    "convert -n -O qcow2 small.q blkdebug:read.conf:mid.q",
    "compare blkdebug:read.conf:new.q small.q",
    "compare small.q blkdebug:read.conf:r.raw",
    "compare -f raw -F qcow2 blkdebug:read.conf:r.raw small.q",
    "io small.q 'write -P 7 256k 768k' && compare blkdebug:read.conf:new.q new.q",
];

/// What leaves an image half changed, which reads as before.
const BEGUN: &[&str] =
    &["rebase -b '' blkdebug:write.conf:mid.q", "rebase -b blkdebug:read.conf:new.q -F qcow2 mid.q"];

/// What a disk longer than another says, where its rest can't be read, and names that need a folder.
const DESCRIPTORS: Fixture = Fixture {
    name: "descriptors",
    pick: false,
    script: "create -f vmdk -o subformat=monolithicFlat flat.vmdk 1M
             create -f vmdk a.vmdk 1M
             create -f raw r.raw 1M
             create -f qcow2 -b r.raw -F raw o.qcow2
             create -f raw same.raw 512k
             text tail.conf 0 '[inject-error]\\nevent = \"none\"\\niotype = \"read\"\\nsector = \"1400\"\\n'
             fill r.raw 700k 64k 3",
};

const PLACES: &[&str] = &[
    "info --image-opts driver=vmdk,file.driver=quorum,file.vote-threshold=1,file.children.0.driver=file,file.children.0.filename=flat.vmdk",
    "info --image-opts driver=vmdk,file.driver=blkverify,file.raw.filename=flat.vmdk,file.test.driver=file,file.test.filename=flat.vmdk",
    "map --image-opts driver=vmdk,file.driver=blkdebug,file.image.filename=flat.vmdk",
    "info --image-opts driver=qcow2,file.driver=blkverify,file.raw.filename=o.qcow2,file.test.driver=file,file.test.filename=o.qcow2",
    "info --backing-chain --image-opts driver=qcow2,file.driver=quorum,file.vote-threshold=1,file.children.0.driver=file,file.children.0.filename=o.qcow2",
    "map --image-opts driver=qcow2,file.driver=quorum,file.vote-threshold=1,file.children.0.driver=file,file.children.0.filename=o.qcow2",
    "check --image-opts driver=qcow2,file.driver=quorum,file.vote-threshold=1,file.children.0.driver=file,file.children.0.filename=o.qcow2",
    "map --image-opts driver=qcow2,file.driver=blkverify,file.raw.driver=file,file.raw.filename=o.qcow2,file.test.driver=file,file.test.filename=o.qcow2",
    "create -f vmdk -b \"json:{'driver':'vmdk','file':{'driver':'file','filename':'a.vmdk'}}\" -F vmdk o.vmdk && map o.vmdk",
    "create -u -f vmdk -b \"json:{'driver':'vmdk','file':{'driver':'file','filename':'a.vmdk'}}\" -F vmdk o.vmdk 1M && map o.vmdk",
    "create -f vmdk -b \"json:{'driver':'vmdk','file':{'driver':'file','filename':'nosuch'}}\" -F vmdk o.vmdk",
    "create -f vmdk -b \"json:{}\" -F vmdk o.vmdk",
    "create -f qcow2 -o data_file=blkdebug::d.raw x.qcow2 1M",
    "compare -f raw -F raw blkdebug:tail.conf:r.raw same.raw",
    "compare -q -f raw -F raw same.raw blkdebug:tail.conf:r.raw",
];

/// Drivers that a command has little use for, and what is said of them.
const REFUSED: &[&str] = &[
    "create -f blklogwrites x 1M",
    "convert -O snapshot-access r.raw x",
    "measure -O replication r.raw",
    "amend -f blklogwrites -o help",
    "create -f raw -o help null-co:x",
    "create -f raw -o help host_cdrom:x",
    "create -f host_cdrom -o help",
    "create -f host_cdrom x 1M",
    "create -f raw host_cdrom:x 1M",
    "convert -O host_cdrom r.raw x",
    "info host_cdrom:r.raw",
    "info host_cdrom:/dev/null",
    "info --output=json --image-opts driver=host_cdrom,filename=/dev/null",
    "info -f snapshot-access r.raw",
    "map -f snapshot-access r.raw",
    "convert -f snapshot-access -O raw r.raw x",
    "compare -f snapshot-access -F raw r.raw r.raw",
    "measure -f snapshot-access -O qcow2 r.raw",
    "bench -c 1 -f snapshot-access r.raw",
    "resize -f snapshot-access r.raw 4M",
    "create -f qcow2 -b r.raw -F snapshot-access o.qcow2",
    "rebase -u -b r.raw -F throttle empty.qcow2 && rebase -u -b r.raw -F blklogwrites empty.qcow2",
    "map --image-opts driver=replication,mode=primary,file.driver=qcow2,file.file.filename=q.qcow2",
    "convert -O raw --image-opts driver=blklogwrites,file.driver=qcow2,file.file.filename=q.qcow2,log.driver=file,log.filename=long.raw x",
    "bench -w -c 2 -d 1 --flush-interval=1 --pattern=5 --image-opts driver=blklogwrites,file.driver=file,file.filename=r.raw,log.driver=file,log.filename=long.raw",
];

/// A format's file that can't be read when it is opened.
fn unreadable_headers() -> Vec<Case> {
    const FORMATS: [&str; 8] = ["qcow2", "qcow", "qed", "vdi", "vmdk", "vpc", "vhdx", "parallels"];
    let rule = "blkdebug:fail.conf:disk";
    let mut all = Vec::new();
    let setup = "create -f raw disk 1M
                 text fail.conf 0 '[inject-error]\\nevent = \"none\"\\niotype = \"read\"\\nerrno = \"28\"\\n'";
    for format in FORMATS {
        let line = format!("info -f {format} {rule}");
        all.push(Case::new(format!("filters/unreadable header of {format}"), EMPTY, &line).with(setup));
    }
    all
}

const SPECS: &[&str] = &[
    "driver=blklogwrites",
    "driver=blklogwrites,file.filename=r.raw",
    "driver=blklogwrites,file.filename=r.raw,log.filename=long.raw",
    "driver=blklogwrites,file.driver=qcow2,file.file.filename=q.qcow2,log.filename=long.raw",
    "driver=qcow2,file.driver=blklogwrites,file.file.filename=q.qcow2,file.log.filename=long.raw",
    "driver=blklogwrites,file.filename=r.raw,log.filename=long.raw,log-sector-size=4096",
    "driver=blklogwrites,file.filename=r.raw,log.filename=long.raw,log-sector-size=3",
    "driver=blklogwrites,file.filename=r.raw,log.filename=long.raw,log-sector-size=16M",
    "driver=blklogwrites,file.filename=r.raw,log.filename=long.raw,log-append=on",
    "driver=blklogwrites,file.filename=r.raw,log.filename=long.raw,log-append=on,log-sector-size=512",
    "driver=blklogwrites,file.filename=r.raw,log.filename=long.raw,log-append=x",
    "driver=blklogwrites,file.filename=r.raw,log.filename=long.raw,log-super-update-interval=x",
    "driver=blklogwrites,file.filename=r.raw,log.filename=long.raw,log-super-update-interval=0",
    "driver=blklogwrites,file.filename=r.raw,log.filename=long.raw,foo=1",
    "driver=snapshot-access",
    "driver=snapshot-access,file.filename=r.raw",
    "driver=snapshot-access,file.filename=r.raw,foo=1",
    "driver=snapshot-access,file.driver=qcow2,file.file.filename=q.qcow2",
    "driver=qcow2,file.driver=snapshot-access,file.file.filename=q.qcow2",
    "driver=replication",
    "driver=replication,file.filename=r.raw",
    "driver=replication,file.driver=qcow2,file.file.filename=q.qcow2,mode=primary",
    "driver=replication,file.driver=qcow2,file.file.filename=q.qcow2,mode=primary,top-id=x",
    "driver=replication,file.driver=qcow2,file.file.filename=q.qcow2,mode=secondary",
    "driver=replication,file.driver=qcow2,file.file.filename=q.qcow2,mode=secondary,top-id=x",
    "driver=replication,file.driver=qcow2,file.file.filename=q.qcow2,mode=foo",
    "driver=replication,file.driver=qcow2,file.file.filename=q.qcow2,mode=primary,foo=1",
    "driver=host_cdrom",
    "driver=host_cdrom,filename=r.raw",
    "driver=blkdebug",
    "driver=blkdebug,image=foo",
    "driver=blkdebug,file.driver=file,file.filename=r.raw",
    "driver=blkdebug,image.driver=file,image.filename=r.raw",
    "driver=blkdebug,image.filename=nosuch",
    "driver=blkdebug,image.driver=qcow2,image.file.filename=q.qcow2",
    "driver=raw,file.driver=blkdebug,file.image.filename=r.raw",
    "driver=qcow2,file.driver=blkdebug,file.image.filename=q.qcow2",
    "driver=blkdebug,align=3,image.driver=file,image.filename=r.raw",
    "driver=blkdebug,align=0,image.driver=file,image.filename=r.raw",
    "driver=blkdebug,align=4096,image.driver=file,image.filename=r.raw",
    "driver=blkdebug,align=2G,image.driver=file,image.filename=r.raw",
    "driver=blkdebug,align=foo,image.driver=file,image.filename=r.raw",
    "driver=blkdebug,max-transfer=65536,image.driver=file,image.filename=r.raw",
    "driver=blkdebug,align=512,max-transfer=513,image.driver=file,image.filename=r.raw",
    "driver=blkdebug,max-transfer=-1,image.driver=file,image.filename=r.raw",
    "driver=blkdebug,opt-write-zero=1k,max-write-zero=2k,image.driver=file,image.filename=r.raw",
    "driver=blkdebug,opt-write-zero=1024,max-write-zero=512,image.driver=file,image.filename=r.raw",
    "driver=blkdebug,opt-discard=3,max-discard=7,image.driver=file,image.filename=r.raw",
    "driver=blkdebug,foo=1,image.driver=file,image.filename=r.raw",
    "driver=blkdebug,take-child-perms.0=write,image.driver=file,image.filename=r.raw",
    "driver=blkdebug,take-child-perms.0=foo,image.driver=file,image.filename=r.raw",
    "driver=blkdebug,unshare-child-perms.0=write,image.driver=file,image.filename=r.raw",
    "driver=blkdebug,inject-error.0.event=foo,image.driver=file,image.filename=r.raw",
    "driver=blkdebug,inject-error.0.foo=1,image.driver=file,image.filename=r.raw",
    "driver=blkdebug,inject-error.0.errno=5,image.driver=file,image.filename=r.raw",
    "driver=blkdebug,inject-error.0.event=none,inject-error.0.errno=foo,image.driver=file,image.filename=r.raw",
    "driver=blkdebug,inject-error.0.event=none,inject-error.0.iotype=foo,image.driver=file,image.filename=r.raw",
    "driver=blkdebug,inject-error.0.event=none,inject-error.0.once=foo,image.driver=file,image.filename=r.raw",
    "driver=blkdebug,inject-error.5.event=none,image.driver=file,image.filename=r.raw",
    "driver=blkdebug,inject-error=foo,image.driver=file,image.filename=r.raw",
    "driver=blkdebug,set-state.0.event=read_aio,set-state.0.new_state=2,image.driver=file,image.filename=r.raw",
    "driver=blkdebug,set-state.0.event=none,set-state.0.foo=1,image.driver=file,image.filename=r.raw",
    "driver=blkdebug,config=nosuch,image.driver=file,image.filename=r.raw",
    "driver=blkdebug,config=empty.conf,image.driver=file,image.filename=r.raw",
    "driver=throttle",
    "driver=throttle,file=foo",
    "driver=throttle,file.driver=file,file.filename=r.raw",
    "driver=throttle,throttle-group=g,file.filename=r.raw",
    "driver=preallocate",
    "driver=preallocate,file=foo",
    "driver=preallocate,file.filename=r.raw",
    "driver=preallocate,file.filename=r.raw,foo=1",
    "driver=preallocate,prealloc-align=3,file.filename=r.raw",
    "driver=preallocate,prealloc-size=0,file.filename=r.raw",
    "driver=preallocate,prealloc-size=foo,file.filename=r.raw",
    "driver=raw,file.driver=preallocate,file.file.filename=r.raw",
    "driver=copy-on-read",
    "driver=copy-on-read,file.filename=r.raw",
    "driver=compress",
    "driver=compress,file.driver=file,file.filename=r.raw",
    "driver=compress,file.driver=raw,file.file.filename=r.raw",
    "driver=compress,file.driver=qcow2,file.file.filename=q.qcow2",
    "driver=quorum",
    "driver=quorum,file.filename=r.raw",
    "driver=quorum,vote-threshold=1,children.0.driver=raw,children.0.file.filename=r.raw",
    "driver=quorum,vote-threshold=2,children.0.driver=raw,children.0.file.filename=r.raw,children.1.driver=raw,children.1.file.filename=copy.raw",
    "driver=quorum,vote-threshold=2,children.0.driver=raw,children.0.file.filename=r.raw,children.1.driver=qcow2,children.1.file.filename=q.qcow2",
    "driver=quorum,vote-threshold=2,children.0.driver=raw,children.0.file.filename=r.raw,children.1.driver=raw,children.1.file.filename=other.raw",
    "driver=quorum,vote-threshold=2,children.0.driver=raw,children.0.file.filename=r.raw,children.1.driver=raw,children.1.file.filename=other.raw,children.2.driver=raw,children.2.file.filename=copy.raw",
    "driver=quorum,vote-threshold=1,read-pattern=fifo,children.0.driver=raw,children.0.file.filename=r.raw,children.1.driver=raw,children.1.file.filename=other.raw",
    "driver=quorum,vote-threshold=1,read-pattern=foo,children.0.driver=raw,children.0.file.filename=r.raw",
    "driver=quorum,vote-threshold=2,blkverify=on,children.0.driver=raw,children.0.file.filename=r.raw,children.1.driver=raw,children.1.file.filename=copy.raw",
    "driver=quorum,vote-threshold=3,children.0.driver=raw,children.0.file.filename=r.raw,children.1.driver=raw,children.1.file.filename=copy.raw",
    "driver=quorum,vote-threshold=0,children.0.driver=raw,children.0.file.filename=r.raw",
    "driver=quorum,children.0.driver=raw,children.0.file.filename=r.raw",
    "driver=quorum,vote-threshold=1,foo=1,children.0.driver=raw,children.0.file.filename=r.raw",
    "driver=quorum,vote-threshold=1,rewrite-corrupted=on,children.0.driver=raw,children.0.file.filename=r.raw",
    "driver=quorum,vote-threshold=1,children.0.filename=r.raw",
    "driver=quorum,vote-threshold=2,children.0.driver=raw,children.0.file.filename=r.raw,children.1.driver=raw,children.1.file.filename=long.raw",
    "driver=blkverify",
    "driver=blkverify,raw.filename=r.raw",
    "driver=blkverify,test.filename=q.qcow2",
    "driver=blkverify,raw.filename=r.raw,test.filename=q.qcow2",
    "driver=blkverify,raw.driver=raw,raw.file.filename=r.raw,test.driver=qcow2,test.file.filename=q.qcow2",
    "driver=nosuch",
    "driver=blkreplay",
];

const NAMES: &[&str] = &[
    "info blkdebug:",
    "info blkdebug:q.qcow2",
    "info blkdebug::q.qcow2",
    "info --output=json blkdebug::q.qcow2",
    "info blkdebug:empty.conf:q.qcow2",
    "info blkdebug:read.conf:q.qcow2",
    "info blkdebug:nosuch:q.qcow2",
    "info blkdebug:foo.conf:q.qcow2",
    "info blkdebug:key.conf:q.qcow2",
    "info blkdebug:garbage.conf:q.qcow2",
    "info blkdebug:none.conf:q.qcow2",
    "info -f raw blkdebug:none.conf:q.qcow2",
    "info -f qcow2 blkdebug::q.qcow2",
    "info -f blkdebug r.raw",
    "info -f quorum r.raw",
    "info -f throttle r.raw",
    "create -f qcow2 blkdebug::x.qcow2 1M",
    "create -f raw blkdebug::x.raw 1M",
    "create -f throttle x 1M",
    "create -f blkdebug x 1M",
    "convert r.raw blkdebug::x.raw",
    "convert -n -f raw -O raw r.raw blkdebug::long.raw",
    "convert -O raw blkdebug:none.conf:q.qcow2 out.raw",
    "convert -f raw blkdebug:read.conf:r.raw out.raw",
    "compare -f raw -F raw blkdebug:read.conf:r.raw r.raw",
    "compare -f raw -F raw r.raw blkdebug:read.conf:long.raw",
    "check blkdebug::q.qcow2",
    "map --output=json blkdebug::q.qcow2",
    "dd if=r.raw of=blkdebug::x.raw",
    "info blkverify:",
    "info blkverify:r.raw",
    "info blkverify:r.raw:q.qcow2",
    "compare blkverify:r.raw:q.qcow2 r.raw",
    "info throttle:r.raw",
    "info quorum:r.raw",
];

const THROTTLE: &[&str] = &[
    "info --object throttle-group,id=g --image-opts driver=throttle,throttle-group=g,file.filename=r.raw",
    "info --object throttle-group,id=g,x-iops-total=10 --image-opts driver=throttle,throttle-group=g,file.filename=r.raw",
    "info --object throttle-group,id=g,limits.iops-total=10 --image-opts driver=throttle,throttle-group=g,file.filename=r.raw",
    "info --output=json --object throttle-group,id=g --image-opts driver=throttle,throttle-group=g,file.filename=r.raw",
    "info --object throttle-group,id=g --image-opts driver=throttle,throttle-group=h,file.filename=r.raw",
    "info --object throttle-group,id=g,foo=1 r.raw",
    "info --object throttle-group r.raw",
    "info --object throttle-group,id=g,x-iops-total=-1 r.raw",
    "info --object throttle-group,id=g,x-bps-total=10,x-bps-read=10 r.raw",
    "info --object throttle-group,help",
    "info --object throttle-group,id=g --object throttle-group,id=g r.raw",
    "map --output=json --object throttle-group,id=g --image-opts driver=throttle,throttle-group=g,file.driver=qcow2,file.file.filename=q.qcow2",
    "check --object throttle-group,id=g --image-opts driver=throttle,throttle-group=g,file.driver=qcow2,file.file.filename=q.qcow2",
    "convert --object throttle-group,id=g,x-bps-total=100000000 --image-opts driver=throttle,throttle-group=g,file.driver=qcow2,file.file.filename=q.qcow2 out.raw",
];

const DATA: &[&str] = &[
    "convert -n --target-image-opts r.raw driver=compress,file.driver=qcow2,file.file.filename=empty.qcow2 && check empty.qcow2",
    "convert -n --target-image-opts r.raw driver=preallocate,file.filename=long.raw",
    "convert -n --target-image-opts r.raw driver=qcow2,file.driver=blkdebug,file.image.filename=empty.qcow2 && check empty.qcow2",
    "convert -n --target-image-opts r.raw driver=quorum,vote-threshold=2,children.0.driver=raw,children.0.file.filename=other.raw,children.1.driver=qcow2,children.1.file.filename=empty.qcow2",
    "convert -n --target-image-opts other.raw driver=copy-on-read,file.driver=qcow2,file.file.filename=q.qcow2",
    "convert -n --target-image-opts long.raw driver=quorum,vote-threshold=1,children.0.driver=raw,children.0.file.filename=r.raw",
    "resize --image-opts driver=preallocate,file.filename=r.raw 2M",
    "resize --image-opts driver=qcow2,file.driver=blkdebug,file.image.filename=q.qcow2 2M",
    "bench -w -c 4 --pattern 5 --image-opts driver=raw,file.driver=blkdebug,file.align=4096,file.image.filename=r.raw",
];
