//! Exports of `qemu-nbd` beside the installed `qemu-img`: names and options that are right and wrong, what is displayed and
//! mapped, conversion both ways, creation in existing exports, other formats over the network, servers that serve once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

#[path = "support/pair.rs"]
mod pair;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use diskimg_testkit::{Oracle, suite};
use pair::{OURS, Pair, patches};

/// What the host decides, or chance.
const PAIR: Pair = Pair {
    masked: &["disk size: ", "    cid: ", "\"actual-size\": ", "Run completed in "],
    unheard: &["GLib: "],
};
const MIB: usize = 1 << 20;

/// Names that no server is asked for, or that no server answers to.
const NAMES: &[&str] = &[
    "nbd:",
    "nbd:localhost",
    "nbd:localhost:1",
    "nbd:localhost:1:exportname=",
    "nbd:localhost:1:exportname=x",
    "nbd:localhost:http",
    "nbd:1:2:3",
    "nbd:/x",
    "nbd:unix",
    "nbd:unix:",
    "nbd:unix:/nosuch",
    "nbd://localhost:1/e",
    "nbd+tcp://localhost:1",
    "nbd://[::1]:1/f",
    "nbd://us%20er@localhost:1/%41b?#frag",
    "nbd://h:66666/x",
    "nbd://localhost/x?y=z",
    "nbd:///x",
    "nbd+unix:///e",
    "nbd+unix:///e?sock=q",
    "nbd+unix:///e?socket=q&x=y",
    "nbd+unix:///e?socket=/a%zz",
    "nbd+unix://localhost/e?socket=/q",
    "nbd+unix:/a?socket=/q",
    "nbds://h",
    "nbd+foo://x",
];
/// Options behind `driver=nbd`; `P` stands for the path of a server's socket.
const OPTIONS: &[&str] = &[
    "",
    ",host=localhost",
    ",port=1",
    ",host=localhost,port=1",
    ",path=/nosuch,host=x",
    ",path=P,export=exp",
    ",path=P,server.type=unix",
    ",server.type=foo",
    ",server.type=inet",
    ",server.type=inet,server.host=h",
    ",server.type=inet,server.host=localhost,server.port=1",
    ",server.type=inet,server.host=localhost,server.port=1,server.ipv6=x",
    ",server.type=unix",
    ",server.path=P",
    ",server.type=unix,server.path=P,server.foo=1",
    ",server.type=unix,server.path=P,export=exp",
    ",server.type=unix,server.path=P,export=exp,bar=1",
    ",server.type=unix,server.path=P,export=exp,tls-creds=foo",
    ",server.type=unix,server.path=P,export=exp,reconnect-delay=x",
    ",server.type=unix,server.path=P,export=exp,reconnect-delay=5,open-timeout=1",
    ",server.type=unix,server.path=P,export=exp,x-dirty-bitmap=qemu:dirty-bitmap:b",
    ",server.type=unix,server.path=/nosuch,open-timeout=1",
];

fn main() -> ExitCode {
    suite::run(vec![
        suite::with_oracle("names and options", names),
        suite::with_oracle("what is displayed", displayed),
        suite::with_oracle("contents both ways", contents),
        suite::with_oracle("creation in exports", creation),
        suite::with_oracle("bitmaps and depths", contexts),
        suite::with_oracle("a server that serves once", once),
        suite::with_oracle("read-only exports", read_only),
        suite::with_oracle("relative names in exports", relative),
    ])
}

/// A running `qemu-nbd`, ended when dropped.
struct Nbd {
    child: Child,
    socket: PathBuf,
}

impl Nbd {
    /// Exports `file` in `folder` at the socket `name`.
    fn start(oracle: &Oracle, folder: &Path, name: &str, args: &[&str]) -> Self {
        let socket = folder.join(name);
        let beside = oracle.img.with_file_name("qemu-nbd");
        let mut command = Command::new(if beside.is_file() { beside } else { "qemu-nbd".into() });
        command.current_dir(folder).arg("-k").arg(&socket).args(args);
        let child = command.stderr(Stdio::null()).spawn().expect("qemu-nbd runs");
        let nbd = Self { child, socket };
        for _ in 0..1000 {
            if nbd.listens() {
                return nbd;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("qemu-nbd does not listen");
    }

    /// The socket is there a moment before it takes connections.
    fn listens(&self) -> bool {
        let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
        sockets.lines().any(|line| line.ends_with(self.path()) && line.contains(" 00010000 "))
    }

    fn path(&self) -> &str {
        self.socket.to_str().unwrap()
    }

    fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.path())
    }
}

impl Drop for Nbd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Data and holes.
fn source(len: usize) -> Vec<u8> {
    patches(len, 300_001, 200_000)
}

fn names(oracle: &Oracle) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("a.raw"), source(MIB)).unwrap();
    let server = Nbd::start(oracle, folder, "s", &["-t", "-f", "raw", "-x", "exp", "a.raw"]);
    let path = server.path();
    let long = "x".repeat(5000);
    let with_server = [
        server.uri("exp"),
        server.uri("nope"),
        server.uri("/exp"),
        format!("nbd:unix:{path}:exportname=exp"),
        format!("nbd:unix:{path}"),
        format!("nbd:unix:{path}:exportname={long}"),
        format!("nbd+unix:///e?socket={long}"),
    ];
    for name in with_server.iter().map(String::as_str).chain(NAMES.iter().copied()) {
        PAIR.same(folder, &["info", name]);
    }
    for options in OPTIONS {
        let text = format!("driver=nbd{}", options.replace('P', path));
        PAIR.same(folder, &["info", "--image-opts", &text]);
    }
    PAIR.same(
        folder,
        &[
            "info",
            &format!("json:{{'driver':'nbd','server':{{'type':'unix','path':'{path}'}},'export':'exp'}}"),
        ],
    );
    PAIR.same(
        folder,
        &[
            "info",
            &format!("json:{{'driver':'raw','file':{{'driver':'nbd','path':'{path}','export':'exp'}}}}"),
        ],
    );
    for options in ["file.server.type=unix,file.server.path=P,file.export=exp", "file.path=P,file.export=exp"]
    {
        let text = format!("driver=raw,size=512,file.driver=nbd,{}", options.replace('P', path));
        PAIR.same(folder, &["info", "--image-opts", &text]);
    }
}

fn displayed(oracle: &Oracle) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut bytes = source(MIB);
    bytes[200_000..300_000].fill(0);
    std::fs::write(folder.join("a.raw"), bytes).unwrap();
    let server = Nbd::start(oracle, folder, "s", &["-t", "-f", "raw", "-x", "a b/c", "a.raw"]);
    let name = &server.uri("a%20b/c");
    for args in [
        &["info", name][..],
        &["info", "--output=json", name],
        &["info", "-f", "nbd", name],
        &["map", name],
        &["map", "--output=json", name],
        &["map", "-f", "nbd", "--output=json", name],
        &["measure", "-O", "qcow2", name],
        &["measure", "-O", "raw", name],
        &["check", name],
        &["snapshot", "-l", name],
        &["resize", "-f", "raw", name, "2M"],
        &["resize", "-f", "raw", "--shrink", name, "512k"],
        &["resize", "-f", "raw", name, "+0"],
        &["resize", name, "+0"],
        &["bench", "-c", "20", "-d", "4", "-f", "raw", name],
        &["create", "-f", "qcow2", "-b", name, "-F", "raw", "top.qcow2"],
        &["info", "top.qcow2"],
        &["info", "--backing-chain", "top.qcow2"],
        &["map", "--output=json", "top.qcow2"],
        &["create", "-f", "qcow2", "-b", "nbd:unix:/nosuch", "-F", "raw", "bad.qcow2"],
        &["create", "-f", "qcow2", "-u", "-b", "nbd:unix:/nosuch", "-F", "raw", "bad.qcow2", "1M"],
        &["convert", "-O", "raw", "bad.qcow2", "x.raw"],
        &["create", "-f", "nbd", "-o", "help"],
        &["create", "-f", "raw", "-o", "help", name],
        &["create", "-f", "qcow2", "-o", "help", name],
    ] {
        PAIR.same(folder, args);
    }
}

fn contents(oracle: &Oracle) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let bytes = source(5 * MIB);
    std::fs::write(folder.join("src.raw"), &bytes).unwrap();
    for format in ["raw", "qcow2"] {
        PAIR.must("qemu-img", folder, &["convert", "-f", "raw", "-O", format, "src.raw", "src.img"]);
        let file = std::fs::File::create(folder.join("to.img")).unwrap();
        file.set_len(8 << 20).unwrap();
        let from = Nbd::start(oracle, folder, "from", &["-t", "-r", "-e", "0", "-f", format, "src.img"]);
        let to = Nbd::start(oracle, folder, "to", &["-t", "-e", "0", "-f", "raw", "to.img"]);
        PAIR.must(OURS, folder, &["convert", "-O", "raw", &from.uri(""), "out.raw"]);
        assert!(std::fs::read(folder.join("out.raw")).unwrap() == bytes, "read over the network: {format}");
        PAIR.must(OURS, folder, &["compare", "-f", "raw", "-F", "raw", &from.uri(""), "src.raw"]);
        PAIR.must(OURS, folder, &["convert", "-n", "-f", "raw", "-O", "raw", &from.uri(""), &to.uri("")]);
        PAIR.must(
            OURS,
            folder,
            &["dd", "-f", "raw", "-O", "raw", &format!("if={}", from.uri("")), "of=dd.raw", "bs=100k"],
        );
        drop(to);
        assert!(std::fs::read(folder.join("dd.raw")).unwrap() == bytes);
        assert!(std::fs::read(folder.join("to.img")).unwrap()[..bytes.len()] == bytes);
        // A format over the network, written by ours and read by theirs.
        let to = Nbd::start(oracle, folder, "to", &["-t", "-e", "0", "-f", "raw", "to.img"]);
        for options in
            [&["-O", "qcow2"][..], &["-c", "-O", "qcow2"], &["-O", "qcow2", "-o", "cluster_size=4k"]]
        {
            let names = [&from.uri("")[..], &to.uri("")];
            PAIR.must(OURS, folder, &[&["convert"], options, &names].concat());
            PAIR.must("qemu-img", folder, &["check", "-f", "qcow2", &to.uri("")]);
            PAIR.must("qemu-img", folder, &["compare", "-f", "qcow2", "-F", "raw", &to.uri(""), "src.raw"]);
            PAIR.must(OURS, folder, &["check", "-f", "qcow2", &to.uri("")]);
            PAIR.same(folder, &["info", &to.uri("")]);
        }
        PAIR.must(OURS, folder, &["snapshot", "-c", "s1", &to.uri("")]);
        PAIR.must("qemu-img", folder, &["check", "-f", "qcow2", &to.uri("")]);
    }
}

fn creation(oracle: &Oracle) {
    for args in [
        &["create", "-f", "raw", "N", "1M"][..],
        &["create", "-f", "raw", "N", "2M"],
        &["create", "-f", "raw", "N", "512k"],
        &["create", "-f", "raw", "-o", "preallocation=full", "N", "1M"],
        &["create", "-f", "nbd", "N", "1M"],
        &["create", "-f", "nbd", "N", "2M"],
        &["create", "-f", "nbd", "-o", "preallocation=full", "N", "1M"],
        &["create", "-f", "nbd", "-o", "preallocation=off", "N", "1M"],
        &["create", "-f", "nbd", "foo", "1M"],
        &["create", "-f", "qcow2", "N", "64k"],
        &["create", "-f", "qcow2", "-o", "preallocation=metadata", "N", "300k"],
        &["create", "-f", "vmdk", "N", "64k"],
        &["create", "-f", "vhdx", "N", "64k"],
        &["create", "-f", "raw", "nbd:unix:/nosuch", "1M"],
        &["convert", "-f", "raw", "-O", "qcow2", "src.raw", "nbd:unix:/nosuch"],
        &["convert", "-f", "raw", "-O", "raw", "src.raw", "N"],
        &["convert", "-f", "raw", "-O", "qcow2", "src.raw", "N"],
    ] {
        let mut all = Vec::new();
        for program in ["qemu-img", OURS] {
            let folder = tempfile::Builder::new().prefix("nbd").tempdir_in("/tmp").unwrap();
            let folder = folder.path();
            std::fs::write(folder.join("a.raw"), vec![0x5a; MIB]).unwrap();
            std::fs::write(folder.join("src.raw"), source(300 << 10)).unwrap();
            let server = Nbd::start(oracle, folder, "s", &["-t", "-f", "raw", "-x", "e", "a.raw"]);
            let name = server.uri("e");
            let args: Vec<_> = args.iter().map(|arg| if *arg == "N" { name.as_str() } else { arg }).collect();
            let text = PAIR.told(program, folder, &args).replace(folder.to_str().unwrap(), "DIR");
            let args_fail = !text.ends_with("exit Some(0)");
            let info =
                PAIR.told("qemu-img", folder, &["info", &name]).replace(folder.to_str().unwrap(), "DIR");
            if info.contains("qcow2") {
                PAIR.must("qemu-img", folder, &["check", &name]);
            }
            drop(server);
            let bytes = std::fs::read(folder.join("a.raw")).unwrap();
            let raw = info.contains("format: raw").then_some(bytes);
            // What a creation that failed leaves behind is not compared.
            all.push(if args_fail { (text, String::new(), None) } else { (text, info, raw) });
        }
        let (ours, theirs) = (all.pop().unwrap(), all.pop().unwrap());
        assert_eq!(ours.0, theirs.0, "{args:?}");
        assert_eq!(ours.1, theirs.1, "{args:?}");
        assert!(ours.2 == theirs.2, "{args:?}: other bytes");
    }
}

/// They start from nowhere.
fn relative(oracle: &Oracle) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    oracle.must(folder, &["create", "-q", "-f", "raw", "base.raw", "1M"]);
    oracle.must(folder, &["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "top.qcow2"]);
    let server = Nbd::start(oracle, folder, "s", &["-t", "-f", "raw", "top.qcow2"]);
    let name = &server.uri("");
    let inside =
        format!("driver=qcow2,file.driver=blkdebug,file.image.driver=nbd,file.image.path={}", server.path());
    for args in [
        &["info", name][..],
        &["info", "--output=json", name],
        &["info", "--backing-chain", name],
        &["map", "-f", "qcow2", name],
        &["check", name],
        &["convert", "-O", "raw", name, "out.raw"],
        &["commit", "-b", "base.raw", name],
        &["rebase", "-b", "", name],
        &["create", "-f", "qcow2", "-b", name, "-F", "qcow2", "over.qcow2"],
        &["map", "--image-opts", &inside],
        &["rebase", "-u", "-b", "other.raw", "-F", "raw", name],
        &["info", name],
    ] {
        PAIR.same(folder, args);
    }
}

fn contexts(oracle: &Oracle) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    oracle.must(folder, &["create", "-q", "-f", "qcow2", "b.qcow2", "1M"]);
    oracle.qemu_io(folder, "qcow2", "b.qcow2", &["write -P 1 64k 64k"]);
    oracle.must(folder, &["create", "-q", "-f", "qcow2", "-b", "b.qcow2", "-F", "qcow2", "q.qcow2"]);
    oracle.must(folder, &["bitmap", "--add", "q.qcow2", "bm0"]);
    oracle.qemu_io(folder, "qcow2", "q.qcow2", &["write -P 2 128k 64k", "write -z 512k 64k"]);
    let server = Nbd::start(oracle, folder, "s", &["-t", "-r", "-f", "qcow2", "-A", "-B", "bm0", "q.qcow2"]);
    let base = format!("driver=nbd,server.type=unix,server.path={}", server.path());
    for context in ["qemu:dirty-bitmap:bm0", "qemu:allocation-depth", "base:allocation", "base:nothing"] {
        let options = format!("{base},x-dirty-bitmap={context}");
        for args in [
            &["info", "--image-opts", &options][..],
            &["map", "--image-opts", &options],
            &["map", "--output=json", "--image-opts", &options],
        ] {
            PAIR.same(folder, args);
        }
        let raw = options.replace("driver=nbd,server", "driver=raw,file.driver=nbd,file.server");
        let raw = raw.replace(",server", ",file.server").replace(",x-", ",file.x-");
        PAIR.same(folder, &["map", "--output=json", "--image-opts", &raw]);
        PAIR.same(folder, &["measure", "-O", "qcow2", "--image-opts", &options]);
        let [theirs, ours] = ["qemu-img", OURS].map(|program| {
            let _ = std::fs::remove_file(folder.join("copy.raw"));
            let told =
                PAIR.told(program, folder, &["convert", "-O", "raw", "--image-opts", &options, "copy.raw"]);
            (told, std::fs::read(folder.join("copy.raw")).ok())
        });
        assert!(ours == theirs, "{context}: a hole is no zeros");
    }
}

/// The first client that leaves ends this server: probing and reading have to be one connection.
fn once(oracle: &Oracle) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("a.raw"), source(MIB)).unwrap();
    for args in [
        &["info", "N"][..],
        &["map", "N"],
        &["convert", "-O", "raw", "N", "x.raw"],
        &["measure", "-O", "qcow2", "N"],
    ] {
        let server = Nbd::start(oracle, folder, "s", &["-f", "raw", "a.raw"]);
        let name = server.uri("");
        let args: Vec<_> = args.iter().map(|arg| if *arg == "N" { name.as_str() } else { arg }).collect();
        PAIR.must(OURS, folder, &args);
    }
    assert!(std::fs::read(folder.join("x.raw")).unwrap() == source(MIB));
}

fn read_only(oracle: &Oracle) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("a.raw"), source(MIB)).unwrap();
    std::fs::write(folder.join("src.raw"), source(MIB)).unwrap();
    let server = Nbd::start(oracle, folder, "s", &["-t", "-r", "-f", "raw", "a.raw"]);
    let name = &server.uri("");
    for args in [
        &["info", name][..],
        &["resize", "-f", "raw", name, "1M"],
        &["convert", "-n", "-f", "raw", "-O", "raw", "src.raw", name],
        &["create", "-f", "raw", name, "1M"],
        &["create", "-f", "qcow2", name, "1M"],
        &["bench", "-w", "-c", "1", "-f", "raw", name],
        &["commit", name],
    ] {
        PAIR.same(folder, args);
    }
}
