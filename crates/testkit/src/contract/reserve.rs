//! Contract: two-phase writes. What is reserved is not seen before the commit, and dropping gives the space back.

use diskimg_core::{BlockDevice, ByteRange, Device, len_u64, to_usize};

use super::basic::must;
use crate::ops::{Op, pattern};
use crate::session::{Applied, Session};
use crate::subject::{FormatSubject, Subject};

/// Reservations over unwritten and written units, one and several, committed, dropped and crossed with writes.
///
/// # Panics
/// If bytes are seen too early, too late or never, or if space is lost.
pub fn reservations(subject: &FormatSubject) {
    let mut session = Session::in_memory(subject);
    let unit = session.opened().device.limits().write_unit.max(1);
    let whole = ByteRange::new(0, session.opened().device.len());
    let some = ByteRange::new(0, unit * 3).intersect(whole);
    if some.is_empty()
        || session.must(&Op::Reserve(some, 1, false)) == Applied::Skipped && !has_two_phases(&session)
    {
        return;
    }
    session.verify_all();
    session.must(&Op::Flush);
    must(subject, "check after a dropped reservation", session.check_clean(0));

    unseen_before_commit(subject, &mut session, some);
    session.must(&Op::Write(whole, 5));
    unseen_before_commit(subject, &mut session, some);
    let tail = ByteRange::from_bounds(diskimg_core::align_down(whole.end() - 1, unit), whole.end());
    session.must(&Op::Reserve(tail, 7, true));
    session.must(&Op::Reserve(tail, 8, false));
    session.must(&Op::Discard(whole));
    session.must(&Op::Reserve(whole, 9, true));
    session.must(&Op::Reserve(whole, 10, false));
    session.verify_reopened();
    two_at_once(subject, &mut session, whole, unit);
    session.verify_reopened();
}

fn has_two_phases(session: &Session<'_>) -> bool {
    let device = &session.opened().device;
    let range =
        ByteRange::new(0, device.limits().write_unit.max(1)).intersect(ByteRange::new(0, device.len()));
    device.reserve(range).is_ok_and(|reservation| reservation.is_some())
}

fn read(device: &Device, range: ByteRange) -> Vec<u8> {
    let mut bytes = vec![0xaa; to_usize(range.len)];
    device.read_at(range.start, &mut bytes).expect("read");
    bytes
}

/// Readers see the old bytes until the commit and the new ones from then on; pieces tile the reservation.
fn unseen_before_commit(subject: &FormatSubject, session: &mut Session<'_>, range: ByteRange) {
    let device = session.opened().device.clone();
    let before = read(&device, range);
    let bytes = pattern(21, range.start, range.len);
    let Some(reservation) = must(subject, "reserve", device.reserve(range)) else { return };
    let mut at = range.start;
    for piece in reservation.pieces() {
        assert_eq!(piece.range.start, at, "{}: pieces have gaps: {reservation:?}", subject.name());
        at = piece.range.end();
    }
    assert!(at >= range.end(), "{}: pieces end at {at}: {reservation:?}", subject.name());
    must(subject, "write to a reservation", reservation.write_at(range.start, &bytes));
    assert!(read(&device, range) == before, "{}: seen before the commit", subject.name());
    let (start, end) = (to_usize(range.start), to_usize(range.end()));
    assert!(session.history().latest()[start..end] == before, "{}: old bytes", subject.name());
    must(subject, "commit", reservation.commit());
    assert!(read(&device, range) == bytes, "{}: not seen after the commit", subject.name());
    drop(device);
    // Tells the model.
    session.must(&Op::Write(range, 21));
    session.verify_all();
}

/// Two reservations of different units, committed in the other order, and one dropped in between.
fn two_at_once(subject: &FormatSubject, session: &mut Session<'_>, whole: ByteRange, unit: u64) {
    if whole.len < unit * 3 {
        return;
    }
    session.must(&Op::Discard(whole));
    let device = session.opened().device.clone();
    let part = |number: u64| ByteRange::new(number * unit, unit);
    let reserve = |number: u64| must(subject, "reserve", device.reserve(part(number)));
    // A format that gives nothing back when it discards has no places to give any more.
    let (Some(a), Some(b), Some(c)) = (reserve(0), reserve(1), reserve(2)) else { return };
    {
        for (number, reservation) in [(2, &c), (0, &a), (1, &b)] {
            let bytes = pattern(30 + number, number * unit, unit);
            assert_eq!(len_u64(&bytes), unit);
            must(subject, "write to a reservation", reservation.write_at(number * unit, &bytes));
        }
        must(subject, "commit", c.commit());
        drop(b);
        must(subject, "commit", a.commit());
    }
    assert!(read(&device, part(0)) == pattern(30, 0, unit), "{}: first unit", subject.name());
    assert!(read(&device, part(2)) == pattern(32, unit * 2, unit), "{}: third unit", subject.name());
    drop(device);
    session.must(&Op::Write(part(0), 30));
    session.must(&Op::Write(part(2), 32));
}
