//! Servers that lie: whatever they send, the client ends with an error, soon, and without taking much memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod server;

use std::time::{Duration, Instant};

use diskimg_core::{BlockDevice, ByteRange};
use diskimg_nbd::{NbdDevice, hear};
use server::{Server, greeting, option_reply};

const ACK: u32 = 1;

/// A handshake that agrees on structured replies, a context and an export of 1 MiB.
fn agreed() -> Vec<u8> {
    let mut script = greeting();
    script.extend(option_reply(11, (1 << 31) + 1, b""));
    script.extend(option_reply(8, ACK, b""));
    script.extend(option_reply(10, 4, b"\0\0\0\x05base:allocation"));
    script.extend(option_reply(10, ACK, b""));
    script.extend(option_reply(
        7,
        3,
        &[&[0, 0], (1_u64 << 20).to_be_bytes().as_slice(), &[0x0d, 0x6d]].concat(),
    ));
    script.extend(option_reply(7, ACK, b""));
    script
}

fn chunk(flags: u16, kind: u16, cookie: u64, len: u32, data: &[u8]) -> Vec<u8> {
    let head = [flags.to_be_bytes(), kind.to_be_bytes()].concat();
    [&0x668e_33ef_u32.to_be_bytes(), head.as_slice(), &cookie.to_be_bytes(), &len.to_be_bytes(), data]
        .concat()
}

fn replies() -> Vec<Vec<u8>> {
    let offset = |at: u64| at.to_be_bytes().to_vec();
    let data = |at: u64, len: usize| [offset(at), vec![1; len]].concat();
    let hole = |at: u64, len: u32| [offset(at), len.to_be_bytes().to_vec()].concat();
    vec![
        b"".to_vec(),
        b"garbage that is no reply at all, but long".to_vec(),
        // Of nobody; of nothing; too much; outside; twice; too little.
        chunk(1, 0, 77, 0, b""),
        chunk(0, 0, 1, 0, b""),
        chunk(1, 0, 1, 5, b"12345"),
        chunk(1, 1, 1, u32::MAX, &offset(0)),
        chunk(1, 1, 1, 8, &offset(0)),
        chunk(1, 1, 1, 521, &data(0, 513)),
        chunk(1, 1, 1, 9, &data(512, 1)),
        chunk(1, 1, 1, 9, &data(u64::MAX, 1)),
        [chunk(0, 1, 1, 264, &data(0, 256)), chunk(1, 1, 1, 265, &data(255, 257))].concat(),
        [chunk(0, 2, 1, 12, &hole(0, 512)), chunk(1, 2, 1, 12, &hole(0, 1))].concat(),
        chunk(1, 2, 1, 12, &hole(0, 0)),
        chunk(1, 2, 1, 12, &hole(0, u32::MAX)),
        chunk(1, 0, 1, 0, b""),
        chunk(1, 1, 1, 108, &data(0, 100)),
        // A status that was not asked for; unknown types; errors that are cut or none.
        chunk(1, 5, 1, 12, &[0; 12]),
        chunk(1, 99, 1, 0, b""),
        chunk(1, 0x8001, 1, 3, b"123"),
        chunk(1, 0x8001, 1, 6, &[0, 0, 0, 5, 0xff, 0xff]),
        chunk(1, 0x8001, 1, u32::MAX, b""),
        chunk(1, 0x8001, 1, 6, &[0; 6]),
        [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1].to_vec(),
        // Chunks without an end.
        chunk(0, 0x8001, 1, 6, &[0, 0, 0, 5, 0, 0]).repeat(70_000),
    ]
}

fn fails_soon(script: Vec<u8>, what: impl Fn(&NbdDevice) -> bool) {
    let start = Instant::now();
    let server = Server::scripted(script);
    if let Ok(device) = NbdDevice::open(server.options().write(true)) {
        assert!(what(&device), "a lie was believed");
        assert!(device.read_at(0, &mut [0; 512]).is_err(), "a broken connection is used");
    }
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn replies_that_do_not_fit_are_errors() {
    for reply in replies() {
        let mut lie = agreed();
        lie.extend(reply);
        fails_soon(lie, |device| device.read_at(0, &mut [0; 512]).is_err());
    }
}

#[test]
fn wrong_block_status_is_an_error() {
    let run = |len: u32| [&[0, 0, 0, 5], len.to_be_bytes().as_slice(), &[0, 0, 0, 3]].concat();
    let statuses = [
        chunk(1, 5, 1, 4, &[0, 0, 0, 5]),
        chunk(1, 5, 1, 13, &[0; 13]),
        chunk(1, 5, 1, u32::MAX - 3, b""),
        chunk(1, 5, 1, 12, &run(0)),
        chunk(1, 5, 1, 12, &[0, 0, 0, 6, 0, 0, 2, 0, 0, 0, 0, 0]),
        [chunk(0, 5, 1, 12, &run(512)), chunk(1, 5, 1, 12, &run(512))].concat(),
        chunk(1, 6, 1, 24, &[0, 0, 0, 5, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        chunk(1, 0, 1, 0, b""),
        chunk(1, 1, 1, 9, &[0; 9]),
    ];
    for status in statuses {
        let mut lie = agreed();
        lie.extend(status);
        fails_soon(lie, |device| device.extent_at(ByteRange::new(0, 1024)).is_err());
    }
    let mut truth = agreed();
    truth.extend(chunk(1, 5, 1, 12, &run(u32::MAX)));
    let server = Server::scripted(truth);
    let device = NbdDevice::open(server.options()).unwrap();
    let extent = device.extent_at(ByteRange::new(0, 1024)).unwrap();
    assert_eq!((extent.len, extent.is_zero()), (1024, true), "a longer extent is cut");
}

#[test]
fn wrong_handshakes_are_errors() {
    let refused = |text: &[u8]| {
        let mut script = greeting();
        script.extend(option_reply(11, (1 << 31) + 1, b""));
        script.extend(option_reply(8, (1 << 31) + 1, b""));
        script.extend_from_slice(text);
        script
    };
    let size = |size: u64| option_reply(7, 3, &[&[0, 0], size.to_be_bytes().as_slice(), &[0, 1]].concat());
    let blocks = |all: [u32; 3]| {
        let sizes = all.map(u32::to_be_bytes).concat();
        [size(4096), option_reply(7, 3, &[&[0, 3], sizes.as_slice()].concat()), option_reply(7, ACK, b"")]
            .concat()
    };
    let rows: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "Failed to read initial magic: Unexpected end-of-file before all data were read"),
        (b"garbagegarbage!!".to_vec(), "Bad initial magic received: 0x6761726261676567"),
        (
            greeting()[..16].to_vec(),
            "Failed to read server flags: Unexpected end-of-file before all data were read",
        ),
        (
            refused(&option_reply(7, (1 << 31) + 6, b"export 'disk' not present")),
            "Requested export not available",
        ),
        (refused(&option_reply(7, (1 << 31) + 5, b"")), "TLS negotiation required before option 7 (go)"),
        (
            refused(&option_reply(7, ACK, b"")),
            "the NBD server does not keep to the protocol: it does not tell the size",
        ),
        (
            refused(&[size(u64::MAX), option_reply(7, ACK, b"")].concat()),
            "offset(18446744073709551615) exceeds",
        ),
        (refused(&blocks([0, 4096, 4096])), "the NBD server does not keep"),
        (refused(&blocks([3, 4096, 4096])), "the NBD server does not keep"),
        (refused(&blocks([1 << 30, 1 << 30, 1 << 30])), "the NBD server does not keep"),
        (refused(&blocks([512, 256, 4096])), "the NBD server does not keep"),
        (refused(&blocks([512, 512, 1])), "the NBD server does not keep"),
        (refused(&option_reply(8, ACK, b"")), "the NBD server does not keep"),
        (refused(b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"), "Unexpected option reply magic 0x0"),
        (refused(&option_reply(7, 3, b"")), "failed to fill whole buffer"),
        (refused(&size(0).repeat(10_001)), "the NBD server does not keep"),
    ];
    for (script, message) in rows {
        let server = Server::scripted(script);
        let error = NbdDevice::open(server.options()).unwrap_err().joined();
        assert!(error.starts_with(message), "{error}\ninstead of {message}");
    }
    let mut huge = refused(&[]);
    huge.extend_from_slice(&option_reply(7, 3, &[])[..16]);
    huge.extend_from_slice(&u32::MAX.to_be_bytes());
    assert!(NbdDevice::open(Server::scripted(huge).options()).is_err());
}

#[test]
fn bytes_of_any_kind_are_heard_to_the_end() {
    let mut good = agreed();
    good.extend(chunk(1, 2, 1, 12, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]));
    good.extend(chunk(1, 5, 2, 12, &[0, 0, 0, 5, 0, 1, 0, 0, 0, 0, 0, 3]));
    assert_eq!(hear(&good), Some(2));
    let mut seed = 1_u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(seed >> 33).unwrap()
    };
    for _ in 0..20_000 {
        let mut bad = good.clone();
        for _ in 0..1 + random() % 4 {
            let at = random() % bad.len();
            bad[at] = u8::try_from(random() % 256).unwrap();
        }
        bad.truncate(good.len() - random() % 8);
        let _ = hear(&bad);
    }
}
