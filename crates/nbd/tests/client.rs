//! The client against servers of every age: a model of the bytes, many threads, replies in any order and in pieces, block
//! sizes that have to be kept to, lost connections.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod server;

use std::sync::atomic::Ordering;
use std::time::Duration;

use diskimg_core::{BlockDevice, ByteRange, Device, ErrorKind, ExtentFlags, Prealloc, ZeroMode, errno};
use diskimg_nbd::NbdDevice;
use server::{ALL_FLAGS, Kind, Server};

const LEN: usize = 1 << 20;

fn open(server: &Server) -> NbdDevice {
    NbdDevice::open(server.options().write(true)).unwrap()
}

#[test]
fn servers_of_every_age_hold_what_was_written() {
    for (style, go) in [(0, false), (0, true), (1, false), (1, true), (2, true)] {
        let server = Server::start(Kind { style, go, ..Kind::default() }, LEN);
        let device = open(&server);
        assert_eq!(device.len(), LEN as u64);
        device.write_at(5000, &[7; 10_000]).unwrap();
        let mut buf = vec![1; 20_000];
        device.read_at(0, &mut buf).unwrap();
        assert_eq!(buf, server.bytes.lock().unwrap()[..20_000], "style {style}");
        device.write_zeroes(ByteRange::new(6000, 500), ZeroMode::KeepAllocated).unwrap();
        device.discard(ByteRange::new(7000, 500)).unwrap();
        device.flush().unwrap();
        device.read_at(5000, &mut buf[..10_000]).unwrap();
        assert_eq!(buf[..10_000], server.bytes.lock().unwrap()[5000..15_000]);
        assert_eq!((buf[1000], buf[2499], buf[2500]), (0, 0, 7));
        let extent = device.extent_at(ByteRange::new(0, LEN as u64)).unwrap();
        if style == 0 {
            assert_eq!((extent.len, extent.is_zero()), (LEN as u64, false));
        } else {
            assert_eq!((extent.len, extent.is_zero()), (4608, true));
            let next = device.extent_at(ByteRange::new(extent.len, LEN as u64 - extent.len)).unwrap();
            assert_eq!((next.len, next.flags), (10_752, ExtentFlags::PRESENT | ExtentFlags::DATA));
        }
    }
}

#[test]
fn extents_are_asked_for_at_once_and_again_after_a_write() {
    let server = Server::start(Kind::default(), LEN);
    let device = open(&server);
    device.write_at(4096, &[1; 4096]).unwrap();
    let before = server.requests.load(Ordering::SeqCst);
    let walk = || {
        let (mut at, mut seen) = (0, Vec::new());
        while at < LEN as u64 {
            let extent = device.extent_at(ByteRange::from_bounds(at, LEN as u64)).unwrap();
            seen.push((extent.len, extent.is_zero()));
            at += extent.len;
        }
        seen
    };
    assert_eq!(walk(), [(4096, true), (4096, false), (LEN as u64 - 8192, true)]);
    assert_eq!(server.requests.load(Ordering::SeqCst), before + 1);
    device.write_at(0, &[1; 4096]).unwrap();
    assert_eq!(walk(), [(8192, false), (LEN as u64 - 8192, true)]);
}

#[test]
fn threads_share_connections_and_get_their_own_replies() {
    for (style, flags) in [(0, ALL_FLAGS & !0x100), (1, ALL_FLAGS & !0x100), (2, ALL_FLAGS)] {
        let server = Server::start(Kind { style, flags, cut: 1000, ..Kind::default() }, LEN);
        let device = open(&server);
        let (threads, rounds, part) = (8_usize, 40_usize, LEN / 8);
        std::thread::scope(|scope| {
            for me in 0..threads {
                let device = &device;
                scope.spawn(move || {
                    for round in 0..rounds {
                        let value = u8::try_from(1 + (me * rounds + round) % 255).unwrap();
                        let (at, len) = (me * part + round * 97, 5000 + round * 13);
                        device.write_at(at as u64, &vec![value; len]).unwrap();
                        let mut buf = vec![0; len];
                        device.read_at(at as u64, &mut buf).unwrap();
                        assert!(buf.iter().all(|b| *b == value), "thread {me}, round {round}");
                    }
                });
            }
        });
        let connections = server.connections.load(Ordering::SeqCst);
        let wanted = if flags & 0x100 == 0 { 1..=1 } else { 2..=4 };
        assert!(wanted.contains(&connections), "{connections} connections");
    }
}

#[test]
fn replies_come_in_any_order() {
    let flags = ALL_FLAGS & !0x100;
    for style in [0, 1, 2] {
        let server = Server::start(Kind { style, flags, reorder: 4, ..Kind::default() }, LEN);
        for (at, byte) in server.bytes.lock().unwrap().iter_mut().enumerate() {
            *byte = u8::try_from(at / 10_000).unwrap();
        }
        let device = open(&server);
        let together = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for me in 0..4_u8 {
                let (device, together) = (&device, &together);
                scope.spawn(move || {
                    for round in 0..20 {
                        together.wait();
                        let value = me * 20 + round;
                        let mut buf = vec![0; 10_000];
                        device.read_at(u64::from(value) * 10_000, &mut buf).unwrap();
                        assert!(buf.iter().all(|b| *b == value), "thread {me}, round {round}");
                    }
                });
            }
        });
    }
}

#[test]
fn block_sizes_are_kept_to() {
    let blocks = Some((512, 4096, 8192));
    for style in [0, 1, 2] {
        let server = Server::start(Kind { style, blocks, ..Kind::default() }, LEN);
        let device = Device::new(std::sync::Arc::new(open(&server)));
        device.write_at(100, &[9; 50_001]).unwrap();
        let mut buf = vec![0; 60_000];
        device.read_at(7, &mut buf).unwrap();
        assert_eq!(buf, server.bytes.lock().unwrap()[7..60_007]);
        assert_eq!(buf.iter().filter(|b| **b == 9).count(), 50_001);
    }
}

#[test]
fn what_a_server_can_not_do_is_not_asked_for() {
    let server = Server::start(Kind { flags: 1, ..Kind::default() }, LEN);
    let device = open(&server);
    let range = ByteRange::new(0, 512);
    assert_eq!(device.write_zeroes(range, ZeroMode::MayUnmap).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(device.discard(range).unwrap_err().kind(), ErrorKind::Unsupported);
    let before = server.requests.load(Ordering::SeqCst);
    device.flush().unwrap();
    assert_eq!(server.requests.load(Ordering::SeqCst), before);
    assert_eq!(device.set_len(5, Prealloc::Off).unwrap_err().joined(), "Cannot resize NBD nodes");
    let server = Server::start(Kind { flags: 3, ..Kind::default() }, LEN);
    let error = NbdDevice::open(server.options().write(true)).unwrap_err();
    assert_eq!(error.joined(), "Could not open image: Permission denied");
    let reader = NbdDevice::open(server.options()).unwrap();
    assert_eq!(reader.write_at(0, &[1]).unwrap_err().kind(), ErrorKind::ReadOnly);
}

#[test]
fn an_error_of_the_server_is_that_of_the_request_alone() {
    for style in [0, 1, 2] {
        let server = Server::start(Kind { style, ..Kind::default() }, LEN);
        let device = open(&server);
        let error = device.write_zeroes(ByteRange::new(0, 13), ZeroMode::MayUnmap).unwrap_err();
        assert_eq!((error.errno(), error.joined()), (errno::ENOTSUP, "Operation not supported".to_owned()));
        device.write_at(0, &[1; 13]).unwrap();
    }
}

#[test]
fn a_lost_connection_is_an_error_or_made_anew() {
    let dies_after = 3;
    let server = Server::start(Kind { dies_after, ..Kind::default() }, LEN);
    let device = open(&server);
    device.write_at(0, &[1; 512]).unwrap();
    device.write_at(512, &[2; 512]).unwrap();
    let error = device.write_at(1024, &[3; 512]).unwrap_err();
    assert_eq!((error.errno(), error.joined()), (errno::EIO, "Input/output error".to_owned()));
    assert_eq!(device.read_at(0, &mut [0]).unwrap_err().errno(), errno::EIO);

    let server = Server::start(Kind { dies_after, ..Kind::default() }, LEN);
    let mut options = server.options().write(true);
    options.reconnect_delay = Duration::from_secs(10);
    let device = NbdDevice::open(options).unwrap();
    for at in 0..8 {
        device.write_at(at * 512, &[4; 512]).unwrap();
    }
    assert_eq!(server.bytes.lock().unwrap()[..4096], [4; 4096]);
    assert_eq!(server.connections.load(Ordering::SeqCst), 2);
}
