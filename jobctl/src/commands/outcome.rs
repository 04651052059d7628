//! How a job ended or stands, in words: for `run-manual`, `add --wait`, `show`, `cancel`.

use std::collections::BTreeMap;

use jobd_proto::table::{Connection, JobRow};
use jobd_proto::worker::JobOutcome;
use jobd_proto::{JobId, JobResult, Progress, signal};

use crate::output::{Tone, ago, plain, seconds};

/// The end of a job, as a row or an answer tells it.
pub(super) struct Ending<'a> {
    ok: bool,
    code: Option<i64>,
    signal: Option<&'a str>,
    /// What the table says beside code and signal: `timeout`, `cancelled`, `orphaned`.
    reason: Option<&'a str>,
}

/// The column that says why a job ended.
pub(super) const REASON: &str = "reason";

/// That column, where the table has it.
pub(super) fn reason_of(table: &Connection) -> Vec<String> {
    let has = table.columns().has(REASON);
    has.then(|| REASON.to_owned()).into_iter().collect()
}

/// Whether somebody has cancelled a job, as far as [`reason_of`] its table tells.
pub(super) fn is_cancelled(row: &JobRow) -> bool {
    reason(row) == Some("cancelled")
}

/// The column that says how far it has come.
pub(super) const PROGRESS: &str = "progress";

impl<'a> Ending<'a> {
    /// From the answer to `run-manual`.
    pub(super) fn of_outcome(outcome: &'a JobOutcome) -> Self {
        Self {
            ok: outcome.result == JobResult::Ok,
            code: outcome.code.map(i64::from),
            signal: outcome.signal.as_deref(),
            reason: None,
        }
    }

    /// From a row; `None` while the job may still run.
    pub(super) fn of_row(row: &'a JobRow) -> Option<Self> {
        matches!(row.status.as_str(), "done" | "ignored").then(|| Self {
            ok: row.result.as_deref() == Some("ok"),
            code: row.return_code,
            signal: row.sig.as_deref().filter(|name| !name.is_empty()),
            reason: reason(row),
        })
    }

    /// Whether it succeeded.
    pub(super) fn is_ok(&self) -> bool {
        self.ok
    }

    /// `ok`, `failed with exit code 3`, `killed by SIGKILL (timeout)`, `failed`.
    pub(super) fn words(&self) -> String {
        let words = self.plain_words();
        match self.reason.filter(|_| !self.ok) {
            Some(reason) => format!("{words} ({})", plain(reason)),
            None => words,
        }
    }

    fn plain_words(&self) -> String {
        match (self.ok, self.signal, self.code) {
            (true, _, _) => "ok".to_owned(),
            (_, Some(signal), _) => format!("killed by {}", plain(signal)),
            (_, None, Some(code)) if code != 0 => format!("failed with exit code {code}"),
            _ => "failed".to_owned(),
        }
    }

    /// What a shell would say: the code, 128 + number for a signal, 1 for any other failure.
    pub(super) fn exit_code(&self) -> u8 {
        if self.ok {
            return 0;
        }
        let number = self
            .signal
            .and_then(signal::number)
            .map(|number| number + 128);
        let code = number.map(i64::from).or(self.code);
        code.and_then(|code| u8::try_from(code).ok())
            .filter(|code| *code != 0)
            .unwrap_or(1)
    }

    /// The colour for it.
    pub(super) fn tone(&self) -> Tone {
        if self.ok { Tone::Good } else { Tone::Bad }
    }
}

/// What the column says, where that is more than code and signal do.
fn reason(row: &JobRow) -> Option<&str> {
    let (_, reason) = row.others.iter().find(|(name, _)| name == REASON)?;
    reason
        .as_deref()
        .filter(|reason| !matches!(*reason, "" | "exit" | "signal"))
}

/// What stands for a job in an answer that does not mention it.
pub(super) const UNSAID: &str = "the daemon said nothing of it";

/// Takes each job that was asked about, and that an answer does not mention, for one that went wrong.
pub(super) fn count_unsaid<T>(
    asked: impl IntoIterator<Item = JobId>,
    done: &BTreeMap<JobId, T>,
    errors: &mut BTreeMap<JobId, String>,
) {
    for id in asked.into_iter().filter(|id| !done.contains_key(id)) {
        errors.entry(id).or_insert_with(|| UNSAID.to_owned());
    }
}

/// What went wrong with a job, in a line. Daemons name the job in some of their texts.
pub(super) fn about(id: JobId, error: &str) -> String {
    let error = plain(error);
    let name = format!("job {id} ");
    match error.strip_prefix(&name) {
        Some(rest) => format!("job {id}: {rest}"),
        None => format!("job {id}: {error}"),
    }
}

/// What a job in hand says of how far it has come: `40 % copying files`.
pub(super) fn progress(row: &JobRow) -> Option<String> {
    let (_, said) = row.others.iter().find(|(name, _)| name == PROGRESS)?;
    let said = said.as_deref().and_then(Progress::parse);
    said.map(|said| said.to_string())
}

/// Where a job stands, in a line: `job 17 of mail: running for 3m 10s on web1`.
pub(super) fn standing(row: &JobRow, now: i64) -> String {
    let job = format!("job {} of {}", row.id, plain(&row.target));
    if let Some(ending) = Ending::of_row(row) {
        let words = ending.words();
        return match row.time_finished {
            0 => format!("{job}: {words}"),
            finished => format!("{job}: {words}, {}", ago(finished, now)),
        };
    }
    let since = match row.time_started {
        0 => row.time_created,
        started => started,
    };
    let lasted = seconds(now.saturating_sub(since).max(0).unsigned_abs());
    let worker = worker(row).map_or_else(String::new, |worker| format!(" on {}", plain(worker)));
    format!("{job}: {} for {lasted}{worker}", plain(&row.status))
}

/// The worker whose claim stands in a row, where that has been read.
pub(super) fn worker(row: &JobRow) -> Option<&str> {
    let (_, claim) = row.others.iter().find(|(name, _)| name == "worker")?;
    claim
        .as_deref()?
        .split('/')
        .next()
        .filter(|name| !name.is_empty())
}

/// The lines of an output behind its name; nothing where there is none.
pub(super) fn stream(name: &str, output: &str) -> String {
    let mut text = String::with_capacity(output.len() * 5 / 4);
    for line in output.lines() {
        // Tabs do no harm, and tables that jobs print need them.
        let cells: Vec<String> = line.split('\t').map(plain).collect();
        text.extend(["  ", name, " | ", &cells.join("\t"), "\n"]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(code: Option<i64>, signal: Option<&str>, words: &str, exit_code: u8) {
        let ok = code == Some(0) && signal.is_none();
        let ending = Ending {
            ok,
            code,
            signal,
            reason: None,
        };
        assert_eq!(
            (ending.words().as_str(), ending.exit_code()),
            (words, exit_code)
        );
    }

    #[test]
    fn endings_have_words_and_codes() {
        check(Some(0), None, "ok", 0);
        check(Some(3), None, "failed with exit code 3", 3);
        check(Some(255), None, "failed with exit code 255", 255);
        check(None, Some("SIGKILL"), "killed by SIGKILL", 137);
        check(Some(0), Some("SIGTERM"), "killed by SIGTERM", 143);
        check(None, Some("SIG34"), "killed by SIG34", 162);
        check(None, None, "failed", 1);
        check(Some(256), None, "failed with exit code 256", 1);
    }

    #[test]
    fn the_reason_is_told_where_it_says_more() {
        let row = |reason: &str| JobRow {
            status: "done".to_owned(),
            sig: Some("SIGKILL".to_owned()),
            others: vec![("reason".to_owned(), Some(reason.into()))],
            ..JobRow::default()
        };
        let words = |row: &JobRow| Ending::of_row(row).map(|ending| ending.words());
        let timeout = words(&row("timeout"));
        assert_eq!(timeout.as_deref(), Some("killed by SIGKILL (timeout)"));
        assert_eq!(words(&row("signal")).as_deref(), Some("killed by SIGKILL"));
    }

    #[test]
    fn a_line_says_where_a_job_stands() {
        let worker = ("worker".to_owned(), Some("web1@h/1/2".into()));
        let running = JobRow {
            id: JobId(7),
            target: "mail".to_owned(),
            status: "running".to_owned(),
            time_created: 100,
            time_started: 940,
            others: vec![worker],
            ..JobRow::default()
        };
        let waiting = JobRow {
            status: "waiting".to_owned(),
            time_started: 0,
            others: Vec::new(),
            ..running.clone()
        };
        let done = JobRow {
            status: "done".to_owned(),
            result: Some("fail".to_owned()),
            return_code: Some(3),
            time_finished: 995,
            ..running.clone()
        };
        for (row, said) in [
            (&running, "job 7 of mail: running for 1m 0s on web1@h"),
            (&waiting, "job 7 of mail: waiting for 15m 0s"),
            (&done, "job 7 of mail: failed with exit code 3, 5s ago"),
        ] {
            assert_eq!(standing(row, 1000), said);
        }
    }

    #[test]
    fn a_job_cannot_steer_the_terminal() {
        assert_eq!(
            stream("stdout", "a\tb\n\x1b[2Jc"),
            "  stdout | a\tb\n  stdout | \\u{1b}[2Jc\n"
        );
        assert_eq!(stream("stderr", ""), "");
    }
}
