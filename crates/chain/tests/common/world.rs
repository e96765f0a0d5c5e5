//! A registry without host files: names in memory, a format with backing files, and raw.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use diskimg_chain::Context;
use diskimg_core::driver::{Caps, Notices, OpenContext};
use diskimg_core::opener::{Mode, ReferenceKind};
use diskimg_core::protocol::{CacheMode, LockSpec, ProtocolDriver, ProtocolOpen};
use diskimg_core::{
    BackingRef, BlockDevice, ByteRange, Child, Description, Error, ErrorKind, Extent, ExtentFlags,
    FormatDriver, HostRef, Image, ImageInfo, MemDevice, NullDevice, Prealloc, Registry, Result, ZeroMode,
    errno,
};

/// How a file was opened.
#[derive(Clone, Debug, PartialEq)]
pub struct Opened {
    pub name: String,
    pub write: bool,
    pub cache: CacheMode,
    pub lock: Option<LockSpec>,
}

#[derive(Debug, Default)]
struct Store {
    files: HashMap<String, Arc<MemDevice>>,
    log: Vec<Opened>,
}

static STORE: LazyLock<Mutex<Store>> = LazyLock::new(Mutex::default);

/// Puts a file there.
pub fn put(name: &str, bytes: &[u8]) {
    let file = Arc::new(MemDevice::from(bytes.to_vec()));
    STORE.lock().unwrap().files.insert(name.to_owned(), file);
}

/// An image of the format `layer`: one sector of header, then the bytes.
pub fn put_layer(name: &str, backing: &str, format: &str, len: usize) {
    let mut bytes = format!("LAYER\n{backing}\n{format}\n{len}\n").into_bytes();
    bytes.resize(512, 0);
    put(name, &bytes);
}

/// How files whose names begin with `prefix` were opened.
pub fn opened(prefix: &str) -> Vec<Opened> {
    let store = STORE.lock().unwrap();
    store.log.iter().filter(|opened| opened.name.starts_with(prefix)).cloned().collect()
}

fn open_file(request: ProtocolOpen<'_>) -> Result<Arc<dyn BlockDevice>> {
    if request.filename.is_empty() {
        return Err(Error::invalid("The 'file' block driver requires a file name"));
    }
    let mut store = STORE.lock().unwrap();
    let name = request.filename.to_owned();
    let (write, cache, lock) = (request.write, request.cache, request.lock);
    store.log.push(Opened { name: name.clone(), write, cache, lock });
    let _ = request.options.take("locking");
    let file = store.files.get(&name).cloned();
    file.map(|file| -> Arc<dyn BlockDevice> { file })
        .ok_or_else(|| Error::from_errno(errno::ENOENT).context(format!("Could not open '{name}'")))
}

static FILE: ProtocolDriver = ProtocolDriver {
    name: "file",
    prefixes: &["file:"],
    keeps_prefix: false,
    strong_options: &[],
    name_options: None,
    grow_error: "",
    full_errno: diskimg_core::errno::ENOSPC,
    claims: None,
    create_options: &[],
    open: open_file,
    create: None,
    remove: None,
};

static NULL: ProtocolDriver = ProtocolDriver {
    name: "null-co",
    prefixes: &["null-co:"],
    keeps_prefix: true,
    strong_options: &["size"],
    name_options: None,
    grow_error: "",
    full_errno: diskimg_core::errno::ENOSPC,
    claims: None,
    create_options: &[],
    open: |request| Ok(Arc::new(NullDevice::new(request.options.take_size("size")?.unwrap_or(1 << 30)))),
    create: None,
    remove: None,
};

pub static RAW: FormatDriver = FormatDriver {
    name: "raw",
    extensions: &[],
    caps: Caps::WRITE.union(Caps::RESIZE),
    options: &[],
    strong_options: &["offset"],
    probe: |_| 1,
    open: |context| {
        let offset = context.options.take_size("offset")?.unwrap_or(0);
        Ok(Arc::new(Plain { storage: context.storage, offset, driver: &RAW, backing: None, len: None }))
    },
    creator: None,
    measure: None,
};

pub static LAYER: FormatDriver = FormatDriver {
    name: "layer",
    extensions: &[],
    caps: Caps::WRITE.union(Caps::BACKING),
    options: &[],
    strong_options: &["strong"],
    probe: |input| if input.head.starts_with(b"LAYER\n") { 100 } else { 0 },
    open: open_layer,
    creator: None,
    measure: None,
};

fn open_layer(context: OpenContext<'_>) -> Result<Arc<dyn Image>> {
    let mut head = [0; 512];
    diskimg_core::read_zero_padded(&*context.storage, 0, &mut head)?;
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut lines = text.lines();
    if lines.next() != Some("LAYER") {
        return Err(Error::new(ErrorKind::NotThisFormat, "Image is not in layer format"));
    }
    let (name, format) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    let len = lines.next().and_then(|len| len.parse().ok());
    let _ = context.options.take("strong");
    let data = context.options.take_child("data-file");
    if let Some(name) = name.strip_prefix("data:") {
        context.opener.open(ReferenceKind::DataFile, name, Mode::default(), data)?;
    }
    let backing = BackingRef { name: name.to_owned(), format: Some(format.to_owned()) };
    let backing = (!name.is_empty() && !name.starts_with("data:")).then_some(backing);
    Ok(Arc::new(Plain { storage: context.storage, offset: 0, driver: &LAYER, backing, len }))
}

#[derive(Debug)]
struct Plain {
    storage: Arc<dyn BlockDevice>,
    offset: u64,
    driver: &'static FormatDriver,
    backing: Option<BackingRef>,
    /// An image without any byte of its own.
    len: Option<u64>,
}

impl BlockDevice for Plain {
    fn len(&self) -> u64 {
        self.len.unwrap_or(self.storage.len().saturating_sub(self.offset))
    }
    fn describe(&self) -> Description<'_> {
        Description { driver: self.driver.name, filename: "" }
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        match self.len {
            Some(_) => {
                buf.fill(0);
                Ok(())
            }
            None => self.storage.read_at(offset + self.offset, buf),
        }
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.storage.write_at(offset + self.offset, buf)
    }
    fn write_zeroes(&self, _: ByteRange, _: ZeroMode) -> Result<()> {
        Err(Error::unsupported("zeroing"))
    }
    fn discard(&self, _: ByteRange) -> Result<()> {
        Err(Error::unsupported("discarding"))
    }
    fn flush(&self) -> Result<()> {
        self.storage.flush()
    }
    fn set_len(&self, len: u64, prealloc: Prealloc) -> Result<()> {
        match self.len {
            Some(_) => Err(Error::unsupported("resizing")),
            None => self.storage.set_len(self.offset + len, prealloc),
        }
    }
    fn extent_at(&self, range: ByteRange) -> Result<Extent<'_>> {
        if self.len.is_some() {
            return Ok(Extent::absent(range.len));
        }
        let host = HostRef { device: &*self.storage, offset: range.start + self.offset };
        let flags = ExtentFlags::PRESENT | ExtentFlags::DATA | ExtentFlags::ASK_HOST;
        Ok(Extent { len: range.len, flags, host: Some(host) })
    }
}

impl Image for Plain {
    fn driver(&self) -> &'static FormatDriver {
        self.driver
    }
    fn info(&self) -> Result<ImageInfo> {
        Ok(ImageInfo::default())
    }
    fn backing(&self) -> Option<BackingRef> {
        self.backing.clone()
    }
    fn children(&self) -> Vec<Child> {
        vec![Child { role: "file", device: Arc::clone(&self.storage) }]
    }
}

/// A context with these drivers.
pub fn context() -> Context {
    let registry = Registry::new().with_format(&RAW).with_format(&LAYER);
    Context::new(registry.with_protocol(&FILE).with_protocol(&NULL))
}

/// The same, and what it says.
pub fn listening() -> (Context, Arc<Mutex<Vec<String>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&heard);
    let notices = Notices::to(move |_, text| sink.lock().unwrap().push(text.to_owned()));
    (context().with_notices(notices), heard)
}
