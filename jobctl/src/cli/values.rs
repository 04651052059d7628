//! Values as people type them: ids, jobs, signals, times.

use std::str::FromStr;
use std::time::Duration;

use jiff::Zoned;
use jiff::civil::{DateTime, Time};
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

/// One job, or those whose ids lie between two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ids {
    One(Id),
    /// `10-20`: the first and the last, both among them.
    Range(u64, u64),
}

impl FromStr for Ids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("no id: {text:?}; write a number, last, or 10-20");
        match text.split_once('-') {
            None => text.parse().map(Self::One).map_err(|_| wrong()),
            Some((first, last)) => {
                let JobId(first) = first.parse().map_err(|_| wrong())?;
                let JobId(last) = last.parse().map_err(|_| wrong())?;
                if first > last {
                    return Err(format!("{text} is empty; write {last}-{first}"));
                }
                Ok(Self::Range(first, last))
            }
        }
    }
}

/// `ID` or `ID:TARGET`. The first colon separates, so that a target may hold more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobRef {
    pub(crate) id: Ids,
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
        let text = text.trim();
        let age = text.strip_suffix(" ago").unwrap_or(text);
        // A bare number is no age: `20251122` is a date, and of `30` nobody knows whether it means days.
        if age.contains(char::is_alphabetic)
            && let Ok(age) = duration(age)
        {
            return Ok(Self::Ago(age));
        }
        if let Some(time) = word(text, &Zoned::now()) {
            return Ok(Self::At(time.timestamp().as_second()));
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
                let hint = match age.parse::<u32>() {
                    Ok(0..10_000) => format!("; {age} of what? {age}d is so many days ago"),
                    Ok(10_000..) | Err(_) => String::new(),
                };
                format!("not a time: write 90s, 2h, 30d (so long ago), yesterday, 14:00, 2026-11-22 or 2026-11-22T14:00{hint}")
            })
    }
}

/// `today` and `yesterday` begin at midnight, wherever that is; `14:00` is the last time that a clock
/// on the wall showed it. A time that a change of clocks leaves out is the one that came instead of
/// it, of one that came twice the first counts.
fn word(text: &str, now: &Zoned) -> Option<Zoned> {
    let yesterday = || now.yesterday().ok();
    match text.to_ascii_lowercase().as_str() {
        "now" => Some(now.clone()),
        "today" => now.start_of_day().ok(),
        "yesterday" => yesterday()?.start_of_day().ok(),
        text => {
            // A time is found in whole dates too.
            let is_time = text
                .chars()
                .all(|char| char.is_ascii_digit() || char == ':');
            let is_time = is_time && text.contains(':');
            let time: Time = is_time.then(|| text.parse().ok()).flatten()?;
            let on = |day: &Zoned| {
                day.date()
                    .to_datetime(time)
                    .to_zoned(now.time_zone().clone())
            };
            let today = on(now).ok()?;
            if today <= *now {
                Some(today)
            } else {
                on(&yesterday()?).ok()
            }
        }
    }
}

/// A length of time for an option.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    duration(text).map_err(|()| "not a time: write 30 (seconds), 500ms, 5m, 2h or 30d".to_owned())
}

/// The same between two looks: without a pause nobody could read what they show, and each asks the daemons and the table.
pub(super) fn parse_pause(text: &str) -> Result<Duration, String> {
    const SHORTEST: Duration = Duration::from_millis(200);
    let pause = parse_duration(text)?;
    if pause < SHORTEST {
        return Err("too short: 200ms at least".to_owned());
    }
    Ok(pause)
}

/// Seconds, or numbers with `ms`, `s`, `m` or `min`, `h`, `d` or `w`, or the words for these, as `2h 10m`; at most a century,
/// so that sums stay in range.
fn duration(text: &str) -> Result<Duration, ()> {
    const CENTURY: f64 = 100.0 * 365.0 * 86_400.0;
    const UNITS: [(&[&str], f64); 6] = [
        (&["ms"], 0.001),
        (&["", "s", "sec", "second", "seconds"], 1.0),
        (&["m", "min", "minute", "minutes"], 60.0),
        (&["h", "hour", "hours"], 3600.0),
        (&["d", "day", "days"], 86_400.0),
        (&["w", "week", "weeks"], 604_800.0),
    ];
    let text = text.trim();
    let mut sum = 0.0;
    let mut rest = text;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, behind) = rest.split_at(digits.unwrap_or(rest.len()));
        let number: f64 = number.parse().map_err(drop)?;
        let behind = behind.trim_start();
        let letters = behind.find(|c: char| !c.is_ascii_alphabetic());
        let (unit, behind) = behind.split_at(letters.unwrap_or(behind.len()));
        let known = UNITS.iter().find(|(known, _)| known.contains(&unit));
        let (_, factor) = known.ok_or(())?;
        sum += number * factor;
        // Of several numbers each says what it counts.
        if unit.is_empty() && text.contains(|c: char| !c.is_ascii_digit() && c != '.') {
            return Err(());
        }
        rest = behind.trim_start();
        if rest.is_empty() {
            break;
        }
    }
    if sum > CENTURY {
        return Err(());
    }
    Ok(Duration::from_secs_f64(sum))
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
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_an_id_with_or_without_a_target() {
        let job = |id, target: Option<&str>| JobRef {
            id: Ids::One(id),
            target: target.map(str::to_owned),
        };
        assert_eq!("17".parse(), Ok(job(Id::Is(JobId(17)), None)));
        assert_eq!(
            "17:a:b/c".parse(),
            Ok(job(Id::Is(JobId(17)), Some("a:b/c")))
        );
        assert_eq!("last".parse(), Ok(job(Id::Last, None)));
        for wrong in ["", "x", "17:", "-1", ":mail", "1-", "3-1", "1-last"] {
            assert!(wrong.parse::<JobRef>().is_err(), "{wrong:?}");
        }
        assert_eq!("10-20".parse(), Ok(Ids::Range(10, 20)));
        assert_eq!("7-7".parse(), Ok(Ids::Range(7, 7)));
    }

    #[test]
    fn words_for_times_are_those_of_the_wall() {
        #[track_caller]
        fn check(text: &str, now: &str, expected: Option<&str>) {
            let now: Zoned = now.parse().unwrap();
            let found = word(text, &now).map(|time| time.to_string());
            assert_eq!(found.as_deref(), expected, "{text} at {now}");
        }
        let berlin = "2026-11-22T03:00:00+01:00[Europe/Berlin]";
        check(
            "today",
            berlin,
            Some("2026-11-22T00:00:00+01:00[Europe/Berlin]"),
        );
        check(
            "Yesterday",
            berlin,
            Some("2026-11-21T00:00:00+01:00[Europe/Berlin]"),
        );
        check(
            "02:30",
            berlin,
            Some("2026-11-22T02:30:00+01:00[Europe/Berlin]"),
        );
        check(
            "23:00",
            berlin,
            Some("2026-11-21T23:00:00+01:00[Europe/Berlin]"),
        );
        check("3", berlin, None);
        check("tomorrow", berlin, None);
        // 2026-03-29 02:00 to 03:00 was left out there, 2026-10-25 02:00 to 03:00 came twice.
        let spring = "2026-03-29T12:00:00+02:00[Europe/Berlin]";
        check(
            "02:30",
            spring,
            Some("2026-03-29T03:30:00+02:00[Europe/Berlin]"),
        );
        check(
            "today",
            spring,
            Some("2026-03-29T00:00:00+01:00[Europe/Berlin]"),
        );
        let autumn = "2026-10-25T12:00:00+01:00[Europe/Berlin]";
        check(
            "02:30",
            autumn,
            Some("2026-10-25T02:30:00+02:00[Europe/Berlin]"),
        );
        // Where midnight itself is left out, a day begins at one.
        let cairo = "2026-04-24T12:00:00+03:00[Africa/Cairo]";
        check(
            "today",
            cairo,
            Some("2026-04-24T01:00:00+03:00[Africa/Cairo]"),
        );
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
            ("2h 10m", 7_800_000),
            ("1h30m", 5_400_000),
            ("5min", 300_000),
            ("1 h 500 ms", 3_600_500),
            ("2weeks", 1_209_600_000),
            ("1 hour 5 minutes", 3_900_000),
        ] {
            let parsed = parse_duration(text);
            assert_eq!(parsed, Ok(Duration::from_millis(ms)), "{text}");
        }
        for wrong in [
            "",
            "m",
            "-1",
            "nan",
            "inf",
            "1y",
            "1e300",
            "1h 30",
            "5 6m",
            "1h-2m",
            "101w5300w",
            "9999999d",
            "1..2s",
        ] {
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
        assert_eq!(at("2h ago"), at("2h"));
        assert_eq!(at("2 hours ago"), at("2h"));
        assert_eq!(at("20251122"), at("2025-11-22"));
        assert!(at("2025").is_err_and(|error| error.contains("2025d")));
        for wrong in [
            "",
            "30",
            "1.5",
            "30 ago",
            "20251322",
            "yesteryear",
            "2026-13-01",
            "-2h",
            "25:00",
        ] {
            assert!(at(wrong).is_err(), "{wrong:?}");
        }
    }
}
