//! Makes command lines out of the tables: most of them valid, some with a wrong value, a missing operand or an unknown
//! option.

use diskimg_testkit::Rng;

use crate::table::{GRAMMARS, Grammar, Kind, Operands};

/// Files of the folder that every command line runs in, with their formats; `formats` keeps those that are there.
pub const FILES: &[(&str, &str)] = &[
    ("r.raw", "raw"),
    ("odd.raw", "raw"),
    ("empty.raw", "raw"),
    ("q.qcow2", "qcow2"),
    ("q2.qcow2", "qcow2"),
    ("ov.qcow2", "qcow2"),
    ("ov2.qcow2", "qcow2"),
    ("bm.qcow2", "qcow2"),
    ("c.qcow2", "qcow2"),
    ("snap.qcow2", "qcow2"),
    ("t.qcow", "qcow"),
    ("t.qed", "qed"),
    ("t.vdi", "vdi"),
    ("t.vmdk", "vmdk"),
    ("t.vpc", "vpc"),
    ("t.vhdx", "vhdx"),
    ("t.parallels", "parallels"),
    ("t.luks", "luks"),
    ("bad.qcow2", "qcow2"),
];

/// Formats whose images are made.
pub const FORMATS: [&str; 10] =
    ["raw", "qcow2", "qcow", "qed", "vdi", "vmdk", "vpc", "vhdx", "parallels", "luks"];

/// Makes command lines.
pub struct Generator {
    rng: Rng,
    /// The files that the line has named so far, with their formats.
    named: Vec<(&'static str, &'static str)>,
    image_opts: bool,
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed), named: Vec::new(), image_opts: false }
    }

    /// The next line, without the program's name.
    pub fn line(&mut self) -> Vec<String> {
        let total: usize = GRAMMARS.iter().map(|grammar| grammar.weight).sum();
        let mut at = self.rng.index(total);
        let grammar = GRAMMARS
            .iter()
            .find(|grammar| {
                let found = at < grammar.weight;
                at = at.saturating_sub(grammar.weight);
                found
            })
            .unwrap_or(&GRAMMARS[0]);
        self.command(grammar)
    }

    fn command(&mut self, grammar: &Grammar) -> Vec<String> {
        (self.named, self.image_opts) = (Vec::new(), false);
        let mut chosen = Vec::new();
        let most = 1 + self.rng.index(4);
        for _ in 0..most {
            if self.rng.chance(75) {
                chosen.push(*self.rng.pick(grammar.options));
            }
        }
        // Needed for anything to be done at all.
        match grammar.name {
            "bench" if self.rng.chance(90) => chosen.push((&["-c"], Kind::Number)),
            "amend" if self.rng.chance(80) => chosen.push((&["-o"], Kind::AmendOptions)),
            "rebase" if self.rng.chance(80) => chosen.push((&["-b"], Kind::File)),
            "create" if self.rng.chance(60) => chosen.push((&["-f"], Kind::Format)),
            _ => {}
        }
        self.image_opts = chosen.iter().any(|(names, _)| names[0] == "--image-opts") && self.rng.chance(90);
        let operands = self.operands(grammar.operands);
        let mut options = Vec::new();
        for (names, kind) in chosen {
            let name = *self.rng.pick(names);
            options.push(self.option(name, kind));
        }
        if self.named.iter().any(|(_, format)| *format == "luks") && self.rng.chance(80) {
            options.push(vec!["--object".to_owned(), "secret,id=s,data=secret".to_owned()]);
        }
        if self.rng.chance(1) {
            options.push(vec![(*self.rng.pick(&["--nosuch", "-Z", "--obj", "--f", "-h"])).to_owned()]);
        }
        let mut line = vec![grammar.name.to_owned()];
        if self.rng.chance(85) {
            line.extend(options.into_iter().flatten());
            line.extend(operands);
        } else {
            line.extend(operands);
            line.extend(options.into_iter().flatten());
        }
        line
    }

    fn option(&mut self, name: &str, kind: Kind) -> Vec<String> {
        if kind == Kind::Flag {
            return vec![name.to_owned()];
        }
        let value = self.value(kind);
        match (name.starts_with("--"), self.rng.chance(50)) {
            (true, true) => vec![format!("{name}={value}")],
            (false, true) if !value.is_empty() => vec![format!("{name}{value}")],
            _ => vec![name.to_owned(), value],
        }
    }

    fn pick(&mut self, items: &[&str]) -> String {
        (*self.rng.pick(items)).to_owned()
    }

    fn value(&mut self, kind: Kind) -> String {
        match kind {
            Kind::Flag => String::new(),
            Kind::RightFormat => {
                let named = self.named.first().map(|(_, format)| (*format).to_owned());
                named.filter(|_| self.rng.chance(85)).unwrap_or_else(|| self.value(Kind::Format))
            }
            Kind::Format if self.rng.chance(6) => {
                self.pick(&["nosuch", "", "RAW", "file", "host_device", "bochs"])
            }
            Kind::Format => self.pick(&FORMATS),
            Kind::Cache if self.rng.chance(10) => self.pick(&["foo", "", "Writeback"]),
            Kind::Cache => self.pick(&["writeback", "none", "unsafe", "writethrough", "directsync", "off"]),
            Kind::Output => self.pick(&["json", "human", "json", "human", "foo"]),
            Kind::Size if self.rng.chance(10) => {
                self.pick(&["foo", "", "-1", "1.5", "1kB", "16E", "9223372036854775807"])
            }
            Kind::Size => self
                .pick(&["0", "1", "512", "1k", "4k", "64k", "65536", "100000", "1M", "1.5M", "0x1000", "2M"]),
            Kind::Signed => {
                let sign = self.pick(&["", "+", "+", "-", "-"]);
                format!("{sign}{}", self.value(Kind::Size))
            }
            Kind::Number if self.rng.chance(10) => self.pick(&["0", "-1", "foo", "", "99999999999", "1k"]),
            Kind::Number => self.pick(&["1", "2", "7", "16", "010", "0x10", "64"]),
            Kind::Byte => self.pick(&["0", "1", "255", "256", "-1", "0x41", "foo"]),
            Kind::Sparse => self.pick(&["0", "4k", "64k", "512", "1M", "1", "foo", "17M"]),
            Kind::Parallel => self.pick(&["1", "2", "8", "16", "0", "17", "foo"]),
            Kind::Aio => self.pick(&["threads", "native", "io_uring", "foo"]),
            Kind::Prealloc => self.pick(&["off", "metadata", "falloc", "full", "foo"]),
            Kind::Repair => self.pick(&["leaks", "all", "foo"]),
            Kind::Snapshot => self.pick(&[
                "one",
                "1",
                "2",
                "snapshot.id=1",
                "snapshot.name=two",
                "nosuch",
                "snapshot.foo=1",
            ]),
            Kind::Bitmap => self.pick(&["b0", "b1", "nosuch"]),
            Kind::CreateOptions | Kind::AmendOptions => self.option_list(),
            Kind::Object => self.pick(&[
                "secret,id=s,data=secret",
                "secret,id=s,data=secret",
                "secret,id=t",
                "secret,data=a",
                "nosuch,id=a",
                "",
                "secret,id=s,data=other",
            ]),
            Kind::File => self.file(),
        }
    }

    fn option_list(&mut self) -> String {
        const ITEMS: &[&str] = &[
            "cluster_size=4k",
            "cluster_size=64k",
            "cluster_size=2M",
            "cluster_size=3",
            "cluster_size=512",
            "compat=0.10",
            "compat=1.1",
            "compat=v3",
            "compat=9",
            "lazy_refcounts=on",
            "lazy_refcounts=off",
            "refcount_bits=1",
            "refcount_bits=16",
            "refcount_bits=64",
            "refcount_bits=5",
            "preallocation=off",
            "preallocation=metadata",
            "preallocation=falloc",
            "preallocation=full",
            "preallocation=foo",
            "compression_type=zstd",
            "compression_type=zlib",
            "extended_l2=on",
            "size=1M",
            "size=2M",
            "size=foo",
            "backing_file=r.raw",
            "backing_fmt=raw",
            "static=on",
            "subformat=fixed",
            "subformat=dynamic",
            "subformat=monolithicFlat",
            "subformat=streamOptimized",
            "subformat=twoGbMaxExtentSparse",
            "subformat=foo",
            "adapter_type=lsilogic",
            "hwversion=6",
            "compat6=on",
            "zeroed_grain=on",
            "force_size=on",
            "block_size=1M",
            "log_size=1M",
            "block_state_zero=off",
            "table_size=4",
            "key-secret=s",
            "iter-time=10",
            "cipher-alg=aes-128",
            "nocow=off",
            "foo=1",
            "foo",
            "encrypt.format=luks",
            "encrypt.key-secret=s",
            "data_file_raw=on",
            "help",
        ];
        let count = 1 + self.rng.index(3);
        let mut items: Vec<&str> = (0..count).map(|_| *self.rng.pick(ITEMS)).collect();
        // Help is a page of its own, which golden tests keep.
        if items.len() > 1 {
            items.retain(|item| *item != "help");
        }
        if self.rng.chance(3) { ",".to_owned() } else { items.join(",") }
    }

    fn file(&mut self) -> String {
        if self.rng.chance(6) {
            return self.pick(&["nosuch", "", ".", "nosuch/a", "foo:bar"]);
        }
        let file = *self.rng.pick(FILES);
        self.named.push(file);
        file.0.to_owned()
    }

    fn image(&mut self) -> String {
        let before = self.named.len();
        let name = self.file();
        if !self.image_opts {
            return match self.rng.below(100) {
                0 => format!("file:{name}"),
                1 => format!("json:{{\"file.filename\":\"{name}\",\"driver\":\"raw\"}}"),
                2 => format!("./{name}"),
                _ => name,
            };
        }
        let format = self.named.get(before).map_or("raw", |(_, format)| *format);
        let secret = if format == "luks" { ",key-secret=s" } else { "" };
        match self.rng.below(20) {
            0 => name,
            1 => format!("driver={format},file.filename={name},foo=1"),
            2 => format!("driver=raw,offset=64k,size=64k,file.filename={name}"),
            3 => format!("file.filename={name}"),
            4 => format!("driver={format},file.driver=file,file.filename={name},file.locking=off{secret}"),
            5 => format!("driver=throttle,file.filename={name}"),
            _ => format!("driver={format},file.filename={name}{secret}"),
        }
    }

    fn target(&mut self) -> String {
        match self.rng.below(100) {
            0..=2 => self.pick(&["", ".", "nosuch/a", "foo:bar"]),
            _ => "out.img".to_owned(),
        }
    }

    fn operands(&mut self, operands: Operands) -> Vec<String> {
        let mut list = match operands {
            Operands::Image => vec![self.image()],
            Operands::TwoImages => vec![self.image(), self.image()],
            Operands::ImagesAndTarget => {
                let mut list = vec![self.image()];
                if self.rng.chance(8) {
                    list.push(self.image());
                }
                list.push(self.target());
                list
            }
            Operands::TargetAndSize => {
                let mut list = vec![self.target()];
                if self.rng.chance(90) {
                    list.push(self.value(Kind::Size));
                }
                list
            }
            Operands::ImageAndSize => vec![self.image(), self.value(Kind::Signed)],
            Operands::ImageAndBitmap => vec![self.image(), self.value(Kind::Bitmap)],
            Operands::MaybeImage if self.rng.chance(30) => vec![],
            Operands::MaybeImage => vec![self.image()],
            Operands::Dd => self.dd_operands(),
            Operands::Snapshot => {
                let mut list = match self.rng.below(6) {
                    0 | 1 => vec!["-l".to_owned()],
                    2 => vec!["-c".to_owned(), self.value(Kind::Snapshot)],
                    3 => vec!["-a".to_owned(), self.value(Kind::Snapshot)],
                    4 => vec!["-d".to_owned(), self.value(Kind::Snapshot)],
                    _ => vec![],
                };
                list.push(self.image());
                list
            }
        };
        match self.rng.below(100) {
            0 | 1 => {
                list.pop();
            }
            2 => list.push("extra".to_owned()),
            _ => {}
        }
        list
    }

    fn dd_operands(&mut self) -> Vec<String> {
        let mut list = vec![format!("if={}", self.image()), format!("of={}", self.target())];
        if self.rng.chance(60) {
            list.push(format!("bs={}", self.value(Kind::Size)));
        }
        if self.rng.chance(40) {
            list.push(format!("count={}", self.value(Kind::Number)));
        }
        if self.rng.chance(30) {
            list.push(format!("skip={}", self.value(Kind::Number)));
        }
        if self.rng.chance(2) {
            list.push("foo=1".to_owned());
        }
        list
    }
}
