//! Text for people: sizes, the snapshot table, indented key-value lists. The widths and rules are qemu-img's.

use std::fmt::Write as _;

use diskimg::core::{InfoValue, SnapshotInfo};
use jiff::{Timestamp, tz::TimeZone};

const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// A size with three significant digits: `196 KiB`. The next unit begins at 1000 of the one before.
pub(crate) fn size(bytes: u64) -> String {
    let mut unit = 0;
    let mut start = 1000_u64;
    while bytes >= start && unit + 1 < UNITS.len() {
        unit += 1;
        start = start.saturating_mul(1024);
    }
    let scale = (0..unit).fold(1.0, |scale, _| scale * 1024.0);
    #[allow(clippy::cast_precision_loss)] // three digits are shown
    let value = bytes as f64 / scale;
    let name = UNITS.get(unit).copied().unwrap_or_default();
    format!("{} {name}B", three_digits(value))
}

/// A size with its bytes: `1 GiB (1073741824 bytes)`.
pub(crate) fn size_and_bytes(bytes: u64) -> String {
    format!("{} ({bytes} bytes)", size(bytes))
}

/// C's `%.3g` for values that are not negative and below a million.
fn three_digits(value: f64) -> String {
    let scientific = format!("{value:.2e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or_default() {
        exponent @ 0..3 => {
            let decimals = usize::try_from(2 - exponent).unwrap_or_default();
            trim_zeros(&format!("{value:.decimals$}")).to_owned()
        }
        exponent if exponent < 0 => {
            let decimals = usize::try_from(2 - exponent).unwrap_or_default();
            trim_zeros(&format!("{value:.decimals$}")).to_owned()
        }
        exponent => format!("{}e+{exponent:02}", trim_zeros(mantissa)),
    }
}

fn trim_zeros(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

/// The table of snapshots with its two heading lines; dates are in the local time zone.
pub(crate) fn snapshot_table(snapshots: &[SnapshotInfo]) -> String {
    let mut table = String::from("Snapshot list:\n");
    let head = ["ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT"];
    table.push_str(&snapshot_row(&head.map(str::to_owned)));
    let zone = TimeZone::system();
    for snapshot in snapshots {
        table.push_str(&snapshot_row(&[
            snapshot.id.clone(),
            snapshot.name.clone(),
            size(snapshot.vm_state_size),
            date(snapshot.date_sec, &zone),
            clock(snapshot.vm_clock_nsec),
            snapshot.icount.map_or_else(|| "--".to_owned(), |count| count.to_string()),
        ]));
    }
    table
}

/// Columns are counted in bytes.
fn snapshot_row([id, name, size, date, clock, icount]: &[String; 6]) -> String {
    let (id_gap, name_gap) = (gap(id, 7), gap(name, 16));
    format!("{id}{id_gap} {name}{name_gap} {size:>8} {date:>19} {clock:>15} {icount:>10}\n")
}

fn gap(text: &str, width: usize) -> String {
    " ".repeat(width.saturating_sub(text.len()))
}

fn date(seconds: u32, zone: &TimeZone) -> String {
    let Ok(moment) = Timestamp::from_second(seconds.into()) else { return String::new() };
    moment.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn clock(nanoseconds: u64) -> String {
    let seconds = nanoseconds / 1_000_000_000;
    let millis = nanoseconds / 1_000_000 % 1000;
    format!("{:04}:{:02}:{:02}.{millis:03}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Named values, one a line, indented by `depth` levels; dashes in names become spaces.
pub(crate) fn named_values(values: &[(&'static str, InfoValue)], depth: usize) -> String {
    let mut text = String::new();
    for (name, value) in values {
        push_value(&mut text, &name.replace('-', " "), value, depth);
    }
    text
}

fn push_value(text: &mut String, name: &str, value: &InfoValue, depth: usize) {
    let _ = write!(text, "{}{name}:", "    ".repeat(depth));
    let _ = match value {
        InfoValue::Str(value) => writeln!(text, " {value}"),
        InfoValue::Int(value) => writeln!(text, " {value}"),
        InfoValue::Uint(value) => writeln!(text, " {value}"),
        InfoValue::Bool(value) => writeln!(text, " {value}"),
        InfoValue::List(values) => {
            text.push('\n');
            for (index, value) in values.iter().enumerate() {
                push_value(text, &format!("[{index}]"), value, depth + 1);
            }
            Ok(())
        }
        InfoValue::Map(values) => {
            text.push('\n');
            text.push_str(&named_values(values, depth + 1));
            Ok(())
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `qemu-img info` 10.0.2 says of files of these sizes.
    #[test]
    fn sizes_have_three_digits() {
        let cases = [
            (0, "0 B"),
            (512, "512 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (10240, "10 KiB"),
            (102_400, "100 KiB"),
            (1_022_976, "999 KiB"),
            (1_023_488, "1e+03 KiB"),
            (1_024_000, "0.977 MiB"),
            (1_047_552, "0.999 MiB"),
            (1_048_576, "1 MiB"),
            (1_049_088, "1 MiB"),
            (1_572_864, "1.5 MiB"),
            (10_000_384, "9.54 MiB"),
            (10_480_128, "9.99 MiB"),
            (104_857_600, "100 MiB"),
            (1_047_527_424, "999 MiB"),
            (1_048_000_000, "999 MiB"),
            (1_072_693_248, "0.999 GiB"),
            (1_073_217_536, "1 GiB"),
            (1_073_000_448, "0.999 GiB"),
            (1_610_612_736, "1.5 GiB"),
            (107_374_182_400, "100 GiB"),
            (1_098_437_885_952, "0.999 TiB"),
            (1_099_511_627_776, "1 TiB"),
            (1 << 50, "1 PiB"),
            (1 << 60, "1 EiB"),
            (i64::MAX.unsigned_abs(), "8 EiB"),
            (u64::MAX, "16 EiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text, "{bytes}");
        }
        assert_eq!(size_and_bytes(512), "512 B (512 bytes)");
    }

    #[test]
    fn snapshot_rows_are_padded_by_bytes() {
        let snapshot = SnapshotInfo {
            id: "4".into(),
            name: "\u{fc}n\u{ef}".into(),
            vm_state_size: 500_000_000_000,
            date_sec: 0,
            vm_clock_nsec: 123_456_789_123_456_789,
            icount: None,
            ..SnapshotInfo::default()
        };
        let table = snapshot_table(&[snapshot]);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(
            lines[1],
            "ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT"
        );
        assert!(lines[2].starts_with("4       \u{fc}n\u{ef}             466 GiB "), "{}", lines[2]);
        assert!(lines[2].ends_with(" 34293:33:09.123         --"), "{}", lines[2]);
    }

    #[test]
    fn dates_are_those_of_the_zone() {
        assert_eq!(date(1_795_231_678, &TimeZone::UTC), "2026-11-21 03:27:58");
        assert_eq!(date(u32::MAX - 15, &TimeZone::UTC), "2106-02-07 06:28:00");
    }

    #[test]
    fn nested_values_are_indented() {
        let flags = InfoValue::List(vec!["auto".into()]);
        let bitmap = InfoValue::Map(vec![("flags", flags), ("granularity", 65536_u32.into())]);
        let values = [("refcount-bits", 16_u32.into()), ("bitmaps", InfoValue::List(vec![bitmap]))];
        let expected = "    refcount bits: 16\n    bitmaps:\n        [0]:\n            flags:\n                [0]: auto\n            granularity: 65536\n";
        assert_eq!(named_values(&values, 1), expected);
    }
}
