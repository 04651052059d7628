//! Durations and sizes as people write them. Knows no key; the caller words the mistake.

use std::time::Duration;

/// Reads `5`, `1.5`, `500ms`, `30s`, `2m` or `1h`; a bare number is seconds.
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "" | "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

/// Writes a duration in the largest unit that it fills.
pub(super) fn show_duration(duration: Duration) -> String {
    match duration.as_millis() {
        0 => "0".to_owned(),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}

/// Reads `1048576`, `16M` or `1MiB`; K, M and G (also KB, KiB …) are powers of 1024.
pub fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text[digits.len()..].to_ascii_lowercase();
    let shift = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return None,
    };
    digits
        .trim_end()
        .parse::<u64>()
        .ok()?
        .checked_mul(1 << shift)
}

/// Writes a size in the largest unit that it fills.
pub(super) fn show_bytes(bytes: u64) -> String {
    match bytes {
        0 => "0".to_owned(),
        n if n % (1 << 30) == 0 => format!("{}G", n >> 30),
        n if n % (1 << 20) == 0 => format!("{}M", n >> 20),
        n if n % (1 << 10) == 0 => format!("{}K", n >> 10),
        n => n.to_string(),
    }
}

fn split_unit(text: &str) -> Option<(f64, &str)> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[number.len()..];
    // `parse` would take words like "inf" too, but letters are all in the unit.
    let value = number.trim_end().parse::<f64>().ok()?;
    Some((value, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_each_unit() {
        let check = |text, millis: Option<u64>| {
            assert_eq!(duration(text), millis.map(Duration::from_millis), "{text}");
        };
        check("5", Some(5_000));
        check("0", Some(0));
        check("1.5", Some(1_500));
        check("500ms", Some(500));
        check("30 s", Some(30_000));
        check("2m", Some(120_000));
        check("1h", Some(3_600_000));
        for wrong in ["", "s", "-1", "5d", "inf", "nan", "1,5", "1e400", "5 5"] {
            check(wrong, None);
        }
    }

    #[test]
    fn sizes_are_read_in_each_unit() {
        let check = |text, size| assert_eq!(bytes(text), size, "{text}");
        check("1048576", Some(1 << 20));
        check("16M", Some(16 << 20));
        check("1MiB", Some(1 << 20));
        check("2 kb", Some(2048));
        check("1G", Some(1 << 30));
        for wrong in ["", "M", "-1", "1.5M", "1T", "99999999999G"] {
            check(wrong, None);
        }
    }

    #[test]
    fn limits_are_shown_as_people_write_them() {
        let show = |millis| show_duration(Duration::from_millis(millis));
        assert_eq!([show(0), show(250)], ["0", "250ms"]);
        assert_eq!([show(90_000), show(7_200_000)], ["90s", "2h"]);
        assert_eq!([show_bytes(10 << 20), show_bytes(1025)], ["10M", "1025"]);
    }
}
