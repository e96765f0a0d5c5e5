//! A server in this process, over a Unix socket: honest, of every age, or playing a script. For the tests of this crate.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::cast_possible_truncation)]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use diskimg_nbd::{Address, NbdOptions};

/// What a server is like.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// 0: simple replies, 1: structured, 2: extended headers.
    pub style: u8,
    /// Knows the option GO; else EXPORT_NAME is used.
    pub go: bool,
    /// Transmission flags.
    pub flags: u16,
    /// Minimum, preferred and maximum block, if it tells them.
    pub blocks: Option<(u32, u32, u32)>,
    /// Replies are held back until so many can be sent, last first.
    pub reorder: usize,
    /// Reads are answered in chunks of so many bytes; zeros as holes.
    pub cut: usize,
    /// The connection breaks after so many requests, once.
    pub dies_after: usize,
}

pub const ALL_FLAGS: u16 = 0x0d6d;

impl Default for Kind {
    fn default() -> Self {
        Self { style: 2, go: true, flags: ALL_FLAGS, blocks: None, reorder: 1, cut: 4096, dies_after: 0 }
    }
}

pub struct Server {
    folder: tempfile::TempDir,
    pub bytes: Arc<Mutex<Vec<u8>>>,
    pub connections: Arc<AtomicUsize>,
    pub requests: Arc<AtomicUsize>,
}

impl Server {
    pub fn start(kind: Kind, len: usize) -> Self {
        let bytes = Arc::new(Mutex::new(vec![0; len]));
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (shared, made, count) = (bytes.clone(), connections.clone(), requests.clone());
        let folder = listen(move |stream| {
            made.fetch_add(1, Ordering::SeqCst);
            let (shared, count) = (shared.clone(), count.clone());
            thread::spawn(move || serve(stream, kind, &shared, &count));
        });
        Self { folder, bytes, connections, requests }
    }

    /// A server that sends `script` to everybody, and reads what comes.
    pub fn scripted(script: Vec<u8>) -> Self {
        let folder = listen(move |mut stream| {
            let script = script.clone();
            thread::spawn(move || {
                let mut ears = stream.try_clone().unwrap();
                let heard = thread::spawn(move || std::io::copy(&mut ears, &mut std::io::sink()));
                let _ = stream.write_all(&script);
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = heard.join();
            });
        });
        let (connections, requests) = (Arc::default(), Arc::default());
        Self { folder, bytes: Arc::default(), connections, requests }
    }

    pub fn options(&self) -> NbdOptions {
        let path = self.folder.path().join("socket");
        NbdOptions::new(Address::Unix(path.to_str().unwrap().to_owned()), "disk")
    }
}

fn listen(mut each: impl FnMut(UnixStream) + Send + 'static) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            each(stream);
        }
    });
    folder
}

fn take<const N: usize>(stream: &mut impl Read) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).ok().map(|()| bytes)
}

fn take_u32(stream: &mut impl Read) -> Option<u32> {
    take(stream).map(u32::from_be_bytes)
}

fn take_u64(stream: &mut impl Read) -> Option<u64> {
    take(stream).map(u64::from_be_bytes)
}

pub fn greeting() -> Vec<u8> {
    [0x4e42_444d_4147_4943_u64.to_be_bytes().as_slice(), b"IHAVEOPT", &[0, 3]].concat()
}

pub fn option_reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut out = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes());
    out.extend_from_slice(data);
    out
}

fn serve(mut stream: UnixStream, kind: Kind, bytes: &Mutex<Vec<u8>>, count: &AtomicUsize) -> Option<()> {
    let size = bytes.lock().unwrap().len() as u64;
    stream.write_all(&greeting()).ok()?;
    take_u32(&mut stream)?;
    let mut style = 0;
    let mut context = false;
    const UNSUPPORTED: u32 = (1 << 31) + 1;
    loop {
        take_u64(&mut stream)?;
        let (option, len) = (take_u32(&mut stream)?, take_u32(&mut stream)?);
        let mut data = vec![0; len as usize];
        stream.read_exact(&mut data).ok()?;
        let about = [size.to_be_bytes().as_slice(), &kind.flags.to_be_bytes()].concat();
        let mut reply: Vec<u8>;
        let mut go = false;
        match option {
            11 if kind.style == 2 => (style, reply) = (2, option_reply(11, 1, &[])),
            8 if kind.style >= 1 => (style, reply) = (1, option_reply(8, 1, &[])),
            10 => {
                context = true;
                reply = option_reply(10, 4, &[&[0, 0, 0, 5], b"base:allocation".as_slice()].concat());
                reply.extend(option_reply(10, 1, &[]));
            }
            7 if kind.go => {
                reply = option_reply(7, 3, &[&[0, 77], b"unknown".as_slice()].concat());
                reply.extend(option_reply(7, 3, &[&[0, 0], about.as_slice()].concat()));
                if let Some((least, best, most)) = kind.blocks {
                    let sizes = [least, best, most].map(u32::to_be_bytes).concat();
                    reply.extend(option_reply(7, 3, &[&[0, 3], sizes.as_slice()].concat()));
                }
                reply.extend(option_reply(7, 1, &[]));
                go = true;
            }
            3 => {
                reply = option_reply(3, 2, b"\0\0\0\x04diskmore");
                reply.extend(option_reply(3, 1, &[]));
            }
            1 => (go, reply) = (true, about),
            2 => return None,
            _ => reply = option_reply(option, UNSUPPORTED, b"no"),
        }
        stream.write_all(&reply).ok()?;
        if go {
            break;
        }
    }
    transmit(stream, kind, style, context, bytes, count)
}

fn transmit(
    mut stream: UnixStream,
    kind: Kind,
    style: u8,
    context: bool,
    bytes: &Mutex<Vec<u8>>,
    count: &AtomicUsize,
) -> Option<()> {
    let mut held: Vec<Vec<u8>> = Vec::new();
    loop {
        let magic = take_u32(&mut stream)?;
        assert_eq!(magic, if style == 2 { 0x21e4_1c71 } else { 0x2560_9513 });
        let (flags, command) =
            (u16::from_be_bytes(take(&mut stream)?), u16::from_be_bytes(take(&mut stream)?));
        let (cookie, at) = (take_u64(&mut stream)?, take_u64(&mut stream)? as usize);
        let len = if style == 2 { take_u64(&mut stream)? as usize } else { take_u32(&mut stream)? as usize };
        let served = count.fetch_add(1, Ordering::SeqCst) + 1;
        if served == kind.dies_after {
            return None;
        }
        let out = Out { style, cookie, at };
        let (least, _, most) = kind.blocks.unwrap_or((1, 1, 32 << 20));
        assert!(at % least as usize == 0 && len % least as usize == 0, "unaligned {at} {len}");
        let mut all = bytes.lock().unwrap();
        let range = at..at + len;
        let reply = match command {
            0 => {
                assert!(len <= most as usize);
                out.data(&all[range], kind.cut)
            }
            1 => {
                assert!(len <= most as usize && (style == 2) == (flags & 1 << 5 != 0));
                stream.read_exact(&mut all[range]).ok()?;
                out.done()
            }
            2 => return None,
            6 if len == 13 => out.error(95, b"odd"),
            4 | 6 => {
                all[range].fill(0);
                out.done()
            }
            7 => {
                assert!(context);
                out.status(&all[range])
            }
            _ => out.done(),
        };
        drop(all);
        held.push(reply);
        if held.len() >= kind.reorder {
            while let Some(reply) = held.pop() {
                stream.write_all(&reply).ok()?;
            }
        }
    }
}

struct Out {
    style: u8,
    cookie: u64,
    at: usize,
}

impl Out {
    fn simple(&self, error: u32, data: &[u8]) -> Vec<u8> {
        [&0x6744_6698_u32.to_be_bytes(), &error.to_be_bytes(), self.cookie.to_be_bytes().as_slice(), data]
            .concat()
    }

    fn chunk(&self, done: bool, kind: u16, data: &[u8]) -> Vec<u8> {
        let magic: u32 = if self.style == 2 { 0x6e8a_278c } else { 0x668e_33ef };
        let mut out = magic.to_be_bytes().to_vec();
        out.extend_from_slice(&u16::from(done).to_be_bytes());
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
        if self.style == 2 {
            out.extend_from_slice(&(self.at as u64).to_be_bytes());
            out.extend_from_slice(&(data.len() as u64).to_be_bytes());
        } else {
            out.extend_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes());
        }
        out.extend_from_slice(data);
        out
    }

    fn done(&self) -> Vec<u8> {
        if self.style == 2 { self.chunk(true, 0, &[]) } else { self.simple(0, &[]) }
    }

    fn error(&self, number: u32, said: &[u8]) -> Vec<u8> {
        if self.style == 0 {
            return self.simple(number, &[]);
        }
        let len = u16::try_from(said.len()).unwrap();
        self.chunk(true, 0x8001, &[&number.to_be_bytes(), len.to_be_bytes().as_slice(), said].concat())
    }

    /// Chunks in reverse order, zeros as holes.
    fn data(&self, bytes: &[u8], cut: usize) -> Vec<u8> {
        if self.style == 0 {
            return self.simple(0, bytes);
        }
        let mut out = Vec::new();
        for (index, part) in bytes.chunks(cut).enumerate().rev() {
            let at = ((self.at + index * cut) as u64).to_be_bytes();
            if part.iter().all(|b| *b == 0) {
                let len = u32::try_from(part.len()).unwrap().to_be_bytes();
                out.extend(self.chunk(false, 2, &[at.as_slice(), &len].concat()));
            } else {
                out.extend(self.chunk(false, 1, &[at.as_slice(), part].concat()));
            }
        }
        out.extend(self.chunk(true, 0, &[]));
        out
    }

    /// Extents of 512 bytes, not merged.
    fn status(&self, bytes: &[u8]) -> Vec<u8> {
        let mut runs = Vec::new();
        let parts: Vec<_> = bytes.chunks(512).collect();
        for part in &parts {
            let flags = if part.iter().all(|b| *b == 0) { 3_u32 } else { 0 };
            let len = u32::try_from(part.len()).unwrap();
            if self.style == 2 {
                runs.extend_from_slice(&u64::from(len).to_be_bytes());
                runs.extend_from_slice(&u64::from(flags).to_be_bytes());
            } else {
                runs.extend_from_slice(&[len.to_be_bytes(), flags.to_be_bytes()].concat());
            }
        }
        let mut head = vec![0, 0, 0, 5];
        if self.style == 2 {
            head.extend_from_slice(&u32::try_from(parts.len()).unwrap().to_be_bytes());
        }
        head.extend(runs);
        self.chunk(true, if self.style == 2 { 6 } else { 5 }, &head)
    }
}
