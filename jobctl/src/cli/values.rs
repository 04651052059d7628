//! Values as people type them: ids, jobs, signals, times.

use std::str::FromStr;
use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jobd_proto::{JobId, TargetName, signal};

/// A job by its number, or the newest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Id {
    Is(JobId),
    /// `last`: the row with the highest id.
    Last,
}

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("last") {
            return Ok(Self::Last);
        }
        let id = text.parse().map(Self::Is);
        id.map_err(|_| format!("not an id: {text:?}; write a number, or last"))
    }
}

/// `ID` or `ID:TARGET`. The first colon separates, so that a target may hold more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobRef {
    pub(crate) id: Id,
    pub(crate) target: Option<String>,
}

impl FromStr for JobRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, target) = match text.split_once(':') {
            Some((id, target)) => (id, Some(TargetName::new(target)?.to_string())),
            None => (text, None),
        };
        Ok(Self {
            id: id.parse()?,
            target,
        })
    }
}

/// A point in time: so long ago, or a date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Ago(Duration),
    /// Seconds since 1970.
    At(i64),
}

impl When {
    /// Seconds since 1970, `now` given in the same.
    pub(crate) fn seconds(self, now: i64) -> i64 {
        match self {
            Self::Ago(age) => now.saturating_sub(i64::try_from(age.as_secs()).unwrap_or(i64::MAX)),
            Self::At(time) => time,
        }
    }
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(age) = duration(text) {
            return Ok(Self::Ago(age));
        }
        if let Ok(time) = text.parse::<jiff::Timestamp>() {
            return Ok(Self::At(time.as_second()));
        }
        // Without an offset it is the time of the person who types it.
        let local = text.parse::<DateTime>().ok();
        let zoned = local.and_then(|time| time.to_zoned(TimeZone::system()).ok());
        zoned
            .map(|time| Self::At(time.timestamp().as_second()))
            .ok_or_else(|| {
                "not a time: write 90s, 2h, 30d (so long ago), 2026-11-22 or 2026-11-22T14:00"
                    .to_owned()
            })
    }
}

/// A length of time for an option.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    duration(text).map_err(|()| "not a time: write 30 (seconds), 500ms, 5m, 2h or 30d".to_owned())
}

/// Seconds, or a number with `ms`, `s`, `m`, `h`, `d` or `w`; at most a century, so that sums stay
/// in range.
fn duration(text: &str) -> Result<Duration, ()> {
    const CENTURY: f64 = 100.0 * 365.0 * 86_400.0;
    let units = [
        ("ms", 0.001),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
        ("d", 86_400.0),
        ("w", 604_800.0),
    ];
    let unit = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (number, factor) = unit.unwrap_or((text, 1.0));
    match number.trim_end().parse::<f64>() {
        Ok(number) if (0.0..=CENTURY).contains(&(number * factor)) => {
            Ok(Duration::from_secs_f64(number * factor))
        }
        _ => Err(()),
    }
}

pub(super) fn parse_signal(text: &str) -> Result<i32, String> {
    signal::number(text)
        .ok_or_else(|| "not a signal: write a name like TERM or a number from 1 to 64".to_owned())
}

pub(super) fn parse_column(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((column, value)) if !column.is_empty() => Ok((column.to_owned(), value.to_owned())),
        _ => Err("not of the form COLUMN=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_an_id_with_or_without_a_target() {
        let job = |id, target: Option<&str>| JobRef {
            id,
            target: target.map(str::to_owned),
        };
        assert_eq!("17".parse(), Ok(job(Id::Is(JobId(17)), None)));
        assert_eq!(
            "17:a:b/c".parse(),
            Ok(job(Id::Is(JobId(17)), Some("a:b/c")))
        );
        assert_eq!("last".parse(), Ok(job(Id::Last, None)));
        for wrong in ["", "x", "17:", "-1", ":mail"] {
            assert!(wrong.parse::<JobRef>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn times_have_units() {
        for (text, ms) in [
            ("30", 30_000),
            ("500ms", 500),
            ("1.5s", 1500),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("30d", 2_592_000_000),
            ("1w", 604_800_000),
            ("0", 0),
        ] {
            let parsed = parse_duration(text);
            assert_eq!(parsed, Ok(Duration::from_millis(ms)), "{text}");
        }
        for wrong in ["", "m", "-1", "nan", "inf", "1y", "1e300"] {
            assert!(parse_duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn points_in_time_are_ages_or_dates() {
        let at = |text: &str| text.parse::<When>().map(|when| when.seconds(1_000_000));
        assert_eq!(at("2h"), Ok(1_000_000 - 7200));
        assert_eq!(at("1970-01-02T00:00:00Z"), Ok(86_400));
        assert_eq!(at("1970-01-02T02:00+02:00"), Ok(86_400));
        // In whatever time zone: within a day of UTC.
        assert!((at("1970-01-03").unwrap_or_default() - 172_800).abs() <= 86_400);
        assert!(at("1970-01-03 12:30").is_ok());
        for wrong in ["", "yesterday", "2026-13-01", "-2h"] {
            assert!(at(wrong).is_err(), "{wrong:?}");
        }
    }
}
